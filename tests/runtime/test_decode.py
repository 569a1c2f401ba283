import numpy as np
import pytest

from canthus.runtime.decode import REACH, decode, encode


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


def test_cells_have_a_say_by_their_scores_and_by_their_way_from_the_core():
    scores, offsets = np.zeros((1, 1, 8, 24), np.float32), np.zeros((1, 2, 1, 8, 24), np.float32)
    scores[0, 0, 3, 3], scores[0, 0, 3, 4] = 0.6, 0.2
    scores[0, 0, 2, 3] = -5  # counts as nothing
    # The core is cell 3 alone, as 0.2 is less than half of 0.6; cell 4 lies one cell from it, and tells that much less.
    says = 0.2 * np.exp(-1 / (2 * REACH**2))
    alone = 3 + says / (0.6 + says)
    assert decode(scores, offsets, stride=4)[0][0, 0] == pytest.approx((4 * alone, 4 * 3), abs=5e-3)
    scores[0, 0, 3, 20] = 0.29  # a weaker place, far away
    assert decode(scores, offsets, stride=4)[0][0, 0] == pytest.approx((4 * alone, 4 * 3), abs=5e-3)


def test_a_point_moves_little_where_its_maps_change_little():
    # Two places that are nearly equal, near or far: whichever is higher, the point stays where it is.
    for apart in (1, 2, 3, 5):  # cells
        (left, to_left), (right, to_right) = (
            encode(np.array([[[62.0 + 2 * side * apart, 50.0]]], np.float32), 32, 4, sigma=1.5) for side in (-1, 1)
        )
        offsets = np.where(left > right, to_left, to_right)
        one, other, published, leapt = (
            decode((0.5 - tilt) * left + (0.5 + tilt) * right, offsets, 4, reach)[0]
            for reach in (REACH, 0)
            for tilt in (-1e-3, 1e-3)
        )
        assert np.abs(one - other).max() < 0.2
    assert np.abs(published - leapt).max() == pytest.approx(20, abs=0.1)


def test_rounding_to_fp16_moves_no_point_of_maps_without_a_clear_peak():
    rng = np.random.default_rng(1)
    points = rng.uniform(30, 98, (6, 98, 2)).astype(np.float32)
    scores, offsets = encode(np.round(points / 4) * 4 + 2, 32, 4, 2.5)  # four cells at the top, all equal
    scores = scores + rng.normal(0, 2e-4, scores.shape).astype(np.float32)
    offsets = offsets + rng.normal(0, 0.3, offsets.shape).astype(np.float32)
    rounded = [values.astype(np.float16).astype(np.float32) for values in (scores, offsets)]
    moved, published = (
        np.abs(decode(scores, offsets, 4, reach)[0] - decode(*rounded, 4, reach)[0]).max() for reach in (REACH, 0)
    )
    assert moved < 0.02
    assert published > 0.5


def test_noise_of_the_offsets_averages_out():
    rng = np.random.default_rng(0)
    points = rng.uniform(20, 100, (4, 98, 2)).astype(np.float32)
    scores, offsets = encode(points, size=32, stride=4, sigma=1.5)
    offsets = offsets + rng.normal(0, 0.5, offsets.shape).astype(np.float32)
    mean, alone = (decode(scores, offsets, 4, reach)[0] - points for reach in (REACH, 0))
    assert np.abs(mean).mean() < 0.5 * np.abs(alone).mean()


def test_the_published_decode_gives_ties_to_the_first_cell():
    scores = np.zeros((1, 1, 8, 8), np.float32)
    scores[0, 0, 2, 5] = scores[0, 0, 6, 1] = 0.7
    points, peaks = decode(scores, np.zeros((1, 2, 1, 8, 8), np.float32), stride=4, reach=0)
    assert points[0, 0].tolist() == [20.0, 8.0]
    assert peaks[0, 0] == pytest.approx(0.7)


def test_a_map_without_a_positive_score_still_gives_a_point():
    scores, offsets = np.full((1, 2, 8, 8), -0.5, np.float32), np.zeros((1, 2, 2, 8, 8), np.float32)
    scores[0, 1] = 0
    points, peaks = decode(scores, offsets, stride=4)
    np.testing.assert_allclose(points, 4 * 3.5, atol=1e-4)  # the middle
    assert peaks.tolist() == [[0.0, 0.0]]


def test_scores_stay_within_zero_and_one():
    scores = np.full((1, 2, 4, 4), -3.0, np.float32)
    scores[0, 1] = 1.5
    assert decode(scores, np.zeros((1, 2, 2, 4, 4), np.float32), 4)[1].tolist() == [[0.0, 1.0]]


def test_no_faces_is_not_a_special_case():
    points, scores = decode(np.zeros((0, 98, 8, 8), np.float32), np.zeros((0, 2, 98, 8, 8), np.float32), 4)
    assert points.shape == (0, 98, 2)
    assert scores.shape == (0, 98)
