"""The results of an evaluation as values for json."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

from canthus.trainer.evaluation.clips import ClipTracks, measure_temporal_stability
from canthus.trainer.evaluation.evaluate import Result
from canthus.trainer.evaluation.pose import PoseErrors
from canthus.trainer.evaluation.speed import Speed
from canthus.trainer.evaluation.stability import BoxStability


def to_json(
    results: Sequence[Result],
    stability: Iterable[BoxStability] = (),
    speed: Iterable[Speed] = (),
    tracks: Sequence[ClipTracks] = (),
    pose: Iterable[PoseErrors] = (),
) -> dict[str, Any]:
    """Return everything as values for json; NaN becomes null.

    The keys of the first result are at the top level, those of all are in `results`. `stability`, `speed`, `pose` and
    `clips` are there if they were measured.
    """
    accuracy = [_result_json(one) for one in results]
    boxes, times, poses = ([dataclasses.asdict(one) for one in measured] for measured in (stability, speed, pose))
    return {
        **(accuracy[0] if accuracy else {}),
        "results": accuracy,
        **({"stability": boxes} if boxes else {}),
        **({"speed": times} if times else {}),
        **({"pose": _null_for_nan(poses)} if poses else {}),
        **({"clips": _clips_json(tracks)} if tracks else {}),
    }


def _clips_json(tracks: Sequence[ClipTracks]) -> dict[str, Any]:
    """Return the temporal stability over all clips, and of each clip."""
    each = [
        {"clip": one.clip, "segments": len(one.segments), "gaps": one.gaps, "models": _stability_json([one])}
        for one in tracks
    ]
    return {"all": _stability_json(tracks), "each": each}


def _stability_json(tracks: Sequence[ClipTracks]) -> Any:
    return _null_for_nan([dataclasses.asdict(one) for one in measure_temporal_stability(tracks)])


def _result_json(one: Result) -> dict[str, Any]:
    values = {"model": one.model, "boxes": one.boxes, **dataclasses.asdict(one.all)}
    values["attributes"] = {name: summary.nme for name, summary in one.attributes.items()}
    if one.placed:
        values["placed_points"] = {pose: dataclasses.asdict(accuracy) for pose, accuracy in one.placed.items()}
    if one.mouth:
        values["mouth_opening"] = dataclasses.asdict(one.mouth)
    values["scores"] = {name: dataclasses.asdict(group) for name, group in one.scores.items()}
    values["reliability"] = dataclasses.asdict(one.reliability)
    return {name: _null_for_nan(value) for name, value in values.items()}


def _null_for_nan(value: Any) -> Any:
    match value:
        case float() if math.isnan(value):
            return None
        case dict():
            return {name: _null_for_nan(inner) for name, inner in value.items()}
        case tuple() | list():
            return [_null_for_nan(inner) for inner in value]
    return value
