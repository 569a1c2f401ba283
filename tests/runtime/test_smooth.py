"""The One Euro filter: less jitter, little lag, and a state per face."""

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
def test_jitter_of_a_still_face_is_halved(rate):
    rng = np.random.default_rng(0)
    noisy = SHAPE * 150 + 100 + rng.normal(0, 0.8, (90, 98, 2))
    smoothed = run(noisy, np.arange(90) / rate)
    assert np.abs(np.diff(smoothed[10:], axis=0)).mean() < 0.5 * np.abs(np.diff(noisy[10:], axis=0)).mean()


def test_lag_of_a_moving_face_is_below_one_frame():
    seconds = np.arange(60) / 30
    speed = 300  # pixels per second: two face widths
    path = SHAPE * 150 + np.stack([100 + speed * seconds, np.full(60, 80)], 1)[:, None]
    lag = (path - run(path, seconds))[20:, :, 0].mean() / speed
    assert lag < 1 / 30  # seconds


def test_eyelid_that_closes_on_a_still_face_lags_by_less_than_a_third_of_its_way():
    path = np.repeat(SHAPE[None] * 150 + 100, 20, axis=0)
    path[10:, 61:64, 1] += np.minimum(np.arange(1, 11) * 3, 9)[:, None]  # 9 pixels in three frames
    smoothed = run(path, np.arange(20) / 30)
    lag = (path - smoothed)[12, 61:64, 1]
    assert (lag < 3).all()
    assert np.abs((path - smoothed)[:, :60]).max() < 0.01


def test_new_face_is_not_changed():
    assert np.allclose(run((SHAPE * 50)[None], [3.0])[0], SHAPE * 50)


def test_face_that_returns_is_not_smoothed_with_old_points():
    smoother = Smoother()
    smoother.smooth(one_face(SHAPE * 50), 0.0)
    smoother.smooth(Faces.none(), 0.1)
    assert np.allclose(smoother.smooth(one_face(SHAPE * 80), 0.2).points[0], SHAPE * 80)


def test_face_after_a_step_back_in_time_is_not_changed():
    smoother = Smoother()
    smoother.smooth(one_face(SHAPE * 50), 5.0)
    assert np.allclose(smoother.smooth(one_face(SHAPE * 80), 1.0).points[0], SHAPE * 80)


@pytest.mark.parametrize("jump", [60.0, 1e300, 1.7e308, -1e300, 5e-324], ids=str)
def test_face_after_any_jump_in_time_is_not_changed_and_smoothed_again_afterwards(jump):
    smoother = Smoother()
    smoother.smooth(one_face(SHAPE * 50), 0.0)
    for _ in range(2):
        assert np.array_equal(smoother.smooth(one_face(SHAPE * 80), jump).points[0], (SHAPE * 80).astype(np.float32))
    smoother.smooth(one_face(SHAPE * 80), 0.0)
    after = smoother.smooth(one_face(SHAPE * 80 + 1), 0.1).points[0]
    assert (after > SHAPE * 80).all()
    assert (after < SHAPE * 80 + 1).all()


def test_face_with_nan_is_smoothed_as_a_new_face_afterwards():
    smoother = Smoother()
    smoother.smooth(one_face(SHAPE * 50 * np.nan), 0.0)
    assert np.isfinite(smoother.smooth(one_face(SHAPE * 50), 0.1).points).all()


def test_smoothing_does_not_depend_on_the_size_of_the_face():
    rng = np.random.default_rng(1)
    path, seconds = SHAPE + rng.normal(0, 0.01, (20, 98, 2)), np.arange(20) / 30
    assert np.allclose(run(path * 40, seconds) * 10, run(path * 400, seconds), rtol=1e-3, atol=1e-2)


def test_faces_do_not_affect_each_other():
    points = np.stack([SHAPE * 50, SHAPE * 50 + 200]).astype(np.float32)
    both = Faces(points, np.ones((2, 98), np.float32), np.array([4, 7]))
    smoother, alone = Smoother(), Smoother()
    smoother.smooth(both, 0.0)
    alone.smooth(one_face(SHAPE * 50 + 200, 7), 0.0)
    moved = one_face(SHAPE * 50 + 203, 7)
    smoothed = smoother.smooth(moved, 0.1).points
    assert np.allclose(smoothed, alone.smooth(moved, 0.1).points)
    assert not np.allclose(smoothed, moved.points)


def test_face_at_the_same_time_is_not_changed():
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


def test_faces_are_smoothed_as_each_alone_while_they_come_and_go():
    rng = np.random.default_rng(3)
    paths = SHAPE * 100 + rng.normal(0, 0.8, (12, 3, 98, 2)).cumsum(0) + 50
    present = [[0, 1], [0, 1], [0, 1, 2], [1, 2], [1, 2], [0, 1, 2], [0, 2], [0, 2], [0, 1, 2], [2], [0, 2], [0, 1, 2]]
    together, alone = Smoother(), [Smoother() for _ in range(3)]
    for step, ids in enumerate(present):
        every = [
            Faces(paths[step, [face]].astype(np.float32), np.ones((1, 98), np.float32), np.array([face], np.int64))
            for face in range(3)
        ]
        faces = Faces(paths[step, ids].astype(np.float32), np.ones((len(ids), 98), np.float32), np.array(ids, np.int64))
        smoothed = together.smooth(faces, step / 30)
        for face in range(3):
            own = alone[face].smooth(every[face] if face in ids else Faces.none(), step / 30)
            if face in ids:
                assert np.array_equal(smoothed.points[ids.index(face)], own.points[0])
