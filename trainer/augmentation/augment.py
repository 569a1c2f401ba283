"""Augment training faces: move, mirror and distort them, and change their appearance (appearance.py).

Each transform is first sampled, as numbers, and then applied: by OpenCV to one face (here), or by torch to a whole
batch (device_augment).
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from canthus.runtime.geometry import crop, invert, roi_from_points, to_frame, transform
from canthus.runtime.types import Roi
from canthus.trainer.augmentation import published
from canthus.trainer.augmentation.appearance import (
    Appearance,
    Image,
    apply_appearance,
    change_appearance,
    sample_appearance,
)
from canthus.trainer.augmentation.occluders import draw_occluder
from canthus.trainer.augmentation.settings import Augmentation
from canthus.trainer.faces.schemes import Scheme, scheme_of

Points = NDArray[np.float32]

NO_FACE = -1e4
"""Coordinate of all points of a crop without a face: so far outside that the score maps of the points are empty."""


class PackedImage(NamedTuple):
    """Where the source image of a packed crop lies."""

    side: int  # of the packed crop, pixels
    image_box: NDArray[np.floating]  # (4,) left, top, right and bottom edge of the source image, same pixels
    scheme: Scheme | None = None  # of its points; None = the included one with as many


@dataclass(frozen=True, eq=False)
class Transform:
    """Everything that augmentation does to one face."""

    affine: NDArray[np.float64]  # (2, 3) maps pixels of the packed crop to pixels of the augmented crop
    replicate_border: bool  # outside the packed crop: repeat its edge pixels (else black)
    flipped: bool  # mirror left and right, after the affine map
    appearance: Appearance
    image_box: NDArray[np.floating] | None = None  # (4,), of `published`: the appearance changes the packed crop first
    scheme: Scheme | None = None  # of the points; None = the included one with as many


def augment(
    image: Image, points: Points, size: int, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[Image, Points]:
    """Cut a randomly augmented face out of a packed crop (P, P, 3).

    Returns the crop (size, size, 3) and the points (K, 2) in its pixels.
    """
    return apply_transform(image, points, sample_transform(points, size, augmentation, rng), size)


def apply_transform(image: Image, points: Points, sampled: Transform, size: int) -> tuple[Image, Points]:
    """Apply a sampled transform: packed crop (P, P, 3) -> crop (size, size, 3) and points (K, 2) in its pixels."""
    if sampled.image_box is not None:
        changed = apply_appearance(image, sampled.appearance, published.STEPS)
        image = published.clear_outside(changed, sampled.image_box)
    augmented = _apply_affine(image, sampled.affine, sampled.replicate_border, size)
    moved = transform(sampled.affine, points)
    if sampled.flipped:
        augmented, moved = flip(augmented, moved, sampled.scheme)
    return augmented if sampled.image_box is not None else apply_appearance(augmented, sampled.appearance), moved


def sample_transform(
    points: Points,
    size: int,
    augmentation: Augmentation,
    rng: np.random.Generator,
    source: PackedImage | None = None,
) -> Transform:
    """Sample how to augment one face with points (K, 2) in its packed crop, to a crop of `size` pixels.

    source: needed by `augmentation.published`, which changes the packed crop.
    """
    affine, replicate_border = _sample_affine(points, size, augmentation, rng)
    scheme = None if source is None else source.scheme
    flipped = rng.random() < augmentation.flip_p
    if augmentation.published and source is not None:
        appearance = published.sample_appearance(source.side, source.image_box, augmentation, rng)
        return Transform(affine, replicate_border, flipped, appearance, source.image_box, scheme)
    appearance = sample_appearance(size, augmentation, rng)
    sampled = Transform(affine, replicate_border, flipped, appearance, scheme=scheme)
    if augmentation.occluder_p and rng.random() < augmentation.occluder_p:
        occluder = draw_occluder(move_points(points, sampled, size), size, rng, scheme)
        sampled = replace(sampled, appearance=replace(sampled.appearance, occluder=occluder))
    return sampled


def move_points(points: Points, sampled: Transform, size: int) -> Points:
    """Map points (K, 2) of the packed crop to the augmented crop of `size` pixels."""
    moved = transform(sampled.affine, points)
    return _mirror_points(moved, size, sampled.scheme) if sampled.flipped else moved


def make_negative(
    image: Image, points: Points, size: int, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[Image, Points]:
    """Make a crop (size, size, 3) without a whole face, from which the network learns to give low scores."""
    negative = _negative_image(image, points, size, augmentation, rng)
    return change_appearance(negative, augmentation, rng), np.full_like(points, NO_FACE)


def sample_negative(
    image: Image, points: Points, size: int, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[Image, Transform]:
    """Make a crop without a whole face, in two parts: pixels in the size of the packed crop, and their transform.

    The pixels lie in the top left corner. If the packed crop is smaller than `size`, they are shrunk to its size.
    """
    negative = _negative_image(image, points, size, augmentation, rng)
    side = min(size, image.shape[0])
    packed = np.zeros(image.shape, np.uint8)
    packed[:side, :side] = cv2.resize(negative, (side, side), interpolation=cv2.INTER_AREA) if side < size else negative
    affine = invert(to_frame(Roi((side - 1) / 2, (side - 1) / 2, side), size))
    appearance = sample_appearance(size, augmentation, rng)
    return packed, Transform(affine, replicate_border=True, flipped=False, appearance=appearance)


def _negative_image(
    image: Image, points: Points, size: int, augmentation: Augmentation, rng: np.random.Generator
) -> Image:
    """Return noise, a small part of the packed crop, a region beside the face, or the face with shuffled tiles."""
    kind = rng.random()
    region = roi_from_points(points, rng.uniform(-math.pi, math.pi))
    if kind < 0.1:  # noise
        coarse = int(rng.integers(2, size // 2))
        noise = rng.integers(0, 256, (coarse, coarse, 3)).astype(np.uint8)
        return cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC).astype(np.uint8, copy=False)
    if kind < 0.45:  # a small part of the face or its surroundings
        side = region.side * rng.uniform(0.2, 0.45)
        reach = max((image.shape[0] - side) / 2, 0)
        x, y = image.shape[0] / 2 + rng.uniform(-reach, reach, 2)
        return crop(image, Roi(x, y, side, region.angle), size)
    if kind < 0.7:  # a region that contains less than half of the face
        direction, distance = rng.uniform(0, 2 * math.pi), region.side * rng.uniform(0.55, 0.8)
        x, y = region.x + distance * math.cos(direction), region.y + distance * math.sin(direction)
        return crop(image, Roi(x, y, region.side * rng.uniform(0.6, 1.2), region.angle), size)
    warped, _ = random_warp(image, points, size, augmentation, rng)
    return _shuffle_tiles(warped, int(rng.integers(2, 6)), rng)


def _shuffle_tiles(image: Image, grid: int, rng: np.random.Generator) -> Image:
    """Cut an image into grid x grid tiles, rotate each by a random multiple of 90 degrees, and permute them."""
    side = image.shape[0] // grid
    corners = [(x * side, y * side) for y in range(grid) for x in range(grid)]
    shuffled = image.copy()
    for (x, y), source in zip(corners, rng.permutation(len(corners)), strict=True):
        source_x, source_y = corners[source]
        tile = image[source_y : source_y + side, source_x : source_x + side]
        shuffled[y : y + side, x : x + side] = np.rot90(tile, int(rng.integers(0, 4)))
    return shuffled


def flip(image: Image, points: Points, scheme: Scheme | None = None) -> tuple[Image, Points]:
    """Mirror an image left to right; each point (K, 2) takes the place of its mirror point."""
    return cv2.flip(image, 1).astype(np.uint8, copy=False), _mirror_points(points, image.shape[1], scheme)


def _mirror_points(points: Points, width: int, scheme: Scheme | None) -> Points:
    mirrored = points[(scheme or scheme_of(len(points))).mirror].copy()
    mirrored[:, 0] = width - 1 - mirrored[:, 0]
    return mirrored


def random_warp(
    image: Image, points: Points, size: int, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[Image, Points]:
    """Rotate, squeeze, scale and shift a face at random, with one interpolation of the pixels."""
    affine, replicate_border = _sample_affine(points, size, augmentation, rng)
    return _apply_affine(image, affine, replicate_border, size), transform(affine, points)


def _apply_affine(image: Image, affine: NDArray[np.float64], replicate_border: bool, size: int) -> Image:
    border = cv2.BORDER_REPLICATE if replicate_border else cv2.BORDER_CONSTANT
    warped = cv2.warpAffine(image, affine, (size, size), flags=cv2.INTER_LINEAR, borderMode=border)
    return warped.astype(np.uint8, copy=False)


def _sample_affine(
    points: Points, size: int, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[NDArray[np.float64], bool]:
    """Sample the affine map (2, 3) to the augmented crop, and whether to replicate the border."""
    if augmentation.published:
        return published.sample_affine(points, size, augmentation, rng), False
    angle = math.radians(float(np.clip(_sample_pair(augmentation.rotation, augmentation, rng)[0], -50, 50)))
    upright = roi_from_points(points)
    squeeze = np.eye(3)  # with shear, about the center of the face
    if rng.random() < augmentation.squeeze_p:
        center = np.array([upright.x, upright.y])
        squeeze[0, 0] = rng.uniform(augmentation.squeeze_min, 1.0)
        squeeze[0, 1] = rng.normal(0, 0.06)
        squeeze[:2, 2] = center - squeeze[:2, :2] @ center
    region = roi_from_points(transform(squeeze[:2], points), angle)
    side = region.side * rng.uniform(*augmentation.scale)
    shift_x, shift_y = _sample_pair(augmentation.shift, augmentation, rng) * side
    affine = invert(to_frame(Roi(region.x + shift_x, region.y + shift_y, side, angle), size))
    return affine @ squeeze, rng.random() < 0.5 and not augmentation.black_fill


def _sample_pair(strength: float, augmentation: Augmentation, rng: np.random.Generator) -> NDArray[np.float64]:
    """Sample two numbers with mean 0, from the distribution that `augmentation.uniform` selects."""
    return rng.uniform(-strength, strength, 2) if augmentation.uniform else rng.normal(0, strength, 2)
