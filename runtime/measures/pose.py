"""Head pose: fit the rotation and translation of the head model to points, and back from image to head.

Angles are in degrees, in the convention of AFLW2000-3D and 300W-LP. Yaw is positive if the face is turned to the left
of the image, pitch if it looks up, roll if it is rotated clockwise in the image. The rotation from head to camera is
Rx(-pitch) Ry(yaw) Rz(roll), so the roll is about the axis of the head and the pitch about that of the camera. OpenFace
composes its angles in the same order.

Cameras and heads have the axes of OpenCV: x to the right, y down, z away from the camera.
"""

import math
from dataclasses import dataclass

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
    yaw = np.arcsin(np.minimum(np.maximum(rotations[:, 0, 2], -1.0), 1.0))
    pitch = np.arctan2(rotations[:, 1, 2], rotations[:, 2, 2])
    roll = np.arctan2(-rotations[:, 0, 1], rotations[:, 0, 0])
    return np.asarray(np.degrees(np.stack([yaw, pitch, roll], axis=1)))


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
    rays = np.asarray((points - (camera.x, camera.y)) / camera.focal, np.float64)
    weights = np.maximum(scores.astype(np.float64) ** 2, MIN_WEIGHT)
    if start is None:
        rotations, translations = _linear_start(head, rays)
        offsets: Floats | float = 0.0
    else:
        rotations, translations, offsets = start
    steps, converged = (COLD_STEPS, COLD_CONVERGED) if start is None else (WARM_STEPS, WARM_CONVERGED)
    for _ in range(steps):
        last = _residuals(head, rays, weights, rotations, translations, offsets)
        step = _step(last)
        rotations = _rotate(step[:, :3], rotations)
        translations = translations * (1 + step[:, 5:])
        translations[:, :2] += step[:, 3:5]
        moved = np.abs(step)
        if max(moved[:, :3].max(), moved[:, 5].max(), (moved[:, 3:5] / translations[:, 2:]).max()) < converged:
            break
    squared = (last.weights * (last.residuals**2).sum(-1)).sum(1) / weights.sum(1) / 2
    return Poses(rotations, translations, np.sqrt(squared), last.shapes, last.residuals)


@dataclass(frozen=True, eq=False)
class _Residuals:
    """How far points (N, 98) are from the posed heads."""

    shapes: Floats  # (N, 98, 3) on the head, mm
    rotated: Floats  # (N, 98, 3) in the camera's axes, relative to the origin of the head, mm
    placed: Floats  # (N, 98, 3) in the camera's axes, mm
    residuals: Floats  # (N, 98, 2) mm at the distance of the head
    weights: Floats  # (N, 98)
    translations: Floats  # (N, 3) mm


def _residuals(
    head: Head, rays: Floats, weights: Floats, rotations: Floats, translations: Floats, offsets: Floats | float
) -> _Residuals:
    table = head.at(np.degrees(np.arcsin(np.minimum(np.maximum(rotations[:, 0, 2], -1.0), 1.0))))
    shapes = table[..., :3] + offsets
    rotated = shapes @ rotations.swapaxes(1, 2)
    placed = rotated + translations[:, None]
    residuals = (rays - placed[..., :2] / placed[..., 2:]) * translations[:, None, 2:]
    inverse_variances = table[..., 3]
    squared = (residuals[..., 0] ** 2 + residuals[..., 1] ** 2) * inverse_variances
    weighted = weights * inverse_variances / (1 + squared / (2 * OUTLIER**2))
    return _Residuals(shapes, rotated, placed, residuals, weighted, translations)


def _step(at: _Residuals) -> Floats:
    """Return the Gauss-Newton step (N, 6).

    It is a rotation vector about the camera's axes, a translation along x and y in mm, and the relative growth of the
    distance along the ray to the head.
    """
    x, y, z = at.placed[..., 0], at.placed[..., 1], at.placed[..., 2]
    rx, ry, rz = at.rotated[..., 0], at.rotated[..., 1], at.rotated[..., 2]
    tx, ty, tz = (at.translations[:, axis, None] for axis in range(3))
    scale = tz / z
    u, v = x / z, y / z
    count, points = x.shape
    jacobian = np.zeros((count, 6, 2, points))
    # The projection of a moved point: scale * (dx - u dz) and scale * (dy - v dz).
    jacobian[:, 0, 0] = scale * -u * ry
    jacobian[:, 1, 0] = scale * (rz + u * rx)
    jacobian[:, 2, 0] = scale * -ry
    jacobian[:, 3, 0] = scale
    jacobian[:, 5, 0] = scale * (tx - u * tz)
    jacobian[:, 0, 1] = scale * (-rz - v * ry)
    jacobian[:, 1, 1] = scale * v * rx
    jacobian[:, 2, 1] = scale * rx
    jacobian[:, 4, 1] = scale
    jacobian[:, 5, 1] = scale * (ty - v * tz)
    weighted = (jacobian * at.weights[:, None, None]).reshape(count, 6, -1)
    normal = weighted @ jacobian.reshape(count, 6, -1).swapaxes(1, 2)
    right = weighted @ at.residuals.swapaxes(1, 2).reshape(count, -1, 1)
    diagonal = np.arange(6)
    normal[:, diagonal, diagonal] *= 1 + 1e-6
    normal[:, diagonal, diagonal] += 1e-9  # points that all coincide would make it singular
    step = np.linalg.solve(normal, right)[..., 0]
    step[:, :3] = np.minimum(np.maximum(step[:, :3], -0.5), 0.5)  # far from the solution, the first steps overshoot
    step[:, 5] = np.minimum(np.maximum(step[:, 5], -0.3), 0.3)
    return np.asarray(step)


def _rotate(vectors: Floats, rotations: Floats) -> Floats:
    """Return the rotations after another by rotation vectors (N, 3), by Rodrigues' formula."""
    angle = np.maximum(np.sqrt((vectors**2).sum(1)), 1e-12)[:, None, None]
    cross = np.zeros((len(vectors), 3, 3))
    cross[:, 2, 1], cross[:, 0, 2], cross[:, 1, 0] = vectors.T
    cross -= cross.swapaxes(1, 2)
    first = cross @ rotations
    return np.asarray(rotations + np.sin(angle) / angle * first + (1 - np.cos(angle)) / angle**2 * (cross @ first))


def _linear_start(head: Head, rays: Floats) -> tuple[Floats, Floats]:
    """Return rotations and translations from the affine map of the inner points that fits best."""
    shape = head.shape[INNER]
    center = shape.mean(0)
    model = shape - center
    seen = rays[:, INNER]
    middle = seen.mean(1)
    affine = (seen - middle[:, None]).swapaxes(1, 2) @ model @ np.linalg.inv(model.T @ model)  # (N, 2, 3)
    left, sizes, right = np.linalg.svd(affine, full_matrices=False)
    rows = left @ right
    rotations = np.concatenate([rows, np.cross(rows[:, 0], rows[:, 1])[:, None]], axis=1)
    distance = 1 / np.maximum(sizes.mean(1), 1e-9)
    ray = np.concatenate([middle, np.ones((len(rays), 1))], axis=1)
    translations = ray * distance[:, None] - rotations @ center
    translations[:, 2] = np.maximum(translations[:, 2], 0.5 * distance)
    return rotations, translations


def points_on_heads(poses: Poses, points: NDArray[np.floating], camera: Camera) -> Floats:
    """Return where points of the image lie on the posed heads: x and y (N, 98, 2) in mm in the axes of the head.

    The depth of each point is taken from the model. So the result is the face as seen from the front: the effects of
    pose and perspective are removed, expressions stay. It is inaccurate for points that are seen edge-on.
    """
    rays = (points - (camera.x, camera.y)) / camera.focal
    rotations, (tx, ty, tz) = poses.rotations, poses.translations.T[..., None]
    u, v = rays[..., 0], rays[..., 1]
    depth = poses.shapes[..., 2]
    first, second, third = (rotations[:, row, None] for row in range(3))  # (N, 1, 3)
    a, b, c = (first[..., axis] - u * third[..., axis] for axis in range(3))
    d, e, f = (second[..., axis] - v * third[..., axis] for axis in range(3))
    right_x = u * tz - tx - c * depth
    right_y = v * tz - ty - f * depth
    determinant = a * e - b * d
    determinant = np.where(np.abs(determinant) < 0.15, 0.15, determinant)
    return np.stack([(right_x * e - b * right_y) / determinant, (a * right_y - right_x * d) / determinant], axis=-1)
