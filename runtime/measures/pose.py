"""Head pose: rotation and translation of a head, its angles, and from the head to the image and back.

Angles are in degrees, in the convention of AFLW2000-3D and 300W-LP. Yaw is positive if the face is turned to the left
of the image, pitch if it looks up, roll if it is rotated clockwise in the image. The rotation from head to camera is
Rx(-pitch) Ry(yaw) Rz(roll), so the roll is about the axis of the head and the pitch about that of the camera. OpenFace
composes its angles in the same order.

Cameras and heads have the axes of OpenCV: x to the right, y down, z away from the camera.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.errors import InputError
from canthus.runtime.measures.head import Floats
from canthus.runtime.wflw import POINTS

Rotation = Sequence[Sequence[float]]
"""A matrix (3, 3), from the axes of the head to those of the camera."""

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera without distortion: focal length and principal point in pixels of the image."""

    focal: float
    x: float
    y: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.focal) and self.focal > 0):
            raise InputError(f"the focal length must be a number of pixels above 0, got {self.focal!r}")

    @cached_property
    def center(self) -> Floats:
        """The principal point, (2, 1)."""
        return np.array([[self.x], [self.y]])


@lru_cache(maxsize=16)
def guess_camera(width: int, height: int, focal: float | None = None) -> Camera:
    """Return the camera of an image in pixels.

    focal: the focal length in pixels. None guesses the longer side of the image: a view of 53 degrees along it, between
        webcams (about 60) and phones (about 50 to 65). An error of 20 % changes distances by 20 %, angles little.
    """
    return Camera(float(max(width, height, 1)) if focal is None else focal, (width - 1) / 2, (height - 1) / 2)


def lines_of_sight(points: NDArray[np.floating], camera: Camera) -> Floats:
    """Return the lines of sight of points (N, 98, 2): (3, N * 98), in the camera's axes, with z = 1."""
    lines = np.empty((3, len(points) * POINTS))
    np.subtract(points.reshape(-1, 2).T, camera.center, out=lines[:2])
    lines[:2] /= camera.focal
    lines[2] = 1
    return lines


def slices(count: int) -> list[slice]:
    """Return the part of each face in arrays of the points of N faces, (..., N * 98)."""
    return [slice(start, start + POINTS) for start in range(0, count * POINTS, POINTS)]


class Pose(NamedTuple):
    """A head in front of the camera. These are Python's numbers, which are faster than arrays of a few."""

    rotation: Rotation
    translation: Vector  # mm: the origin of the head in the camera's axes


class Poses(NamedTuple):
    """The heads of N faces."""

    poses: Sequence[Pose]
    shapes: Floats  # (3, N * 98) mm: x, y and z of the points on the head at these yaws


def heads_at(rotations: Floats, translations: Floats, shapes: Sequence[Floats]) -> Poses:
    """Return heads from rotations (N, 3, 3), translations (N, 3) and shapes (3, 98), N of them."""
    poses = [Pose(one, (x, y, z)) for one, (x, y, z) in zip(rotations.tolist(), translations.tolist(), strict=True)]
    return Poses(poses, np.concatenate([np.zeros((3, 0)), *shapes], axis=1))


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


def project(heads: Poses, camera: Camera) -> Floats:
    """Return the points (N, 98, 2) of the heads in image pixels."""
    found = []
    for part, (rotation, translation) in zip(slices(len(heads.poses)), heads.poses, strict=True):
        placed = np.array(rotation) @ heads.shapes[:, part] + np.array(translation)[:, None]
        found.append((placed[:2] / placed[2] * camera.focal + camera.center).T)
    return np.array(found).reshape(-1, POINTS, 2)


MIN_SLOPE = 0.15
"""Least component of a line of sight along the depth of the head: a point that is seen edge-on has no certain place."""


def points_on_heads(heads: Poses, lines: Floats) -> Floats:
    """Return where lines of sight (3, N * 98) meet the heads: x and y (2, N * 98) in mm in the axes of the head.

    The depth of each point is taken from the model. So the result is the face as seen from the front: the effects of
    pose and perspective are removed, expressions stay. It is inaccurate for points that are seen edge-on.
    """
    products = np.empty((5, lines.shape[1]))
    for part, pose in zip(slices(len(heads.poses)), heads.poses, strict=True):
        np.matmul(_cut_factors(*pose), lines[:, part], out=products[:, part])
    flat = products[:2] * heads.shapes[2]
    flat += products[3:]
    flat /= np.maximum(products[2], MIN_SLOPE)
    return np.asarray(flat)


def _cut_factors(rotation: Rotation, translation: Vector) -> Floats:
    """Return the matrix (5, 3) that leads from a line of sight to where it meets the plane of its point.

    In the axes of the head, the camera is at `eye`, and the place is eye + (depth - eye_z) / slope * line. The factors
    give x and y of the line, its slope, and the numerators of x and y without the depth.
    """
    across, down, along = zip(*rotation, strict=True)
    x, y, z = translation
    eye_x, eye_y, eye_z = (-(a * x + b * y + c * z) for a, b, c in (across, down, along))
    return np.array((
        across, down, along,
        [eye_x * slope - eye_z * line for slope, line in zip(along, across, strict=True)],
        [eye_y * slope - eye_z * line for slope, line in zip(along, down, strict=True)],
    ))  # fmt: skip
