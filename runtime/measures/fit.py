"""Fit the rotation and translation of the head model to the points of a face."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.measures.head import Floats, Head
from canthus.runtime.measures.pose import Camera, Pose, lines_of_sight
from canthus.runtime.wflw import CONTOUR, POINTS

COLD_STEPS, WARM_STEPS = 12, 4
"""Gauss-Newton steps at most, from the linear start and from the pose of the frame before."""

COLD_CONVERGED, WARM_CONVERGED = 2e-3, 2e-2
"""The fit ends after a step that rotates by less, in radians, and moves by less, relative to the distance. The error
that is left is about the square of the last step, so from the frame before one step is often enough."""

OUTLIER = 3.0
"""Residuals of this many standard deviations have 2/3 of their weight (Cauchy's weight function)."""

MIN_WEIGHT = 0.05
"""The weight of a point with score 0, relative to one with score 1."""

INNER = np.array([point for point in range(POINTS) if point not in CONTOUR])

MAX_ROTATION, MAX_SHIFT = 0.5, 0.3
"""Limits of a step: about each axis in radians, and relative to the distance. Far from the solution, steps are too
long."""

_ONES = np.ones(POINTS)
_QUARTER_TURN = np.array([[-1.0], [1.0]])
_MOVES = np.zeros((6, 2, POINTS))
_MOVES[3, 0] = _MOVES[4, 1] = 1


class Fit(NamedTuple):
    """A pose that was fitted, and how well."""

    pose: Pose
    shape: Floats  # (3, 98) mm: x, y and z of the points on the head at this yaw
    missed: Floats  # (2, 98) mm: from the posed model to the points, across their lines of sight
    error: float  # weighted root mean square of `missed`, in standard deviations


def fit_pose(head: Head, lines: Floats, scores: Floats, offsets: Floats, before: Pose | None = None) -> Fit:
    """Fit the pose of a face by robust weighted least squares, a few Gauss-Newton steps.

    A point weighs as much as points of its kind agree with the model at this yaw, and less if its score is low or if it
    is an outlier.

    Args:
        head: The model.
        lines: (3, 98) the lines of sight of the points, as of `lines_of_sight`, finite.
        scores: (98,) in [0, 1].
        offsets: (3, 98) mm, added to the model's points for this person.
        before: A similar pose, as in the frame before. None: the fit starts from the affine map that fits best.
    """
    weights = np.maximum(scores * scores, MIN_WEIGHT)
    steps, converged = (WARM_STEPS, WARM_CONVERGED) if before else (COLD_STEPS, COLD_CONVERGED)
    pose = before or _linear_start(head, lines)
    for _ in range(steps):
        rows = head.rows_at(math.degrees(math.asin(min(max(pose.rotation.item(2), -1.0), 1.0))))
        shape = rows[:3] + offsets
        missed, moves = _linearize(pose, shape, lines)
        squares = missed * missed
        squares = squares[0] + squares[1]
        certain = weights / (rows[3] + squares * (0.5 / OUTLIER**2))  # an outlier has less weight
        weighted = (moves * certain).reshape(6, -1)
        normal, right = weighted.dot(moves.reshape(6, -1).T), weighted.dot(missed.reshape(-1, 1))
        pose, moved = _move(pose, normal, right)
        if moved < converged:
            break
    return Fit(pose, shape, missed, math.sqrt(certain.dot(squares) / weights.dot(_ONES) / 2))


def fit_images(head: Head, points: NDArray[np.floating], scores: NDArray[np.floating], camera: Camera) -> list[Pose]:
    """Fit the poses of faces without knowing anything of them.

    points: (N, 98, 2) image pixels, finite. scores: (N, 98) in [0, 1].
    """
    (lines,), offsets = lines_of_sight([points], camera), np.zeros((3, POINTS))
    return [fit_pose(head, *face, offsets).pose for face in zip(lines, scores, strict=True)]


def _linearize(pose: Pose, shape: Floats, lines: Floats) -> tuple[Floats, Floats]:
    """Return how far the posed model misses the points, (2, 98) in mm, and how it moves with the pose, (6, 2, 98).

    The unknowns are a rotation vector about the camera's axes through the origin of the head, and a translation. A
    point of the model at (x, y, z) from that origin moves by (dx, dy, dz). It is seen at u and v, and moves across its
    line of sight by dx - u dz and dy - v dz.
    """
    turned = pose.rotation.dot(shape)
    placed = turned + pose.translation[:, None]
    seen = placed[:2] / placed[2]
    missed = lines[:2] - seen
    missed *= placed[2]
    moves = _MOVES.copy()
    np.multiply(turned[1::-1], _QUARTER_TURN, out=moves[2])  # -y, x
    np.multiply(moves[2, :, None], seen, out=moves[:2])
    moves[0, 1] -= turned[2]
    moves[1, 0] += turned[2]
    np.negative(seen, out=moves[5])
    return missed, moves


def _move(pose: Pose, normal: Floats, right: Floats) -> tuple[Pose, float]:
    """Return the pose after a step, and how far it moved: see WARM_CONVERGED.

    The normal equations (6, 6) and their right side (6, 1) are those of `_linearize`.
    """
    import cv2  # its functions take less time than NumPy's; it is not needed to show a --help

    step = cv2.solve(normal, right)[1]  # 0 if the equations are singular
    sizes = [abs(size) for (size,) in step.tolist()]
    turned, shifted = max(sizes[:3]), max(sizes[3:]) / pose.translation.item(2)
    if (ratio := max(turned / MAX_ROTATION, shifted / MAX_SHIFT)) > 1:
        step = step / ratio
    rotation = cv2.Rodrigues(step[:3])[0].dot(pose.rotation)
    return Pose(rotation, pose.translation + step[3:, 0]), max(turned, shifted)


def _linear_start(head: Head, lines: Floats) -> Pose:
    """Return the pose of the affine map of the inner points that fits best; lines (3, 98)."""
    shape = head.shape[INNER]
    center = shape.mean(0)
    model = shape - center
    seen = lines[:2, INNER]
    middle = seen.mean(1)
    affine = (seen - middle[:, None]) @ model @ np.linalg.inv(model.T @ model)  # (2, 3)
    left, sizes, right = np.linalg.svd(affine, full_matrices=False)
    rows = left @ right
    rotation = np.stack([*rows, np.cross(*rows)])
    distance = 1 / max(float(sizes.mean()), 1e-9)
    translation = np.append(middle, 1) * distance - rotation @ center
    translation[2] = max(translation[2], 0.5 * distance)
    return Pose(rotation, translation)
