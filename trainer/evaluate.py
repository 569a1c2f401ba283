"""Measures models on labelled faces, in the regions of the true points and in those of the detector."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from canthus.runtime import geometry
from canthus.runtime.backends import Backend, open_backend
from canthus.runtime.errors import BackendError, ModelError
from canthus.runtime.geometry import crop_all, roi_from_box, roi_from_points, roll_of, transform
from canthus.runtime.models import find_model
from canthus.runtime.types import FaceBox, Roi
from canthus.runtime.wflw import ATTRIBUTES, MIRROR
from canthus.trainer import peers
from canthus.trainer.data import LabelledSet, by_picture
from canthus.trainer.metrics import Summary, nme, summarise

Boxes = Literal["truth", "detector"]
Detect = Callable[[NDArray[np.uint8]], list[FaceBox]]

SAME_FACE = 0.3
"""A detection shows a labelled face when their regions share this much of their union.

Low on purpose: a box that lies badly on a face then counts by the error it causes, not as a missed face.
"""


@dataclass(frozen=True)
class Entrant:
    """A model to measure; `margin` is the side of its regions over the longer side of the points' box."""

    name: str
    backend: Backend
    margin: float = geometry.MARGIN


@dataclass(frozen=True)
class Result:
    """How one model did with one kind of boxes."""

    model: str
    boxes: Boxes
    all: Summary
    attributes: dict[str, Summary]  # by name, as wflw.ATTRIBUTES

    def facts(self) -> dict[str, Any]:
        """As json has it; a figure of no faces is null."""
        told = {"model": self.model, "boxes": self.boxes, **dataclasses.asdict(self.all)}
        told["attributes"] = {name: one.nme for name, one in self.attributes.items()}
        return {name: _null_for_nan(value) for name, value in told.items()}


def open_entrant(name: str | None) -> Entrant:
    """Open a shipped model by name, a .onnx with its manifest, or a checkpoint (.safetensors) with torch."""
    if name is None or not name.endswith(".safetensors"):
        path = find_model(name)
        return Entrant(name or path.stem, open_backend(path))
    try:
        from canthus.trainer.checkpoint import CheckpointBackend
    except ImportError as missing:
        raise BackendError(
            f"{name}: a checkpoint needs {missing.name}, which is not installed: pip install 'canthus[train]'"
        ) from missing
    return Entrant(name, CheckpointBackend(Path(name)))


def open_peer(path: Path) -> Entrant:
    """Open a foreign network of the PFLD family."""
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    return Entrant(path.stem, peers.Peer(path), peers.MARGIN)


def evaluate(
    sets: Sequence[LabelledSet],
    entrants: Sequence[Entrant],
    detect: Detect | None = None,
    boxes: Sequence[Boxes] = ("truth",),
    flip: bool = False,
) -> list[Result]:
    """Measure every model with every kind of boxes ("detector" needs `detect`), reading each picture once.

    A labelled face that the detector misses has an infinite error. With `flip`, points are the mean over a crop
    and its mirror image.
    """
    assert detect is not None or "detector" not in boxes
    rows = [(entrant, kind) for kind in boxes for entrant in entrants]
    errors: list[list[float]] = [[] for _ in rows]
    attributes = []
    pictures = sum(len({face.image for face in one.faces}) for one in sets)
    for picture, faces in tqdm(by_picture(sets), "measuring", pictures, unit="picture", leave=False):
        true = np.stack([face.points for face in faces])
        attributes += [face.attributes for face in faces]
        regions: dict[Boxes, list[Roi | None]] = {"truth": [roi_from_points(points) for points in true]}
        if detect is not None:
            regions["detector"] = assign([roi_from_box(box) for box in detect(picture)], true)
        for row, (entrant, kind) in zip(errors, rows, strict=True):
            row += measure(entrant, picture, regions[kind], true, flip, twice=kind == "detector")
    marks = np.array(attributes).reshape(-1, len(ATTRIBUTES))
    return [
        Result(
            entrant.name,
            kind,
            summarise(np.array(row)),
            {name: summarise(np.array(row)[marks[:, place]]) for place, name in enumerate(ATTRIBUTES)},
        )
        for row, (entrant, kind) in zip(errors, rows, strict=True)
    ]


def measure(
    entrant: Entrant,
    picture: NDArray[np.uint8],
    regions: Sequence[Roi | None],
    true: NDArray[np.float32],
    flip: bool = False,
    twice: bool = False,
) -> list[float]:
    """NME (%) of every face of a picture; infinite where it has no region.

    `twice` looks a second time in the regions of the points found first, as the runtime does with every face that
    the detector gives: a box is rough, and these points tell better where the face is. Where the second look scores
    less than the first, the first stands.
    """
    errors: NDArray[np.floating] = np.full(len(true), math.inf)
    found = [place for place, region in enumerate(regions) if region is not None]
    if found:
        rois = [region for region in regions if region is not None]
        points, scores = locate(entrant, picture, rois, flip)
        if twice:
            rois = [roi_from_points(face, roll_of(face)) for face in points]
            again, surer = locate(entrant, picture, rois, flip)
            points = np.where((surer.mean(1) >= scores.mean(1))[:, None, None], again, points)
        errors[found] = nme(points, true[found])
    return [float(error) for error in errors]


def locate(
    entrant: Entrant, picture: NDArray[np.uint8], regions: Sequence[Roi], flip: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Points (N, 98, 2) in pixels of the picture and scores (N, 98), one face a region."""
    scale = entrant.margin / geometry.MARGIN
    rois = [dataclasses.replace(region, side=region.side * scale) for region in regions]
    size = entrant.backend.size
    crops = crop_all(picture, rois, size)
    points, scores = entrant.backend.predict(crops.images)
    if flip:
        mirrored, _ = entrant.backend.predict(np.ascontiguousarray(crops.images[:, :, ::-1]))
        mirrored = mirrored[:, MIRROR]
        mirrored[..., 0] = size - 1 - mirrored[..., 0]
        points = ((points + mirrored) / 2).astype(np.float32)
    return transform(crops.to_frame, points), scores


def assign(regions: Sequence[Roi], true: NDArray[np.float32]) -> list[Roi | None]:
    """The detected region of each true face (N, 98, 2), or None; best overlap first, one to one.

    The middle of the region must lie within the box of the face's points: a region around a neighbour can overlap a
    face, but then shows another person, and this one was missed.
    """
    pairs = sorted(
        (
            (overlap(region, roi_from_points(points, region.angle)), face, place)
            for face, points in enumerate(true)
            for place, region in enumerate(regions)
            if (points.min(0) <= (region.x, region.y)).all() and ((region.x, region.y) <= points.max(0)).all()
        ),
        reverse=True,
    )
    matched: list[Roi | None] = [None] * len(true)
    taken: set[int] = set()
    for shared, face, place in pairs:
        if shared >= SAME_FACE and matched[face] is None and place not in taken:
            matched[face] = regions[place]
            taken.add(place)
    return matched


def overlap(one: Roi, other: Roi) -> float:
    """Shared area over the area of the union, of two squares turned by the same angle."""
    cos, sin = math.cos(one.angle), math.sin(one.angle)
    right, down = other.x - one.x, other.y - one.y
    apart = (abs(cos * right + sin * down), abs(cos * down - sin * right))
    width, height = (min(max((one.side + other.side) / 2 - distance, 0.0), one.side, other.side) for distance in apart)
    shared = width * height
    return shared / (one.side**2 + other.side**2 - shared)


def table(results: Iterable[Result]) -> str:
    """The results as lines of text, NME in % with its 95 % interval, one line a model and kind of boxes."""
    rows = [["model", "boxes", "NME", "95 %", "FR@10", "AUC@10", "faces", "missed", *ATTRIBUTES]]
    for one in results:
        low, high = one.all.interval
        rows.append(
            [
                one.model,
                one.boxes,
                _number(one.all.nme),
                f"{_number(low)}-{_number(high)}",
                f"{one.all.fr10:.1f}",
                f"{one.all.auc10:.3f}",
                str(one.all.faces),
                str(one.all.missed),
                *(_number(one.attributes[name].nme) for name in ATTRIBUTES),
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if column < 2 else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def facts(results: Sequence[Result]) -> dict[str, Any]:
    """The first result's figures, and all of them under `results`, as json has them."""
    return {**results[0].facts(), "results": [one.facts() for one in results]}


def _null_for_nan(value: Any) -> Any:
    match value:
        case float() if math.isnan(value):
            return None
        case dict():
            return {name: _null_for_nan(inner) for name, inner in value.items()}
        case tuple() | list():
            return [_null_for_nan(inner) for inner in value]
    return value
