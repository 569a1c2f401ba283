"""Scores of measures, and what a bad frame must not change."""

import math

import numpy as np
import pytest

from canthus.runtime.measures import Measurer, measurer
from support.heads import SIZE, measured_faces

AHEAD = ((0, 0, 0), (0, 0, 600))


def measure(points, score=0.9, times=(0.0,)):
    """Return the measures of the last of several equal frames."""
    known, found = Measurer(), None
    for seconds in times:
        found = known.update(points, np.full(points.shape[:2], score, np.float32), np.zeros(1, int), seconds, SIZE)
    return found


@pytest.mark.parametrize(("yaw", "factor"), [(0, 1.0), (55, 1.0), (75, 0.875)])
def test_score_of_the_pose_falls_beyond_60_degrees_of_yaw(yaw, factor):
    measures = measured_faces(((yaw, 0, 0), (0, 0, 600))).measures
    assert measures.pose_score[0] == pytest.approx(0.9 * factor, abs=0.02)


@pytest.mark.parametrize(("error", "score", "goes_on"), [(0.9, 0.9, True), (3.0, 0.18, True), (4.5, 0.068, False)])
def test_points_that_do_not_fit_lower_the_score_and_the_next_fit_starts_again(monkeypatch, error, score, goes_on):
    points, poses, fit = measured_faces(AHEAD).points, [], measurer.fit_pose

    def fitted(head, lines, scores, offsets, before):
        poses.append(before)
        return fit(head, lines, scores, offsets, before)._replace(error=error)

    monkeypatch.setattr(measurer, "fit_pose", fitted)
    measures = measure(points, times=(0.0, 0.1))
    assert measures.pose_score[0] == pytest.approx(score, abs=0.01)
    assert poses[0] is None
    assert (poses[1] is not None) == goes_on


def test_an_eye_turns_by_50_degrees_at_most():
    for place in (100.0, -100.0):
        for sine in measurer._sines((place, place), (0.0, 0.0)):
            assert abs(math.degrees(math.asin(sine))) == pytest.approx(50, abs=0.5)


def test_gaze_of_closed_eyes_has_no_score():
    points = measured_faces(AHEAD).points.copy()
    assert measure(points).gaze_score[0] == pytest.approx(0.25 * 0.9, abs=0.03)
    points[:, [61, 62, 63, 69, 70, 71]] = points[:, [67, 66, 65, 75, 74, 73]]
    assert measure(points).gaze_score[0] < 0.01


@pytest.mark.parametrize(("score", "calibrated"), [(0.9, 1.0), (0.4, 0.0)])
def test_points_with_low_scores_are_no_neutral_face(score, calibrated):
    times = np.arange(70) / 30
    assert measure(measured_faces(AHEAD).points, score, times).calibrated[0] == pytest.approx(calibrated)
