"""What a face may look like: turned, shifted, squeezed, dark, blurred, compressed, half hidden."""

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from canthus.runtime.geometry import crop, invert, roi_from_points, to_frame, transform
from canthus.runtime.types import Roi
from canthus.trainer.schemes import scheme_of

Image = NDArray[np.uint8]
Points = NDArray[np.float32]


@dataclass(frozen=True)
class Augmentation:
    """How strongly faces are changed; probabilities are named `..._p`."""

    flip_p: float = 0.5
    even: bool = False  # rotation and shift: evenly up to their figure, instead of normally with it as deviation
    rotation: float = 20.0  # degrees, cut off at 50
    scale: tuple[float, float] = (0.8, 1.25)  # of the region's side
    shift: float = 0.06  # in sides
    squeeze_p: float = 0.4
    squeeze: float = 0.65  # smallest factor across the face, as a turned head is narrower
    black: bool = False  # holes, and what lies beyond the picture: black, instead of many kinds
    exposure_p: float = 0.0  # brightness and contrast alone, each changed by up to a fifth
    hue_p: float = 0.0  # hue, saturation and value
    colour_p: float = 0.7  # exposure, contrast, gamma, cast and saturation together
    grey_p: float = 0.08
    blur_p: float = 0.15
    shrink_p: float = 0.25  # seen from afar: made small, then large again
    noise_p: float = 0.15
    compress_p: float = 0.2
    holes_p: float = 0.4
    holes: tuple[float, float] = (1, 6)  # how many, fewest and most
    hole: tuple[float, float] = (0.08, 0.28)  # sides, in sides of the crop


PLAIN = Augmentation(
    flip_p=0, rotation=0, scale=(1, 1), shift=0, squeeze_p=0, colour_p=0, grey_p=0, blur_p=0,
    shrink_p=0, noise_p=0, compress_p=0, holes_p=0,
)  # fmt: skip
"""Nothing changed: the plain region, for validation."""


def augment(
    image: Image, points: Points, size: int, how: Augmentation, rng: np.random.Generator
) -> tuple[Image, Points]:
    """Cut a face out of a roomy crop, changed at random.

    Returns the image (size, size, 3) and the points (K, 2) in its pixels.
    """
    image, points = move(image, points, size, how, rng)
    if rng.random() < how.flip_p:
        image, points = flip(image, points)
    return repaint(image, how, rng), points


NOWHERE = -1e4
"""Where the points of a crop without a face lie: so far outside that the maps drawn from them are empty."""


def without_face(
    image: Image, points: Points, size: int, how: Augmentation, rng: np.random.Generator
) -> tuple[Image, Points]:
    """Make a crop (size, size, 3) that shows no whole face, for the scores to learn what is none."""
    kind = rng.random()
    region = roi_from_points(points, rng.uniform(-math.pi, math.pi))
    if kind < 0.1:
        coarse = int(rng.integers(2, size // 2))
        cut = rng.integers(0, 256, (coarse, coarse, 3)).astype(np.uint8)
        cut = cv2.resize(cut, (size, size), interpolation=cv2.INTER_CUBIC).astype(np.uint8, copy=False)
    elif kind < 0.45:  # a part of the face or of what surrounds it
        side = region.side * rng.uniform(0.2, 0.45)
        room = max((image.shape[0] - side) / 2, 0)
        x, y = image.shape[0] / 2 + rng.uniform(-room, room, 2)
        cut = crop(image, Roi(x, y, side, region.angle), size)
    elif kind < 0.7:  # a region that misses most of the face
        turn, reach = rng.uniform(0, 2 * math.pi), region.side * rng.uniform(0.55, 0.8)
        x, y = region.x + reach * math.cos(turn), region.y + reach * math.sin(turn)
        cut = crop(image, Roi(x, y, region.side * rng.uniform(0.6, 1.2), region.angle), size)
    else:
        cut = _shuffle(move(image, points, size, how, rng)[0], int(rng.integers(2, 6)), rng)
    return repaint(cut, how, rng), np.full_like(points, NOWHERE)


def _shuffle(image: Image, grid: int, rng: np.random.Generator) -> Image:
    """Cut into a grid of tiles, each turned, and lay them in another order."""
    side = image.shape[0] // grid
    cells = [(x * side, y * side) for y in range(grid) for x in range(grid)]
    mixed = image.copy()
    for (x, y), source in zip(cells, rng.permutation(len(cells)), strict=True):
        from_x, from_y = cells[source]
        tile = image[from_y : from_y + side, from_x : from_x + side]
        mixed[y : y + side, x : x + side] = np.rot90(tile, int(rng.integers(0, 4)))
    return mixed


def flip(image: Image, points: Points) -> tuple[Image, Points]:
    """Mirror left and right, points (K, 2) renamed accordingly."""
    mirrored = points[scheme_of(len(points)).mirror].copy()
    mirrored[:, 0] = image.shape[1] - 1 - mirrored[:, 0]
    return cv2.flip(image, 1).astype(np.uint8, copy=False), mirrored


def move(image: Image, points: Points, size: int, how: Augmentation, rng: np.random.Generator) -> tuple[Image, Points]:
    """Turn, squeeze, scale and shift, in one resampling."""
    angle = math.radians(float(np.clip(_about(how.rotation, how, rng)[0], -50, 50)))
    upright = roi_from_points(points)
    narrow = np.eye(3)
    if rng.random() < how.squeeze_p:
        middle = np.array([upright.x, upright.y])
        narrow[0, 0] = rng.uniform(how.squeeze, 1.0)
        narrow[0, 1] = rng.normal(0, 0.06)
        narrow[:2, 2] = middle - narrow[:2, :2] @ middle
    squeezed = transform(narrow[:2], points)
    region = roi_from_points(squeezed, angle)
    side = region.side * rng.uniform(*how.scale)
    right, down = _about(how.shift, how, rng) * side
    affine = invert(to_frame(Roi(region.x + right, region.y + down, side, angle), size))
    affine = affine @ narrow
    border = cv2.BORDER_REPLICATE if rng.random() < 0.5 and not how.black else cv2.BORDER_CONSTANT
    cut = cv2.warpAffine(image, affine, (size, size), flags=cv2.INTER_LINEAR, borderMode=border)
    return cut.astype(np.uint8, copy=False), transform(affine, points)


def _about(figure: float, how: Augmentation, rng: np.random.Generator) -> NDArray[np.float64]:
    """Two numbers about none, as far as the figure tells."""
    return rng.uniform(-figure, figure, 2) if how.even else rng.normal(0, figure, 2)


def repaint(image: Image, how: Augmentation, rng: np.random.Generator) -> Image:
    """Change light, colour, sharpness, and hide parts; the points stay where they are."""
    size = image.shape[0]
    if rng.random() < how.shrink_p:
        small = max(24, int(size / rng.uniform(1.3, 4.5)))
        far = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
        image = cv2.resize(far, (size, size), interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)
    if rng.random() < how.blur_p:
        image = _blur(image, rng)
    if rng.random() < how.exposure_p:
        levels = np.arange(256) * rng.uniform(0.8, 1.2) + rng.uniform(-0.2, 0.2) * 255
        image = cv2.LUT(image, np.clip(levels, 0, 255).astype(np.uint8)).astype(np.uint8, copy=False)
    if rng.random() < how.hue_p:
        image = _hue(image, rng)
    if rng.random() < how.colour_p:
        image = _light(image, rng)
    if rng.random() < how.grey_p:
        image = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    if rng.random() < how.holes_p:
        image = _holes(image, how, rng)
    if rng.random() < how.noise_p:
        grain = rng.standard_normal(image.shape, np.float32)
        image = np.clip(image + grain * np.float32(rng.uniform(3, 16)), 0, 255).astype(np.uint8)
    if rng.random() < how.compress_p:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 70))]
        poor = cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_COLOR)
        assert poor is not None, "what OpenCV wrote it can read"
        image = poor.astype(np.uint8, copy=False)
    return image


def _blur(image: Image, rng: np.random.Generator) -> Image:
    """Out of focus, or moved along a line."""
    if rng.random() < 0.5:
        return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.6, 2.5)).astype(np.uint8, copy=False)
    length = int(rng.integers(3, 11))
    kernel = np.zeros((length, length), np.float32)
    turn = rng.uniform(0, math.pi)
    reach = (length - 1) / 2
    ends = [
        (round(reach + side * reach * math.cos(turn)), round(reach + side * reach * math.sin(turn))) for side in (-1, 1)
    ]
    cv2.line(kernel, ends[0], ends[1], 1.0)
    return cv2.filter2D(image, -1, kernel / kernel.sum()).astype(np.uint8, copy=False)


def _light(image: Image, rng: np.random.Generator) -> Image:
    """Exposure, contrast, gamma and colour cast, as one table a channel; then less or more colour."""
    levels = np.linspace(0, 1, 256)
    gamma = math.exp(rng.normal(0, 0.35))
    contrast, brightness = rng.uniform(0.65, 1.35), rng.normal(0, 0.1)
    cast = 1 + rng.normal(0, 0.08, 3)
    curve = ((levels**gamma - 0.5) * contrast + 0.5 + brightness)[:, None] * cast
    table = np.clip(curve * 255, 0, 255).astype(np.uint8)[None]  # (1, 256, 3)
    image = cv2.LUT(image, table).astype(np.uint8, copy=False)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    amount = rng.uniform(0.3, 1.5)
    return cv2.addWeighted(image, amount, grey, 1 - amount, 0).astype(np.uint8, copy=False)


def _hue(image: Image, rng: np.random.Generator) -> Image:
    """Hue by up to 40 degrees, saturation by up to 12 %, value by up to 8 % of their range."""
    most = np.array([20, 30, 20])  # of 180, 255 and 255 levels, as the published recipe's library has it by default
    shift = rng.uniform(-most, most)[:, None]
    levels = np.arange(256)
    table = np.concatenate([(levels + shift[:1]) % 180, np.clip(levels + shift[1:], 0, 255)])
    seen = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), np.ascontiguousarray(table.T[None].astype(np.uint8)))
    return cv2.cvtColor(seen, cv2.COLOR_HSV2RGB).astype(np.uint8, copy=False)


def _holes(image: Image, how: Augmentation, rng: np.random.Generator) -> Image:
    """Some patches: black, or each of plain colour, noise, or another part of the picture."""
    image, size = image.copy(), image.shape[0]
    for _ in range(rng.integers(round(how.holes[0]), round(how.holes[1]) + 1)):
        width, height = (int(side) for side in rng.uniform(*how.hole, 2) * size)
        x, y = (int(rng.integers(0, size - side)) for side in (width, height))
        kind = rng.random()
        patch: NDArray[Any]
        if how.black:
            patch = np.zeros(3, np.uint8)
        elif kind < 0.5:
            patch = rng.integers(0, 256, 3)
        elif kind < 0.7:
            patch = rng.integers(0, 256, (height, width, 3))
        else:
            from_x, from_y = (int(rng.integers(0, size - side)) for side in (width, height))
            patch = image[from_y : from_y + height, from_x : from_x + width].copy()
        image[y : y + height, x : x + width] = patch
    return image
