"""Measured faces made from the 3D model of the head."""

from dataclasses import replace

import numpy as np

from canthus.runtime.measures import Measurer
from canthus.runtime.measures.head import included_head
from canthus.runtime.measures.pose import Pose, guess_camera, project, rotations_from_angles
from canthus.runtime.types import Faces, Frame

SIZE = (640, 480)
CAMERA = guess_camera(1280, 720)


def frame_of(faces_index=0, size=SIZE):
    """Return a black frame."""
    return Frame(np.zeros((size[1], size[0], 3), np.uint8), faces_index, faces_index / 30)


def measured_faces(*heads, size=SIZE):
    """Return measured faces; each head is ((yaw, pitch, roll) in degrees, (x, y, z) in mm)."""
    if not heads:
        return replace(Faces.none(), measures=Measurer().update(*_none(), 0.0, size))
    angles = np.array([angle for angle, _ in heads], np.float64)
    shapes = [included_head().shape_at(yaw) for yaw in angles[:, 0]]
    places = np.array([place for _, place in heads], np.float64)
    poses = list(map(Pose, rotations_from_angles(angles), places))
    points = project(poses, shapes, guess_camera(*size)).astype(np.float32)
    faces = Faces(points, np.full(points.shape[:2], 0.9, np.float32), np.arange(len(heads)) + 3)
    measures = Measurer().update(faces.points, faces.scores, faces.ids, 0.0, size)
    return replace(faces, measures=measures)


def shapes_at(angles):
    """The points (N, 98, 3) of the head at these angles (N, 3) in degrees, in mm."""
    return np.array([included_head().shape_at(yaw).T for yaw in angles[:, 0]])


def poses_at(angles, distances=600.0):
    """Poses at these angles, near the middle of the image."""
    places = np.tile([30.0, -20.0, 1.0], (len(angles), 1))
    places[:, 2] = distances
    return list(map(Pose, rotations_from_angles(angles), places))


def seen_at(angles, camera=CAMERA, distances=600.0, shapes=None):
    """The points (N, 98, 2) of heads at these angles in image pixels; shapes: (N, 98, 3), None: the mean head's."""
    shapes = shapes_at(angles) if shapes is None else shapes
    return project(poses_at(angles, distances), shapes.swapaxes(1, 2), camera)


def _none():
    return Faces.none().points, Faces.none().scores, Faces.none().ids
