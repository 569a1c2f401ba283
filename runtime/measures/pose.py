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


def lines_of_sight(points: Sequence[NDArray[np.floating]], camera: Camera) -> Floats:
    """Return the lines of sight of K arrays of points (N, 98, 2): (K, N, 3, 98), in the camera's axes, with z = 1."""
    lines = np.empty((len(points), len(points[0]), 3, POINTS))
    image = lines[:, :, :2]
    for one, given in zip(image, points, strict=True):
        one[:] = given.swapaxes(1, 2)
    image -= camera.center
    image /= camera.focal
    lines[:, :, 2] = 1
    return lines


class Pose(NamedTuple):
    """A head in front of the camera."""

    rotation: Floats  # (3, 3) from the axes of the head to those of the camera
    translation: Floats  # (3,) mm: the origin of the head in the camera's axes


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


def project(poses: Sequence[Pose], shapes: Sequence[Floats], camera: Camera) -> Floats:
    """Return the points (N, 98, 2) of heads in image pixels; shapes: N of (3, 98) mm on the head."""
    placed = [rotation @ shape + place[:, None] for (rotation, place), shape in zip(poses, shapes, strict=True)]
    found = np.array(placed).reshape(-1, 3, POINTS)
    return np.asarray((found[:, :2] / found[:, 2:] * camera.focal + camera.center).swapaxes(1, 2))


MIN_SLOPE = 0.15
"""Least component of a line of sight along the depth of the head: a point that is seen edge-on has no certain place."""


def points_on_head(pose: Pose, depths: Floats, lines: Floats) -> Floats:
    """Return where lines of sight (3, 98) meet the head: x and y (2, 98) in mm in the axes of the head.

    The depth of each point (98,) is taken from the model. So the result is the face as seen from the front: the effects
    of pose and perspective are removed, expressions stay. It is inaccurate for points that are seen edge-on.
    """
    to_head = pose.rotation.T
    seen = to_head.dot(lines)
    origin = to_head.dot(pose.translation)  # of the head, relative to the camera
    reach = depths + origin[2]
    reach /= np.maximum(seen[2], MIN_SLOPE)
    found: Floats = seen[:2] * reach
    found -= origin[:2, None]
    return found
