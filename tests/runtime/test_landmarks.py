"""Refinement of rough regions, and the average over several regions."""

import math

import numpy as np
import pytest

from canthus.runtime.landmarks import (
    CONFIDENT_SCORE,
    VIEW_SCALES,
    WIDER_SCALE,
    Landmarks,
    average_views,
    predict_landmarks,
    refine_landmarks,
)
from canthus.runtime.schemes import WFLW
from canthus.runtime.types import Roi
from support.shape import SHAPE


class FakePredict:
    """Predicts the nearest face well if the region has the roll of the face and is not too small; else badly."""

    def __init__(self, *faces):
        self.faces, self.batches = faces, []  # a face: x of its center, side of its box, roll

    def __call__(self, rois):
        self.batches.append(len(rois))
        predictions = [self.predict_one(roi) for roi in rois]
        points = np.array([points for points, _ in predictions], np.float32).reshape(-1, 98, 2)
        return Landmarks(points, np.array([np.full(98, score) for _, score in predictions], np.float32).reshape(-1, 98))

    def predict_one(self, roi):
        x, side, roll = min(self.faces, key=lambda face: abs(face[0] - roi.x))
        apart = abs(math.remainder(roi.angle - roll, 2 * math.pi))
        if apart > 1 or roi.side < side:
            return face(roi.x, roi.side / 2, roi.angle), 0.3
        return face(x, side, roll), 0.9 - 0.1 * apart


def face(x, side, roll):
    """Return the points of a face around (x, 100); its box is `side` wide."""
    points = SHAPE - (SHAPE.min(0) + SHAPE.max(0)) / 2
    cos, sin = math.cos(roll - WFLW.roll(points)), math.sin(roll - WFLW.roll(points))
    return side * points @ np.array([[cos, sin], [-sin, cos]]) + [x, 100]


def test_confident_face_is_predicted_twice():
    predict = FakePredict((100, 60, 0.0))
    points, scores = refine_landmarks(predict, [Roi(110, 95, 90, 0.2)])
    assert predict.batches == [1, 1]
    np.testing.assert_allclose(points[0], face(100, 60, 0.0), atol=0.01)
    assert scores.mean() > 0.85


@pytest.mark.parametrize("rough", [Roi(100, 100, 80, math.pi / 2), Roi(100, 100, 50, 0.0)], ids=["rotated", "small"])
def test_upright_face_is_found_in_a_rotated_or_small_region(rough):
    points, scores = refine_landmarks(FakePredict((100, 60, 0.0)), [rough])
    np.testing.assert_allclose(points[0], face(100, 60, 0.0), atol=0.01)
    assert (scores > CONFIDENT_SCORE).all()


def test_uncertain_face_is_predicted_in_an_upright_and_wider_region():
    regions = []

    def predict(rois):
        regions.append(rois)
        return Landmarks(np.array([face(roi.x, 60, 0.3) for roi in rois], np.float32), np.zeros((1, 98), np.float32))

    refine_landmarks(predict, [Roi(100, 90, 80, 0.7)])
    assert regions[2] == [Roi(100, 90, WIDER_SCALE * 80, 0.0)]


def test_rotated_face_keeps_the_roll_of_the_detector():
    points, _ = refine_landmarks(FakePredict((100, 60, math.pi / 2)), [Roi(100, 100, 80, math.pi / 2)])
    np.testing.assert_allclose(points[0], face(100, 60, math.pi / 2), atol=0.01)


def test_only_uncertain_faces_are_predicted_again_and_the_order_stays():
    predict = FakePredict((100, 60, 0.0), (400, 60, 0.0), (800, 60, 0.0))
    rough = [Roi(800, 100, 80, 0.1), Roi(100, 100, 80, 2.0), Roi(400, 100, 80, 0.0)]
    points, scores = refine_landmarks(predict, rough)
    assert predict.batches == [3, 3, 1, 1, 1]
    for found, x in zip(points, (800, 100, 400), strict=True):
        np.testing.assert_allclose(found, face(x, 60, 0.0), atol=0.01)
    assert (scores > CONFIDENT_SCORE).all()


def test_highest_score_is_kept_if_all_scores_are_low():
    predict = FakePredict((100, 60, math.pi))
    points, scores = refine_landmarks(predict, [Roi(100, 100, 80, 0.0)])
    assert predict.batches == [1, 1, 1, 1, 1]
    assert points.shape == (1, 98, 2)
    assert (scores < CONFIDENT_SCORE).all()


def test_average_over_views_is_weighted_by_score():
    sides = []

    def predict(rois):
        sides.extend(roi.side for roi in rois)
        points = [face(roi.x + shift, 60, 0.0) for roi, shift in zip(rois, (3, 3, 9, 9), strict=True)]
        scores = np.repeat([0.4, 0.8, 0.8, 0.0], 98).reshape(4, 98).astype(np.float32)
        return Landmarks(np.array(points, np.float32), scores)

    found = [face(100, 60, 0.0), face(400, 60, 0.0)]
    points, scores = average_views(predict, Landmarks(np.array(found, np.float32), np.full((2, 98), 0.8, np.float32)))
    side = sides[0] / VIEW_SCALES[0]
    assert sides == pytest.approx([side * scale for scale in VIEW_SCALES for _ in found])
    np.testing.assert_allclose(points[0], face(100 + (0.4 * 3 + 0.8 * 9) / 2, 60, 0.0), atol=0.01)
    np.testing.assert_allclose(points[1], face(400 + 0.8 * 3 / 1.6, 60, 0.0), atol=0.01)
    np.testing.assert_allclose(scores.mean(1), (2 / 3, 1.6 / 3), atol=1e-6)


def test_no_regions_give_no_faces():
    predict = FakePredict((100, 60, 0.0))
    points, scores = average_views(predict, refine_landmarks(predict, []))
    assert (len(points), len(scores)) == (0, 0)


class Fault:
    """A backend that gives one face impossible values, and the other face good ones."""

    size = 64

    def __init__(self, points=None, scores=None):
        self.points, self.scores = points, scores

    def predict(self, crops):
        points = np.stack([10 + 40 * SHAPE] * len(crops)).astype(np.float32)
        scores = np.full((len(crops), 98), 0.9, np.float32)
        if self.points is not None:
            points[0] = self.points
        if self.scores is not None:
            scores[0, 5] = self.scores
        return points, scores


@pytest.mark.parametrize(
    "fault",
    [
        {"points": np.nan},
        {"points": 1e38},
        {"points": np.inf},
        {"points": 7.0},  # all at one place
        {"points": 10 + 400 * SHAPE},  # far outside the region
        {"scores": np.nan},
        {"scores": 2.0},
        {"scores": -1.0},
    ],
    ids=["nan", "huge", "infinite", "constant", "far", "score nan", "score above 1", "score below 0"],
)
def test_impossible_values_give_the_face_score_0_and_leave_the_other_face(fault):
    rois = [Roi(100, 100, 80, 0.3), Roi(300, 100, 80)]
    found = predict_landmarks(Fault(**fault), np.zeros((200, 400, 3), np.uint8), rois)
    assert (found.scores[0] == 0).all()
    np.testing.assert_array_equal(found.points[0], np.broadcast_to([100, 100], (98, 2)))
    np.testing.assert_allclose(found.scores[1], 0.9)
    assert (np.ptp(found.points[1], axis=0) > 40).all()


@pytest.mark.parametrize("axis", [0, 1], ids=["x", "y"])
def test_nan_in_one_coordinate_of_a_backend_that_crops_itself_is_impossible(axis):
    class Cropping(Fault):
        def predict_regions(self, image, rois):
            points, scores = self.predict(rois)
            points[0, 7, axis] = np.nan
            return points, scores

    found = predict_landmarks(Cropping(), np.zeros((200, 400, 3), np.uint8), [Roi(30, 30, 64), Roi(30, 30, 64)])
    assert np.isfinite(found.points).all()
    assert found.scores[:, 0].tolist() == pytest.approx([0, 0.9])


def test_points_in_the_corners_of_the_region_are_possible():
    corners = np.zeros((98, 2), np.float32)
    corners[1::2] = 63
    found = predict_landmarks(Fault(points=corners), np.zeros((200, 400, 3), np.uint8), [Roi(100, 100, 80, 0.3)])
    np.testing.assert_allclose(found.scores, 0.9)
