"""The scheme of keypoints in COCO format: an included one, or the user's own, from the file itself."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.errors import InputError
from canthus.runtime.fields import FieldError, read_values
from canthus.runtime.schemes import Group, Scheme, parse_scheme
from canthus.trainer.faces.parsing import shorten
from canthus.trainer.faces.schemes import SCHEMES

_WORDS = re.compile(r"left|right|[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
"""The words of a name: left_eye, leftEye and lefteye are all left and eye."""

_SIDES = {"left": "right", "right": "left", "l": "r", "r": "l"}

_REGIONS = (
    ("brow", "{side}_brow"),
    ("pupil|iris", "{side}_pupil"),
    ("eye|canthus", "{side}_eye"),
    ("nose|nostril", "nose"),
    ("lip|mouth", "lips"),
    ("chin|jaw|contour|cheek", "contour"),
)
"""Words in the name of a point, and its region. The first that occurs counts."""


def coco_scheme(path: Path, content: dict[str, Any], keypoints: NDArray[np.float64]) -> Scheme:
    """Return what the points of a file of keypoints are.

    The fields of a scheme (`Scheme`) are from the file NAME.toml beside NAME.json, if there is one. Others are from the
    category in the file: the names of its `keypoints`, lines from its `skeleton`, whose points count from 1, and mirror
    pairs from its `flip_pairs`, whose points count from 0, or from names with left and right. The eyes are the points
    with "eye" in their name; the pair of them that is furthest apart is the normalizer. Without names, or if the mirror
    pairs are the same, the points are those of the included scheme with as many.

    keypoints: (N, K, 3) x, y and v of all faces. They decide whether left is the image's or the person's.

    Raises:
        InputError: A field is wrong or cannot be found.
    """
    points = keypoints.shape[1]
    own = path.with_suffix(".toml")
    known = next((scheme for scheme in SCHEMES if scheme.points == points), None)
    category = _category(path, content, points)
    if not own.is_file() and category is None:
        if known is not None:
            return known
        raise InputError(
            f"{path}: its {points} points per face are those of no included scheme ("
            f"{', '.join(f'{one.points} {one.name}' for one in SCHEMES)}); name them: keypoints and skeleton in the "
            f"file's categories, or a scheme in {own.name} beside it"
        )
    given = _own_fields(own) if own.is_file() else {}
    if given.get("points", points) != points:
        raise InputError(f"{own}: points: {given['points']}, but the faces of {path.name} have {points}")
    try:
        values = {"name": path.stem, "points": points, **_fields(category or {}, keypoints, given), **given}
        scheme = parse_scheme(values)
        _check_complete(scheme)
    except FieldError as wrong:
        where = f"{own}" if given else f"{path}, categories"
        raise InputError(f"{where}: {wrong}; correct it, or write {own.name} beside {path.name}") from wrong
    if known is not None and not given and scheme.mirror.tolist() == known.mirror.tolist():
        return known
    return scheme


def _category(path: Path, content: dict[str, Any], points: int) -> dict[str, Any] | None:
    """Return the first category with names of keypoints, or None if there is none."""
    categories = content.get("categories", [])
    for category in categories if isinstance(categories, list) else []:
        if not isinstance(category, dict) or not category.get("keypoints"):
            continue
        names = category["keypoints"]
        if not isinstance(names, list) or len(names) != points:
            count = len(names) if isinstance(names, list) else shorten(names)
            raise InputError(f"{path}, categories: keypoints: expected {points} names, as many as points, got {count}")
        return category
    return None


def _own_fields(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = read_values(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    return values


def _check_complete(scheme: Scheme) -> None:
    """Raise FieldError if a scheme lacks what training and evaluation need."""
    for name in ("normalizer", "eyes"):
        if not getattr(scheme, name)[0]:
            raise FieldError(f"{name}: missing (expected two lists of points, on the left and right of the image)")


def _fields(category: dict[str, Any], keypoints: NDArray[np.float64], given: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a scheme that a category defines, without those that are given."""
    names = [str(name) for name in category.get("keypoints", [])]
    if not names:
        return {}
    words = [_words(name) for name in names]
    field = "mirror_pairs" if "mirror_pairs" in given else "flip_pairs"
    pairs = given.get(field, category.get("flip_pairs"))
    pairs = _pairs_of_names(names, words) if pairs is None else _indices(pairs, names, field)
    mirror = {one: other for pair in pairs for one, other in (pair, pair[::-1])}
    found: dict[str, Any] = {"names": names, "mirror_pairs": pairs, "lines": _chains(category.get("skeleton") or [])}
    eyes = [point for point, own in enumerate(words) if _region(own) == "{side}_eye" and point in mirror]
    eyes = eyes or [point for point, own in enumerate(words) if _region(own) == "{side}_pupil" and point in mirror]
    if not eyes and "eyes" not in given:
        raise FieldError("eyes: none of the mirrored keypoints has eye in its name (expected left_eye, right_eye, ...)")
    left_points = _on_the_left(keypoints, mirror)
    left = [point for point in eyes if point in left_points]
    found["eyes"] = (left, [mirror[point] for point in left])
    if left:
        outer = max(left, key=lambda point: _distance(keypoints, point, mirror[point]))
        found["normalizer"] = ([outer], [mirror[outer]])
    noses = [point for point, own in enumerate(words) if _region(own) == "nose" and point not in mirror]
    tips = [point for point in noses if "tip" in words[point]] or (noses if len(noses) == 1 else [])
    if tips:
        found["nose_tip"] = tips[0]
    regions: dict[str, list[int]] = {}
    for point, own in enumerate(words):
        side = "left" if point in left_points else "right"
        region = _region(own)
        if region is not None and ("{side}" not in region or point in mirror):
            regions.setdefault(region.format(side=side), []).append(point)
    return {**found, "regions": regions}


def _words(name: str) -> tuple[str, ...]:
    return tuple(word.lower() for word in _WORDS.findall(name))


def _region(words: Sequence[str]) -> str | None:
    return next((region for word, region in _REGIONS if re.search(word, " ".join(words))), None)


def _pairs_of_names(names: Sequence[str], words: Sequence[tuple[str, ...]]) -> list[tuple[int, int]]:
    """Return the pairs of points whose names differ in left and right only. Raises FieldError if one has no partner."""
    place = {own: point for point, own in enumerate(words)}
    pairs = []
    for point, own in enumerate(words):
        if _SIDES.keys().isdisjoint(own):
            continue
        other = place.get(tuple(_SIDES.get(word, word) for word in own))
        if other is None:
            raise FieldError(f"keypoints: {names[point]!r} has no mirror point; give the pairs as flip_pairs")
        if point < other:
            pairs.append((point, other))
    if not pairs:
        raise FieldError(
            "flip_pairs: missing, and no name of the keypoints has left or right in it (expected the pairs of points "
            "that swap when the image is mirrored)"
        )
    return pairs


def _indices(pairs: Any, names: Sequence[str], field: str) -> list[tuple[int, int]]:
    """Return pairs of points that are given by number, from 0, or by name."""
    place = {name: point for point, name in enumerate(names)}
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise FieldError(f"{field}: expected pairs of points, got {shorten(pairs)}")

    def index(point: Any) -> int:
        number = place.get(point, -1) if isinstance(point, str) else point
        if type(number) is not int or not 0 <= number < len(names):
            raise FieldError(f"{field}: there is no point {shorten(point)} (expected 0 to {len(names) - 1} or a name)")
        return number

    return [(index(one), index(other)) for one, other in pairs]


def _chains(skeleton: Any) -> list[Group]:
    """Return the lines of a skeleton, pairs of points that count from 1; pairs that continue each other are joined.

    If a point is 0, they count from 0.
    """
    good = isinstance(skeleton, list) and all(
        isinstance(edge, list) and len(edge) == 2 and all(type(point) is int for point in edge) for edge in skeleton
    )
    if not good:
        raise FieldError(f"skeleton: expected pairs of point numbers, got {shorten(skeleton)}")
    first = 0 if any(0 in edge for edge in skeleton) else 1
    chains: list[Group] = []
    for one, other in ((one - first, other - first) for one, other in skeleton):
        if chains and chains[-1][-1] == one:
            chains[-1] = (*chains[-1], other)
        else:
            chains.append((one, other))
    return chains


def _on_the_left(keypoints: NDArray[np.float64], mirror: dict[int, int]) -> set[int]:
    """Return the points of mirror pairs that are on the left of the image on most faces."""
    left = set()
    for point, other in mirror.items():
        both = (keypoints[:, [point, other], 2] > 0).all(1)
        if not both.any():
            left |= {point} if point < other else set()
        elif float(np.median(keypoints[both, other, 0] - keypoints[both, point, 0])) > 0:
            left.add(point)
    return left


def _distance(keypoints: NDArray[np.float64], one: int, other: int) -> float:
    """Return the median distance of two points over the faces on which both are labelled."""
    both = (keypoints[:, [one, other], 2] > 0).all(1)
    distances = np.linalg.norm(keypoints[both, one, :2] - keypoints[both, other, :2], axis=-1)
    return float(np.median(distances)) if len(distances) else 0.0
