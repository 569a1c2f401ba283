import numpy as np
import pytest

from canthus.runtime.decode import decode, encode


def test_decode_undoes_encode():
    points = np.random.default_rng(0).uniform(2, 125, (3, 98, 2)).astype(np.float32)
    scores, offsets = encode(points, size=32, stride=4, sigma=1.5)
    found, peaks = decode(scores, offsets, stride=4)
    assert np.allclose(found, points, atol=1e-3)
    assert (peaks > 0.75).all()


def test_a_point_outside_the_crop_is_still_placed_by_its_offsets():
    points = np.array([[[-6.0, 140.0]]], np.float32)
    scores, offsets = encode(points, size=32, stride=4, sigma=2.0)
    assert decode(scores, offsets, stride=4)[0] == pytest.approx(points, abs=1e-3)


def test_the_published_decode_reads_the_peak_alone():
    rng = np.random.default_rng(0)
    scores, offsets = rng.random((2, 3, 8, 8), np.float32), rng.normal(size=(2, 2, 3, 8, 8)).astype(np.float32)
    points, _ = decode(scores, offsets, stride=4, reach=0)
    for face, point in np.ndindex(2, 3):
        y, x = np.unravel_index(scores[face, point].argmax(), (8, 8))
        assert points[face, point] == pytest.approx((np.array([x, y]) + offsets[face, :, point, y, x]) * 4, abs=1e-4)


def test_neighbours_have_a_say_by_their_scores():
    scores, offsets = np.zeros((1, 1, 8, 8), np.float32), np.zeros((1, 2, 1, 8, 8), np.float32)
    scores[0, 0, 3, 3], scores[0, 0, 3, 4], scores[0, 0, 3, 7] = 0.6, 0.2, 0.5
    # Cell 3 weighs three times as much as cell 4; cell 7 is out of reach, and negative scores count for nothing.
    scores[0, 0, 2, 3] = -5
    assert decode(scores, offsets, stride=4)[0][0, 0] == pytest.approx((4 * 3.25, 4 * 3), abs=1e-4)


def test_noise_of_the_offsets_averages_out():
    rng = np.random.default_rng(0)
    points = rng.uniform(20, 100, (4, 98, 2)).astype(np.float32)
    scores, offsets = encode(points, size=32, stride=4, sigma=1.5)
    offsets = offsets + rng.normal(0, 0.5, offsets.shape).astype(np.float32)
    mean, alone = (decode(scores, offsets, 4, reach)[0] - points for reach in (2, 0))
    assert np.abs(mean).mean() < 0.5 * np.abs(alone).mean()


def test_ties_go_to_the_first_cell():
    scores = np.zeros((1, 1, 8, 8), np.float32)
    scores[0, 0, 2, 5] = scores[0, 0, 6, 1] = 0.7  # too far apart to share a window
    points, peaks = decode(scores, np.zeros((1, 2, 1, 8, 8), np.float32), stride=4)
    assert points[0, 0].tolist() == [20.0, 8.0]
    assert peaks[0, 0] == pytest.approx(0.7)


def test_scores_stay_within_zero_and_one():
    scores = np.full((1, 2, 4, 4), -3.0, np.float32)
    scores[0, 1] = 1.5
    assert decode(scores, np.zeros((1, 2, 2, 4, 4), np.float32), 4)[1].tolist() == [[0.0, 1.0]]


def test_no_faces_is_not_a_special_case():
    points, scores = decode(np.zeros((0, 98, 8, 8), np.float32), np.zeros((0, 2, 98, 8, 8), np.float32), 4)
    assert points.shape == (0, 98, 2)
    assert scores.shape == (0, 98)
