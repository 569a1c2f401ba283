"""Reliability of scores by pose and by occlusion.

A point is accurate if its error is at most ACCURATE_THRESHOLD (5 %) of `face_length`: the inter-ocular distance, or
on a turned face what it would be frontally. In profile the inter-ocular distance itself is half as long, so that 5 % of
it would be less than the difference between two persons who place the same point.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from canthus.trainer.evaluation.metrics import ACCURATE_THRESHOLD, reliability
from canthus.trainer.evaluation.placed import POSES, poses_of_yaws
from canthus.trainer.faces.kinds import Kinds, PointKind
from canthus.trainer.faces.lengths import face_length
from canthus.trainer.faces.schemes import Scheme

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class ScoreReliability:
    """How well the scores of a group of points predict which are accurate."""

    points: int
    mean_score: float  # what the scores claim
    accurate: float  # share of the points that are accurate
    calibration_error: float  # expected calibration error, see `Reliability`


def length_errors(predicted: Floats, true: Floats, measured: NDArray[np.bool_], scheme: Scheme | None = None) -> Floats:
    """Return the distance (N, K) of points (N, K, 2) in % of `face_length`; NaN where not measured (N, K)."""
    with np.errstate(divide="ignore", invalid="ignore"):  # faces without a measured point
        errors = 100 * np.linalg.norm(predicted - true, axis=-1) / face_length(true, measured, scheme)[:, None]
    return np.where(measured, errors, np.nan)


def measure_scores(scores: Floats, errors: Floats, kinds: Kinds, yaw: Floats) -> dict[str, ScoreReliability]:
    """Compare scores with the `length_errors` of their points, all (N, K), in groups.

    The groups are "all", the poses by yaw (N,) (see `yaw_estimate`), and "covered" points with the "visible" others, if
    there are covered ones. Groups without points are left out.
    """
    pose = np.broadcast_to(poses_of_yaws(yaw)[:, None], scores.shape)
    groups = {"all": np.ones(scores.shape, np.bool_), **{name: pose == index for index, name in enumerate(POSES)}}
    covered = kinds == PointKind.COVERED
    if covered.any():
        groups |= {"visible": ~covered, "covered": covered}
    found = {}
    for name, group in groups.items():
        used = group & np.isfinite(scores) & np.isfinite(errors)
        if used.any():
            found[name] = ScoreReliability(
                points=int(used.sum()),
                mean_score=float(scores[used].mean()),
                accurate=float((errors[used] <= ACCURATE_THRESHOLD).mean()),
                calibration_error=reliability(scores[used], errors[used]).calibration_error,
            )
    return found


def score_rows(measured: Mapping[str, ScoreReliability]) -> list[list[str]]:
    """Return the cells of a table: group, number of points, mean score, share of accurate points, calibration error."""
    return [
        [name, str(one.points), f"{one.mean_score:.3f}", f"{one.accurate:.3f}", f"{one.calibration_error:.3f}"]
        for name, one in measured.items()
    ]


SCORE_HEADER = ["points", "number", "score", "accurate", "ECE"]
"""The header of the rows of `score_rows`."""
