"""The scheme of keypoints in COCO format: an included one, or the user's own, from the file itself."""

import re
from collections import Counter
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


_POINT_FIELDS = ("mirror_pairs", "normalizer", "eyes", "nose_tip", "lines", "lip_pairs", "regions")
"""Fields of a scheme that name points; in a file of the user by number, from 0, or by name."""

_EXAMPLE = "mirror_pairs = [[0, 7], [1, 6]] and eyes = [[0, 1], [7, 6]], points by number, from 0, or by name"


def coco_scheme(path: Path, category: dict[str, Any] | None, keypoints: NDArray[np.float64]) -> Scheme:
    """Return what the points of a file of keypoints are. Files of the same points have equal schemes.

    The fields of a scheme (`Scheme`) are from the file NAME.toml beside NAME.json, if there is one. Others are from the
    category in the file: its name, the names of its `keypoints`, lines from its `skeleton`, whose points count from 1,
    and mirror pairs from its `flip_pairs`, whose points count from 0, or from names with left and right. The eyes are
    the points with "eye" in their name; the pair of them that is furthest apart is the normalizer. Without names, or if
    the mirror pairs are the same, the points are those of the included scheme with as many.

    category: the category of the faces; None if the file names no keypoints.
    keypoints: (N, K, 3) x, y and v of all faces. They decide whether left is the image's or the person's.

    Raises:
        InputError: A field is wrong or cannot be found.
    """
    points = keypoints.shape[1]
    own = path.with_suffix(".toml")
    known = next((scheme for scheme in SCHEMES if scheme.points == points), None)
    if not own.is_file() and category is None:
        if known is not None:
            return known
        raise InputError(
            f"{path}: its {points} points per face are those of no included scheme ("
            f"{', '.join(f'{one.points} {one.name}' for one in SCHEMES)}); name them: keypoints and skeleton in the "
            f"file's categories, or write {own.name} beside it, such as {_EXAMPLE}"
        )
    given = _own_fields(own) if own.is_file() else {}
    if given.get("points", points) != points:
        raise InputError(f"{own}: points: {given['points']}, but the faces of {path.name} have {points}")
    names = _names(path, category, points)
    if isinstance(given.get("names"), list) and len(given["names"]) == points:
        names = [str(name) for name in given["names"]]
    try:
        given = _by_number(given, names)
        name = shorten((category or {}).get("name") or path.stem)
        values = {"name": name, "points": points, **_fields(names, category or {}, keypoints, given), **given}
        scheme = parse_scheme(values)
        _check_complete(scheme, keypoints)
    except FieldError as wrong:
        if own.is_file():
            raise InputError(f"{own}: {wrong}") from wrong
        advice = f"correct it, or write {own.name} beside {path.name}, such as {_EXAMPLE}"
        raise InputError(f"{path}, categories: {wrong}; {advice}") from wrong
    if known is not None and not given and scheme.mirror.tolist() == known.mirror.tolist():
        return known
    return scheme


def _names(path: Path, category: dict[str, Any] | None, points: int) -> list[str]:
    """Return the names of the points in a category; none without a category."""
    if category is None:
        return []
    names = category["keypoints"]
    if not isinstance(names, list) or len(names) != points:
        count = len(names) if isinstance(names, list) else shorten(names)
        raise InputError(f"{path}, categories: keypoints: expected {points} names, as many as points, got {count}")
    names = [str(name) for name in names]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(f"{path}, categories: keypoints: {shorten(twice[0])} occurs twice (expected different names)")
    return names


def _own_fields(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = read_values(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    return values


def _by_number(given: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return fields with the points by number that are given by name."""
    place = _places(names)

    def number(value: Any, field: str) -> Any:
        if isinstance(value, list):
            return [number(one, field) for one in value]
        if isinstance(value, dict):
            return {name: number(one, field) for name, one in value.items()}
        if isinstance(value, str) and value not in place:
            raise FieldError(f"{field}: there is no point {shorten(value)} (expected a number from 0 or a name)")
        return place[value] if isinstance(value, str) else value

    return {name: number(value, name) if name in _POINT_FIELDS else value for name, value in given.items()}


def _places(names: Sequence[str]) -> dict[str, int]:
    return {name: point for point, name in enumerate(names)}


def _check_complete(scheme: Scheme, keypoints: NDArray[np.float64]) -> None:
    """Raise FieldError if a scheme lacks what training and evaluation need, or if left and right are swapped."""
    for name in ("eyes", "normalizer"):
        left, right = (list(group) for group in getattr(scheme, name))
        if not left:
            raise FieldError(
                f"{name}: missing (expected two lists of points, on the left and right of the image; without eyes any "
                "that are level, such as the corners of the mouth)"
            )
        labelled = (keypoints[:, left + right, 2] > 0).all(1)
        x = keypoints[labelled, :, 0]
        if len(x) and float(np.median(x[:, right].mean(1) - x[:, left].mean(1))) < 0:
            raise FieldError(f"{name}: the left ones are on the right of the image; swap the two lists")
    if not scheme.mirror_pairs:
        raise FieldError("mirror_pairs: missing (expected the pairs of points that swap when the image is mirrored)")


def _fields(
    names: Sequence[str], category: dict[str, Any], keypoints: NDArray[np.float64], given: dict[str, Any]
) -> dict[str, Any]:
    """Return the fields of a scheme that a category defines, and those that follow from these and the given ones."""
    words = [_words(name) for name in names]
    field = "mirror_pairs" if "mirror_pairs" in given else "flip_pairs"
    pairs = given.get(field, category.get("flip_pairs"))
    pairs = _pairs_of_names(names, words) if pairs is None else _indices(pairs, names, keypoints.shape[1], field)
    mirror = {one: other for pair in pairs for one, other in (pair, pair[::-1])}
    found: dict[str, Any] = {
        "mirror_pairs": pairs,
        "lines": _chains(category.get("skeleton") or [], names, keypoints.shape[1]),
    }
    if names:
        found["names"] = names
    eyes = [point for point, own in enumerate(words) if _region(own) == "{side}_eye" and point in mirror]
    eyes = eyes or [point for point, own in enumerate(words) if _region(own) == "{side}_pupil" and point in mirror]
    left_points = _on_the_left(keypoints, mirror)
    left = [point for point in eyes if point in left_points]
    if "eyes" in given:
        left = [point for point in _first_group(given["eyes"]) if point in mirror]
    elif not left:
        raise FieldError(
            "eyes: missing, and none of the points in the mirror pairs has eye in its name (expected eyes in a .toml)"
        )
    found["eyes"] = (left, [mirror[point] for point in left])
    if left:
        outer = max(left, key=lambda point: _distance(keypoints, point, mirror[point]))
        found["normalizer"] = ([outer], [mirror[outer]])
    noses = [point for point, own in enumerate(words) if _region(own) == "nose" and point not in mirror]
    tips = [point for point in noses if "tip" in words[point]] or (noses if len(noses) == 1 else [])
    if tips:
        found["nose_tip"] = tips[0]
    return {**found, "regions": _regions(words, mirror, left_points)}


def _first_group(groups: Any) -> list[int]:
    """Return the points of the first group of a field, or none if it is damaged, which `parse_scheme` notices."""
    first = groups[0] if isinstance(groups, list) and groups else []
    return [point for point in first if type(point) is int] if isinstance(first, list) else []


def _regions(words: Sequence[tuple[str, ...]], mirror: dict[int, int], left_points: set[int]) -> dict[str, list[int]]:
    """Return the parts of the face that the words of the names of points show."""
    regions: dict[str, list[int]] = {}
    for point, own in enumerate(words):
        side = "left" if point in left_points else "right"
        region = _region(own)
        if region is not None and ("{side}" not in region or point in mirror):
            regions.setdefault(region.format(side=side), []).append(point)
    return regions


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
            "mirror pairs: missing, and no name of the keypoints has left or right in it (expected flip_pairs, or "
            "mirror_pairs in a .toml: the pairs of points that swap when the image is mirrored)"
        )
    return pairs


def _indices(pairs: Any, names: Sequence[str], points: int, field: str) -> list[tuple[int, int]]:
    """Return pairs of points that are given by number, from 0, or by name."""
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise FieldError(f"{field}: expected pairs of points, got {shorten(pairs)}")

    def index(point: Any) -> int:
        number = _number(point, names)
        if number is None or not 0 <= number < points:
            raise FieldError(f"{field}: there is no point {shorten(point)} (expected 0 to {points - 1} or a name)")
        return number

    numbers = [(index(one), index(other)) for one, other in pairs]
    if twice := [point for point, count in Counter(sum(numbers, ())).items() if count > 1]:
        raise FieldError(f"{field}: point {twice[0]} occurs twice (expected each point in one pair at most)")
    return numbers


def _number(point: Any, names: Sequence[str]) -> int | None:
    """Return the number of a point that is given by name, or as a number, also in text; None if it is neither."""
    if isinstance(point, str):
        return _places(names).get(point, int(point) if point.isdecimal() and len(point) < 9 else None)
    return point if type(point) is int else None


def _chains(skeleton: Any, names: Sequence[str], count: int) -> list[Group]:
    """Return the lines of a skeleton, pairs of points that count from 1; pairs that continue each other are joined.

    If a point is 0, they count from 0. They may also be names.
    """
    pairs = isinstance(skeleton, list) and all(isinstance(edge, list) and len(edge) == 2 for edge in skeleton)
    ends = [end for edge in skeleton for end in edge] if pairs else [None]
    by_name = all(isinstance(end, str) and end in names for end in ends)
    numbers = [_number(end, names if by_name else ()) for end in ends]
    if None in numbers:
        raise FieldError(f"skeleton: expected pairs of point numbers or names, got {shorten(skeleton)}")
    first = 0 if by_name or 0 in numbers else 1
    points = [number - first for number in numbers if number is not None]
    if wrong := [point + first for point in points if not 0 <= point < count]:
        raise FieldError(f"skeleton: there is no point {wrong[0]} (expected {first} to {count - 1 + first})")
    chains: list[Group] = []
    for one, other in zip(points[::2], points[1::2], strict=True):
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
