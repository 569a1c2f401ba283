"""Accuracy at the points that people placed, for frontal, half and profile faces.

Sets whose points have different kinds (human.csv of a shard, unlabelled keypoints in COCO format) are measured so. On a
profile the distance between the outer eye corners is small, so errors are also given relative to the box of the points.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from canthus.trainer.evaluation.metrics import Summary, box_nme, nme, summarize
from canthus.trainer.faces.kinds import are_mixed, is_placed
from canthus.trainer.faces.labelled import LabelledFace, yaw_estimate
from canthus.trainer.faces.schemes import Scheme

MAX_FRONTAL_YAW = 0.48
MIN_PROFILE_YAW = 0.83
"""Limits of `yaw_estimate`, without its sign; about 25 and 40 degrees. Between them are the half profiles."""

POSES = ("frontal", "half", "profile")


@dataclass(frozen=True)
class PlacedAccuracy:
    """Accuracy over faces at their placed points only."""

    points: int  # placed points of all faces
    inter_ocular: Summary  # errors in % of the scheme's normalizer
    box: Summary  # errors in % of the square root of the area of the box of a face's placed points


def poses_of_yaws(yaws: NDArray[np.floating]) -> NDArray[np.intp]:
    """Return the index in POSES (N,) for yaws (N,) of `yaw_estimate`."""
    poses: NDArray[np.intp] = np.digitize(np.abs(yaws), (MAX_FRONTAL_YAW, MIN_PROFILE_YAW))
    return poses


def yaw_of(faces: Sequence[LabelledFace], scheme: Scheme | None = None) -> NDArray[np.floating]:
    """Return the yaw (N,) of each face: that of the data set, or else `yaw_estimate`."""
    given = np.array([face.yaw for face in faces])
    return np.where(np.isnan(given), yaw_estimate(np.stack([face.points for face in faces]), scheme), given)


def poses_of(faces: Sequence[LabelledFace], scheme: Scheme | None = None) -> NDArray[np.intp]:
    """Return the index in POSES (N,) of each face, by the yaw of the data set or else by `yaw_estimate`."""
    return poses_of_yaws(yaw_of(faces, scheme))


def measure_placed(
    faces: Sequence[LabelledFace], points: NDArray[np.floating], scheme: Scheme | None = None
) -> dict[str, PlacedAccuracy]:
    """Measure predicted points (N, K, 2), NaN for a missed face, by pose.

    Returns the accuracy of "all" faces with placed points and of each pose that occurs. Returns nothing if no face has
    other points than placed ones only or pseudo-labels only.
    """
    kinds = np.stack([face.kinds for face in faces])
    placed = is_placed(kinds)
    if not are_mixed(kinds) or not placed.any():
        return {}
    labels, pose = np.stack([face.points for face in faces]), poses_of(faces, scheme)
    inter_ocular, box = nme(points, labels, placed, scheme), box_nme(points, labels, placed)
    found = {}
    for name, chosen in {"all": pose >= 0, **{name: pose == index for index, name in enumerate(POSES)}}.items():
        rows = chosen & placed.any(-1)
        if rows.any():
            found[name] = PlacedAccuracy(int(placed[rows].sum()), summarize(inter_ocular[rows]), summarize(box[rows]))
    return found
