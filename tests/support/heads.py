"""Measured faces made from the 3D model of the head."""

from dataclasses import replace

import numpy as np

from canthus.runtime.measures import Measurer
from canthus.runtime.measures.head import included_head
from canthus.runtime.measures.pose import Pose, guess_camera, project, rotations_from_angles
from canthus.runtime.types import Faces, Frame

SIZE = (640, 480)


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


def _none():
    return Faces.none().points, Faces.none().scores, Faces.none().ids
