"""What a face may look like: turned, shifted, squeezed, dark, blurred, compressed, half hidden.

A change is drawn first, as numbers, and then applied: to one face by OpenCV here, to a batch in device_augment.
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
    """How strongly faces are changed; probabilities are named `..._p`."""

    flip_p: float = 0.5
    uniform: bool = False  # rotation and shift: evenly up to their figure, instead of normally with it as deviation
    rotation: float = 20.0  # degrees, cut off at 50
    scale: tuple[float, float] = (0.8, 1.25)  # of the region's side
    shift: float = 0.06  # in sides
    squeeze_p: float = 0.4
    squeeze_min: float = 0.65  # smallest factor across the face, as a turned head is narrower
    occluder_p: float = 0.0  # a hand, hair, glasses, a face mask, another head or some object before the face
    black_fill: bool = False  # holes, and what lies beyond the picture: black, instead of many kinds
    brightness_contrast_p: float = 0.0  # brightness and contrast alone, each changed by up to a fifth
    hsv_p: float = 0.0  # hue, saturation and value
    color_p: float = 0.7  # exposure, contrast, gamma, cast and saturation together
    gray_p: float = 0.08
    blur_p: float = 0.15
    blur_sigma: tuple[float, float] = (0.005, 0.02)  # a bell's deviation, in sides of the crop; a movement is as wide
    downscale_p: float = 0.25  # seen from afar: made small, then large again
    noise_p: float = 0.15
    jpeg_p: float = 0.2
    webcam_p: float = 0.0  # a cheap camera in a dim room, in place of all steps above from brightness_contrast_p on
    dropout_p: float = 0.4
    dropout_holes: tuple[float, float] = (1, 6)  # how many, fewest and most
    dropout_size: tuple[float, float] = (0.08, 0.28)  # sides, in sides of the crop


NO_AUGMENTATION = Augmentation(
    flip_p=0, rotation=0, scale=(1, 1), shift=0, squeeze_p=0, color_p=0, gray_p=0, blur_p=0,
    downscale_p=0, noise_p=0, jpeg_p=0, dropout_p=0,
)  # fmt: skip
"""Nothing changed: the plain region, for validation."""


@dataclass(frozen=True, eq=False)
class Hole:
    """A patch that hides a part of a crop, in its pixels."""

    x: int
    y: int
    width: int
    height: int
    fill: NDArray[np.integer] | tuple[int, int]  # a colour (3,), pixels (height, width, 3), or x, y of another part

    @property
    def area(self) -> tuple[slice, slice]:
        """Which rows and columns it hides."""
        return np.s_[self.y : self.y + self.height, self.x : self.x + self.width]


@dataclass(frozen=True, eq=False)
class Paint:
    """How light, colour and sharpness of a crop change, in this order of steps; None = not by this step."""

    occluder: Occluder | None  # that hides parts of it
    downscale: int | None  # to this side, pixels, and back
    blur: float | NDArray[np.float32] | None  # a bell's deviation, pixels, or a movement's kernel (k, k)
    brightness_contrast: NDArray[np.uint8] | None  # what each level becomes (256,)
    hsv: NDArray[np.float64] | None  # added to hue, saturation and value (3,), of 180, 255 and 255 levels
    curves: NDArray[np.uint8] | None  # what each level becomes (256, 3)
    color: float | None  # how much of it: 0 = grey, 1 = as it is
    gray: float | None  # the same, once more
    dropout: tuple[Hole, ...] | None
    noise: tuple[float, int] | None  # deviation in levels, and a seed to draw the grain from
    jpeg: int | None  # quality of a JPEG


@dataclass(frozen=True, eq=False)
class Change:
    """All that happens to one face."""

    affine: NDArray[np.float64]  # (2, 3) takes pixels of the roomy crop to those of the finished one
    edge: bool  # beyond the roomy crop lie its outermost pixels, not black
    flipped: bool  # left and right, after that
    paint: Paint


def augment(
    image: Image, points: Points, size: int, how: Augmentation, rng: np.random.Generator
) -> tuple[Image, Points]:
    """Cut a face out of a roomy crop, changed at random.

    Returns the image (size, size, 3) and the points (K, 2) in its pixels.
    """
    change = draw(points, size, how, rng)
    cut, moved = _warp(image, change.affine, change.edge, size), transform(change.affine, points)
    if change.flipped:
        cut, moved = flip(cut, moved)
    return _paint(cut, change.paint), moved


def draw(points: Points, size: int, how: Augmentation, rng: np.random.Generator) -> Change:
    """Draw the change of one face with these points in its roomy crop, to a crop of `size` pixels."""
    affine, edge = _draw_affine(points, size, how, rng)
    change = Change(affine, edge, rng.random() < how.flip_p, _draw_paint(size, how, rng))
    if how.occluder_p and rng.random() < how.occluder_p:
        occluder = draw_occluder(move_points(points, change, size), size, rng)
        change = replace(change, paint=replace(change.paint, occluder=occluder))
    return change


def move_points(points: Points, change: Change, size: int) -> Points:
    """Where the points (K, 2) of the roomy crop lie in the finished one."""
    moved = transform(change.affine, points)
    return _mirror(moved, size) if change.flipped else moved


MIN_DOWNSCALED_SIDE = 28
"""Pixels across the crop of a face seen from as far as it may be."""

NO_FACE = -1e4
"""Where the points of a crop without a face lie: so far outside that the maps drawn from them are empty."""


def make_negative(
    image: Image, points: Points, size: int, how: Augmentation, rng: np.random.Generator
) -> tuple[Image, Points]:
    """Make a crop (size, size, 3) that shows no whole face, for the scores to learn what is none."""
    return change_appearance(_beside_face(image, points, size, how, rng), how, rng), np.full_like(points, NO_FACE)


def sample_negative(
    image: Image, points: Points, size: int, how: Augmentation, rng: np.random.Generator
) -> tuple[Image, Change]:
    """The same unpainted, in a corner of a picture of the roomy crop's size, and the change that finishes it.

    A roomy crop smaller than the finished one holds it shrunk.
    """
    cut, shown = _beside_face(image, points, size, how, rng), min(size, image.shape[0])
    roomy = np.zeros(image.shape, np.uint8)
    roomy[:shown, :shown] = cv2.resize(cut, (shown, shown), interpolation=cv2.INTER_AREA) if shown < size else cut
    affine = invert(to_frame(Roi((shown - 1) / 2, (shown - 1) / 2, shown), size))
    return roomy, Change(affine, edge=True, flipped=False, paint=_draw_paint(size, how, rng))


def _beside_face(image: Image, points: Points, size: int, how: Augmentation, rng: np.random.Generator) -> Image:
    """A part of a face, what surrounds it, its tiles in another order, or noise."""
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
    return cut


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
    return cv2.flip(image, 1).astype(np.uint8, copy=False), _mirror(points, image.shape[1])


def _mirror(points: Points, width: int) -> Points:
    mirrored = points[scheme_of(len(points)).mirror].copy()
    mirrored[:, 0] = width - 1 - mirrored[:, 0]
    return mirrored


def move(image: Image, points: Points, size: int, how: Augmentation, rng: np.random.Generator) -> tuple[Image, Points]:
    """Turn, squeeze, scale and shift, in one resampling."""
    affine, edge = _draw_affine(points, size, how, rng)
    return _warp(image, affine, edge, size), transform(affine, points)


def _warp(image: Image, affine: NDArray[np.float64], edge: bool, size: int) -> Image:
    border = cv2.BORDER_REPLICATE if edge else cv2.BORDER_CONSTANT
    cut = cv2.warpAffine(image, affine, (size, size), flags=cv2.INTER_LINEAR, borderMode=border)
    return cut.astype(np.uint8, copy=False)


def _draw_affine(
    points: Points, size: int, how: Augmentation, rng: np.random.Generator
) -> tuple[NDArray[np.float64], bool]:
    """How a face is turned, squeezed, scaled and shifted, and whether edge pixels lie beyond the picture."""
    angle = math.radians(float(np.clip(_about(how.rotation, how, rng)[0], -50, 50)))
    upright = roi_from_points(points)
    narrow = np.eye(3)
    if rng.random() < how.squeeze_p:
        middle = np.array([upright.x, upright.y])
        narrow[0, 0] = rng.uniform(how.squeeze_min, 1.0)
        narrow[0, 1] = rng.normal(0, 0.06)
        narrow[:2, 2] = middle - narrow[:2, :2] @ middle
    squeezed = transform(narrow[:2], points)
    region = roi_from_points(squeezed, angle)
    side = region.side * rng.uniform(*how.scale)
    right, down = _about(how.shift, how, rng) * side
    affine = invert(to_frame(Roi(region.x + right, region.y + down, side, angle), size))
    return affine @ narrow, rng.random() < 0.5 and not how.black_fill


def _about(figure: float, how: Augmentation, rng: np.random.Generator) -> NDArray[np.float64]:
    """Two numbers about none, as far as the figure tells."""
    return rng.uniform(-figure, figure, 2) if how.uniform else rng.normal(0, figure, 2)


def change_appearance(image: Image, how: Augmentation, rng: np.random.Generator) -> Image:
    """Change light, colour, sharpness, and hide parts; the points stay where they are."""
    return _paint(image, _draw_paint(image.shape[0], how, rng))


def _draw_paint(size: int, how: Augmentation, rng: np.random.Generator) -> Paint:
    if how.webcam_p and rng.random() < how.webcam_p:
        return _draw_webcam(size, how, rng)
    shrink = _draw_shrink(size, 1.3, rng) if rng.random() < how.downscale_p else None
    blur = _draw_blur(how.blur_sigma[0] * size, how.blur_sigma[1] * size, rng) if rng.random() < how.blur_p else None
    exposure = light = colour = hue = noise = None
    if rng.random() < how.brightness_contrast_p:
        levels = np.arange(256) * rng.uniform(0.8, 1.2) + rng.uniform(-0.2, 0.2) * 255
        exposure = np.clip(levels, 0, 255).astype(np.uint8)
    if rng.random() < how.hsv_p:
        most = np.array([20, 30, 20])  # 40 degrees, 12 %, 8 %, as the published recipe's library has it by default
        hue = rng.uniform(-most, most)
    if rng.random() < how.color_p:
        light, colour = _draw_light(rng), rng.uniform(0.3, 1.5)
    grey = 0.0 if rng.random() < how.gray_p else None
    holes = _draw_holes(size, how, rng) if rng.random() < how.dropout_p else None
    if rng.random() < how.noise_p:
        noise = _draw_noise((3, 16), rng)
    compress = int(rng.integers(15, 70)) if rng.random() < how.jpeg_p else None
    return Paint(None, shrink, blur, exposure, hue, light, colour, grey, holes, noise, compress)


def _draw_webcam(size: int, how: Augmentation, rng: np.random.Generator) -> Paint:
    """A cheap camera in a dim room: few levels of little light, smeared, with much grain, compressed hard."""
    levels = int(rng.integers(16, 100))  # that the light makes of 256
    seen = np.round(np.arange(256) * (levels / 255)) / levels
    dim = rng.uniform(0.35, 1) * 255 * seen ** math.exp(rng.normal(0, 0.25))
    return Paint(
        occluder=None,
        downscale=_draw_shrink(size, 1.0, rng),
        blur=float(rng.uniform(0.0025, 0.01) * size),
        brightness_contrast=np.clip(dim, 0, 255).astype(np.uint8),
        hsv=None,
        curves=None,
        color=rng.uniform(0.3, 1.1),
        gray=None,
        dropout=_draw_holes(size, how, rng) if rng.random() < how.dropout_p else None,
        noise=_draw_noise((2, 200 / levels + 4), rng),
        jpeg=int(rng.integers(12, 50)),
    )


def _draw_noise(deviation: tuple[float, float], rng: np.random.Generator) -> tuple[float, int]:
    return rng.uniform(*deviation), int(rng.integers(2**24))  # a seed that float32 holds


def _draw_shrink(size: int, least: float, rng: np.random.Generator) -> int:
    """The side of a face seen from afar: at most its size over `least`, and no less than MIN_DOWNSCALED_SIDE."""
    return max(MIN_DOWNSCALED_SIDE, int(size / rng.uniform(least, max(least, size / MIN_DOWNSCALED_SIDE))))


def _draw_blur(least: float, most: float, rng: np.random.Generator) -> float | NDArray[np.float32]:
    """Out of focus, by a bell with a deviation of `least` to `most` pixels, or moved along a line."""
    if rng.random() < 0.5:
        return float(rng.uniform(least, most))
    length = int(rng.integers(3, max(4, round(4 * most) + 2)))
    kernel = np.zeros((length, length), np.float32)
    turn = rng.uniform(0, math.pi)
    reach = (length - 1) / 2
    ends = [
        (round(reach + side * reach * math.cos(turn)), round(reach + side * reach * math.sin(turn))) for side in (-1, 1)
    ]
    cv2.line(kernel, ends[0], ends[1], 1.0)
    kernel /= kernel.sum()
    return kernel


def _draw_light(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Exposure, contrast, gamma and colour cast, as one table a channel (256, 3)."""
    levels = np.linspace(0, 1, 256)
    gamma = math.exp(rng.normal(0, 0.35))
    contrast, brightness = rng.uniform(0.65, 1.35), rng.normal(0, 0.1)
    cast = 1 + rng.normal(0, 0.08, 3)
    curve = ((levels**gamma - 0.5) * contrast + 0.5 + brightness)[:, None] * cast
    return np.clip(curve * 255, 0, 255).astype(np.uint8)


def _draw_holes(size: int, how: Augmentation, rng: np.random.Generator) -> tuple[Hole, ...]:
    """Some patches: black, or each of plain colour, noise, or another part of the picture."""
    holes = []
    for _ in range(rng.integers(round(how.dropout_holes[0]), round(how.dropout_holes[1]) + 1)):
        width, height = (int(side) for side in rng.uniform(*how.dropout_size, 2) * size)
        x, y = (int(rng.integers(0, size - side)) for side in (width, height))
        kind = rng.random()
        fill: NDArray[np.integer] | tuple[int, int]
        if how.black_fill:
            fill = np.zeros(3, np.uint8)
        elif kind < 0.5:
            fill = rng.integers(0, 256, 3)
        elif kind < 0.7:
            fill = rng.integers(0, 256, (height, width, 3))
        else:
            fill = int(rng.integers(0, size - width)), int(rng.integers(0, size - height))
        holes.append(Hole(x, y, width, height, fill))
    return tuple(holes)


def _paint(image: Image, paint: Paint) -> Image:
    """Apply the steps to one crop (S, S, 3)."""
    size = image.shape[0]
    if paint.occluder is not None:
        image = apply_occluder(image, paint.occluder)
    if paint.downscale is not None:
        far = cv2.resize(image, (paint.downscale, paint.downscale), interpolation=cv2.INTER_AREA)
        image = cv2.resize(far, (size, size), interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)
    if isinstance(paint.blur, float):
        image = cv2.GaussianBlur(image, (0, 0), paint.blur).astype(np.uint8, copy=False)
    elif paint.blur is not None:
        image = cv2.filter2D(image, -1, paint.blur).astype(np.uint8, copy=False)
    if paint.brightness_contrast is not None:
        image = cv2.LUT(image, paint.brightness_contrast).astype(np.uint8, copy=False)
    if paint.hsv is not None:
        image = _shift_hue(image, paint.hsv[:, None])
    if paint.curves is not None:
        image = cv2.LUT(image, paint.curves[None]).astype(np.uint8, copy=False)
    for amount in (paint.color, paint.gray):
        if amount is not None:
            grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
            image = cv2.addWeighted(image, amount, grey, 1 - amount, 0).astype(np.uint8, copy=False)
    if paint.dropout is not None:
        image = _punch(image, paint.dropout)
    if paint.noise is not None:
        deviation, seed = paint.noise
        grain = np.random.default_rng(seed).standard_normal(image.shape, np.float32)
        image = np.clip(image + np.float32(deviation) * grain, 0, 255).astype(np.uint8)
    if paint.jpeg is not None:
        quality = [cv2.IMWRITE_JPEG_QUALITY, paint.jpeg]
        poor = cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_COLOR)
        assert poor is not None, "what OpenCV wrote it can read"
        image = poor.astype(np.uint8, copy=False)
    return image


def _shift_hue(image: Image, shift: NDArray[np.float64]) -> Image:
    """Add to hue, saturation and value (3, 1)."""
    levels = np.arange(256)
    table = np.concatenate([(levels + shift[:1]) % 180, np.clip(levels + shift[1:], 0, 255)])
    seen = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), np.ascontiguousarray(table.T[None].astype(np.uint8)))
    return cv2.cvtColor(seen, cv2.COLOR_HSV2RGB).astype(np.uint8, copy=False)


def _punch(image: Image, holes: tuple[Hole, ...]) -> Image:
    """Fill the holes, one after the other."""
    image = image.copy()
    for hole in holes:
        fill = hole.fill
        if isinstance(fill, tuple):
            from_x, from_y = fill
            fill = image[from_y : from_y + hole.height, from_x : from_x + hole.width].copy()
        image[hole.area] = fill
    return image
