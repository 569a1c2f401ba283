"""`encode` and `decode` are inverse; `decode` is continuous in the maps and averages their noise."""

import numpy as np
import pytest

from canthus.runtime.decode import WINDOW_SIGMA, decode, encode

PUBLISHED = 0
"""The `window_sigma` of the published decoder."""


def test_decode_inverts_encode():
    points = np.random.default_rng(0).uniform(2, 125, (3, 98, 2)).astype(np.float32)
    scores, offsets = encode(points, size=32, stride=4, sigma=1.5)
    found, found_scores = decode(scores, offsets, stride=4)
    assert np.allclose(found, points, atol=1e-3)
    assert (found_scores > 0.75).all()


def test_offsets_place_a_point_outside_the_crop():
    points = np.array([[[-6.0, 140.0]]], np.float32)
    scores, offsets = encode(points, size=32, stride=4, sigma=2.0)
    assert decode(scores, offsets, stride=4)[0] == pytest.approx(points, abs=1e-3)


def test_published_decoder_uses_the_highest_cell_only():
    rng = np.random.default_rng(0)
    scores, offsets = rng.random((2, 3, 8, 8), np.float32), rng.normal(size=(2, 2, 3, 8, 8)).astype(np.float32)
    points, _ = decode(scores, offsets, 4, PUBLISHED)
    for face, point in np.ndindex(2, 3):
        y, x = np.unravel_index(scores[face, point].argmax(), (8, 8))
        assert points[face, point] == pytest.approx((np.array([x, y]) + offsets[face, :, point, y, x]) * 4, abs=1e-4)


def test_published_decoder_uses_the_first_of_equal_cells():
    scores = np.zeros((1, 1, 8, 8), np.float32)
    scores[0, 0, 2, 5] = scores[0, 0, 6, 1] = 0.7
    points, found_scores = decode(scores, np.zeros((1, 2, 1, 8, 8), np.float32), 4, PUBLISHED)
    assert points[0, 0].tolist() == [20.0, 8.0]
    assert found_scores[0, 0] == pytest.approx(0.7)


def test_cells_are_weighted_by_score_and_distance_from_the_core():
    scores, offsets = np.zeros((1, 1, 8, 24), np.float32), np.zeros((1, 2, 1, 8, 24), np.float32)
    scores[0, 0, 3, 3], scores[0, 0, 3, 4] = 0.6, 0.2
    scores[0, 0, 2, 3] = -5  # counts as 0
    # The core is cell 3 alone, as 0.2 is below half of 0.6. Cell 4 is one cell from it.
    weight = 0.2 * np.exp(-1 / (2 * WINDOW_SIGMA**2))
    x = 3 + weight / (0.6 + weight)
    assert decode(scores, offsets, stride=4)[0][0, 0] == pytest.approx((4 * x, 4 * 3), abs=5e-3)
    scores[0, 0, 3, 20] = 0.29  # a lower maximum, far away
    assert decode(scores, offsets, stride=4)[0][0, 0] == pytest.approx((4 * x, 4 * 3), abs=5e-3)


def test_point_does_not_jump_between_two_almost_equal_maxima():
    """Whichever of two maxima is higher, near or far, the point stays the same; the published decoder jumps."""
    for distance in (1, 2, 3, 5):  # cells from the middle
        (left, to_left), (right, to_right) = (
            encode(np.array([[[62.0 + 2 * side * distance, 50.0]]], np.float32), 32, 4, sigma=1.5) for side in (-1, 1)
        )
        offsets = np.where(left > right, to_left, to_right)
        one, other, published, published_other = (
            decode((0.5 - tilt) * left + (0.5 + tilt) * right, offsets, 4, window_sigma)[0]
            for window_sigma in (WINDOW_SIGMA, PUBLISHED)
            for tilt in (-1e-3, 1e-3)
        )
        assert np.abs(one - other).max() < 0.2
    assert np.abs(published - published_other).max() == pytest.approx(20, abs=0.1)


def test_rounding_to_fp16_moves_no_point_of_flat_maps():
    rng = np.random.default_rng(1)
    points = rng.uniform(30, 98, (6, 98, 2)).astype(np.float32)
    scores, offsets = encode(np.round(points / 4) * 4 + 2, 32, 4, 2.5)  # the four highest cells are equal
    scores = scores + rng.normal(0, 2e-4, scores.shape).astype(np.float32)
    offsets = offsets + rng.normal(0, 0.3, offsets.shape).astype(np.float32)
    rounded = [values.astype(np.float16).astype(np.float32) for values in (scores, offsets)]
    moved, published = (
        np.abs(decode(scores, offsets, 4, window_sigma)[0] - decode(*rounded, 4, window_sigma)[0]).max()
        for window_sigma in (WINDOW_SIGMA, PUBLISHED)
    )
    assert moved < 0.02
    assert published > 0.5


def test_noise_of_the_offsets_is_averaged():
    rng = np.random.default_rng(0)
    points = rng.uniform(20, 100, (4, 98, 2)).astype(np.float32)
    scores, offsets = encode(points, size=32, stride=4, sigma=1.5)
    offsets = offsets + rng.normal(0, 0.5, offsets.shape).astype(np.float32)
    error, published = (
        np.abs(decode(scores, offsets, 4, window_sigma)[0] - points).mean()
        for window_sigma in (WINDOW_SIGMA, PUBLISHED)
    )
    assert error < 0.5 * published


def test_map_without_a_positive_score_has_a_finite_point():
    scores, offsets = np.full((1, 2, 8, 8), -0.5, np.float32), np.zeros((1, 2, 2, 8, 8), np.float32)
    scores[0, 1] = 0
    points, found_scores = decode(scores, offsets, stride=4)
    np.testing.assert_allclose(points, 4 * 3.5, atol=1e-4)  # the center
    assert found_scores.tolist() == [[0.0, 0.0]]


def test_scores_are_clipped_to_0_and_1():
    scores = np.full((1, 2, 4, 4), -3.0, np.float32)
    scores[0, 1] = 1.5
    assert decode(scores, np.zeros((1, 2, 2, 4, 4), np.float32), 4)[1].tolist() == [[0.0, 1.0]]


def test_no_faces_give_empty_arrays():
    points, scores = decode(np.zeros((0, 98, 8, 8), np.float32), np.zeros((0, 2, 98, 8, 8), np.float32), 4)
    assert points.shape == (0, 98, 2)
    assert scores.shape == (0, 98)


@pytest.mark.parametrize("window_sigma", [WINDOW_SIGMA, PUBLISHED])
def test_swapping_the_axes_of_the_maps_swaps_x_and_y(window_sigma):
    rng = np.random.default_rng(0)
    scores, offsets = rng.random((2, 3, 9, 9), np.float32), rng.normal(size=(2, 2, 3, 9, 9)).astype(np.float32)
    points, found_scores = decode(scores, offsets, 4, window_sigma)
    swapped, swapped_scores = decode(scores.swapaxes(2, 3), offsets[:, ::-1].swapaxes(3, 4), 4, window_sigma)
    assert swapped[..., ::-1] == pytest.approx(points, abs=1e-4)
    assert np.array_equal(swapped_scores, found_scores)
