"""Measure the head pose that follows from points: mean absolute errors of yaw, pitch and roll.

The protocol is that of AFLW2000-3D (Ruiz, Chong and Rehg, 2018): faces with an angle beyond 99 degrees are left out.
The crops of the data sets do not say where the camera was, so the pose is fitted for a far camera (weak perspective),
as the poses of AFLW2000-3D were.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.errors import InputError
from canthus.runtime.measures.fit import fit_images
from canthus.runtime.measures.head import included_head
from canthus.runtime.measures.pose import Camera, angles_from_rotations
from canthus.runtime.wflw import POINTS
from canthus.trainer.evaluation.evaluate import Result, faces_in_order
from canthus.trainer.faces.labelled import LabelledSet
from canthus.trainer.head_model import MAX_ANGLE

CAMERA_DISTANCE = 1000.0
"""Focal length in sides of the face's box."""

PUBLISHED = "Hopenet 6.2, FSA-Net 5.1, WHENet 5.4, img2pose 3.9, 6DRepNet 4.0"
"""Mean of the three errors on AFLW2000-3D, from the papers of the methods."""

Angles = tuple[float, float, float]


@dataclass(frozen=True)
class PoseErrors:
    """Mean absolute errors in degrees of the pose from the points of one model."""

    model: str  # or "labels"
    boxes: str
    yaw: float
    pitch: float
    roll: float
    mean: float
    faces: int  # measured; missed ones are left out
    missed: int


def with_poses(labelled: LabelledSet, poses: Mapping[str, Angles]) -> LabelledSet:
    """Return the set with only the faces whose pose is known and within MAX_ANGLE."""
    faces = tuple(
        face for face in labelled.faces if face.image in poses and max(map(abs, poses[face.image])) <= MAX_ANGLE
    )
    return dataclasses.replace(labelled, faces=faces, published_count=0)


def measure_pose(
    sets: Sequence[LabelledSet], results: Sequence[Result], poses: Mapping[str, Angles]
) -> list[PoseErrors]:
    """Compare the poses from the labels, and from the points of each result, with the known ones.

    Raises InputError if the faces do not have the 98 points of WFLW.
    """
    faces = [face for _, face in faces_in_order(sets)]
    labels = np.stack([face.points for face in faces])
    if labels.shape[1:] != included_head().shape[:, :2].shape:
        raise InputError(f"--pose needs faces with {POINTS} points of WFLW, got {labels.shape[1]}")
    true = np.array([poses[face.image] for face in faces])
    rows = [_errors("labels", "-", labels, true)]
    return rows + [_errors(one.model, one.boxes, one.points, true) for one in results]


def _errors(model: str, boxes: str, points: NDArray[np.floating], true: NDArray[np.floating]) -> PoseErrors:
    found = np.isfinite(points).all((1, 2))
    if not found.any():
        nan = float("nan")
        return PoseErrors(model, boxes, nan, nan, nan, nan, 0, len(points))
    differences = np.abs((angles_from_points(points[found]) - true[found] + 180) % 360 - 180)
    yaw, pitch, roll = differences.mean(0).tolist()
    missed = int((~found).sum())
    return PoseErrors(model, boxes, yaw, pitch, roll, (yaw + pitch + roll) / 3, int(found.sum()), missed)


def angles_from_points(points: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return yaw, pitch and roll (N, 3) in degrees of faces (N, 98, 2), seen by a far camera."""
    low, high = points.min(1), points.max(1)
    centered = (points - (low + high)[:, None] / 2) / (high - low).max(1)[:, None, None]
    camera = Camera(CAMERA_DISTANCE, 0.0, 0.0)
    poses = fit_images(included_head(), centered, np.ones(points.shape[:2]), camera)
    return angles_from_rotations(np.array([pose.rotation for pose in poses]))
