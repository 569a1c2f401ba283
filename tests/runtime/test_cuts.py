"""Thumbnails of frames, and the cuts that are found with them."""

import numpy as np
import pytest

from canthus.runtime.cuts import CutDetector, thumbnail


@pytest.mark.parametrize("size", [(720, 1280), (1080, 1920), (360, 640), (200, 255), (33, 129), (32, 128)])
def test_thumbnail_has_the_means_of_its_parts(size):
    rows, columns = (np.linspace(0, 100, side)[:, None] for side in size)
    image = np.zeros((*size, 3), np.uint8)
    image[..., 1] = np.round(rows + columns.T)
    centers = np.linspace(0, 100, 17)[1::2]
    np.testing.assert_allclose(thumbnail(image), centers[:, None] + centers, atol=6)


@pytest.mark.parametrize("size", [(1, 1), (2, 700), (700, 1), (9, 9)])
def test_thumbnail_of_a_tiny_image_has_the_same_size(size):
    assert (thumbnail(np.full((*size, 3), 77, np.uint8)) == np.full((8, 8), 77)).all()


def test_only_another_scene_is_a_cut():
    rng = np.random.default_rng(0)
    one, other = (np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((20, 40, 1))).astype(np.uint8) for _ in range(2))
    frames = [one, one // 2, np.zeros_like(one), one, other, other]
    detector = CutDetector(thumbnail)
    assert [detector.is_cut(frame) for frame in frames] == [False, False, False, False, True, False]


def test_an_empty_image_is_no_cut():
    assert not CutDetector(thumbnail).is_cut(np.zeros((0, 10, 3), np.uint8))
