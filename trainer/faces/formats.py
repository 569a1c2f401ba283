"""The data sets' own files: WFLW's lists and shards of them, COFW's .mat, 300W's .pts, keypoints in COCO's form."""

import csv
import io
import json
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from canthus.runtime.errors import BackendError, InputError
from canthus.runtime.extras import install_command
from canthus.runtime.wflw import ATTRIBUTES, POINTS
from canthus.trainer.faces.labelled import LISTED, LabelledFace, LabelledSet
from canthus.trainer.faces.schemes import COFW, W300, WFLW, scheme_of

LIST_FOLDER = "WFLW_annotations/list_98pt_rect_attr_train_test"
SHARD_LIST = "list_98pt_rect_attr.txt"
SHARD_QUALITY = "quality.csv"
FIELDS = 2 * POINTS + 4 + len(ATTRIBUTES) + 1

W300_PARTS = {
    "train": {"afw": "", "helen/trainset": "", "lfpw/trainset": ""},
    "test": {"helen/testset": "common", "lfpw/testset": "common", "ibug": "challenge"},
}
"""The official split: folders, and the subset that each makes up (300W's "full" test set is both)."""

PICTURES = (".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG")


def open_set(path: Path, split: str = "test") -> LabelledSet:
    """Open a labelled set; what lies at the path tells its kind, and `split` chooses the official list.

    A folder: WFLW (official layout), a shard, COFW, 300W (.pts beside pictures). A file: a shard (.tar), COFW (.mat),
    keypoints in COCO's form (.json). InputError names the file, the line and what is wrong there. Faces whose errors
    cannot be measured are left out and named on stderr.
    """
    one = _open(path, split)
    rulers = np.linalg.norm(
        one.scheme.normalizer_vector(np.stack([face.points for face in one.faces])), axis=-1
    )  # (N,)
    flat = [one.faces[row].image for row in np.flatnonzero(rulers == 0)]
    if not flat:
        return one
    told = (
        f"{path}: {len(flat)} faces whose outer eye corners lie in one place, so that errors have no measure: "
        f"{', '.join(flat[:LISTED])}{' ...' * (len(flat) > LISTED)}"
    )
    if len(flat) == len(rulers):
        raise InputError(told)
    print(f"left out of {told}", file=sys.stderr)
    return replace(one, faces=tuple(one.faces[row] for row in np.flatnonzero(rulers)))


def _open(path: Path, split: str) -> LabelledSet:
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    cofw = [path / f"COFW_{split}{kind}.mat" for kind in ("_color", "")]
    if path.is_file():
        match path.suffix.lower():
            case ".json":
                return open_coco(path)
            case ".mat":
                return open_cofw(path)
            case _:
                return open_tar(path)
    if (official := path / LIST_FOLDER / f"list_98pt_rect_attr_{split}.txt").is_file():
        return open_wflw(path, official, split)
    if (path / SHARD_LIST).is_file():
        return open_shard(path)
    for file in cofw:
        if file.is_file():
            return open_cofw(file)
    if next(path.rglob("*.pts"), None):
        return open_300w(path, split)
    other = "train" if split == "test" else "test"
    if (path / LIST_FOLDER / f"list_98pt_rect_attr_{other}.txt").is_file():
        raise InputError(
            f"{path}: holds the {other} list of WFLW, not the {split} list; "
            f"`canthus data prepare` and `canthus eval` take it with --split {other}"
        )
    raise InputError(
        f"{path}: no labelled set: neither {LIST_FOLDER}/{official.name} (WFLW), nor {SHARD_LIST} "
        f"(a shard), nor {cofw[0].name} (COFW), nor .pts files (300W); or give a .tar, .mat or .json file"
    )


def open_wflw(folder: Path, official: Path, split: str) -> LabelledSet:
    """The official WFLW folder, by one of its lists."""
    faces = tuple(parse_list(_text(official), str(official)))
    return _beside(folder, folder / "WFLW_images", faces, WFLW.published[split == "test"])


def open_shard(folder: Path) -> LabelledSet:
    """A shard's folder: images/, the list, and where there is one the table of quality."""
    listed, quality = folder / SHARD_LIST, folder / SHARD_QUALITY
    faces = parse_list(_text(listed), str(listed))
    if quality.is_file():
        faces = _with_spread(faces, _text(quality), str(quality))
    return _beside(folder, folder / "images", tuple(faces))


def _beside(name: Path, pictures: Path, faces: tuple[LabelledFace, ...], published: int = 0) -> LabelledSet:
    scheme = scheme_of(len(faces[0].points))
    return LabelledSet(str(name), faces, lambda image: (pictures / image).read_bytes(), scheme, published)


def open_tar(path: Path) -> LabelledSet:
    """A shard as one tar file."""
    try:
        with tarfile.open(path) as shard:
            files = {
                member.name.removeprefix("./"): _member(shard, member)
                for member in shard.getmembers()
                if member.isfile()
            }
    except (tarfile.TarError, OSError, EOFError) as unreadable:
        told = str(unreadable).splitlines()[0].rstrip(":")
        raise InputError(f"{path}: neither .json nor .mat, and not a whole tar file: {told}") from unreadable
    if SHARD_LIST not in files:
        raise InputError(f"{path}: the shard holds no {SHARD_LIST}")
    source = f"{path}/{SHARD_LIST}"
    faces = parse_list(_decoded(files[SHARD_LIST], source), source)
    if SHARD_QUALITY in files:
        source = f"{path}/{SHARD_QUALITY}"
        faces = _with_spread(faces, _decoded(files[SHARD_QUALITY], source), source)
    return LabelledSet(str(path), tuple(faces), lambda name: files[f"images/{name}"])


def _member(shard: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = shard.extractfile(member)
    assert content is not None, "only files are asked for"
    return content.read()


def _text(path: Path) -> str:
    try:
        return _decoded(path.read_bytes(), str(path))
    except OSError as unreadable:
        raise InputError(f"{path}: {unreadable.strerror}") from unreadable


def _decoded(content: bytes, source: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as other:
        raise InputError(f"{source}: not a text file") from other


def parse_list(text: str, source: str) -> list[LabelledFace]:
    """Read lines of WFLW's form: 196 coordinates, 4 of the rect, 6 attributes, the image's name.

    InputError names the line that does not fit.
    """
    faces = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        fields = line.split(maxsplit=FIELDS - 1)
        if len(fields) != FIELDS:
            raise InputError(f"{source}, line {number}: expected {FIELDS} fields, got {len(fields)}")
        numbers = _numbers(fields[:-1], f"{source}, line {number}")
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
        raise InputError(f"{source}: the list is empty")
    return faces


def format_list_line(face: LabelledFace) -> str:
    """A line that `parse_list` reads."""
    coordinates = " ".join(f"{value:.3f}" for value in (*face.points.ravel(), *face.rect))
    attributes = " ".join(str(int(value)) for value in face.attributes)
    return f"{coordinates} {attributes} {face.image}\n"


def _numbers(fields: Sequence[Any], place: str) -> NDArray[np.float64]:
    try:
        numbers = np.array(fields, np.float64)
    except (TypeError, ValueError) as wrong:
        raise InputError(f"{place}: not a number: {wrong}") from wrong
    if not np.isfinite(numbers).all():
        raise InputError(f"{place}: a coordinate is not finite")
    return numbers


def _with_spread(faces: Sequence[LabelledFace], quality: str, source: str) -> list[LabelledFace]:
    rows = csv.DictReader(io.StringIO(quality))
    try:
        spread = {row["image"]: float(row["ensemble_sd"]) for row in rows}
    except (KeyError, TypeError, ValueError) as wrong:
        raise InputError(
            f"{source}, line {rows.line_num}: expected the columns image and ensemble_sd, a number"
        ) from wrong
    return [replace(face, spread=spread.get(face.image, 0.0)) for face in faces]


def open_cofw(path: Path) -> LabelledSet:
    """COFW_train_color.mat or COFW_test_color.mat (MATLAB 7.3, so HDF5): pictures, 29 points, boxes.

    MATLAB counts pixels from 1, canthus from 0.
    """
    try:
        import h5py
    except ImportError as missing:
        raise BackendError(f"{path}: COFW's files need h5py: {install_command('train')}") from missing
    try:
        with h5py.File(path, "r") as file:
            part = "Tr" if "phisTr" in file else "T"
            labels = np.array(file[f"phis{part}"], np.float64).T
            rects = np.array(file[f"bboxes{part}"], np.float64).T
            pictures = int(file[f"Is{part}"].size)
    except (OSError, KeyError, TypeError, ValueError) as unreadable:
        reason = str(unreadable).splitlines()[0]
        raise InputError(
            f"{path}: not COFW's file as published, MATLAB 7.3 with IsTr and phisTr: {reason}"
        ) from unreadable
    wanted = ((pictures, 3 * COFW.points), (pictures, 4))
    if (labels.shape, rects.shape) != wanted:
        raise InputError(
            f"{path}: {pictures} pictures need phis{part} {wanted[0]} (29 x, 29 y, 29 times hidden or not) and "
            f"bboxes{part} {wanted[1]}, got {labels.shape} and {rects.shape}"
        )
    if not pictures:
        raise InputError(f"{path}: the file holds no face")
    split = "train" if part == "Tr" else "test"
    faces = []
    for row, (label, (x, y, width, height)) in enumerate(zip(labels, rects, strict=True)):
        numbers = _numbers(label[: 2 * COFW.points], f"{path}, face {row + 1} of phis{part}")
        points = numbers.reshape(2, COFW.points).T - 1
        rect = (float(x - 1), float(y - 1), float(x - 1 + width), float(y - 1 + height))
        faces.append(LabelledFace(f"{split}/{row + 1:06d}", points.astype(np.float32), rect, np.zeros(0, np.bool_)))

    def read(name: str) -> bytes:
        with h5py.File(path, "r") as file:
            reference = np.ravel(file[f"Is{part}"])[int(name.rpartition("/")[2]) - 1]
            pixels = np.array(file[reference], np.uint8).T  # MATLAB writes columns first; grey has no third axis
        return cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1].tobytes()

    return LabelledSet(str(path), tuple(faces), read, COFW, COFW.published[split == "test"])


def open_300w(folder: Path, split: str) -> LabelledSet:
    """300W: .pts files beside the pictures of the same names, in the official folders or in any.

    In any other folder every .pts file counts, whatever the split.
    """
    parts = W300_PARTS[split]
    official = any((folder / part).is_dir() for those in W300_PARTS.values() for part in those)
    if official and (absent := [part for part in parts if not (folder / part).is_dir()]):
        raise InputError(f"{folder}: 300W's {split} set is {', '.join(parts)}; missing: {', '.join(absent)}")
    faces = []
    for part, subset in parts.items() if official else (("", ""),):
        for labels in sorted((folder / part).rglob("*.pts")):
            points = parse_pts(_text(labels), str(labels))
            (x0, y0), (x1, y1) = points.min(0).tolist(), points.max(0).tolist()
            beside = [labels.with_suffix(kind) for kind in PICTURES]
            picture = next((path for path in beside if path.is_file()), beside[0])
            marks = np.array([subset == name for name in W300.subsets])
            faces.append(LabelledFace(str(picture.relative_to(folder)), points, (x0, y0, x1, y1), marks))
    if not faces:
        raise InputError(f"{folder}: holds no .pts file of the {split} set")
    if odd := next((face for face in faces if len(face.points) != len(faces[0].points)), None):
        raise InputError(f"{folder}: {odd.image} has {len(odd.points)} points, {faces[0].image} {len(faces[0].points)}")
    return _beside(folder, folder, tuple(faces), W300.published[split == "test"] if official else 0)


def parse_pts(text: str, source: str) -> NDArray[np.float32]:
    """Points (K, 2) of a .pts file, whose pixels count from 1; InputError names the line that does not fit."""
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    heads = [fields[0].rstrip(":") for _, fields in lines]
    if heads[:1] != ["version"] or "{" not in heads:
        raise InputError(f'{source}, line 1: expected "version: 1", "n_points: K" and the points between braces')
    first = heads.index("{") + 1
    last = heads.index("}") if "}" in heads else len(heads)
    told = next((fields[-1] for _, fields in lines[:first] if fields[0].startswith("n_points")), "?")
    for number, fields in lines[first:last]:
        if len(fields) != 2:
            raise InputError(f"{source}, line {number}: expected x and y, got {len(fields)} fields")
        _numbers(fields, f"{source}, line {number}")
    points = np.array([fields for _, fields in lines[first:last]], np.float64).reshape(-1, 2)
    if told.rpartition(":")[2] != str(len(points)):
        raise InputError(f"{source}: n_points tells {told}, and {len(points)} points follow")
    scheme_of(len(points), source)
    return (points - 1).astype(np.float32)


def open_coco(path: Path) -> LabelledSet:
    """Keypoints in COCO's form, as mmpose converts WFLW, COFW, 300W and LaPa; pictures beside the file or in images/.

    A face with a point that nobody labelled (its v is 0) is left out and counted.
    """
    try:
        content = json.loads(_text(path))
    except json.JSONDecodeError as wrong:
        raise InputError(f"{path}, line {wrong.lineno}: no json: {wrong.msg}") from wrong
    try:
        names = {one["id"]: str(one["file_name"]) for one in content["images"]}
        annotations = list(content["annotations"])
    except (KeyError, TypeError) as lacking:
        raise InputError(f"{path}: expected images (id, file_name) and annotations: {lacking!r}") from lacking
    faces: list[LabelledFace] = []
    left_out = 0
    for number, one in enumerate(annotations, 1):
        place = f"{path}, annotation {number} (id {one.get('id') if isinstance(one, dict) else '?'})"
        try:
            image, keypoints = names[one["image_id"]], one["keypoints"]
            x, y, width, height = (float(value) for value in one["bbox"])
        except (KeyError, TypeError, ValueError) as wrong:
            raise InputError(f"{place}: expected image_id of a listed image, keypoints and bbox: {wrong!r}") from wrong
        numbers = _numbers(keypoints, place)
        points = faces[0].points.size // 2 if faces else numbers.size // 3
        if numbers.ndim != 1 or numbers.size != 3 * points:
            raise InputError(f"{place}: expected {3 * points} numbers (x, y, v of {points} points), got {numbers.size}")
        scheme = scheme_of(points, place)
        triples = numbers.reshape(points, 3)
        if (triples[:, 2] == 0).any():
            left_out += 1
            continue
        rect = (x, y, x + width, y + height)
        marks = np.zeros(len(scheme.subsets), np.bool_)
        faces.append(LabelledFace(image, triples[:, :2].astype(np.float32), rect, marks))
    if not faces:
        raise InputError(f"{path}: holds no face whose points are all labelled")
    folders = (path.parent, path.parent / "images", path.parent.parent / "images", path.parent.parent)
    pictures = next((folder for folder in folders if (folder / faces[0].image).is_file()), folders[0])
    return replace(_beside(path, pictures, tuple(faces)), left_out=left_out)
