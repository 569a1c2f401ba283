"""Packs: crops of labelled faces in one file on disk, which training reads fast."""

import contextlib
import json
import math
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from canthus.runtime.errors import InputError
from canthus.runtime.fields import parse_json
from canthus.runtime.files import Draft
from canthus.runtime.geometry import crop, invert, roi_from_points, to_frame, transform
from canthus.runtime.schemes import Scheme, parse_scheme, scheme_values
from canthus.runtime.types import Roi
from canthus.trainer.augmentation.settings import Augmentation
from canthus.trainer.faces.kinds import Kinds, PointKind
from canthus.trainer.faces.labelled import MAX_LISTED, LabelledFace, LabelledSet
from canthus.trainer.faces.schemes import describe_difference, scheme_of
from canthus.trainer.packs.crop_files import (
    CROP_FILES,
    CROPS_NPY,
    CROPS_ZIP,
    ArrayWriter,
    Crops,
    CropWriter,
    WebPWriter,
    disk_full,
    open_crops,
)

PACK_MARGIN = 1.4
"""Side of a packed crop over the side of the face's region: enough for most random rotations, scales and shifts."""

LABELS = "labels.npz"
CROPS_KEY = "crops"
"""The labels of a pack, and the key under which they name its other file, with the crops (default: crops.npy)."""
SCHEME_KEY = "scheme"
"""The key of the scheme, as JSON. Packs of version 0.2 have none: the number of points decides."""


@dataclass(frozen=True, eq=False)
class Pack:
    """N faces cut out at one size, for training. All fields except `crops` are in labels.npz."""

    crops: Crops  # (N, P, P, 3) RGB, memory-mapped
    points: NDArray[np.float32]  # (N, K, 2) crop pixels
    spread: NDArray[np.float32]  # (N,) see LabelledFace
    source: NDArray[np.int64]  # (N,) index into `sources`
    sources: tuple[str, ...]  # names of the labelled sets
    names: tuple[str, ...]  # image name of each face
    kinds: Kinds  # (N, K) PointKind of each point
    image_boxes: NDArray[np.float32]  # (N, 4) left, top, right and bottom edge of the source image, crop pixels
    scheme: Scheme  # of the points

    def __len__(self) -> int:
        return len(self.points)


LABEL_FIELDS = tuple(one.name for one in fields(Pack) if one.name not in ("crops", "scheme"))
OPTIONAL_FIELDS = ("kinds", "image_boxes")
"""Fields that packs of earlier versions lack."""


@dataclass
class Findings:
    """Problems found while faces are cut out."""

    unreadable: dict[str, str] = field(default_factory=dict)  # image name -> message
    outside: list[NDArray[np.float64]] = field(default_factory=list)  # (K,) per face: pixels outside the image, or 0


class WrittenPack(NamedTuple):
    """A new pack, and the problems found while it was made."""

    pack: Pack
    findings: Findings


class _CutFace(NamedTuple):
    source: int  # number of its set
    face: LabelledFace
    points: NDArray[np.floating]  # (K, 2) crop pixels
    image_box: NDArray[np.floating]  # (4,) of the source image, crop pixels


def write_pack(
    sets: Sequence[LabelledSet],
    folder: Path,
    size: int,
    augmentation: Augmentation | None = None,
    allow_missing: bool = False,
    *,
    webp: int | None = None,
) -> WrittenPack:
    """Cut out every face of the sets, write the crops of `size` pixels into `folder`, and open the new pack.

    Each crop has room for what `augmentation` does to a face, see `packed_region`. With `allow_missing`, faces whose
    image is missing or unreadable are left out. `webp` is the quality (1 to 100) of compressed crops; without it they
    are not compressed. An earlier pack in `folder` stays complete until the new one replaces it.

    Raises:
        InputError: If images are missing or unreadable (all are tried first), or if the pack cannot be written.
    """
    for one in sets:
        if one.scheme != sets[0].scheme:
            counts = ", ".join(f"{one.name}: {one.scheme.points} of {one.scheme.name}" for one in sets)
            raise InputError(
                f"all faces of a pack have the same points ({counts}; different: "
                f"{describe_difference(sets[0].scheme, one.scheme)}); make one pack of each"
            )
    findings = Findings()
    faces = sum(len(one.faces) for one in sets)
    with _pack_drafts(folder, CROPS_ZIP if webp else CROPS_NPY) as drafts:
        crops: CropWriter = WebPWriter(drafts.crops, webp) if webp else ArrayWriter(drafts.crops, faces, size)
        with contextlib.closing(crops):
            cut = _cut_faces(sets, crops, size, augmentation, findings)
            missing = faces - len(cut)
            if missing and (not allow_missing or not cut):
                raise InputError(*_describe_unreadable(findings.unreadable, missing, folder / "unreadable.txt"))
            crops.finish()
        labels = {
            "points": np.array([one.points for one in cut], np.float32),
            "spread": np.array([one.face.spread for one in cut], np.float32),
            "source": np.array([one.source for one in cut]),
            "sources": np.array([one.name for one in sets]),
            "names": np.array([one.face.image for one in cut]),
            "kinds": np.array([one.face.kinds for one in cut]),
            "image_boxes": np.array([one.image_box for one in cut], np.float32),
        }
        _write_labels(drafts, labels, sets[0].scheme)
    return WrittenPack(open_pack(folder), findings)


class _Drafts(NamedTuple):
    crops: Draft
    labels: Draft


@contextlib.contextmanager
def _pack_drafts(folder: Path, crops_name: str) -> Iterator[_Drafts]:
    """Yield drafts of both files of a pack. After an error nothing is left of them, nor of a new folder.

    The labels name the file with the crops. So the pack that `folder` had stays complete until the labels replace
    those that it had, also if its crops are in the other kind of file; that one is deleted at the end.
    """
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with Draft(folder / LABELS) as labels, Draft(folder / crops_name) as crops:
            yield _Drafts(crops, labels)
        for name in CROP_FILES:
            if name != crops_name:
                (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror or error})") from error
    finally:
        if new:
            with contextlib.suppress(OSError):  # it contains something, such as the pack
                folder.rmdir()


def packed_region(points: NDArray[np.floating], augmentation: Augmentation | None = None) -> Roi:
    """Return the upright square around a face (K, 2) that is packed: training sees no pixel outside it.

    If `augmentation` is uniform or published, the square contains each region that it can rotate, scale and shift to. A
    normal distribution has no limits: then, and without it, it is the face's region enlarged by PACK_MARGIN.
    """
    if augmentation is not None and augmentation.published:
        region = roi_from_points(points)
        limit = min(math.radians(augmentation.rotation), math.pi / 4)
        half = (math.cos(limit) + math.sin(limit)) / 2  # of the turned square's extent, in sides
        reach = augmentation.scale[1] * half + augmentation.shift
        return Roi(region.x, region.y, 2 * reach * region.side)
    if augmentation is None or not augmentation.uniform:
        region = roi_from_points(points)
        return Roi(region.x, region.y, region.side * PACK_MARGIN)
    limit = math.radians(augmentation.rotation)
    corners: list[tuple[float, float]] = []
    for angle in np.linspace(-limit, limit, 1 + math.ceil(augmentation.rotation)):
        region = roi_from_points(points, float(angle))
        half = (abs(math.cos(angle)) + abs(math.sin(angle))) / 2  # of the rotated square's extent, in sides
        reach = region.side * augmentation.scale[1] * (half + augmentation.shift)
        corners += [(region.x - reach, region.y - reach), (region.x + reach, region.y + reach)]
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    x, y = (low + high) / 2
    return Roi(float(x), float(y), float((high - low).max()))


def unscaled_region(region: Roi, size: int) -> Roi:
    """Return a square of `size` whole pixels around a region, so that its crop is a copy; a larger region as it is."""
    if region.side > size:
        return region
    x, y = (round(center - (size - 1) / 2) + (size - 1) / 2 for center in (region.x, region.y))
    return Roi(x, y, size)


def _cut_faces(
    sets: Sequence[LabelledSet], crops: CropWriter, size: int, augmentation: Augmentation | None, findings: Findings
) -> list[_CutFace]:
    """Write crops of `size` pixels of the faces whose images are readable, and return these faces."""
    todo = [(number, face) for number, one in enumerate(sets) for face in one.faces]
    cut: list[_CutFace] = []
    for number, face in tqdm(todo, "cutting faces", unit="face", smoothing=0, disable=None):
        try:
            image = sets[number].read_image(face.image)
        except InputError as unreadable:
            findings.unreadable[face.image] = str(unreadable)
            continue
        edge = np.array(image.shape[1::-1]) - 0.5
        findings.outside.append(np.maximum(-0.5 - face.points, face.points - edge).max(-1).clip(0))
        region = packed_region(face.points, augmentation)
        if augmentation is not None and augmentation.published:  # its one resampling is that of the augmentation
            region = unscaled_region(region, size)
        crops.write(crop(image, region, size))
        to_crop = invert(to_frame(region, size))
        edges = transform(to_crop, np.array([[-0.5, -0.5], [image.shape[1] - 0.5, image.shape[0] - 0.5]]))
        cut.append(_CutFace(number, face, transform(to_crop, face.points), edges.ravel()))
    return cut


def _describe_unreadable(unreadable: dict[str, str], faces: int, list_file: Path) -> list[str]:
    """Return the lines of the error message. If they are too many, all are written to `list_file`."""
    reasons, more = list(unreadable.values()), []
    if len(reasons) > MAX_LISTED:
        list_file.write_text("\n".join(reasons) + "\n", errors="replace")
        more = [f"and {len(reasons) - MAX_LISTED} more, see {list_file}"]
    start = f"{len(reasons)} images with {faces} faces are missing or unreadable; to leave them out: --allow-missing"
    return [start, *reasons[:MAX_LISTED], *more]


@contextlib.contextmanager
def copy_pack(folder: Path, output: Path) -> Iterator[Pack]:
    """Yield the pack in `folder`; after the block, write it to `output` with the points as the block left them.

    The block may change `points` (N, K, 2) in place. The crops are linked, so that they need no disk space, or copied
    if the file system cannot link. That happens first, because computing points may take long.
    """
    pack = open_pack(folder)
    crops = Path(str(pack.crops.filename))  # type: ignore[union-attr] # a memory map has it too
    with _pack_drafts(output, crops.name) as drafts:
        try:
            drafts.crops.file.hardlink_to(crops)
        except OSError:
            try:
                shutil.copyfile(crops, drafts.crops.file)
            except OSError as error:
                raise disk_full(output, crops.stat().st_size, error, "choose another disk") from error
        yield pack
        _write_labels(drafts, {name: np.array(getattr(pack, name)) for name in LABEL_FIELDS}, pack.scheme)


def _write_labels(drafts: _Drafts, labels: dict[str, NDArray[Any]], scheme: Scheme) -> None:
    assert set(labels) == set(LABEL_FIELDS)
    labels = {**labels, CROPS_KEY: np.array(drafts.crops.path.name)}
    labels[SCHEME_KEY] = np.array(json.dumps(scheme_values(scheme)))
    np.savez(drafts.labels.file, **labels)  # type: ignore[arg-type] # mypy takes the keys for options of savez


def open_pack(folder: Path) -> Pack:
    """Open a pack that `write_pack` wrote.

    Raises:
        InputError: If it is not a pack, or damaged.
    """
    try:
        with (folder / LABELS).open("rb") as file, np.load(file) as labels:
            arrays = {name: labels[name] for name in LABEL_FIELDS if name in labels or name not in OPTIONAL_FIELDS}
            crops_name = str(labels[CROPS_KEY]) if CROPS_KEY in labels else CROPS_NPY
            scheme = parse_scheme(parse_json(str(labels[SCHEME_KEY]))) if SCHEME_KEY in labels else None
        if crops_name not in CROP_FILES:
            raise ValueError(crops_name)
        crops = open_crops(folder / crops_name)
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        output = "PACK" if folder.exists() else folder  # an existing folder may hold something else
        raise InputError(
            f"{folder}: not a pack of faces; make one with: canthus data prepare SET... -o {output}"
        ) from error
    for name in ("sources", "names"):
        arrays[name] = tuple(str(one) for one in arrays[name])
    arrays.setdefault("kinds", _kinds_by_spread(arrays["points"], arrays["spread"]))  # packs of version 0.1 have none
    side = crops.shape[1] if crops.ndim > 1 else 0  # without the boxes the image is taken to end with the crop
    arrays.setdefault(
        "image_boxes", np.tile(np.array([-0.5, -0.5, side - 0.5, side - 0.5], np.float32), (len(crops), 1))
    )
    if arrays["points"].ndim != 3 or arrays["points"].shape[2] != 2:
        raise InputError(f"{folder}: expected points (N, K, 2), got {arrays['points'].shape}; make the pack again")
    points = arrays["points"].shape[1]
    pack = Pack(crops, **arrays, scheme=scheme or scheme_of(points, str(folder)))
    if pack.scheme.points != points:
        raise InputError(f"{folder}: expected {pack.scheme.points} points, got {points}; make the pack again")
    if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[3] != 3:
        raise InputError(
            f"{folder}: expected crops (N, P, P, 3) uint8, got {crops.shape} {crops.dtype}; make the pack again"
        )
    for name, labels_of_faces in (("points", pack.points), ("spread", pack.spread), ("names", pack.names)):
        if len(labels_of_faces) != len(crops):
            raise InputError(
                f"{folder}: expected {name} of {len(crops)} faces, got {len(labels_of_faces)}; make the pack again"
            )
    if pack.kinds.dtype != np.uint8 or (pack.kinds > max(PointKind)).any():
        raise InputError(f"{folder}: expected kinds of points from 0 to {max(PointKind)}; make the pack again")
    if pack.image_boxes.shape != (len(crops), 4):
        raise InputError(
            f"{folder}: expected image_boxes ({len(crops)}, 4), got {pack.image_boxes.shape}; make the pack again"
        )
    if pack.kinds.shape != pack.points.shape[:2]:
        raise InputError(
            f"{folder}: expected kinds {pack.points.shape[:2]} of points, got {pack.kinds.shape}; make the pack again"
        )
    return pack


def _kinds_by_spread(points: NDArray[np.float32], spread: NDArray[np.float32]) -> Kinds:
    """Return the kinds (N, K) of points (N, K, 2): pseudo-labels where a face has a spread (N,), else placed points."""
    kinds = np.full(points.shape[:2], PointKind.PLACED, np.uint8)
    if len(kinds) == len(spread):
        kinds[spread > 0] = PointKind.PSEUDO
    return kinds
