import math

import numpy as np
import pytest

from canthus.runtime.geometry import roll_from_points
from canthus.runtime.landmarks import CONFIDENT_SCORE, VIEW_SCALES, Landmarks, average_views, refine_landmarks
from canthus.runtime.types import Roi
from support.shape import SHAPE


class Eye:
    """Sees the face it stands on where the region is turned as the face is and not too tight; else it is unsure."""

    def __init__(self, *faces):
        self.faces, self.looks = faces, []  # a face: middle x, side of its box, roll

    def __call__(self, rois):
        self.looks.append(len(rois))
        answers = [self.see(roi) for roi in rois]
        points = np.array([points for points, _ in answers], np.float32).reshape(-1, 98, 2)
        return Landmarks(points, np.array([np.full(98, score) for _, score in answers], np.float32).reshape(-1, 98))

    def see(self, roi):
        middle, side, roll = min(self.faces, key=lambda face: abs(face[0] - roi.x))
        apart = abs(math.remainder(roi.angle - roll, 2 * math.pi))
        if apart > 1 or roi.side < side:
            return face(roi.x, roi.side / 2, roi.angle), 0.3
        return face(middle, side, roll), 0.9 - 0.1 * apart


def face(x, side, roll):
    """Points of a face, its box `side` wide, around (x, 100)."""
    points = SHAPE - (SHAPE.min(0) + SHAPE.max(0)) / 2
    cos, sin = math.cos(roll - roll_from_points(points)), math.sin(roll - roll_from_points(points))
    return side * points @ np.array([[cos, sin], [-sin, cos]]) + [x, 100]


def test_a_face_that_is_seen_at_once_is_looked_at_twice():
    eye = Eye((100, 60, 0.0))
    points, scores = refine_landmarks(eye, [Roi(110, 95, 90, 0.2)])
    assert eye.looks == [1, 1]
    np.testing.assert_allclose(points[0], face(100, 60, 0.0), atol=0.01)
    assert scores.mean() > 0.85


@pytest.mark.parametrize("rough", [Roi(100, 100, 80, math.pi / 2), Roi(100, 100, 50, 0.0)], ids=["turned", "tight"])
def test_an_upright_face_in_a_bad_region_is_found(rough):
    points, scores = refine_landmarks(Eye((100, 60, 0.0)), [rough])
    np.testing.assert_allclose(points[0], face(100, 60, 0.0), atol=0.01)
    assert (scores > CONFIDENT_SCORE).all()


def test_a_lying_face_stays_as_the_detector_says():
    points, _ = refine_landmarks(Eye((100, 60, math.pi / 2)), [Roi(100, 100, 80, math.pi / 2)])
    np.testing.assert_allclose(points[0], face(100, 60, math.pi / 2), atol=0.01)


def test_only_unsure_faces_are_looked_at_again_and_each_keeps_its_place():
    eye = Eye((100, 60, 0.0), (400, 60, 0.0), (800, 60, 0.0))
    rough = [Roi(800, 100, 80, 0.1), Roi(100, 100, 80, 2.0), Roi(400, 100, 80, 0.0)]
    points, scores = refine_landmarks(eye, rough)
    assert eye.looks == [3, 3, 1, 1, 1]
    for placed, middle in zip(points, (800, 100, 400), strict=True):
        np.testing.assert_allclose(placed, face(middle, 60, 0.0), atol=0.01)
    assert (scores > CONFIDENT_SCORE).all()


def test_where_nothing_is_seen_the_surest_look_stands():
    eye = Eye((100, 60, math.pi))
    points, scores = refine_landmarks(eye, [Roi(100, 100, 80, 0.0)])
    assert eye.looks == [1, 1, 1, 1, 1]
    assert points.shape == (1, 98, 2)
    assert (scores < CONFIDENT_SCORE).all()


def test_more_looks_are_averaged_by_their_scores():
    sides = []

    def look(rois):
        sides.extend(roi.side for roi in rois)
        points = [face(roi.x + shift, 60, 0.0) for roi, shift in zip(rois, (3, 3, 9, 9), strict=True)]
        scores = np.repeat([0.4, 0.8, 0.8, 0.0], 98).reshape(4, 98).astype(np.float32)
        return Landmarks(np.array(points, np.float32), scores)

    found = [face(100, 60, 0.0), face(400, 60, 0.0)]
    points, scores = average_views(look, Landmarks(np.array(found, np.float32), np.full((2, 98), 0.8, np.float32)))
    usual = sides[0] / VIEW_SCALES[0]
    assert sides == pytest.approx([usual * times for times in VIEW_SCALES for _ in found])
    np.testing.assert_allclose(points[0], face(100 + (0.4 * 3 + 0.8 * 9) / 2, 60, 0.0), atol=0.01)
    np.testing.assert_allclose(points[1], face(400 + 0.8 * 3 / 1.6, 60, 0.0), atol=0.01)
    np.testing.assert_allclose(scores.mean(1), (2 / 3, 1.6 / 3), atol=1e-6)


def test_no_regions_are_no_faces():
    eye = Eye((100, 60, 0.0))
    points, scores = average_views(eye, refine_landmarks(eye, []))
    assert (len(points), len(scores)) == (0, 0)
