"""Readers for the files of the data sets.

Supported are WFLW's list files, shards of them, COFW's .mat files, 300W's .pts files and keypoints in COCO format.
"""

import csv
import io
import json
import logging
import lzma
import math
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from canthus.runtime.errors import BackendError, InputError
from canthus.runtime.wflw import ATTRIBUTES, POINTS
from canthus.trainer.faces.labelled import MAX_LISTED, LabelledFace, LabelledSet
from canthus.trainer.faces.schemes import COFW, W300, WFLW, scheme_of

LIST_FOLDER = "WFLW_annotations/list_98pt_rect_attr_train_test"
SHARD_LIST = "list_98pt_rect_attr.txt"
SHARD_QUALITY = "quality.csv"
LINE_FIELDS = 2 * POINTS + 4 + len(ATTRIBUTES) + 1

W300_FOLDERS = {
    "train": {"afw": "", "helen/trainset": "", "lfpw/trainset": ""},
    "test": {"helen/testset": "common", "lfpw/testset": "common", "ibug": "challenge"},
}
"""The official splits: folder, and the subset that its faces belong to. The "full" test set of 300W is both subsets."""

PTS_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG")

MAX_COORDINATE = 1e6
"""Coordinates, in pixels, are smaller than this; larger ones are mistakes, and overflow in later arithmetic."""

MIN_NORMALIZER = 1e-3
"""Faces whose outer eye corners are closer together, in pixels, are left out: their errors cannot be normalized."""

_log = logging.getLogger(__name__)


def open_set(path: Path, split: str = "test") -> LabelledSet:
    """Open a labelled set; its format is detected.

    Faces whose outer eye corners coincide are left out, and a warning names them.

    Args:
        path: A folder (WFLW or 300W in the official layout, .pts files beside images, COFW, or a shard) or a file
            (a shard as .tar, COFW as .mat, keypoints in COCO format as .json).
        split: "train" or "test", for folders that contain both.

    Raises:
        InputError: If the set cannot be read. The message names the file, the line or face, and what is wrong there.
    """
    try:
        labelled = _open(path, split)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    points = np.stack([face.points for face in labelled.faces])
    normalizers = np.linalg.norm(labelled.scheme.normalizer_vector(points), axis=-1)  # (N,) pixels
    usable = normalizers >= MIN_NORMALIZER
    if usable.all():
        return labelled
    names = [face.image for face, good in zip(labelled.faces, usable, strict=True) if not good]
    message = (
        f"{path}: {len(names)} faces whose outer eye corners coincide, so that errors cannot be normalized: "
        f"{', '.join(names[:MAX_LISTED])}{' ...' * (len(names) > MAX_LISTED)}"
    )
    if not usable.any():
        raise InputError(message)
    _log.warning("left out of %s", message)
    return replace(labelled, faces=tuple(face for face, good in zip(labelled.faces, usable, strict=True) if good))


def _open(path: Path, split: str) -> LabelledSet:
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.is_file():
        match path.suffix.lower():
            case ".json":
                return open_coco(path)
            case ".mat":
                return open_cofw(path)
            case _:
                return open_tar(path)
    list_file = path / LIST_FOLDER / f"list_98pt_rect_attr_{split}.txt"
    if list_file.is_file():
        return open_wflw(path, list_file, split)
    if (path / SHARD_LIST).is_file():
        return open_shard(path)
    cofw_files = [path / f"COFW_{split}{suffix}.mat" for suffix in ("_color", "")]
    for file in cofw_files:
        if file.is_file():
            return open_cofw(file)
    if next(path.rglob("*.pts"), None):
        return open_300w(path, split)
    other = "train" if split == "test" else "test"
    if (path / LIST_FOLDER / f"list_98pt_rect_attr_{other}.txt").is_file():
        raise InputError(
            f"{path}: contains the {other} list of WFLW, not the {split} list; "
            f"use it with --split {other} (`canthus data prepare` and `canthus eval`)"
        )
    raise InputError(
        f"{path}: not a labelled set (expected {LIST_FOLDER}/{list_file.name} (WFLW), {SHARD_LIST} (a shard), "
        f"{cofw_files[0].name} (COFW) or .pts files (300W)); or give a .tar, .mat or .json file"
    )


def open_wflw(folder: Path, list_file: Path, split: str) -> LabelledSet:
    """Open the official WFLW folder with one of its lists."""
    faces = tuple(parse_list(_read_text(list_file), str(list_file)))
    return _with_image_folder(folder, folder / "WFLW_images", faces, WFLW.published_counts[split == "test"])


def open_shard(folder: Path) -> LabelledSet:
    """Open a shard: a folder with images/, a list in WFLW's format, and optionally quality.csv."""
    list_file, quality = folder / SHARD_LIST, folder / SHARD_QUALITY
    faces = parse_list(_read_text(list_file), str(list_file))
    if quality.is_file():
        faces = _with_spread(faces, _read_text(quality), str(quality))
    return _with_image_folder(folder, folder / "images", tuple(faces))


def _with_image_folder(
    name: Path, images: Path, faces: tuple[LabelledFace, ...], published_count: int = 0
) -> LabelledSet:
    scheme = scheme_of(len(faces[0].points))
    return LabelledSet(str(name), faces, lambda image: (images / image).read_bytes(), scheme, published_count)


def open_tar(path: Path) -> LabelledSet:
    """Open a shard that is one tar file, compressed or not."""
    try:
        with tarfile.open(path) as shard:
            files = {
                member.name.removeprefix("./"): _read_member(shard, member)
                for member in shard.getmembers()
                if member.isfile()
            }
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError, ArithmeticError) as error:
        reason = (str(error).splitlines() or [""])[0].rstrip(":")
        raise InputError(
            f"{path}: damaged, or not a .tar, .mat or .json file ({reason}); get the file again"
        ) from error
    except MemoryError as error:
        raise InputError(f"{path}: does not fit into memory; extract it and give the folder") from error
    if SHARD_LIST not in files:
        raise InputError(f"{path}: not a shard (expected {SHARD_LIST} in the tar file)")
    source = f"{path}/{SHARD_LIST}"
    faces = parse_list(_decode(files[SHARD_LIST], source), source)
    if SHARD_QUALITY in files:
        source = f"{path}/{SHARD_QUALITY}"
        faces = _with_spread(faces, _decode(files[SHARD_QUALITY], source), source)
    return LabelledSet(str(path), tuple(faces), lambda name: files[f"images/{name}"])


def _read_member(shard: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = shard.extractfile(member)
    assert file is not None, "the member is a file"
    return file.read()


def _read_text(path: Path) -> str:
    try:
        return _decode(path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _decode(content: bytes, source: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: not a text file (expected UTF-8)") from error


def parse_list(text: str, source: str) -> list[LabelledFace]:
    """Parse a list file of WFLW: per line 196 coordinates, 4 numbers of the rect, 6 attributes and the image name.

    Raises:
        InputError: If a line cannot be parsed; the message names `source` and the line.
    """
    faces = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        place = f"{source}, line {number}"
        fields = line.split(maxsplit=LINE_FIELDS - 1)
        if len(fields) != LINE_FIELDS:
            raise InputError(f"{place}: expected {LINE_FIELDS} fields, got {len(fields)}")
        numbers = _parse_numbers(fields[:-1], place)
        x0, y0, x1, y1 = (float(edge) for edge in numbers[2 * POINTS : 2 * POINTS + 4])
        faces.append(
            LabelledFace(
                image=fields[-1].strip(),
                points=numbers[: 2 * POINTS].reshape(POINTS, 2).astype(np.float32),
                rect=(x0, y0, x1, y1),
                attributes=numbers[2 * POINTS + 4 :] > 0.5,
            )
        )
    if not faces:
        raise InputError(f"{source}: the list is empty (expected a line per face)")
    return faces


def format_list_line(face: LabelledFace) -> str:
    """Return the line that `parse_list` parses to this face."""
    coordinates = " ".join(f"{value:.3f}" for value in (*face.points.ravel(), *face.rect))
    attributes = " ".join(str(int(value)) for value in face.attributes)
    return f"{coordinates} {attributes} {face.image}\n"


def _parse_numbers(fields: Sequence[Any], place: str) -> NDArray[np.float64]:
    """Convert to an array of float64 whose values are finite and smaller than MAX_COORDINATE."""
    try:
        numbers = np.array(fields, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{place}: not a number: {_shorten(error)}; correct or remove it") from error
    if not np.isfinite(numbers).all():
        raise InputError(f"{place}: a coordinate is not finite; correct or remove it")
    if numbers.size and (largest := np.abs(numbers).max()) >= MAX_COORDINATE:
        raise InputError(
            f"{place}: a coordinate is {largest:g} (expected less than {MAX_COORDINATE:g}); correct or remove it"
        )
    return numbers


def _shorten(value: object) -> str:
    """Return at most 120 characters of a text, on one line."""
    text = " ".join(str(value).split())
    return text if len(text) <= 120 else text[:117] + "..."


def _with_spread(faces: Sequence[LabelledFace], quality: str, source: str) -> list[LabelledFace]:
    """Set the spread of each face from quality.csv."""
    rows = csv.DictReader(io.StringIO(quality))
    spread: dict[str, float] = {}
    try:
        for row in rows:
            spread[row["image"]] = float(row["ensemble_sd"])
            if not 0 <= spread[row["image"]] < math.inf:
                raise ValueError
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(
            f"{source}, line {rows.line_num}: expected the columns image and ensemble_sd, a number of at least 0"
        ) from error
    return [replace(face, spread=spread.get(face.image, 0.0)) for face in faces]


def open_cofw(path: Path) -> LabelledSet:
    """Open COFW_train_color.mat or COFW_test_color.mat (MATLAB 7.3, which is HDF5): images, 29 points, boxes.

    MATLAB counts pixels from 1; the points are converted to count from 0.
    """
    try:
        import h5py
    except ImportError as missing:
        raise BackendError(f"{path}: COFW's files need h5py: pip install 'canthus[train]'") from missing
    try:
        with h5py.File(path, "r") as file:
            part = "Tr" if "phisTr" in file else "T"
            labels = np.array(file[f"phis{part}"], np.float64).T
            rects = np.array(file[f"bboxes{part}"], np.float64).T
            images = int(file[f"Is{part}"].size)
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path}: not a published file of COFW (expected MATLAB 7.3 with IsTr and phisTr): {reason}"
        ) from error
    expected = ((images, 3 * COFW.points), (images, 4))
    if (labels.shape, rects.shape) != expected:
        raise InputError(
            f"{path}: expected phis{part} {expected[0]} (29 x, 29 y, 29 times occluded or not) and "
            f"bboxes{part} {expected[1]} for {images} images, got {labels.shape} and {rects.shape}"
        )
    if not images:
        raise InputError(f"{path}: contains no faces")
    split = "train" if part == "Tr" else "test"
    faces = []
    for row, label in enumerate(labels):
        numbers = _parse_numbers(label[: 2 * COFW.points], f"{path}, face {row + 1} of phis{part}")
        points = numbers.reshape(2, COFW.points).T - 1
        x, y, width, height = _parse_numbers(rects[row], f"{path}, face {row + 1} of bboxes{part}").tolist()
        rect = (x - 1, y - 1, x - 1 + width, y - 1 + height)
        faces.append(LabelledFace(f"{split}/{row + 1:06d}", points.astype(np.float32), rect, np.zeros(0, np.bool_)))

    def read_png(name: str) -> bytes:
        try:
            with h5py.File(path, "r") as file:
                reference = np.ravel(file[f"Is{part}"])[int(name.rpartition("/")[2]) - 1]
                pixels = np.array(file[reference], np.uint8).T  # MATLAB stores columns first; gray has no third axis
            return cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1].tobytes()
        except (KeyError, TypeError, cv2.error, MemoryError) as error:
            raise ValueError(f"damaged: {_shorten(error)}") from error

    return LabelledSet(str(path), tuple(faces), read_png, COFW, COFW.published_counts[split == "test"])


def open_300w(folder: Path, split: str) -> LabelledSet:
    """Open 300W: .pts files beside images of the same name.

    `split` selects folders if the folder has the official layout. Else all .pts files are read.
    """
    folders = W300_FOLDERS[split]
    official = any((folder / part).is_dir() for parts in W300_FOLDERS.values() for part in parts)
    if official and (missing := [part for part in folders if not (folder / part).is_dir()]):
        raise InputError(f"{folder}: 300W's {split} set is {', '.join(folders)}; missing: {', '.join(missing)}")
    faces = []
    for part, subset in folders.items() if official else (("", ""),):
        for labels in sorted((folder / part).rglob("*.pts")):
            points = parse_pts(_read_text(labels), str(labels))
            (x0, y0), (x1, y1) = points.min(0).tolist(), points.max(0).tolist()
            candidates = [labels.with_suffix(suffix) for suffix in PTS_IMAGE_SUFFIXES]
            image = next((path for path in candidates if path.is_file()), candidates[0])
            attributes = np.array([subset == name for name in W300.subsets])
            faces.append(LabelledFace(str(image.relative_to(folder)), points, (x0, y0, x1, y1), attributes))
    if not faces:
        raise InputError(f"{folder}: contains no .pts files of the {split} set")
    if odd := next((face for face in faces if len(face.points) != len(faces[0].points)), None):
        raise InputError(
            f"{folder}: {odd.image} has {len(odd.points)} points, but {faces[0].image} {len(faces[0].points)}; "
            "keep faces with different numbers of points in different folders"
        )
    return _with_image_folder(folder, folder, tuple(faces), W300.published_counts[split == "test"] if official else 0)


def parse_pts(text: str, source: str) -> NDArray[np.float32]:
    """Parse a .pts file to points (K, 2). The file counts pixels from 1; the result counts from 0.

    Raises:
        InputError: If a line cannot be parsed; the message names `source` and the line.
    """
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    keys = [fields[0].rstrip(":") for _, fields in lines]
    if keys[:1] != ["version"] or "{" not in keys:
        raise InputError(f'{source}, line 1: expected "version: 1", "n_points: K" and the points between braces')
    first = keys.index("{") + 1
    last = keys.index("}") if "}" in keys else len(keys)
    declared = next((fields[-1] for _, fields in lines[:first] if fields[0].startswith("n_points")), "?")
    for number, fields in lines[first:last]:
        if len(fields) != 2:
            raise InputError(f"{source}, line {number}: expected x and y, got {len(fields)} fields")
        _parse_numbers(fields, f"{source}, line {number}")
    points = np.array([fields for _, fields in lines[first:last]], np.float64).reshape(-1, 2)
    if declared.rpartition(":")[2] != str(len(points)):
        raise InputError(f"{source}: n_points is {declared}, but {len(points)} points follow")
    scheme_of(len(points), source)
    return (points - 1).astype(np.float32)


def open_coco(path: Path) -> LabelledSet:
    """Open keypoints in COCO format, as mmpose converts WFLW, COFW, 300W and LaPa.

    Images are looked for beside the file and in images/. Faces with an unlabelled point (v = 0) are left out and
    counted.
    """
    content = _parse_json(_read_text(path), path)
    try:
        names = {one["id"]: str(one["file_name"]) for one in content["images"]}
        annotations = list(content["annotations"])
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path}: expected images (with id and file_name) and annotations; missing or wrong: {_shorten(error)}"
        ) from error
    faces: list[LabelledFace] = []
    skipped = 0
    points: int | None = None  # of the first face; the others must have as many
    for number, annotation in enumerate(annotations, 1):
        identity = annotation.get("id") if isinstance(annotation, dict) else "?"
        place = f"{path}, annotation {number} (id {_shorten(identity)})"
        face = _parse_annotation(annotation, names, points, place)
        points = len(face.keypoints)
        if (face.keypoints[:, 2] == 0).any():
            skipped += 1
            continue
        attributes = np.zeros(len(scheme_of(points).subsets), np.bool_)
        faces.append(LabelledFace(face.image, face.keypoints[:, :2].astype(np.float32), face.rect, attributes))
    if not faces:
        raise InputError(f"{path}: contains no face with all points labelled")
    folders = (path.parent, path.parent / "images", path.parent.parent / "images", path.parent.parent)
    images = next((folder for folder in folders if _is_file(folder / faces[0].image)), folders[0])
    return replace(_with_image_folder(path, images, tuple(faces)), skipped=skipped)


def _parse_json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: not valid JSON ({error.msg})") from error
    except RecursionError as error:
        raise InputError(
            f"{path}: not keypoints in COCO format (the JSON is nested too deeply); give the converted annotations"
        ) from error
    except ValueError as error:  # an integer with thousands of digits
        raise InputError(f"{path}: not valid JSON ({_shorten(error)})") from error


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
            f"{place}: expected image_id of a listed image, keypoints and bbox; missing or wrong: {_shorten(error)}"
        ) from error
    box = _parse_numbers(bbox, f"{place}, bbox")
    if box.shape != (4,):
        raise InputError(f"{place}: expected 4 numbers in bbox (x, y, width, height), got {box.size}")
    x, y, width, height = box.tolist()
    numbers = _parse_numbers(keypoints, place)
    points = numbers.size // 3 if points is None else points
    if numbers.ndim != 1 or numbers.size != 3 * points:
        raise InputError(f"{place}: expected {3 * points} numbers (x, y, v of {points} points), got {numbers.size}")
    scheme_of(points, place)
    return _Annotation(image, numbers.reshape(-1, 3), (x, y, x + width, y + height))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False
