"""Measure models on labelled faces and on clips, as `canthus eval` does."""

import contextlib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from canthus.runtime import detector
from canthus.runtime.errors import InputError
from canthus.trainer.evaluation.clips import ClipTracks, find_clips, track_clips
from canthus.trainer.evaluation.evaluate import (
    SINGLE_PROCESS,
    Boxes,
    Result,
    Worker,
    evaluate,
    leave_out_unmeasurable,
    open_candidates,
)
from canthus.trainer.evaluation.pose import Angles, PoseErrors, measure_pose, with_poses
from canthus.trainer.evaluation.speed import Speed, measure_speed
from canthus.trainer.evaluation.stability import BoxStability, measure_box_stability
from canthus.trainer.faces.conversion import convert_to_98
from canthus.trainer.faces.formats import open_set
from canthus.trainer.faces.labelled import LabelledSet
from canthus.trainer.head_model import read_poses


@dataclass(frozen=True)
class MeasureOptions:
    """Which models to measure, and on what."""

    models: Sequence[str] = ()  # included models, .onnx files or checkpoints; without peers, empty = the default model
    peers: Sequence[Path] = ()  # public third-party networks
    flip_tta: bool = False
    sets: Sequence[Path] = ()  # labelled sets
    split: str = "test"  # official list of the sets
    as_98: bool = False  # convert faces with 68 points to 98, of which 30 are not measured
    held_out: int | None = None  # measure only the validation faces of a recipe with this value
    boxes: Sequence[Boxes] = ("truth",)
    stability: bool = False  # measure the change of points if the box changes, too
    speed: bool = False  # measure the time per face, too
    clips: Sequence[Path] = ()  # videos, or folders of them
    pose: Path | None = None  # a table of poses; only the faces in it are measured, and their poses too
    detector_model: Path | None = None  # None: the included face detector


@dataclass(frozen=True, eq=False)
class Measurements:
    """The labelled sets, and the measurements. Those that were not requested are empty."""

    sets: list[LabelledSet]
    results: list[Result]
    stability: list[BoxStability]
    speed: list[Speed]
    clips: list[ClipTracks]
    pose: list[PoseErrors]


def measure(options: MeasureOptions, worker: Worker = SINGLE_PROCESS) -> Measurements:
    """Measure all models on all sets and clips.

    Raises InputError if a set or clip cannot be read, or if no face is left; ModelError if a model does not fit.
    """
    poses = read_poses(options.pose) if options.pose else {}
    sets = _open_sets(options, poses)
    clips = find_clips(options.clips)
    with contextlib.ExitStack() as opened:
        default_model = [None] if not options.peers else []
        candidates = opened.enter_context(
            open_candidates(options.models or default_model, options.peers, options.flip_tta)
        )
        need_detector = bool(clips) or "detector" in options.boxes
        detecting = opened.enter_context(detector.Detector(options.detector_model)) if need_detector else None
        results: list[Result] = []
        if sets:
            detect = None
            if detecting and "detector" in options.boxes:
                detect = functools.partial(detecting.detect, exhaustive=True)
            results = evaluate(sets, candidates, detect, options.boxes, worker)
        stability = measure_box_stability(sets, candidates, worker) if options.stability else []
        speed = measure_speed(sets, candidates) if options.speed else []
        tracks: list[ClipTracks] = []
        if clips:
            assert detecting
            reference = candidates[0]
            if not options.models:  # peers have no scores, and the tracker needs them to notice a lost face
                (reference,) = opened.enter_context(open_candidates([None]))
            tracks = track_clips(clips, candidates, reference, detecting.detect_in_stream, worker)
    pose = measure_pose(sets, results, poses) if poses else []
    return Measurements(sets, results, stability, speed, tracks, pose)


def _open_sets(options: MeasureOptions, poses: Mapping[str, Angles]) -> list[LabelledSet]:
    sets = [open_set(path, options.split) for path in options.sets]
    if options.as_98:
        sets = [convert_to_98(one) for one in sets]
    sets = [leave_out_unmeasurable(one) for one in sets]
    if poses:
        sets = [with_poses(one, poses) for one in sets]
    if options.held_out is not None:
        sets = [one.held_out_subset(options.held_out) for one in sets]
    if sets and not any(one.faces for one in sets):
        raise InputError("no face is left to measure; lower --held-out, or check the names in the table of --pose")
    return sets
