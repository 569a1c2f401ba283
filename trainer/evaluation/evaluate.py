"""Measures models on labelled faces, in the regions of the true points and in those of the detector."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from canthus.runtime import geometry
from canthus.runtime.backends import Backend, open_backend
from canthus.runtime.errors import BackendError, InputError, ModelError
from canthus.runtime.extras import install_command
from canthus.runtime.geometry import crop_all, intersection_over_union, roi_from_box, roi_from_points, transform
from canthus.runtime.landmarks import Landmarks, average_views, refine_landmarks
from canthus.runtime.models import find_model
from canthus.runtime.types import FaceBox, Roi
from canthus.trainer.evaluation import peers
from canthus.trainer.evaluation.metrics import Reliability, Summary, nme, point_errors, reliability, summarise
from canthus.trainer.faces.labelled import LabelledFace, LabelledSet, group_by_image
from canthus.trainer.faces.schemes import Scheme, scheme_of

Boxes = Literal["truth", "detector"]
Detect = Callable[[NDArray[np.uint8]], list[FaceBox]]
SAME_FACE = 0.3
"""A detection shows a labelled face when their regions share this much of their union.

Low on purpose: a box that lies badly on a face then counts by the error it causes, not as a missed face.
"""


@dataclass(frozen=True)
class Worker:
    """Which pictures this process measures, of several processes that measure together."""

    rank: int = 0
    world_size: int = 1
    gather: Callable[[Any], list[Any]] = lambda own: [own]  # what every process has, in the order of their ranks


SINGLE_PROCESS = Worker()


@dataclass(frozen=True)
class Candidate:
    """A model to measure; `margin` is the side of its regions over the longer side of the points' box."""

    name: str
    backend: Backend
    margin: float = geometry.MARGIN
    flip_tta: bool = False  # average the points of a crop and of its mirror image


@dataclass(frozen=True, eq=False)
class Result:
    """How one model did with one kind of boxes."""

    model: str
    boxes: Boxes
    all: Summary
    attributes: dict[str, Summary]  # by name, as the scheme's subsets
    errors: NDArray[np.floating]  # (N,) NME in %, infinite for a missed face; in the order of `faces_in_order`
    points: NDArray[np.float32]  # (N, K, 2) pixels of the picture, NaN where the face was missed
    reliability: Reliability


def open_candidate(name: str | None) -> Candidate:
    """Open a shipped model by name, a .onnx with its manifest, or a checkpoint (.safetensors) with torch."""
    if name is None or not name.endswith(".safetensors"):
        path = find_model(name)
        return Candidate(name or path.stem, open_backend(path))
    try:
        from canthus.trainer.networks.checkpoint import CheckpointBackend
    except ImportError as missing:
        raise BackendError(
            f"{name}: a checkpoint needs {missing.name}, which is not installed: {install_command('train')}"
        ) from missing
    return Candidate(name, CheckpointBackend(Path(name), gpu=True))


def open_peer(path: Path) -> Candidate:
    """Open a foreign network of the PFLD family."""
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    return Candidate(path.stem, peers.Peer(path), peers.MARGIN)


def evaluate(
    sets: Sequence[LabelledSet],
    candidates: Sequence[Candidate],
    detect: Detect | None = None,
    boxes: Sequence[Boxes] = ("truth",),
    worker: Worker = SINGLE_PROCESS,
) -> list[Result]:
    """Measure every model with every kind of boxes ("detector" needs `detect`), reading each picture once.

    A labelled face that the detector misses has an infinite error. All processes that share the work get all results.
    """
    assert detect is not None or "detector" not in boxes
    scheme = common_scheme(sets)
    rows = [(candidate, kind) for kind in boxes for candidate in candidates]
    found: list[list[Landmarks]] = [[] for _ in rows]
    for picture, faces in images_with_progress(sets, "measuring", worker):
        true = np.stack([face.points for face in faces])
        regions: dict[Boxes, list[Roi | None]] = {"truth": [roi_from_points(points) for points in true]}
        if detect is not None:
            regions["detector"] = assign([roi_from_box(box) for box in detect(picture)], true)
        for row, (candidate, kind) in zip(found, rows, strict=True):
            row.append(find(candidate, picture, regions[kind], scheme, rough=kind == "detector"))
    everyone: list[list[list[Landmarks]]] = worker.gather(found)
    count = sum(len(rows[0]) for rows in everyone)
    ordered = faces_in_order(sets)
    truth = np.stack([face.points for _, face in ordered])
    marks = np.stack([face.attributes for _, face in ordered])
    return [
        _result(
            candidate.name,
            kind,
            [everyone[number % worker.world_size][row][number // worker.world_size] for number in range(count)],
            truth,
            marks,
            scheme,
        )
        for row, (candidate, kind) in enumerate(rows)
    ]


def _result(
    model: str,
    boxes: Boxes,
    answers: list[Landmarks],
    true: NDArray[np.float32],
    marks: NDArray[np.bool_],
    scheme: Scheme,
) -> Result:
    points, scores = (np.concatenate([answer[part] for answer in answers]) for part in (0, 1))
    errors = nme(points, true)
    errors = np.where(np.isfinite(errors), errors, np.inf)
    attributes = {name: summarise(errors[marks[:, place]]) for place, name in enumerate(scheme.subsets)}
    told = reliability(scores, point_errors(points, true, true))
    return Result(model, boxes, summarise(errors), attributes, errors, points, told)


def common_scheme(sets: Sequence[LabelledSet]) -> Scheme:
    """The one scheme of all sets; InputError when there are several, whose errors have no common mean."""
    if len({one.scheme.name for one in sets}) > 1:
        kinds = ", ".join(f"{one.name}: {one.scheme.points}" for one in sets)
        raise InputError(f"measure sets with one number of points at a time ({kinds})")
    return sets[0].scheme


def faces_in_order(sets: Sequence[LabelledSet]) -> list[tuple[LabelledSet, LabelledFace]]:
    """Every face with its set, in the order in which they are measured."""
    return [(one, face) for one in sets for face in sorted(one.faces, key=lambda face: face.image)]


def images_with_progress(
    sets: Sequence[LabelledSet], doing: str, worker: Worker = SINGLE_PROCESS
) -> Iterator[tuple[NDArray[np.uint8], list[LabelledFace]]]:
    """This process's pictures with their faces, each read once, and the first process's progress bar."""
    total = sum(len({face.image for face in one.faces}) for one in sets) // worker.world_size
    mine = group_by_image(sets, worker.rank, worker.world_size)
    yield from tqdm(mine, doing, total, unit="picture", leave=False, disable=None if worker.rank == 0 else True)


def find(
    candidate: Candidate,
    picture: NDArray[np.uint8],
    regions: Sequence[Roi | None],
    scheme: Scheme,
    rough: bool = False,
) -> Landmarks:
    """Points (N, K, 2) of every face of a picture, in its pixels, and scores (N, K); NaN where a face has no region.

    `rough` regions, such as a detector's, are refined as in the runtime (runtime/landmarks.py).
    """
    answer = np.full((len(regions), scheme.points, 2), np.nan, np.float32)
    sure = np.full((len(regions), scheme.points), np.nan, np.float32)
    found = [place for place, region in enumerate(regions) if region is not None]
    if found:
        rois = [region for region in regions if region is not None]

        def seen(rois: Sequence[Roi]) -> Landmarks:
            seen = locate(candidate, picture, rois)
            if (points := seen.points.shape[1]) != scheme.points:
                raise ModelError(f"{candidate.name}: gives {points} points, the faces have {scheme.points}")
            return seen

        points, scores = (
            average_views(seen, refine_landmarks(seen, rois, scheme.roll), scheme.roll) if rough else seen(rois)
        )
        answer[found], sure[found] = points, scores
    return Landmarks(answer, sure)


def locate(candidate: Candidate, picture: NDArray[np.uint8], regions: Sequence[Roi]) -> Landmarks:
    """Points (N, K, 2) in pixels of the picture and scores (N, K), one face a region.

    With the candidate's `flip_tta`, both are the mean over the crop and its mirror image.
    """
    points, scores = look(candidate, picture, regions)
    if candidate.flip_tta:
        mirrored, seen = look(candidate, picture, regions, mirrored=True)
        return Landmarks(np.float32(0.5) * (points + mirrored), np.float32(0.5) * (scores + seen))
    return Landmarks(points, scores)


def look(candidate: Candidate, picture: NDArray[np.uint8], regions: Sequence[Roi], mirrored: bool = False) -> Landmarks:
    """As `locate`, from the crops or from their mirror images alone."""
    scale = candidate.margin / geometry.MARGIN
    rois = [dataclasses.replace(region, side=region.side * scale) for region in regions]
    size = candidate.backend.size
    crops = crop_all(picture, rois, size)
    if not mirrored:
        points, scores = candidate.backend.predict(crops.images)
        return Landmarks(transform(crops.to_frame, points), scores)
    points, scores = candidate.backend.predict(np.ascontiguousarray(crops.images[:, :, ::-1]))
    mirror = scheme_of(points.shape[1]).mirror
    points, scores = points[:, mirror], scores[:, mirror]
    points[..., 0] = size - 1 - points[..., 0]
    return Landmarks(transform(crops.to_frame, points), scores)


def assign(regions: Sequence[Roi], true: NDArray[np.float32]) -> list[Roi | None]:
    """The detected region of each true face (N, K, 2), or None; best overlap first, one to one.

    The middle of the region must lie within the box of the face's points: a region around a neighbour can overlap a
    face, but then shows another person, and this one was missed.
    """
    pairs = sorted(
        (
            (intersection_over_union(region, roi_from_points(points, region.angle)), face, place)
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
