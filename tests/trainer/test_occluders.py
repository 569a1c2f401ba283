"""Things drawn before a face: they hide some of it, wherever it lies and however it is marked, and nothing else."""

import dataclasses

import numpy as np
import pytest

from canthus.trainer.augmentation.augment import NO_AUGMENTATION, augment, sample_transform
from canthus.trainer.augmentation.occluders import IMAGE_SIDE, draw_occluder
from canthus.trainer.faces.schemes import COFW, W300, WFLW, Scheme
from support.shape import SHAPE

COVERED = dataclasses.replace(NO_AUGMENTATION, occluder_p=1)
DRAWN = 60


def face(scheme: Scheme, size: int) -> np.ndarray:
    """Points (K, 2) of a face in the middle of a crop; but for WFLW's, only the eyes lie where they belong."""
    points = (0.2 + 0.6 * SHAPE) * size
    if scheme is WFLW:
        return points.astype(np.float32)
    chosen = points[np.linspace(0, 95, scheme.points).astype(int)]
    for own, known in zip(scheme.eyes, WFLW.eyes, strict=True):
        chosen[list(own)] = points[list(known)].mean(0)
    return chosen.astype(np.float32)


@pytest.mark.parametrize("scheme", [WFLW, COFW, W300], ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("size", [64, 256])
def test_a_cover_hides_some_of_the_face_most_of_the_time_and_never_all(scheme, size):
    points = face(scheme, size)
    low, high = (points.min(0) * IMAGE_SIDE / size).astype(int), (points.max(0) * IMAGE_SIDE / size).astype(int)
    hidden = []
    for seed in range(DRAWN):
        opacity = draw_occluder(points, size, np.random.default_rng(seed)).image[low[1] : high[1], low[0] : high[0], 3]
        hidden.append(opacity.mean() / 255)
    assert np.mean(np.array(hidden) > 0.02) > 0.8
    assert 0.1 < np.mean(hidden) < 0.4
    assert max(hidden) < 0.95


def test_what_is_not_covered_stays_as_it_is():
    rng = np.random.default_rng(1)
    picture = rng.integers(0, 256, (IMAGE_SIDE, IMAGE_SIDE, 3)).astype(np.uint8)
    points = face(WFLW, IMAGE_SIDE)
    for seed in range(DRAWN):
        change = sample_transform(points, IMAGE_SIDE, COVERED, np.random.default_rng(seed))
        plain, _ = augment(picture, points, IMAGE_SIDE, NO_AUGMENTATION, np.random.default_rng(seed))
        covered, moved = augment(picture, points, IMAGE_SIDE, COVERED, np.random.default_rng(seed))
        opacity = change.appearance.occluder.image[..., 3]
        np.testing.assert_array_equal(covered[opacity == 0], plain[opacity == 0])
        assert (covered != plain).any()
        assert np.isfinite(moved).all()


def test_a_hand_has_the_colour_of_the_face():
    points = face(WFLW, IMAGE_SIDE)
    seen = 0
    for seed in range(DRAWN):
        cover = draw_occluder(points, IMAGE_SIDE, np.random.default_rng(seed))
        if cover.skin is None:
            continue
        seen += 1
        x, y = cover.skin
        assert (points.min(0) < (x, y)).all()
        assert (points.max(0) > (x, y)).all()
        whole = cover.image[cover.image[..., 3] == 255][:, :3]
        assert whole.std(1).mean() < 20  # no colour but the skin's own
    assert seen > DRAWN / 6


def test_a_cover_follows_the_face_when_it_leans():
    points = face(WFLW, IMAGE_SIDE)
    middle = (IMAGE_SIDE - 1) / 2
    turned = np.stack([2 * middle - points[:, 1], points[:, 0]], 1)  # a quarter turn
    for seed in range(DRAWN):
        upright = draw_occluder(points, IMAGE_SIDE, np.random.default_rng(seed)).image[..., 3]
        leaning = draw_occluder(turned, IMAGE_SIDE, np.random.default_rng(seed)).image[..., 3]
        assert np.abs(np.rot90(upright, -1).astype(int) - leaning).mean() < 4
