"""Occluders cover a part of the face, for all point schemes and places, and change nothing else."""

import dataclasses

import numpy as np
import pytest

from canthus.trainer.augmentation.augment import augment, sample_transform
from canthus.trainer.augmentation.occluders import IMAGE_SIDE, draw_occluder
from canthus.trainer.augmentation.settings import NO_AUGMENTATION
from canthus.trainer.faces.schemes import COFW, W300, WFLW, Scheme
from support.shape import SHAPE

COVERED = dataclasses.replace(NO_AUGMENTATION, occluder_p=1)
DRAWN = 60


def face(scheme: Scheme, size: int) -> np.ndarray:
    """Return points (K, 2) of a face in the center of a crop; except for WFLW, only the eyes are plausible."""
    points = (0.2 + 0.6 * SHAPE) * size
    if scheme is WFLW:
        return points.astype(np.float32)
    selected = points[np.linspace(0, 95, scheme.points).astype(int)]
    for own, known in zip(scheme.eyes, WFLW.eyes, strict=True):
        selected[list(own)] = points[list(known)].mean(0)
    return selected.astype(np.float32)


@pytest.mark.parametrize("scheme", [WFLW, COFW, W300], ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("size", [64, 256])
def test_most_occluders_cover_some_of_the_face_and_none_covers_all(scheme, size):
    points = face(scheme, size)
    low, high = (points.min(0) * IMAGE_SIDE / size).astype(int), (points.max(0) * IMAGE_SIDE / size).astype(int)
    hidden = []
    for seed in range(DRAWN):
        opacity = draw_occluder(points, size, np.random.default_rng(seed)).image[low[1] : high[1], low[0] : high[0], 3]
        hidden.append(opacity.mean() / 255)
    assert np.mean(np.array(hidden) > 0.02) > 0.8
    assert 0.1 < np.mean(hidden) < 0.4
    assert max(hidden) < 0.95


def test_pixels_outside_the_occluder_stay_unchanged():
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (IMAGE_SIDE, IMAGE_SIDE, 3)).astype(np.uint8)
    points = face(WFLW, IMAGE_SIDE)
    for seed in range(DRAWN):
        change = sample_transform(points, IMAGE_SIDE, COVERED, np.random.default_rng(seed))
        plain, _ = augment(image, points, IMAGE_SIDE, NO_AUGMENTATION, np.random.default_rng(seed))
        covered, moved = augment(image, points, IMAGE_SIDE, COVERED, np.random.default_rng(seed))
        opacity = change.appearance.occluder.image[..., 3]
        np.testing.assert_array_equal(covered[opacity == 0], plain[opacity == 0])
        assert (covered != plain).any()
        assert np.isfinite(moved).all()


def test_hand_is_tinted_by_the_color_of_the_face():
    points = face(WFLW, IMAGE_SIDE)
    checked = 0
    for seed in range(DRAWN):
        occluder = draw_occluder(points, IMAGE_SIDE, np.random.default_rng(seed))
        if occluder.skin is None:
            continue
        checked += 1
        x, y = occluder.skin
        assert (points.min(0) < (x, y)).all()
        assert (points.max(0) > (x, y)).all()
        opaque = occluder.image[occluder.image[..., 3] == 255][:, :3]
        assert opaque.std(1).mean() < 20  # gray: all color comes from the skin
    assert checked > DRAWN / 6


def test_occluder_follows_the_roll_of_the_face():
    points = face(WFLW, IMAGE_SIDE)
    center = (IMAGE_SIDE - 1) / 2
    turned = np.stack([2 * center - points[:, 1], points[:, 0]], 1)  # a quarter turn
    for seed in range(DRAWN):
        upright = draw_occluder(points, IMAGE_SIDE, np.random.default_rng(seed)).image[..., 3]
        leaning = draw_occluder(turned, IMAGE_SIDE, np.random.default_rng(seed)).image[..., 3]
        assert np.abs(np.rot90(upright, -1).astype(int) - leaning).mean() < 4
