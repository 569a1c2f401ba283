"""Change the colors of a face and not its points: color, blur, noise, JPEG, occluders and dropout.

The steps are first sampled, as numbers, and then applied by OpenCV here, or to a whole batch by torch (device_augment).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from canthus.trainer.augmentation.occluders import Occluder, apply_occluder
from canthus.trainer.augmentation.settings import Augmentation

Image = NDArray[np.uint8]

MIN_DOWNSCALED_SIDE = 28
"""Smallest side, pixels, that `downscale_p` shrinks a crop to."""


@dataclass(frozen=True, eq=False)
class DropoutHole:
    """A rectangle of a crop, in pixels, that is covered."""

    x: int
    y: int
    width: int
    height: int
    fill: NDArray[np.integer] | tuple[int, int]  # a color (3,), pixels (height, width, 3), or x, y of a copied part

    @property
    def area(self) -> tuple[slice, slice]:
        """The covered rows and columns, as an index."""
        return np.s_[self.y : self.y + self.height, self.x : self.x + self.width]


@dataclass(frozen=True, eq=False)
class Appearance:
    """The sampled steps that change colors but move no points, in the order of the fields. None = skip the step."""

    occluder: Occluder | None
    downscale: int | None  # side to shrink to, pixels, before enlarging again
    blur: float | NDArray[np.float32] | None  # standard deviation of a Gaussian, pixels, or a motion kernel (k, k)
    brightness_contrast: NDArray[np.uint8] | None  # lookup table (256,) of all channels
    hsv: NDArray[np.float64] | None  # (3,) added to hue (of 180 levels), saturation and value (of 255)
    curves: NDArray[np.uint8] | None  # lookup table (256, 3) of each channel
    color: float | None  # saturation: 0 = gray, 1 = unchanged
    gray: float | None  # the same, as a step of its own
    dropout: tuple[DropoutHole, ...] | None
    noise: tuple[float, int] | None  # standard deviation in levels, and the seed of the noise
    jpeg: int | None  # quality


def change_appearance(image: Image, augmentation: Augmentation, rng: np.random.Generator) -> Image:
    """Apply the random steps that leave the points where they are: color, sharpness, noise, dropout, JPEG."""
    return apply_appearance(image, sample_appearance(image.shape[0], augmentation, rng))


def sample_appearance(size: int, augmentation: Augmentation, rng: np.random.Generator) -> Appearance:
    """Sample all steps but the occluder."""
    if augmentation.webcam_p and rng.random() < augmentation.webcam_p:
        return _sample_webcam(size, augmentation, rng)
    downscale = _sample_downscale(size, 1.3, rng) if rng.random() < augmentation.downscale_p else None
    least, most = augmentation.blur_sigma
    blur = _sample_blur(least * size, most * size, rng) if rng.random() < augmentation.blur_p else None
    brightness_contrast = hsv = curves = color = noise = None
    if rng.random() < augmentation.brightness_contrast_p:
        brightness_contrast = sample_brightness_contrast(rng)
    if rng.random() < augmentation.hsv_p:
        hsv = sample_hsv(rng)
    if rng.random() < augmentation.color_p:
        curves, color = _sample_curves(rng), rng.uniform(0.3, 1.5)
    gray = 0.0 if rng.random() < augmentation.gray_p else None
    dropout = _sample_dropout(size, augmentation, rng) if rng.random() < augmentation.dropout_p else None
    if rng.random() < augmentation.noise_p:
        noise = _sample_noise((3, 16), rng)
    jpeg = int(rng.integers(15, 70)) if rng.random() < augmentation.jpeg_p else None
    return Appearance(
        occluder=None,
        downscale=downscale,
        blur=blur,
        brightness_contrast=brightness_contrast,
        hsv=hsv,
        curves=curves,
        color=color,
        gray=gray,
        dropout=dropout,
        noise=noise,
        jpeg=jpeg,
    )


def sample_brightness_contrast(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Sample a lookup table (256,): RandomBrightnessContrast of albumentations, as in the published recipe."""
    levels = np.arange(256) * rng.uniform(0.8, 1.2) + rng.uniform(-0.2, 0.2) * 255
    table: NDArray[np.uint8] = np.clip(levels, 0, 255).astype(np.uint8)
    return table


def sample_hsv(rng: np.random.Generator) -> NDArray[np.float64]:
    """Sample the shifts (3,) of hue, saturation and value: HueSaturationValue of albumentations, as published."""
    limits = np.array([20, 30, 20])
    return rng.uniform(-limits, limits)


def _sample_webcam(size: int, augmentation: Augmentation, rng: np.random.Generator) -> Appearance:
    """Imitate a cheap camera in dim light: few dark levels, blur, much noise, low JPEG quality."""
    levels = int(rng.integers(16, 100))  # distinct levels that are left of 256
    quantized = np.round(np.arange(256) * (levels / 255)) / levels  # 0 to 1
    dark = rng.uniform(0.35, 1) * 255 * quantized ** math.exp(rng.normal(0, 0.25))
    return Appearance(
        occluder=None,
        downscale=_sample_downscale(size, 1.0, rng),
        blur=float(rng.uniform(0.0025, 0.01) * size),
        brightness_contrast=np.clip(dark, 0, 255).astype(np.uint8),
        hsv=None,
        curves=None,
        color=rng.uniform(0.3, 1.1),
        gray=None,
        dropout=_sample_dropout(size, augmentation, rng) if rng.random() < augmentation.dropout_p else None,
        noise=_sample_noise((2, 200 / levels + 4), rng),
        jpeg=int(rng.integers(12, 50)),
    )


def _sample_noise(deviation: tuple[float, float], rng: np.random.Generator) -> tuple[float, int]:
    return rng.uniform(*deviation), int(rng.integers(2**24))  # a float32 holds such a seed exactly


def _sample_downscale(size: int, least: float, rng: np.random.Generator) -> int:
    """Sample the side to shrink to: at most size / least, at least MIN_DOWNSCALED_SIDE, pixels."""
    return max(MIN_DOWNSCALED_SIDE, int(size / rng.uniform(least, max(least, size / MIN_DOWNSCALED_SIDE))))


def _sample_blur(least: float, most: float, rng: np.random.Generator) -> float | NDArray[np.float32]:
    """Sample a Gaussian blur, as its standard deviation in pixels, or a motion blur, as its kernel (k, k)."""
    if rng.random() < 0.5:
        return float(rng.uniform(least, most))
    length = int(rng.integers(3, max(4, round(4 * most) + 2)))
    kernel = np.zeros((length, length), np.float32)
    direction = rng.uniform(0, math.pi)
    center = (length - 1) / 2
    start, end = (
        (round(center + sign * center * math.cos(direction)), round(center + sign * center * math.sin(direction)))
        for sign in (-1, 1)
    )
    cv2.line(kernel, start, end, 1.0)
    kernel /= kernel.sum()
    return kernel


def _sample_curves(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Sample brightness, contrast, gamma and color cast, as a lookup table (256, 3)."""
    levels = np.linspace(0, 1, 256)
    gamma = math.exp(rng.normal(0, 0.35))
    contrast, brightness = rng.uniform(0.65, 1.35), rng.normal(0, 0.1)
    cast = 1 + rng.normal(0, 0.08, 3)
    curve = ((levels**gamma - 0.5) * contrast + 0.5 + brightness)[:, None] * cast
    return np.clip(curve * 255, 0, 255).astype(np.uint8)


def _sample_dropout(size: int, augmentation: Augmentation, rng: np.random.Generator) -> tuple[DropoutHole, ...]:
    """Sample rectangles to cover: with black, or each with one color, noise or another part of the crop."""
    holes = []
    least, most = augmentation.dropout_holes
    for _ in range(rng.integers(round(least), round(most) + 1)):
        width, height = (int(side) for side in rng.uniform(*augmentation.dropout_size, 2) * size)
        x, y = (int(rng.integers(0, size - side)) for side in (width, height))
        kind = rng.random()
        fill: NDArray[np.integer] | tuple[int, int]
        if augmentation.black_fill:
            fill = np.zeros(3, np.uint8)
        elif kind < 0.5:
            fill = rng.integers(0, 256, 3)
        elif kind < 0.7:
            fill = rng.integers(0, 256, (height, width, 3))
        else:
            fill = int(rng.integers(0, size - width)), int(rng.integers(0, size - height))
        holes.append(DropoutHole(x, y, width, height, fill))
    return tuple(holes)


STEPS = tuple(field.name for field in fields(Appearance))
"""The steps of `Appearance`, in the order in which they are applied."""


def apply_appearance(image: Image, appearance: Appearance, steps: Sequence[str] = STEPS) -> Image:
    """Apply the sampled steps to an image (H, W, 3), in the given order."""
    for step in steps:
        sampled = getattr(appearance, step)
        if sampled is not None:
            image = _apply_step(step, image, sampled)
    return image


def _apply_step(step: str, image: Image, sampled: Any) -> Image:
    match step:
        case "occluder":
            return apply_occluder(image, sampled)
        case "downscale":
            return _downscale(image, sampled)
        case "blur" if isinstance(sampled, float):
            return cv2.GaussianBlur(image, (0, 0), sampled).astype(np.uint8, copy=False)
        case "blur":
            return cv2.filter2D(image, -1, sampled).astype(np.uint8, copy=False)
        case "brightness_contrast":
            return cv2.LUT(image, sampled).astype(np.uint8, copy=False)
        case "hsv":
            return _shift_hsv(image, sampled[:, None])
        case "curves":
            return cv2.LUT(image, sampled[None]).astype(np.uint8, copy=False)
        case "color" | "gray":
            gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
            return cv2.addWeighted(image, sampled, gray, 1 - sampled, 0).astype(np.uint8, copy=False)
        case "dropout":
            return _cover_holes(image, sampled)
        case "noise":
            deviation, seed = sampled
            noise = np.random.default_rng(seed).standard_normal(image.shape, np.float32)
            return np.clip(image + np.float32(deviation) * noise, 0, 255).astype(np.uint8)
        case "jpeg":
            return _compress(image, sampled)
    raise AssertionError(step)


def _downscale(image: Image, side: int) -> Image:
    """Shrink a crop (S, S, 3) to `side` pixels and enlarge it to S again."""
    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)


def _shift_hsv(image: Image, shift: NDArray[np.float64]) -> Image:
    """Add `shift` (3, 1) to hue, saturation and value, as OpenCV scales them."""
    levels = np.arange(256)
    table = np.concatenate([(levels + shift[:1]) % 180, np.clip(levels + shift[1:], 0, 255)])
    hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), np.ascontiguousarray(table.T[None].astype(np.uint8)))
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.uint8, copy=False)


def _cover_holes(image: Image, holes: tuple[DropoutHole, ...]) -> Image:
    """Fill the rectangles one after the other: a later one may copy pixels of an earlier one."""
    image = image.copy()
    for hole in holes:
        fill = hole.fill
        if isinstance(fill, tuple):
            x, y = fill
            fill = image[y : y + hole.height, x : x + hole.width].copy()
        image[hole.area] = fill
    return image


def _compress(image: Image, quality: int) -> Image:
    """Encode an RGB image as JPEG and decode it."""
    encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]  # OpenCV takes BGR
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB)
    assert decoded is not None, "OpenCV decodes what it encoded"
    return decoded.astype(np.uint8, copy=False)
