"""Packs: crops of labelled faces on disk, which training reads fast."""

import contextlib
import errno
import math
import os
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from canthus.runtime.errors import InputError
from canthus.runtime.geometry import crop, invert, roi_from_points, to_frame, transform
from canthus.runtime.types import Roi
from canthus.trainer.augmentation.augment import Augmentation
from canthus.trainer.faces.labelled import LISTED, LabelledFace, LabelledSet
from canthus.trainer.faces.schemes import scheme_of

PACK_MARGIN = 1.4
"""Side of a packed crop over the side of the region: room for turning, scaling and shifting it, most of the time."""

CROPS = "crops.npy"
LABELS = "labels.npz"
"""The files of a pack."""


@dataclass(frozen=True, eq=False)
class Pack:
    """Faces cut out once, at one size, for training."""

    crops: NDArray[np.uint8]  # (N, P, P, 3) RGB, memory-mapped
    points: NDArray[np.float32]  # (N, K, 2) pixels of the crop
    spread: NDArray[np.float32]  # (N,)
    source: NDArray[np.int64]  # (N,) which of `sources`
    sources: tuple[str, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.points)


@dataclass
class Findings:
    """What cutting the faces out brings to light."""

    unreadable: dict[str, str] = field(default_factory=dict)  # picture -> why
    outside: list[NDArray[np.float64]] = field(default_factory=list)  # (K,) of each face cut: pixels beyond the picture


class WrittenPack(NamedTuple):
    """A new pack, and what was wrong with the faces that it was made of."""

    pack: Pack
    findings: Findings


def write_pack(
    sets: Sequence[LabelledSet],
    folder: Path,
    size: int,
    augmentation: Augmentation | None = None,
    allow_missing: bool = False,
) -> WrittenPack:
    """Cut every face of the sets out, write the crops of `size` pixels into `folder`, and open the new pack.

    Each crop has room for what `augmentation` does to a face, see `packed_region`. With `allow_missing`, faces whose
    image is missing or unreadable are skipped. An earlier pack in `folder` stays whole until the new one is complete.

    Raises:
        InputError: If images are missing or unreadable; all are tried first.
    """
    if len({one.scheme.name for one in sets}) > 1:
        kinds = ", ".join(f"{one.name}: {one.scheme.points}" for one in sets)
        raise InputError(f"a pack holds faces with one number of points ({kinds}); make one for each")
    findings = Findings()
    todo = [(number, face) for number, one in enumerate(sets) for face in one.faces]
    with _written_aside(folder) as (crops_part, labels_part):
        done, points = _cut(sets, todo, crops_part, size, findings, augmentation)
        lacking = len(todo) - len(done)
        if lacking and (not allow_missing or not done):
            raise InputError(_lacking(findings.unreadable, lacking, folder / "unreadable.txt"))
        if lacking:
            _shorten(crops_part, (len(done), size, size, 3))
        _write_labels(
            labels_part,
            points,
            np.array([face.spread for _, face in done], np.float32),
            np.array([number for number, _ in done]),
            [one.name for one in sets],
            [face.image for _, face in done],
        )
    return WrittenPack(open_pack(folder), findings)


@contextlib.contextmanager
def _written_aside(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Where to write crops and labels, which are the folder's pack in the end; after an error nothing is left of them.

    InputError where the folder cannot be written.
    """
    new = not folder.exists()
    crops, labels = folder / "crops.part.npy", folder / "labels.part.npz"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        crops.unlink(missing_ok=True)  # what a killed `copy_pack` left is another pack's crops, by another name
        yield crops, labels
        crops.replace(folder / CROPS)
        labels.replace(folder / LABELS)
    except OSError as refused:
        raise InputError(f"{folder}: cannot be written: {refused.strerror}") from refused
    finally:
        for part in (crops, labels):
            with contextlib.suppress(OSError):
                part.unlink()
        if new:
            with contextlib.suppress(OSError):  # where it holds something, as a pack
                folder.rmdir()


Todo = Sequence[tuple[int, LabelledFace]]


def packed_region(points: NDArray[np.floating], how: Augmentation | None = None) -> Roi:
    """The upright square that is packed of a face (K, 2): what training may ever see of it.

    Where `how` changes faces evenly, it holds every region turned, scaled and shifted as far as that. Else, and where
    changes follow a normal distribution and so have no end, it is the plain region with PACK_MARGIN.
    """
    if how is None or not how.uniform:
        plain = roi_from_points(points)
        return Roi(plain.x, plain.y, plain.side * PACK_MARGIN)
    most = math.radians(how.rotation)
    places: list[tuple[float, float]] = []
    for angle in np.linspace(-most, most, 1 + math.ceil(how.rotation)):
        region = roi_from_points(points, float(angle))
        turned = (abs(math.cos(angle)) + abs(math.sin(angle))) / 2  # from its middle to its corners, along each axis
        reach = region.side * how.scale[1] * (turned + how.shift)
        places += [(region.x - reach, region.y - reach), (region.x + reach, region.y + reach)]
    low, high = np.min(places, axis=0), np.max(places, axis=0)
    x, y = (low + high) / 2
    return Roi(float(x), float(y), float((high - low).max()))


def _cut(
    sets: Sequence[LabelledSet], todo: Todo, path: Path, size: int, findings: Findings, how: Augmentation | None
) -> tuple[Todo, NDArray[np.float32]]:
    """Write the crops (N, size, size, 3); returns which faces could be cut, and their points (N, K, 2) in the crops."""
    crops = _reserved(path, (len(todo), size, size, 3))
    done: list[tuple[int, LabelledFace]] = []
    placed = []
    for number, face in tqdm(todo, "cutting faces", unit="face", smoothing=0, disable=None):
        try:
            picture = sets[number].image(face.image)
        except InputError as unreadable:
            findings.unreadable[face.image] = str(unreadable)
            continue
        edge = np.array(picture.shape[1::-1]) - 0.5
        findings.outside.append(np.maximum(-0.5 - face.points, face.points - edge).max(-1).clip(0))
        roomy = packed_region(face.points, how)
        crops[len(done)] = crop(picture, roomy, size)
        placed.append(transform(invert(to_frame(roomy, size)), face.points))
        done.append((number, face))
    crops.flush()
    return done, np.array(placed, np.float32)


def _reserved(path: Path, shape: tuple[int, ...]) -> "np.memmap[Any, np.dtype[np.uint8]]":
    """An array on disk; InputError where the disk has no room for it, which would kill a process that fills a map."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS and Windows
        try:
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as refused:
            if refused.errno in (errno.ENOSPC, errno.EDQUOT):  # others: a disk that cannot reserve
                raise _no_room(
                    path, array.nbytes, refused, "choose another disk, or smaller crops (--size)"
                ) from refused
    return array


def _no_room(path: Path, size: int, refused: OSError, answer: str) -> InputError:
    return InputError(f"{path.parent}: the crops need {size / 1e9:.3g} GB ({refused.strerror}); {answer}")


def _lacking(unreadable: dict[str, str], faces: int, listed: Path) -> str:
    """What to say; more pictures than a person reads go to a file."""
    told, more = list(unreadable.values()), []
    if len(told) > LISTED:
        listed.write_text("\n".join(told) + "\n")
        more = [f"and {len(told) - LISTED} more, see {listed}"]
    start = f"{len(told)} pictures with {faces} faces are missing or unreadable; --allow-missing goes on without them:"
    return "\n  ".join([start, *told[:LISTED], *more])


def _shorten(path: Path, shape: tuple[int, ...]) -> None:
    """Keep the first rows of an array on disk: numpy leaves room in a file's head for any number of them."""
    with path.open("r+b") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + math.prod(shape))


@contextlib.contextmanager
def copy_pack(folder: Path, output: Path) -> Iterator[Pack]:
    """Gives the pack in `folder`, and writes it to `output` with the points (N, K, 2) that it has in the end.

    The crops take their place before, as finding points may take long; they lie on the disk once where it allows that.
    """
    pack = open_pack(folder)
    with _written_aside(output) as (crops_part, labels_part):
        try:
            crops_part.hardlink_to(folder / CROPS)
        except OSError:
            try:
                shutil.copyfile(folder / CROPS, crops_part)
            except OSError as refused:
                raise _no_room(crops_part, pack.crops.nbytes, refused, "choose another disk") from refused
        yield pack
        _write_labels(labels_part, pack.points, pack.spread, pack.source, pack.sources, pack.names)


def _write_labels(
    path: Path,
    points: NDArray[np.float32],
    spread: NDArray[np.float32],
    source: NDArray[np.int64],
    sources: Sequence[str],
    names: Sequence[str],
) -> None:
    np.savez(path, points=points, spread=spread, source=source, sources=np.array(sources), names=np.array(names))


def open_pack(folder: Path) -> Pack:
    """Open what `write_pack` wrote."""
    try:
        crops = np.lib.format.open_memmap(folder / CROPS, mode="r")
        with (folder / LABELS).open("rb") as file, np.load(file) as labels:
            pack = Pack(
                crops,
                labels["points"],
                labels["spread"],
                labels["source"],
                tuple(str(name) for name in labels["sources"]),
                tuple(str(name) for name in labels["names"]),
            )
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as unreadable:
        into = "PACK" if folder.exists() else folder  # not into a folder that holds something else, such as the set
        raise InputError(
            f"{folder}: not a pack of faces; make one with: canthus data prepare SET... -o {into}"
        ) from unreadable
    if len(pack.crops) != len(pack):
        raise InputError(f"{folder}: crops and labels differ in number; make the pack again")
    if pack.points.shape[2:] != (2,):
        raise InputError(f"{folder}: expected points (N, K, 2), got {pack.points.shape}; make the pack again")
    scheme_of(pack.points.shape[1])
    return pack
