import dataclasses

import numpy as np
import pytest

from canthus.runtime.smooth import Smoother
from canthus.runtime.types import Faces
from support.shape import SHAPE


def one_face(points, face=0):
    return Faces(points[None].astype(np.float32), np.ones((1, 98), np.float32), np.array([face]))


def run(path, seconds):
    smoother = Smoother()
    return np.stack(
        [smoother.smooth(one_face(points), time).points[0] for points, time in zip(path, seconds, strict=True)]
    )


@pytest.mark.parametrize("rate", [15, 30, 60])
def test_a_still_face_trembles_half_as_much_or_less(rate):
    rng = np.random.default_rng(0)
    noisy = SHAPE * 150 + 100 + rng.normal(0, 0.8, (90, 98, 2))
    calm = run(noisy, np.arange(90) / rate)
    assert np.abs(np.diff(calm[10:], axis=0)).mean() < 0.5 * np.abs(np.diff(noisy[10:], axis=0)).mean()


def test_a_moving_face_is_not_late_by_more_than_a_frame():
    seconds = np.arange(60) / 30
    speed = 300  # pixels a second: two face widths
    path = SHAPE * 150 + np.stack([100 + speed * seconds, np.full(60, 80)], 1)[:, None]
    late = (path - run(path, seconds))[20:, :, 0].mean() / speed
    assert late < 1 / 30


def test_the_first_look_at_a_face_is_taken_as_it_is():
    assert np.allclose(run((SHAPE * 50)[None], [3.0])[0], SHAPE * 50)


def test_a_face_that_was_gone_starts_anew():
    smoother = Smoother()
    smoother.smooth(one_face(SHAPE * 50), 0.0)
    smoother.smooth(Faces.none(), 0.1)
    assert np.allclose(smoother.smooth(one_face(SHAPE * 80), 0.2).points[0], SHAPE * 80)


def test_time_that_runs_backwards_starts_anew():
    smoother = Smoother()
    smoother.smooth(one_face(SHAPE * 50), 5.0)
    assert np.allclose(smoother.smooth(one_face(SHAPE * 80), 1.0).points[0], SHAPE * 80)


def test_near_and_far_faces_are_treated_alike():
    rng = np.random.default_rng(1)
    path, seconds = SHAPE + rng.normal(0, 0.01, (20, 98, 2)), np.arange(20) / 30
    assert np.allclose(run(path * 40, seconds) * 10, run(path * 400, seconds), rtol=1e-3, atol=1e-2)


def test_each_face_keeps_its_own_memory_where_another_leaves():
    points = np.stack([SHAPE * 50, SHAPE * 50 + 200]).astype(np.float32)
    both = Faces(points, np.ones((2, 98), np.float32), np.array([4, 7]))
    smoother, alone = Smoother(), Smoother()
    smoother.smooth(both, 0.0)
    alone.smooth(one_face(SHAPE * 50 + 200, 7), 0.0)
    moved = one_face(SHAPE * 50 + 203, 7)
    calm = smoother.smooth(moved, 0.1).points
    assert np.allclose(calm, alone.smooth(moved, 0.1).points)
    assert not np.allclose(calm, moved.points)


def test_a_second_look_at_the_same_moment_is_taken_as_it_is():
    assert np.allclose(run(np.stack([SHAPE * 50, SHAPE * 80]), [1.0, 1.0])[1], SHAPE * 80)


def test_smoothing_changes_the_points_only():
    faces = Faces(SHAPE[None] * 50, np.full((1, 98), 0.5, np.float32), np.array([3]), np.float32([0.8]))
    smoother = Smoother()
    smoother.smooth(faces, 0.0)
    moved = smoother.smooth(dataclasses.replace(faces, points=faces.points + 1), 0.1)
    assert not np.array_equal(moved.points, faces.points)
    assert (moved.scores == 0.5).all()
    assert moved.ids.tolist() == [3]
    assert moved.detection_scores == np.float32(0.8)
