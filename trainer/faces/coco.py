"""Keypoints in COCO format."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.errors import InputError
from canthus.runtime.fields import FieldError, parse_json
from canthus.runtime.schemes import Scheme
from canthus.trainer.faces.coco_images import find_images
from canthus.trainer.faces.coco_scheme import coco_scheme
from canthus.trainer.faces.kinds import PointKind, place_unlabelled
from canthus.trainer.faces.labelled import LabelledFace, LabelledSet
from canthus.trainer.faces.parsing import parse_numbers, read_text, shorten, with_image_folder

_log = logging.getLogger(__name__)


def open_coco(path: Path) -> LabelledSet:
    """Open keypoints in COCO format, as mmpose converts WFLW, COFW, 300W and LaPa, and as labelling tools write them.

    v is 2 for a visible point, 1 for a covered one and 0 for one without a label, which is not trained on. If no point
    of the file has v = 2, then 1 stands for both, as after mmpose's conversion. Annotations without two labelled points
    at different places are left out. Without bbox, the box is that of the labelled points. Ids may be numbers or text.

    Where the images are: see `find_images`. What the points are: see `coco_scheme`.
    """
    content = _parse_json(read_text(path), path)
    try:
        listed = [(_id(one["id"]), str(one["file_name"])) for one in content["images"]]
        annotations = list(enumerate(content["annotations"], 1))
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path}: expected images (with id and file_name) and annotations; missing or wrong: {shorten(error)}"
        ) from error
    names = dict(listed)
    if other := next(((identity, name) for identity, name in listed if names[identity] != name), None):
        raise InputError(
            f"{path}: two images have the id {shorten(other[0])}: {shorten(other[1])} and {shorten(names[other[0]])}; "
            "give each its own, also in image_id of the annotations"
        )
    category, chosen = _choose_category(path, _categories(content), annotations)
    parsed: list[_Annotation] = []
    named = category["keypoints"] if category else None
    expected = _Expected(names, len(named) if isinstance(named, list) else None)
    for number, annotation in chosen:
        identity = annotation.get("id") if isinstance(annotation, dict) else "?"
        face = _parse_annotation(annotation, expected, f"{path}, annotation {number} (id {shorten(identity)})")
        expected = _Expected(names, len(face.keypoints), exactly=True)
        labelled = face.keypoints[face.keypoints[:, 2] > 0, :2]
        if len(labelled) and np.ptp(labelled, axis=0).any():  # else it has no region to crop
            parsed.append(face)
    if not parsed:
        raise InputError(f"{path}: contains no face with two labelled points (expected keypoints with v = 1 or 2)")
    if len(parsed) < len(annotations):
        left_out = len(annotations) - len(parsed)
        _log.warning("left out of %s: %d annotations that are no face with two labelled points", path, left_out)
    scheme = coco_scheme(path, category, np.stack([face.keypoints for face in parsed]))
    kind_of_1 = PointKind.COVERED if any((face.keypoints[:, 2] == 2).any() for face in parsed) else PointKind.PLACED
    images = find_images(path, [face.image for face in parsed])
    faces = [_face_of_annotation(face, images.names[face.image], kind_of_1, scheme) for face in parsed]
    return with_image_folder(path, images.folder, tuple(faces), scheme)


def _parse_json(text: str, path: Path) -> Any:
    try:
        return parse_json(text)
    except FieldError as error:
        raise InputError(f"{path}: {error}; give keypoints in COCO format") from error


def _id(value: Any) -> str:
    """Return an id as text: 7, 7.0 and "7" are the same."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _categories(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the categories that name keypoints."""
    found = content.get("categories", [])
    found = [found] if isinstance(found, dict) else found
    return [one for one in found if isinstance(one, dict) and one.get("keypoints")] if isinstance(found, list) else []


_Numbered = tuple[int, Any]
"""An annotation and its number in the file."""


def _choose_category(
    path: Path, categories: Sequence[dict[str, Any]], annotations: Sequence[_Numbered]
) -> tuple[dict[str, Any] | None, list[_Numbered]]:
    """Return the category of the faces, None if none names keypoints, and the annotations of faces.

    These are the annotations with keypoints, of all categories. If several categories with different keypoints have
    some, the one with "face" in its name counts.

    Raises:
        InputError: There are several categories, and none or several of them have "face" in their name.
    """
    faces = [(number, one) for number, one in annotations if not isinstance(one, dict) or one.get("keypoints")]
    counts = Counter(_id(one.get("category_id")) for _, one in faces if isinstance(one, dict))
    used = [one for one in categories if _id(one.get("id")) in counts]
    if all(one["keypoints"] == used[0]["keypoints"] for one in used):
        return next(iter(used or categories), None), faces
    chosen = [one for one in used if "face" in str(one.get("name")).lower()]
    if len(chosen) != 1:
        found = ", ".join(f"{shorten(one.get('name'))} ({counts[_id(one.get('id'))]})" for one in used)
        raise InputError(
            f"{path}: annotations of several categories with different keypoints: {found}; keep those of one, or name "
            "it face"
        )
    identity = _id(chosen[0]["id"])
    return chosen[0], [
        (number, one) for number, one in faces if isinstance(one, dict) and _id(one.get("category_id")) == identity
    ]


class _Expected(NamedTuple):
    """What annotations must fit."""

    names: dict[str, str]  # the name of each image id
    points: int | None  # the number of names of points, or of points of another face
    exactly: bool = False  # whether `points` is certain


class _Annotation(NamedTuple):
    image: str
    keypoints: NDArray[np.float64]  # (K, 3) x, y and v of each point; v = 0: not labelled
    rect: tuple[float, float, float, float]  # x0, y0, x1, y1


def _parse_annotation(annotation: Any, expected: _Expected, place: str) -> _Annotation:
    """Parse one annotation in COCO format; `place` names it in messages."""
    try:
        image, keypoints = expected.names[_id(annotation["image_id"])], annotation["keypoints"]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{place}: expected image_id of a listed image and keypoints; missing or wrong: {shorten(error)}"
        ) from error
    numbers = parse_numbers(keypoints, place)
    if numbers.ndim == 2 and numbers.shape[1] == 3:
        numbers = numbers.ravel()
    points = expected.points
    if points is None or not (expected.exactly or numbers.size % 3):
        points = numbers.size // 3
    if numbers.ndim != 1 or numbers.size != 3 * points:
        raise InputError(f"{place}: expected {3 * points} numbers (x, y, v of {points} points), got {numbers.size}")
    triples = numbers.reshape(-1, 3)
    if (wrong := ~np.isin(triples[:, 2], (0, 1, 2))).any():
        raise InputError(f"{place}: v is {triples[wrong, 2][0]:g} (expected 0, 1 or 2)")
    return _Annotation(image, triples, _box(annotation.get("bbox"), triples, place))


def _box(bbox: Any, keypoints: NDArray[np.float64], place: str) -> tuple[float, float, float, float]:
    """Return the box of an annotation: x0, y0, x1, y1."""
    if not bbox:
        labelled = keypoints[keypoints[:, 2] > 0, :2]
        if not len(labelled):
            return 0.0, 0.0, 0.0, 0.0
        (x0, y0), (x1, y1) = labelled.min(0).tolist(), labelled.max(0).tolist()
        return x0, y0, x1, y1
    box = parse_numbers(bbox, f"{place}, bbox")
    if box.shape != (4,):
        raise InputError(f"{place}: expected 4 numbers in bbox (x, y, width, height), got {box.size}")
    x, y, width, height = box.tolist()
    return x, y, x + width, y + height


def _face_of_annotation(annotation: _Annotation, image: str, kind_of_1: PointKind, scheme: Scheme) -> LabelledFace:
    """Convert an annotation of an image; `kind_of_1` is the kind of the points with v = 1."""
    points, visibility = annotation.keypoints[:, :2].astype(np.float32), annotation.keypoints[:, 2]
    kinds = np.full(len(points), PointKind.PLACED, np.uint8)
    kinds[visibility == 1] = kind_of_1
    kinds[visibility == 0] = PointKind.UNLABELLED
    attributes = np.zeros(len(scheme.subsets), np.bool_)
    return LabelledFace(image, place_unlabelled(points, kinds), annotation.rect, attributes, kinds=kinds)
