"""Measure the accuracy of models on labelled faces, in the regions of the labels and in those of the detector."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
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
from canthus.runtime.landmarks import Landmarks, average_views, predict_landmarks, refine_landmarks
from canthus.runtime.models import DEFAULT, PRECISIONS, find_model, find_precision
from canthus.runtime.types import FaceBox, Roi
from canthus.trainer.evaluation.metrics import Reliability, Summary, nme, reliability, summarize
from canthus.trainer.evaluation.mouth import MouthAccuracy, measure_mouth
from canthus.trainer.evaluation.placed import PlacedAccuracy, measure_placed, yaw_of
from canthus.trainer.evaluation.scores import ScoreReliability, length_errors, measure_scores
from canthus.trainer.faces.kinds import evaluated_points, has_normalizer
from canthus.trainer.faces.labelled import LabelledFace, LabelledSet, group_by_image
from canthus.trainer.faces.schemes import Scheme, describe_difference, same_order

_log = logging.getLogger(__name__)

Image = NDArray[np.uint8]  # (H, W, 3) RGB
Boxes = Literal["truth", "detector"]
"""Where the regions come from: the labels, or the detector."""

Detect = Callable[[Image], list[FaceBox]]

SAME_FACE = 0.3
"""Minimum intersection over union of the regions of a detection and of a labelled face.

It is low on purpose: a badly placed box then counts with the error that it causes, and not as a missed face.
"""


@dataclass(frozen=True)
class Worker:
    """One of the processes that share the images of an evaluation. `gather` returns the data of all, by rank."""

    rank: int = 0
    world_size: int = 1
    gather: Callable[[Any], list[Any]] = lambda data: [data]


SINGLE_PROCESS = Worker()


@dataclass(frozen=True)
class Candidate:
    """A model under evaluation."""

    name: str
    backend: Backend
    margin: float = geometry.MARGIN  # side of its regions over the longer side of the box of the points
    flip_tta: bool = False  # average the predictions for each crop and for its mirror image
    has_scores: bool = True  # False: all its scores are 1


@dataclass(frozen=True, eq=False)
class Result:
    """The accuracy of one model with one kind of boxes."""

    model: str
    boxes: Boxes
    all: Summary
    attributes: dict[str, Summary]  # of the scheme's subsets, by name
    errors: NDArray[np.floating]  # (N,) NME in %, infinite for a missed face; in the order of `faces_in_order`
    points: NDArray[np.float32]  # (N, K, 2) image pixels, NaN for a missed face
    reliability: Reliability
    placed: dict[str, PlacedAccuracy] = field(default_factory=dict)  # by pose, see `measure_placed`
    mouth: MouthAccuracy | None = None  # of wide-open mouths; None if there are none
    scores: dict[str, ScoreReliability] = field(default_factory=dict)  # by pose and occlusion, see `measure_scores`


def open_candidate(name: str | None) -> Candidate:
    """Open an included model by name (None: the default one), an .onnx file, or a checkpoint (.safetensors).

    "fast" and "fast:float" are the float model, "fast:int8" is its 8-bit version; the same for .onnx files.
    """
    if name is None or not name.endswith(".safetensors"):
        path = _find_candidate(name or DEFAULT)
        return Candidate(name or path.stem, open_backend(path))
    try:
        from canthus.trainer.networks.checkpoint import CheckpointBackend
    except ImportError as missing:
        raise BackendError(
            f"{name}: a checkpoint needs {missing.name}, which is not installed: {install_command('train')}"
        ) from missing
    return Candidate(name, CheckpointBackend(Path(name), gpu=True))


def _find_candidate(name: str) -> Path:
    """Return the file of a model, or that of its precision if the name ends in one: "fast:int8"."""
    for precision in PRECISIONS:
        if name.endswith(f":{precision}"):
            return find_precision(find_model(name.removesuffix(f":{precision}")), precision)
    return find_model(name)


def open_peer(path: Path) -> Candidate:
    """Open a public third-party network of the PFLD family (.onnx)."""
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    from canthus.trainer.evaluation import peers  # here: a checkpoint is evaluated without OpenVINO

    return Candidate(path.stem, peers.Peer(path), peers.MARGIN, has_scores=False)


@contextlib.contextmanager
def open_candidates(
    models: Sequence[str | None], peers: Sequence[Path] = (), flip_tta: bool = False
) -> Iterator[list[Candidate]]:
    """Yield the models, then the peers, with or without flip test-time augmentation. Closes them at the end."""
    with contextlib.ExitStack() as opened:
        candidates = [open_candidate(name) for name in models] + [open_peer(path) for path in peers]
        for candidate in candidates:
            opened.enter_context(candidate.backend)
        yield [dataclasses.replace(candidate, flip_tta=flip_tta) for candidate in candidates]


def evaluate(
    sets: Sequence[LabelledSet],
    candidates: Sequence[Candidate],
    detect: Detect | None = None,
    boxes: Sequence[Boxes] = ("truth",),
    worker: Worker = SINGLE_PROCESS,
) -> list[Result]:
    """Measure each model with each kind of boxes. Each image is read once.

    A labelled face that the detector misses has an infinite error.

    Args:
        sets: Labelled faces, all with the same scheme.
        candidates: The models.
        detect: The detector, needed for the boxes "detector".
        boxes: The kinds of boxes.
        worker: This process, if several share the images. All of them return all results.

    Raises:
        InputError: The sets have different schemes, or an image cannot be read.
        ModelError: A model predicts another number of points than the faces have.
    """
    assert detect is not None or "detector" not in boxes
    scheme = common_scheme(sets)
    for one in candidates:
        model = one.backend.scheme
        if model.points == scheme.points and not same_order(model, scheme):
            _log.warning(
                "%s: was trained with other points than the faces have (%s, %s; different: %s); its errors are right "
                "only if the order is the same",
                *(one.name, model.name, scheme.name, describe_difference(model, scheme)),
            )
    rows = [(candidate, kind) for kind in boxes for candidate in candidates]  # one result each
    predictions: list[list[Landmarks]] = [[] for _ in rows]  # by row and image
    for image, faces in images_with_progress(sets, "accuracy", worker):
        labels = np.stack([face.points for face in faces])
        rois: dict[Boxes, list[Roi | None]] = {"truth": [roi_from_points(points) for points in labels]}
        if detect is not None:
            rois["detector"] = match_detections([roi_from_box(box) for box in detect(image)], labels)
        for predicted, (candidate, kind) in zip(predictions, rows, strict=True):
            predicted.append(predict_faces(candidate, image, rois[kind], scheme, refine=kind == "detector"))
    gathered: list[list[list[Landmarks]]] = worker.gather(predictions)  # by rank, row and image of that rank
    images = sum(len(rows[0]) for rows in gathered)
    faces = [face for _, face in faces_in_order(sets)]
    return [
        _result(
            candidate.name,
            kind,
            faces,
            scheme,
            [gathered[index % worker.world_size][row][index // worker.world_size] for index in range(images)],
        )
        for row, (candidate, kind) in enumerate(rows)
    ]


def _result(
    model: str, boxes: Boxes, faces: list[LabelledFace], scheme: Scheme, predictions: list[Landmarks]
) -> Result:
    """Compare the predictions, one per image, with the labels of the faces in the same order."""
    points = np.concatenate([one.points for one in predictions])
    scores = np.concatenate([one.scores for one in predictions])
    labels = np.stack([face.points for face in faces])
    subsets = np.stack([face.attributes for face in faces])  # (N, subsets)
    kinds = np.stack([face.kinds for face in faces])
    evaluated = evaluated_points(kinds)
    errors = nme(points, labels, evaluated, scheme)
    errors = np.where(np.isfinite(errors), errors, np.inf)
    attributes = {name: summarize(errors[subsets[:, column]]) for column, name in enumerate(scheme.subsets)}
    distances = length_errors(points, labels, evaluated, scheme)
    return Result(
        model,
        boxes,
        summarize(errors),
        attributes,
        errors,
        points,
        reliability(scores, distances),
        measure_placed(faces, points, scheme),
        measure_mouth(faces, points, scheme),
        measure_scores(scores, distances, kinds, yaw_of(faces, scheme)),
    )


def leave_out_unmeasurable(labelled: LabelledSet) -> LabelledSet:
    """Leave out the faces whose outer eye corners have no labels, with a warning: errors cannot be normalized."""
    if not labelled.faces:
        return labelled
    usable = has_normalizer(np.stack([face.kinds for face in labelled.faces]), labelled.scheme)
    if usable.all():
        return labelled
    _log.warning(
        "left out of %s: %d faces whose outer eye corners are not labelled, so that errors cannot be normalized",
        labelled.name,
        (~usable).sum(),
    )
    faces = tuple(face for face, good in zip(labelled.faces, usable, strict=True) if good)
    return dataclasses.replace(labelled, faces=faces)


def common_scheme(sets: Sequence[LabelledSet]) -> Scheme:
    """Return the scheme of all sets. Raises InputError if they differ: errors of different schemes have no mean."""
    for one in sets:
        if one.scheme != sets[0].scheme:
            kinds = ", ".join(f"{one.name}: {one.scheme.points} of {one.scheme.name}" for one in sets)
            fields = describe_difference(sets[0].scheme, one.scheme)
            raise InputError(f"the sets have different points ({kinds}; different: {fields}); evaluate one at a time")
    return sets[0].scheme


def faces_in_order(sets: Sequence[LabelledSet]) -> list[tuple[LabelledSet, LabelledFace]]:
    """Return each face with its set, in the order of the arrays of `Result`."""
    return [(one, face) for one in sets for face in sorted(one.faces, key=lambda face: face.image)]


def images_with_progress(
    sets: Sequence[LabelledSet], label: str, worker: Worker = SINGLE_PROCESS
) -> Iterator[tuple[Image, list[LabelledFace]]]:
    """Yield the images of this process with their faces. The first process shows a progress bar with a label."""
    total = sum(len({face.image for face in one.faces}) for one in sets) // worker.world_size
    images = group_by_image(sets, worker.rank, worker.world_size)
    yield from tqdm(images, label, total, unit="image", leave=False, disable=None if worker.rank == 0 else True)


def predict_faces(
    candidate: Candidate, image: Image, rois: Sequence[Roi | None], scheme: Scheme, refine: bool = False
) -> Landmarks:
    """Predict the landmarks of all faces of an image; they are NaN for a face without region.

    refine: treat the regions as rough, like those of a detector, and refine them as `canthus images` does.

    Raises:
        ModelError: The model predicts another number of points than the scheme has.
    """

    def predict(rois: Sequence[Roi]) -> Landmarks:
        found = predict_rois(candidate, image, rois)
        if (count := found.points.shape[1]) != scheme.points:
            raise ModelError(f"{candidate.name}: predicts {count} points, the faces have {scheme.points}")
        return found

    points = np.full((len(rois), scheme.points, 2), np.nan, np.float32)
    scores = np.full((len(rois), scheme.points), np.nan, np.float32)
    present = [index for index, roi in enumerate(rois) if roi is not None]
    if present:
        known = [roi for roi in rois if roi is not None]
        if refine:
            found = average_views(predict, refine_landmarks(predict, known, scheme.roll), scheme.roll)
        else:
            found = predict(known)
        points[present], scores[present] = found
    return Landmarks(points, scores)


def predict_rois(candidate: Candidate, image: Image, rois: Sequence[Roi]) -> Landmarks:
    """Predict the landmarks of one face per region, with the candidate's flip test-time augmentation."""
    plain = predict_view(candidate, image, rois)
    if not candidate.flip_tta:
        return plain
    mirrored = predict_view(candidate, image, rois, mirrored=True)
    return Landmarks(*(np.float32(0.5) * (one + other) for one, other in zip(plain, mirrored, strict=True)))


def predict_view(candidate: Candidate, image: Image, rois: Sequence[Roi], mirrored: bool = False) -> Landmarks:
    """Predict the landmarks from the crops, or only from their mirror images; in both cases in image pixels."""
    rois = _scale_to_margin(rois, candidate)
    if not mirrored:
        return predict_landmarks(candidate.backend, image, rois)
    crops = crop_all(image, rois, candidate.backend.size)
    points, scores = _predict_mirrored(candidate.backend, crops.images)
    return Landmarks(transform(crops.to_frame, points), scores)


def predict_views(candidate: Candidate, image: Image, rois: Sequence[Roi]) -> Landmarks:
    """Predict the landmarks from the crops of N regions, then from their mirror images, in image pixels: 2 N rows."""
    crops = crop_all(image, _scale_to_margin(rois, candidate), candidate.backend.size)
    predictions = candidate.backend.predict(crops.images), _predict_mirrored(candidate.backend, crops.images)
    points, scores = (np.concatenate(part) for part in zip(*predictions, strict=True))
    return Landmarks(transform(np.concatenate([crops.to_frame] * 2), points), scores)


def _scale_to_margin(rois: Sequence[Roi], candidate: Candidate) -> list[Roi]:
    """Return regions with the margin that a model was trained with."""
    scale = candidate.margin / geometry.MARGIN
    return [dataclasses.replace(roi, side=scale * roi.side) for roi in rois]


def _predict_mirrored(backend: Backend, crops: Image) -> Landmarks:
    """Predict the landmarks of crops (N, S, S, 3) from their mirror images, in pixels of the crops."""
    points, scores = backend.predict(np.ascontiguousarray(crops[:, :, ::-1]))
    mirror = backend.scheme.mirror
    points, scores = points[:, mirror], scores[:, mirror]
    points[..., 0] = backend.size - 1 - points[..., 0]
    return Landmarks(points, scores)


def match_detections(detections: Sequence[Roi], labels: NDArray[np.float32]) -> list[Roi | None]:
    """Return the detected region of each labelled face (N, K, 2), or None if it was missed.

    Each detection is used once; the pairs with the highest intersection over union are matched first. The center of
    the region must be inside the box of the face's points. Otherwise the region of a neighbor could match a missed
    face that it overlaps.
    """
    pairs = sorted(
        (
            (intersection_over_union(roi, roi_from_points(points, roi.angle)), face, index)
            for face, points in enumerate(labels)
            for index, roi in enumerate(detections)
            if (points.min(0) <= (roi.x, roi.y)).all() and ((roi.x, roi.y) <= points.max(0)).all()
        ),
        reverse=True,
    )
    matched: list[Roi | None] = [None] * len(labels)
    used: set[int] = set()
    for overlap, face, index in pairs:
        if overlap >= SAME_FACE and matched[face] is None and index not in used:
            matched[face] = detections[index]
            used.add(index)
    return matched
