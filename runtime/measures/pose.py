"""Head pose: fit the rotation and translation of the head model to points, and back from image to head.

Angles are in degrees, in the convention of AFLW2000-3D and 300W-LP. Yaw is positive if the face is turned to the left
of the image, pitch if it looks up, roll if it is rotated clockwise in the image. The rotation from head to camera is
Rx(-pitch) Ry(yaw) Rz(roll), so the roll is about the axis of the head and the pitch about that of the camera. OpenFace
composes its angles in the same order.

Cameras and heads have the axes of OpenCV: x to the right, y down, z away from the camera.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.errors import InputError
from canthus.runtime.measures.head import Floats, Head
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


@dataclass(frozen=True)
class Camera:
    """A pinhole camera without distortion: focal length and principal point in pixels of the image."""

    focal: float
    x: float
    y: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.focal) and self.focal > 0):
            raise InputError(f"the focal length must be a number of pixels above 0, got {self.focal!r}")


def guess_camera(width: int, height: int, focal: float | None = None) -> Camera:
    """Return the camera of an image in pixels.

    focal: the focal length in pixels. None guesses the longer side of the image: a view of 53 degrees along it, between
        webcams (about 60) and phones (about 50 to 65). An error of 20 % changes distances by 20 %, angles little.
    """
    return Camera(float(max(width, height, 1)) if focal is None else focal, (width - 1) / 2, (height - 1) / 2)


@dataclass(frozen=True, eq=False)
class Poses:
    """The poses of N faces."""

    rotations: Floats  # (N, 3, 3) from head to camera
    translations: Floats  # (N, 3) mm: the origin of the head in the camera's axes
    error: Floats  # (N,) weighted root mean square distance of the points from the model, in standard deviations
    shapes: Floats  # (N, 98, 3) mm: the points on the head at these yaws, offsets included
    residuals: Floats  # (N, 98, 2) mm at the distance of the head: from the posed model to the points


def angles_from_rotations(rotations: Floats) -> Floats:
    """Return yaw, pitch and roll (N, 3) in degrees of rotations (N, 3, 3). Yaws lie in -90 to 90."""
    return np.array([angles_from_rotation(rotation) for rotation in rotations.tolist()]).reshape(-1, 3)


def angles_from_rotation(rotation: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Return yaw, pitch and roll in degrees of one rotation (3, 3)."""
    (a, b, sine), (_, _, f), (_, _, i) = rotation
    yaw = math.asin(min(max(sine, -1.0), 1.0))
    return math.degrees(yaw), math.degrees(math.atan2(f, i)), math.degrees(math.atan2(-b, a))


def rotations_from_angles(angles: Floats) -> Floats:
    """Return the rotations (N, 3, 3) with yaw, pitch and roll (N, 3) in degrees."""
    yaw, pitch, roll = np.radians(angles).T
    zero, one = np.zeros_like(yaw), np.ones_like(yaw)

    def matrix(*entries: Floats) -> Floats:
        return np.stack(entries, axis=-1).reshape(-1, 3, 3)

    about_x = matrix(one, zero, zero, zero, np.cos(pitch), np.sin(pitch), zero, -np.sin(pitch), np.cos(pitch))
    about_y = matrix(np.cos(yaw), zero, np.sin(yaw), zero, one, zero, -np.sin(yaw), zero, np.cos(yaw))
    about_z = matrix(np.cos(roll), -np.sin(roll), zero, np.sin(roll), np.cos(roll), zero, zero, zero, one)
    return np.asarray(about_x @ about_y @ about_z)


def project(poses: Poses, camera: Camera) -> Floats:
    """Return the points (N, 98, 2) of the posed heads in image pixels."""
    placed = poses.shapes @ poses.rotations.swapaxes(1, 2) + poses.translations[:, None]
    return np.asarray(placed[..., :2] / placed[..., 2:] * camera.focal + (camera.x, camera.y))


def fit_poses(
    head: Head,
    points: NDArray[np.floating],
    scores: NDArray[np.floating],
    camera: Camera,
    start: tuple[Floats, Floats, Floats] | None = None,
) -> Poses:
    """Fit the pose of each face by robust weighted least squares, a few Gauss-Newton steps.

    A point weighs as much as points of its kind agree with the model at this yaw, and less if its score is low or if it
    is an outlier.

    Args:
        head: The model.
        points: (N, 98, 2) image pixels, finite.
        scores: (N, 98) in [0, 1].
        camera: The camera of the image.
        start: Rotations (N, 3, 3) and translations (N, 3) of a similar pose, as in the frame before, and what is added
            to the model's points (N, 98, 3) for each person. None starts from the affine map that fits best.
    """
    rays = _rays(points, camera)
    weights = np.maximum(scores.astype(np.float64) ** 2, MIN_WEIGHT)
    steps, converged = (COLD_STEPS, COLD_CONVERGED) if start is None else (WARM_STEPS, WARM_CONVERGED)
    rotations, translations, offsets = _linear_start(head, rays) if start is None else start
    moved_points = offsets.swapaxes(1, 2)
    for _ in range(steps):
        system = _linearize(head, rays, weights, (rotations, translations, moved_points))
        rotations, translations, moved = _move(system.equations, rotations, translations)
        if moved < converged:
            break
    error = np.sqrt(system.equations[:, 6, 6] / weights.sum(1) / 2)
    return Poses(rotations, translations, error, system.shapes.swapaxes(1, 2), system.residuals.swapaxes(1, 2))


def _rays(points: NDArray[np.floating], camera: Camera) -> Floats:
    """Return where the lines of sight of points (N, 98, 2) meet the plane at distance 1, (N, 2, 98)."""
    center = np.array([[camera.x], [camera.y]])
    return np.asarray((np.ascontiguousarray(points.swapaxes(1, 2), np.float64) - center) / camera.focal)


class _System(NamedTuple):
    """The least squares problem of one Gauss-Newton step, for N faces. Coordinates come before the 98 points."""

    equations: Floats  # (N, 7, 7) normal equations of the 6 unknowns; row and column 6: the right side, the error
    shapes: Floats  # (N, 3, 98) on the head, mm
    residuals: Floats  # (N, 2, 98) mm at the distance of the head


def _linearize(head: Head, rays: Floats, weights: Floats, pose: tuple[Floats, Floats, Floats]) -> _System:
    """Return the equations of the next step from a pose: rotations, translations and (N, 3, 98) added to the points.

    The unknowns are a rotation vector about the camera's axes, a translation along x and y in mm, and the relative
    growth of the distance along the ray to the head.
    """
    rotations, translations, offsets = pose
    count, points = weights.shape
    yaws = [math.degrees(math.asin(min(max(sine, -1.0), 1.0))) for sine in rotations[:, 0, 2].tolist()]
    table = head.coordinates_at(yaws)
    shapes = table[:, :3] + offsets
    rotated = np.ones((count, 4, points))  # x, y, z relative to the origin of the head, and 1
    placed = np.matmul(rotations, shapes, out=rotated[:, :3]) + translations[..., None]
    depth = placed[:, 2:]
    seen = placed[:, :2] / depth
    missed = rays - seen
    residuals = missed * translations[:, 2:, None]
    # An outlier has less weight. Residuals are in mm at the distance of the head, hence the scale.
    squares = residuals * residuals
    scale = translations[:, 2:] / placed[:, 2]
    robust = 1 + (squares[:, 0] + squares[:, 1]) * table[:, 3] * (0.5 / OUTLIER**2)
    weights = weights * table[:, 3] * scale * scale / robust
    # The projection of a moved point: dx - u dz and dy - v dz.
    directions = _DIRECTIONS + translations[:, :, None, None] * _GROWTH
    motion = (directions.reshape(count, 18, 4) @ rotated).reshape(count, 3, 6, points)
    columns = np.empty((count, 2, 7, points))
    np.subtract(motion[:, :2], seen[:, :, None] * motion[:, 2:], out=columns[:, :, :6])
    np.multiply(missed, depth, out=columns[:, :, 6])
    equations = (columns * weights[:, None, None]) @ columns.swapaxes(2, 3)
    return _System(equations[:, 0] + equations[:, 1], shapes, residuals)


_DIRECTIONS = np.zeros((3, 6, 4))
"""Motion of a point along x, y and z for each unknown but the last: factors of its place (x, y, z, 1)."""
for _unknown, _axis, _place, _factor in (
    (0, 1, 2, -1), (0, 2, 1, 1), (1, 0, 2, 1), (1, 2, 0, -1), (2, 0, 1, -1), (2, 1, 0, 1), (3, 0, 3, 1), (4, 1, 3, 1)
):  # fmt: skip
    _DIRECTIONS[_axis, _unknown, _place] = _factor

_GROWTH = np.zeros((6, 4))
_GROWTH[5, 3] = 1.0
"""The last unknown moves all points by a share of the translation."""

_DAMPING, _REGULARIZATION = 1 + 1e-6 * np.eye(6), 1e-9 * np.eye(6)
"""Points that all coincide would make the equations singular."""

MAX_ROTATION, MAX_GROWTH = 0.5, 0.3
"""Limits of a step: about each axis in radians, and of the distance. Far from the solution, steps are too long."""


def _move(equations: Floats, rotations: Floats, translations: Floats) -> tuple[Floats, Floats, float]:
    """Return the rotations and translations after a step, and how far it moved: see WARM_CONVERGED."""
    normal = equations[:, :6, :6] * _DAMPING + _REGULARIZATION
    steps = np.linalg.solve(normal, equations[:, :6, 6:])[..., 0].tolist()
    turns, places, moved = [], [], 0.0
    for (*vector, right, down, growth), (x, y, z) in zip(steps, translations.tolist(), strict=True):
        vector = [min(max(angle, -MAX_ROTATION), MAX_ROTATION) for angle in vector]
        growth = min(max(growth, -MAX_GROWTH), MAX_GROWTH)
        place = (x * (1 + growth) + right, y * (1 + growth) + down, z * (1 + growth))
        turns.append(_rotation(*vector))
        places.append(place)
        moved = max(moved, *map(abs, vector), abs(growth), abs(right) / place[2], abs(down) / place[2])
    return np.array(turns) @ rotations, np.array(places), moved


def _rotation(x: float, y: float, z: float) -> list[list[float]]:
    """Return the matrix (3, 3) of a rotation vector, by Rodrigues' formula."""
    angle = max(math.sqrt(x * x + y * y + z * z), 1e-12)
    a, b = math.sin(angle) / angle, (1 - math.cos(angle)) / angle**2
    return [
        [1 - b * (y * y + z * z), b * x * y - a * z, b * x * z + a * y],
        [b * x * y + a * z, 1 - b * (x * x + z * z), b * y * z - a * x],
        [b * x * z - a * y, b * y * z + a * x, 1 - b * (x * x + y * y)],
    ]


def _linear_start(head: Head, rays: Floats) -> tuple[Floats, Floats, Floats]:
    """Return rotations, translations and no offsets, from the affine map of the inner points that fits best."""
    shape = head.shape[INNER]
    center = shape.mean(0)
    model = shape - center
    seen = rays[:, :, INNER]
    middle = seen.mean(2)
    affine = (seen - middle[..., None]) @ model @ np.linalg.inv(model.T @ model)  # (N, 2, 3)
    left, sizes, right = np.linalg.svd(affine, full_matrices=False)
    rows = left @ right
    rotations = np.concatenate([rows, np.cross(rows[:, 0], rows[:, 1])[:, None]], axis=1)
    distance = 1 / np.maximum(sizes.mean(1), 1e-9)
    ray = np.concatenate([middle, np.ones((len(rays), 1))], axis=1)
    translations = ray * distance[:, None] - rotations @ center
    translations[:, 2] = np.maximum(translations[:, 2], 0.5 * distance)
    return rotations, translations, np.zeros((len(rays), POINTS, 3))


MIN_SLOPE = 0.15
"""Least component of a line of sight along the depth of the head: a point that is seen edge-on has no certain place."""


def points_on_heads(poses: Poses, points: NDArray[np.floating], camera: Camera) -> Floats:
    """Return where points of the image lie on the posed heads: x and y (N, 98, 2) in mm in the axes of the head.

    The depth of each point is taken from the model. So the result is the face as seen from the front: the effects of
    pose and perspective are removed, expressions stay. It is inaccurate for points that are seen edge-on.
    """
    rays = np.ones((len(points), 3, points.shape[1]))
    rays[:, :2] = _rays(points, camera)
    # In the axes of the head, the camera is at `eye`, and each line of sight is cut with the plane of its point.
    lines = poses.rotations.swapaxes(1, 2) @ rays
    eye = -(poses.translations[:, None] @ poses.rotations).swapaxes(1, 2)
    along, slope = poses.shapes[..., 2][:, None] - eye[:, 2:], lines[:, 2:]
    cut = eye[:, :2] * slope + along * lines[:, :2]
    return np.asarray((cut / np.where(np.abs(slope) < MIN_SLOPE, MIN_SLOPE, slope)).swapaxes(1, 2))
