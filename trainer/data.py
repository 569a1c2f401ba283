"""Labelled faces: the official WFLW layout, tar shards of it, and packs of crops that training reads fast."""

import csv
import io
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from canthus.runtime.errors import InputError
from canthus.runtime.geometry import crop, invert, roi_from_points, to_frame, transform
from canthus.runtime.types import Roi
from canthus.runtime.wflw import ATTRIBUTES, POINTS
from canthus.trainer.schemes import scheme_of

LIST_FOLDER = "WFLW_annotations/list_98pt_rect_attr_train_test"
SHARD_LIST = "list_98pt_rect_attr.txt"
SHARD_QUALITY = "quality.csv"
FIELDS = 2 * POINTS + 4 + len(ATTRIBUTES) + 1

PACK_ROOM = 1.4
"""Side of a packed crop over the side of the region: room for turning, scaling and shifting it."""


@dataclass(frozen=True, eq=False)
class LabelledFace:
    """One line of a list file."""

    image: str
    points: NDArray[np.float32]  # (98, 2) image pixels
    rect: tuple[float, float, float, float]  # x0, y0, x1, y1 of the data set's own box, image pixels
    attributes: NDArray[np.bool_]  # (6,) as wflw.ATTRIBUTES
    spread: float = 0.0  # of a pseudo-label, over face size; 0 = labelled by hand


@dataclass(frozen=True)
class LabelledSet:
    """Faces and a way to their images, by the names that the faces carry."""

    name: str
    faces: tuple[LabelledFace, ...]
    read: Callable[[str], bytes]

    def image(self, name: str) -> NDArray[np.uint8]:
        """The picture (H, W, 3) RGB; InputError when it is missing or no picture."""
        try:
            data = self.read(name)
        except (OSError, KeyError) as missing:
            raise InputError(f"{self.name}: the image {name} is listed but missing") from missing
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if data else None
        if picture is None:
            raise InputError(f"{self.name}: {name} is not a readable picture")
        return picture.astype(np.uint8, copy=False)

    def kept_aside(self, every: int) -> "LabelledSet":
        """Only the faces that training with `held_out=every` does not see."""
        faces = tuple(face for face in self.faces if kept_aside(face.image, every))
        return LabelledSet(self.name, faces, self.read)


def open_set(path: Path, split: str = "test") -> LabelledSet:
    """Open the official WFLW folder (then `split` chooses the list), a shard folder, or a tar shard."""
    if path.is_file():
        return _open_tar(path)
    official = path / LIST_FOLDER / f"list_98pt_rect_attr_{split}.txt"
    if official.is_file():
        pictures = path / "WFLW_images"
        faces = parse_list(_text(official), str(official))
    elif (path / SHARD_LIST).is_file():
        pictures = path / "images"
        faces = parse_list(_text(path / SHARD_LIST), str(path / SHARD_LIST))
        quality = path / SHARD_QUALITY
        if quality.is_file():
            faces = _with_spread(faces, _text(quality), str(quality))
    else:
        raise InputError(
            f"{path}: found neither {LIST_FOLDER}/list_98pt_rect_attr_{split}.txt (the official WFLW layout) "
            f"nor {SHARD_LIST} (a shard)"
        )
    return LabelledSet(str(path), tuple(faces), lambda name: (pictures / name).read_bytes())


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


def _open_tar(path: Path) -> LabelledSet:
    try:
        with tarfile.open(path) as shard:
            files = {
                member.name.removeprefix("./"): _member(shard, member)
                for member in shard.getmembers()
                if member.isfile()
            }
    except (tarfile.TarError, OSError, EOFError) as unreadable:
        raise InputError(f"{path}: not a whole tar file: {unreadable}") from unreadable
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


def parse_list(text: str, source: str) -> list[LabelledFace]:
    """Read lines of the official form: 196 coordinates, 4 of the rect, 6 attributes, the image's name.

    InputError names the line that does not fit.
    """
    faces = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        fields = line.split(maxsplit=FIELDS - 1)
        if len(fields) != FIELDS:
            raise InputError(f"{source}, line {number}: expected {FIELDS} fields, got {len(fields)}")
        try:
            numbers = np.array(fields[:-1], np.float64)
        except ValueError as wrong:
            raise InputError(f"{source}, line {number}: not a number: {wrong}") from wrong
        if not np.isfinite(numbers).all():
            raise InputError(f"{source}, line {number}: a coordinate is not finite")
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


def _with_spread(faces: Sequence[LabelledFace], quality: str, source: str) -> list[LabelledFace]:
    rows = csv.DictReader(io.StringIO(quality))
    try:
        spread = {row["image"]: float(row["ensemble_sd"]) for row in rows}
    except (KeyError, TypeError, ValueError) as wrong:
        raise InputError(
            f"{source}, line {rows.line_num}: expected the columns image and ensemble_sd, a number"
        ) from wrong
    return [LabelledFace(f.image, f.points, f.rect, f.attributes, spread.get(f.image, 0.0)) for f in faces]


def yaw(points: NDArray[np.floating]) -> NDArray[np.float64]:
    """How far faces (N, K, 2) look aside: where the nose tip lies between the outer canthi, -1 to 1."""
    scheme = scheme_of(points.shape[1])
    across = scheme.across(points)
    from_left = points[:, scheme.nose] - points[:, list(scheme.ruler[0])].mean(1)
    place = (from_left * across).sum(-1) / np.maximum((across**2).sum(-1), 1e-6)
    aside: NDArray[np.float64] = np.clip(2 * place - 1, -1.0, 1.0).astype(np.float64)
    return aside


@dataclass(frozen=True, eq=False)
class Pack:
    """Faces cut out once, at one size, for training."""

    crops: NDArray[np.uint8]  # (N, P, P, 3) RGB, memory-mapped
    points: NDArray[np.float32]  # (N, 98, 2) pixels of the crop
    spread: NDArray[np.float32]  # (N,)
    source: NDArray[np.int64]  # (N,) which of `sources`
    sources: tuple[str, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.points)


def write_pack(sets: Sequence[LabelledSet], folder: Path, size: int) -> Pack:
    """Cut every face of the sets into `folder`, as crops of `size` pixels, and open the result.

    A pack that was there before stays whole until the new one is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    todo = [(number, face) for number, one in enumerate(sets) for face in one.faces]
    crops_part, labels_part = folder / "crops.part.npy", folder / "labels.part.npz"
    try:
        points = _cut(sets, todo, crops_part, size)
        _write_labels(sets, todo, points, labels_part)
        crops_part.replace(folder / "crops.npy")
        labels_part.replace(folder / "labels.npz")
    finally:
        crops_part.unlink(missing_ok=True)
        labels_part.unlink(missing_ok=True)
    return open_pack(folder)


Todo = Sequence[tuple[int, LabelledFace]]


def _cut(sets: Sequence[LabelledSet], todo: Todo, path: Path, size: int) -> NDArray[np.float32]:
    """Write the crops (N, size, size, 3); returns the points (N, 98, 2) in their pixels."""
    crops = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(len(todo), size, size, 3))
    points = np.zeros((len(todo), POINTS, 2), np.float32)
    for row, (number, face) in enumerate(tqdm(todo, "cutting faces", unit="face", smoothing=0)):
        roi = roi_from_points(face.points)
        roomy = Roi(roi.x, roi.y, roi.side * PACK_ROOM)
        crops[row] = crop(sets[number].image(face.image), roomy, size)
        points[row] = transform(invert(to_frame(roomy, size)), face.points)
    crops.flush()
    return points


def _write_labels(sets: Sequence[LabelledSet], todo: Todo, points: NDArray[np.float32], path: Path) -> None:
    np.savez(
        path,
        points=points,
        spread=np.array([face.spread for _, face in todo], np.float32),
        source=np.array([number for number, _ in todo]),
        sources=np.array([one.name for one in sets]),
        names=np.array([face.image for _, face in todo]),
    )


def open_pack(folder: Path) -> Pack:
    """Open what `write_pack` wrote."""
    try:
        crops = np.lib.format.open_memmap(folder / "crops.npy", mode="r")
        with (folder / "labels.npz").open("rb") as file, np.load(file) as labels:
            pack = Pack(
                crops,
                labels["points"],
                labels["spread"],
                labels["source"],
                tuple(str(name) for name in labels["sources"]),
                tuple(str(name) for name in labels["names"]),
            )
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as unreadable:
        raise InputError(
            f"{folder}: not a pack of faces; make one with: canthus data prepare SET... -o {folder}"
        ) from unreadable
    if len(pack.crops) != len(pack):
        raise InputError(f"{folder}: crops and labels differ in number; make the pack again")
    if pack.points.shape[1:] != (POINTS, 2):
        raise InputError(f"{folder}: expected {POINTS} points a face, got {pack.points.shape[1:]}")
    return pack


def by_picture(
    sets: Sequence[LabelledSet],
) -> Iterator[tuple[NDArray[np.uint8], list[LabelledFace]]]:
    """Every picture with its faces, each read once."""
    for one in sets:
        faces = sorted(one.faces, key=lambda face: face.image)
        for name, together in groupby(faces, key=lambda face: face.image):
            yield one.image(name), list(together)


def kept_aside(name: str, every: int) -> bool:
    """Is the image of this name one that training with `held_out=every` does not see?"""
    return zlib.crc32(name.encode()) % every == 0
