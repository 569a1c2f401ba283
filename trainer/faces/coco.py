"""Keypoints in COCO format."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.errors import InputError
from canthus.runtime.fields import FieldError, parse_json
from canthus.runtime.schemes import Scheme
from canthus.trainer.faces.coco_scheme import coco_scheme
from canthus.trainer.faces.kinds import PointKind, place_unlabelled
from canthus.trainer.faces.labelled import LabelledFace, LabelledSet
from canthus.trainer.faces.parsing import parse_numbers, read_text, shorten, with_image_folder


def open_coco(path: Path) -> LabelledSet:
    """Open keypoints in COCO format, as mmpose converts WFLW, COFW, 300W and LaPa.

    Images are searched beside the file, in images/ there, and the same one folder up. v is 2 for a
    visible point, 1 for a covered one and 0 for one without a label, which is not trained on. If no point of the file
    has v = 2, then 1 stands for both, as after mmpose's conversion. Faces without any labelled point are left out.

    What the points are: see `coco_scheme`.
    """
    content = _parse_json(read_text(path), path)
    try:
        names = {one["id"]: str(one["file_name"]) for one in content["images"]}
        annotations = list(content["annotations"])
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path}: expected images (with id and file_name) and annotations; missing or wrong: {shorten(error)}"
        ) from error
    parsed: list[_Annotation] = []
    points: int | None = None  # of the first face; the others must have as many
    for number, annotation in enumerate(annotations, 1):
        identity = annotation.get("id") if isinstance(annotation, dict) else "?"
        place = f"{path}, annotation {number} (id {shorten(identity)})"
        face = _parse_annotation(annotation, names, points, place)
        points = len(face.keypoints)
        if face.keypoints[:, 2].any():
            parsed.append(face)
    if not parsed:
        raise InputError(f"{path}: contains no face with a labelled point")
    scheme = coco_scheme(path, content, np.stack([face.keypoints for face in parsed]))
    kind_of_1 = PointKind.COVERED if any((face.keypoints[:, 2] == 2).any() for face in parsed) else PointKind.PLACED
    faces = [_face_of_annotation(face, kind_of_1, scheme) for face in parsed]
    folders = (path.parent, path.parent / "images", path.parent.parent / "images", path.parent.parent)
    images = next((folder for folder in folders if _is_file(folder / faces[0].image)), folders[0])
    return with_image_folder(path, images, tuple(faces), scheme)


def _parse_json(text: str, path: Path) -> Any:
    try:
        return parse_json(text)
    except FieldError as error:
        raise InputError(f"{path}: {error}; give keypoints in COCO format") from error


class _Annotation(NamedTuple):
    image: str
    keypoints: NDArray[np.float64]  # (K, 3) x, y and v of each point; v = 0: not labelled
    rect: tuple[float, float, float, float]  # x0, y0, x1, y1


def _parse_annotation(annotation: Any, names: dict[Any, str], points: int | None, place: str) -> _Annotation:
    """Parse one annotation in COCO format.

    `names` has the name of each image id; `points` is the expected number of points, None = any scheme's.
    """
    try:
        image, keypoints, bbox = names[annotation["image_id"]], annotation["keypoints"], annotation["bbox"]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{place}: expected image_id of a listed image, keypoints and bbox; missing or wrong: {shorten(error)}"
        ) from error
    box = parse_numbers(bbox, f"{place}, bbox")
    if box.shape != (4,):
        raise InputError(f"{place}: expected 4 numbers in bbox (x, y, width, height), got {box.size}")
    x, y, width, height = box.tolist()
    numbers = parse_numbers(keypoints, place)
    points = numbers.size // 3 if points is None else points
    if numbers.ndim != 1 or numbers.size != 3 * points:
        raise InputError(f"{place}: expected {3 * points} numbers (x, y, v of {points} points), got {numbers.size}")
    return _Annotation(image, numbers.reshape(-1, 3), (x, y, x + width, y + height))


def _face_of_annotation(annotation: _Annotation, kind_of_1: PointKind, scheme: Scheme) -> LabelledFace:
    """Convert an annotation; `kind_of_1` is the kind of the points with v = 1."""
    points, visibility = annotation.keypoints[:, :2].astype(np.float32), annotation.keypoints[:, 2]
    kinds = np.full(len(points), PointKind.PLACED, np.uint8)
    kinds[visibility == 1] = kind_of_1
    kinds[visibility == 0] = PointKind.UNLABELLED
    attributes = np.zeros(len(scheme.subsets), np.bool_)
    placed = place_unlabelled(points, kinds)
    return LabelledFace(annotation.image, placed, annotation.rect, attributes, kinds=kinds)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False
