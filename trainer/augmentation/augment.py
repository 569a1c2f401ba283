"""Augment training faces: geometry, color, blur, noise, JPEG, occluders and dropout.

Each transform is first sampled, as numbers, and then applied: by OpenCV to one face (here), or by torch to a whole
batch (device_augment).
"""

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from canthus.runtime.geometry import crop, invert, roi_from_points, to_frame, transform
from canthus.runtime.types import Roi
from canthus.trainer.augmentation.occluders import Occluder, apply_occluder, draw_occluder
from canthus.trainer.faces.schemes import scheme_of

Image = NDArray[np.uint8]
Points = NDArray[np.float32]


@dataclass(frozen=True)
class Augmentation:
    """How strongly training faces are changed. Names that end in `_p` are probabilities."""

    flip_p: float = 0.5  # mirror left and right
    uniform: bool = False  # rotation and shift: uniform up to the value; else normal with it as standard deviation
    rotation: float = 20.0  # degrees; a normally distributed angle is clipped to 50
    scale: tuple[float, float] = (0.8, 1.25)  # range of the factor on the side of the region
    shift: float = 0.06  # in sides of the region
    squeeze_p: float = 0.4  # make the face narrower and shear it, as if the head was turned
    squeeze_min: float = 0.65  # smallest factor on the width
    occluder_p: float = 0.0  # draw a hand, hair, glasses, a face mask, another head or an object over the face
    black_fill: bool = False  # dropout and pixels outside the image are black, instead of varied
    brightness_contrast_p: float = 0.0  # change brightness and contrast by up to 20 % each
    hsv_p: float = 0.0  # shift hue, saturation and value
    color_p: float = 0.7  # brightness, contrast, gamma, color cast and saturation together
    gray_p: float = 0.08
    blur_p: float = 0.15  # Gaussian or motion blur
    blur_sigma: tuple[float, float] = (0.005, 0.02)  # range, in sides of the crop; motion blur is 4 times as long
    downscale_p: float = 0.25  # shrink the crop and enlarge it again, as if the face was far away
    noise_p: float = 0.15
    jpeg_p: float = 0.2
    webcam_p: float = 0.0  # imitate a cheap camera in dim light, instead of the steps from brightness_contrast_p on
    dropout_p: float = 0.4  # cover rectangles of the crop
    dropout_holes: tuple[float, float] = (1, 6)  # smallest and largest number of rectangles
    dropout_size: tuple[float, float] = (0.08, 0.28)  # range of width and height, in sides of the crop


NO_AUGMENTATION = Augmentation(
    flip_p=0, rotation=0, scale=(1, 1), shift=0, squeeze_p=0, color_p=0, gray_p=0, blur_p=0,
    downscale_p=0, noise_p=0, jpeg_p=0, dropout_p=0,
)  # fmt: skip
"""Crop the region of the face and change nothing: for validation."""


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


@dataclass(frozen=True, eq=False)
class Transform:
    """Everything that augmentation does to one face."""

    affine: NDArray[np.float64]  # (2, 3) maps pixels of the packed crop to pixels of the augmented crop
    replicate_border: bool  # outside the packed crop: repeat its edge pixels (else black)
    flipped: bool  # mirror left and right, after the affine map
    appearance: Appearance


def augment(
    image: Image, points: Points, size: int, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[Image, Points]:
    """Cut a randomly augmented face out of a packed crop (P, P, 3).

    Returns the crop (size, size, 3) and the points (K, 2) in its pixels.
    """
    return apply_transform(image, points, sample_transform(points, size, augmentation, rng), size)


def apply_transform(image: Image, points: Points, sampled: Transform, size: int) -> tuple[Image, Points]:
    """Apply a sampled transform: packed crop (P, P, 3) -> crop (size, size, 3) and points (K, 2) in its pixels."""
    augmented = _apply_affine(image, sampled.affine, sampled.replicate_border, size)
    moved = transform(sampled.affine, points)
    if sampled.flipped:
        augmented, moved = flip(augmented, moved)
    return apply_appearance(augmented, sampled.appearance), moved


def sample_transform(points: Points, size: int, augmentation: Augmentation, rng: np.random.Generator) -> Transform:
    """Sample how to augment one face with points (K, 2) in its packed crop, to a crop of `size` pixels."""
    affine, replicate_border = _sample_affine(points, size, augmentation, rng)
    flipped = rng.random() < augmentation.flip_p
    sampled = Transform(affine, replicate_border, flipped, _sample_appearance(size, augmentation, rng))
    if augmentation.occluder_p and rng.random() < augmentation.occluder_p:
        occluder = draw_occluder(move_points(points, sampled, size), size, rng)
        sampled = replace(sampled, appearance=replace(sampled.appearance, occluder=occluder))
    return sampled


def move_points(points: Points, sampled: Transform, size: int) -> Points:
    """Map points (K, 2) of the packed crop to the augmented crop of `size` pixels."""
    moved = transform(sampled.affine, points)
    return _mirror_points(moved, size) if sampled.flipped else moved


MIN_DOWNSCALED_SIDE = 28
"""Smallest side, pixels, that `downscale_p` shrinks a crop to."""

NO_FACE = -1e4
"""Coordinate of all points of a crop without a face: so far outside that the score maps of the points are empty."""


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
    appearance = _sample_appearance(size, augmentation, rng)
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


def flip(image: Image, points: Points) -> tuple[Image, Points]:
    """Mirror an image left to right; each point (K, 2) takes the place of its mirror point."""
    return cv2.flip(image, 1).astype(np.uint8, copy=False), _mirror_points(points, image.shape[1])


def _mirror_points(points: Points, width: int) -> Points:
    mirrored = points[scheme_of(len(points)).mirror].copy()
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


def change_appearance(image: Image, augmentation: Augmentation, rng: np.random.Generator) -> Image:
    """Apply the random steps that leave the points where they are: color, sharpness, noise, dropout, JPEG."""
    return apply_appearance(image, _sample_appearance(image.shape[0], augmentation, rng))


def _sample_appearance(size: int, augmentation: Augmentation, rng: np.random.Generator) -> Appearance:
    """Sample all steps but the occluder."""
    if augmentation.webcam_p and rng.random() < augmentation.webcam_p:
        return _sample_webcam(size, augmentation, rng)
    downscale = _sample_downscale(size, 1.3, rng) if rng.random() < augmentation.downscale_p else None
    least, most = augmentation.blur_sigma
    blur = _sample_blur(least * size, most * size, rng) if rng.random() < augmentation.blur_p else None
    brightness_contrast = hsv = curves = color = noise = None
    if rng.random() < augmentation.brightness_contrast_p:
        levels = np.arange(256) * rng.uniform(0.8, 1.2) + rng.uniform(-0.2, 0.2) * 255
        brightness_contrast = np.clip(levels, 0, 255).astype(np.uint8)
    if rng.random() < augmentation.hsv_p:
        limits = np.array([20, 30, 20])  # HueSaturationValue of albumentations, as in the published recipe
        hsv = rng.uniform(-limits, limits)
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


def apply_appearance(image: Image, appearance: Appearance) -> Image:
    """Apply the sampled steps to one crop (S, S, 3)."""
    if appearance.occluder is not None:
        image = apply_occluder(image, appearance.occluder)
    if appearance.downscale is not None:
        image = _downscale(image, appearance.downscale)
    if isinstance(appearance.blur, float):
        image = cv2.GaussianBlur(image, (0, 0), appearance.blur).astype(np.uint8, copy=False)
    elif appearance.blur is not None:
        image = cv2.filter2D(image, -1, appearance.blur).astype(np.uint8, copy=False)
    if appearance.brightness_contrast is not None:
        image = cv2.LUT(image, appearance.brightness_contrast).astype(np.uint8, copy=False)
    if appearance.hsv is not None:
        image = _shift_hsv(image, appearance.hsv[:, None])
    if appearance.curves is not None:
        image = cv2.LUT(image, appearance.curves[None]).astype(np.uint8, copy=False)
    for saturation in (appearance.color, appearance.gray):
        if saturation is not None:
            gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
            image = cv2.addWeighted(image, saturation, gray, 1 - saturation, 0).astype(np.uint8, copy=False)
    if appearance.dropout is not None:
        image = _cover_holes(image, appearance.dropout)
    if appearance.noise is not None:
        deviation, seed = appearance.noise
        noise = np.random.default_rng(seed).standard_normal(image.shape, np.float32)
        image = np.clip(image + np.float32(deviation) * noise, 0, 255).astype(np.uint8)
    if appearance.jpeg is not None:
        image = _compress(image, appearance.jpeg)
    return image


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
