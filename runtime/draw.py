"""Draw faces onto a copy of an image: lines, points and ids, as the viewer paints them.

Each face is drawn on a transparent layer that covers only its part of the image. The layer of a small face has a higher
resolution than the image and is scaled down, so its dots and lines may be thinner than a pixel.
"""

import functools
import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from canthus.runtime.draw_measures import MEASURE_DRAWINGS, draw_measures
from canthus.runtime.errors import InputError
from canthus.runtime.schemes import Color, Scheme
from canthus.runtime.types import Face, Faces, check_image, describe_value

Premultiplied = tuple[float, ...]
"""A color multiplied by alpha, and alpha, 0 to 255."""

OUTLINE: Color = (8, 12, 18)
"""Color under dots, lines and ids, so that they are visible on every skin tone and background."""

TEXT: Color = (244, 247, 250)

FAINT_BELOW = 0.5
"""Points with a lower score, such as those behind a hand, are drawn without outline and translucent."""

FOREHEAD = 0.5
"""Height from the brows, the highest points, to above the hair, relative to the height of the points' box."""

LAYER_SIZE = 160
MAX_LAYER_SCALE = 8
"""The layer of a face is at least `LAYER_SIZE` pixels wide or high, but at most `MAX_LAYER_SCALE` times as large as the
face in the image."""

_SHIFT = 4
"""OpenCV's coordinates are integers; here in 1/16 pixel."""

_ANGLES = np.arange(16) * (2 * math.pi / 16)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
"""(16, 2) corners of a dot of radius 1. `cv2.circle` gives small circles only four corners."""


DRAWINGS = ("points", "lines", "ids", *MEASURE_DRAWINGS)
"""What can be drawn. All but the first three need faces with measures."""

DEFAULT_DRAWINGS = ("points", "lines", "ids")


def draw(
    image: NDArray[np.uint8],
    faces: Faces,
    lines: bool = True,
    ids: bool = True,
    drawings: Collection[str] = DEFAULT_DRAWINGS,
) -> NDArray[np.uint8]:
    """Return a copy of an RGB image (H, W, 3) with the faces drawn on it.

    Sizes follow the size of each face. Points with a score below `FAINT_BELOW` are faint. The id of a face is above it,
    if the center of the face is in the image.

    `drawings` are some of DRAWINGS. "pose" draws the axes of the head (red to the right, green down, blue ahead),
    "gaze" a ray from each pupil, "expressions" a panel of bars; they need `Settings(measures=True)`. `lines` and `ids`
    leave out these two.

    Raises InputError for an image of another shape or dtype, and for drawings that do not exist.
    """
    check_image(image)
    if not isinstance(faces, Faces):
        raise InputError(f"expected Faces to draw, got {describe_value(faces)}; faces[:1] selects a single face")
    if unknown := set(drawings) - set(DRAWINGS):
        raise InputError(f"cannot draw {', '.join(sorted(unknown))} (expected some of {', '.join(DRAWINGS)})")
    lines, ids = lines and "lines" in drawings, ids and "ids" in drawings
    canvas = image.copy()
    shown = [face for face in faces if np.isfinite(face.points).all()]
    for face in shown:
        _draw_face(canvas, face, lines, "points" in drawings)
    draw_measures(canvas, faces, drawings)
    if ids:  # last, so that no face covers the id of another
        for face in shown:
            _draw_id(canvas, face)
    return canvas


def _dot_size(face: Face) -> float:
    """Return the diameter of the dots in pixels: 1/75 of the face, a little less for large faces."""
    size = _span(face) / 75
    return size if size < 5 else (size + 5) / 2


def _span(face: Face) -> float:
    return float(np.ptp(face.points, axis=0).max())


def _draw_face(canvas: NDArray[np.uint8], face: Face, lines: bool, points_too: bool) -> None:
    size = _dot_size(face)
    dot, line = max(size, 0.8), max(0.42 * size, 0.5)  # still visible on the smallest faces
    outline = 1.6 * min(size / 2, 1)  # how much wider the outline is than the dot or line on it
    scale = min(math.ceil(LAYER_SIZE / max(_span(face), 1)), MAX_LAYER_SCALE)
    layer = _Layer(canvas, face.points.min(0) - dot - 2, face.points.max(0) + dot + 2, scale)
    if not layer.visible:
        return
    points = layer.place(face.points)
    if lines:
        chains = [points[list(chain)] for chain in face.scheme.lines]
        layer.lines(chains, line + outline, _premultiplied(OUTLINE, 0.35))
        for color, group in itertools.groupby(face.scheme.lines, lambda chain: face.scheme.line_color(chain)):
            layer.lines([points[list(chain)] for chain in group], line, _premultiplied(color, 0.8))
    if not points_too:
        layer.blend()
        return
    confident = face.scores >= FAINT_BELOW
    layer.dots(points[~confident], dot, itertools.compress(_point_colors(face.scheme, 0.35), ~confident))
    layer.dots(points[confident], dot + outline, itertools.repeat(_premultiplied(OUTLINE, 0.67)))
    layer.dots(points[confident], dot, itertools.compress(_point_colors(face.scheme, 1.0), confident))
    layer.blend()


def _draw_id(canvas: NDArray[np.uint8], face: Face) -> None:
    """Draw the id on a dark label above the head, inside the image."""
    (left, top), (right, bottom) = face.points.min(0).tolist(), face.points.max(0).tolist()
    x, y = (left + right) / 2, (top + bottom) / 2
    height, width = canvas.shape[:2]
    if not (0 <= x < width and 0 <= y < height):
        return
    text = _text_mask(str(face.id), max(round(6 + 1.6 * _dot_size(face)), 8))
    padding = round(0.45 * text.shape[0])
    label_height = text.shape[0] + 2 * padding
    label_width = max(text.shape[1] + 3 * padding, label_height)
    x0 = round(min(max(x - label_width / 2, 1), max(width - label_width - 1, 0)))
    y0 = round(min(max(top - FOREHEAD * (bottom - top) - label_height, 1), max(height - label_height - 1, 0)))
    _blend(canvas, (x0, y0), _label_mask(label_width, label_height), OUTLINE, 0.67)
    _blend(canvas, (x0 + (label_width - text.shape[1]) // 2, y0 + padding), text, TEXT, 1.0)


class _Layer:
    """A transparent image over a part of a canvas, with `scale` times its resolution.

    Colors are premultiplied by alpha, so OpenCV's anti-aliasing over transparent pixels is correct.
    """

    def __init__(
        self, canvas: NDArray[np.uint8], low: NDArray[np.floating], high: NDArray[np.floating], scale: int
    ) -> None:
        height, width = canvas.shape[:2]
        x0, y0 = (int(min(max(math.floor(edge), 0), size)) for edge, size in zip(low, (width, height), strict=True))
        x1, y1 = (int(min(max(math.ceil(edge) + 1, 0), size)) for edge, size in zip(high, (width, height), strict=True))
        self._part = canvas[y0:y1, x0:x1]
        self._origin = x0, y0
        self._scale = scale
        self._pixels = np.zeros((max(y1 - y0, 0) * scale, max(x1 - x0, 0) * scale, 4), np.uint8)
        self.visible = bool(self._pixels.size)

    def place(self, points: NDArray[np.floating]) -> NDArray[np.int32]:
        """Return points (..., 2) of the canvas in the layer's coordinates, in 1/16 pixel."""
        placed = (points - self._origin + 0.5) * self._scale - 0.5
        return np.round(placed * (1 << _SHIFT)).astype(np.int32)

    def lines(self, chains: Sequence[NDArray[np.int32]], width: float, color: Premultiplied) -> None:
        """Draw lines through chains of points (K, 2) from `place`; `width` in pixels of the canvas."""
        thickness = max(round(width * self._scale), 1)
        cv2.polylines(self._pixels, chains, False, color, thickness, cv2.LINE_AA, _SHIFT)

    def dots(self, points: NDArray[np.int32], diameter: float, colors: Iterable[Premultiplied]) -> None:
        """Draw a dot at each of the points (K, 2) from `place`; `diameter` in pixels of the canvas."""
        radius = diameter / 2 * self._scale * (1 << _SHIFT)
        circles = np.round(points[:, None] + radius * _CIRCLE).astype(np.int32)  # (K, 16, 2)
        for circle, color in zip(circles, colors, strict=False):  # an outline has the same color again and again
            cv2.fillConvexPoly(self._pixels, circle, color, cv2.LINE_AA, _SHIFT)

    def blend(self) -> None:
        """Draw the layer on the canvas."""
        height, width = self._part.shape[:2]
        pixels = self._pixels
        if self._scale > 1:
            pixels = np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        transparency = cv2.bitwise_not(cv2.extractChannel(pixels, 3))
        below = cv2.multiply(self._part, cv2.cvtColor(transparency, cv2.COLOR_GRAY2RGB), scale=1 / 255)
        self._part[:] = cv2.add(below, cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB), dst=below)


@functools.cache
def _premultiplied(color: Color, alpha: float) -> Premultiplied:
    return (*(alpha * part for part in color), 255 * alpha)


def _point_colors(scheme: Scheme, alpha: float) -> Iterator[Premultiplied]:
    """Yield the color of each point."""
    return (_premultiplied(color, alpha) for color in scheme.point_colors)


def _blend(
    canvas: NDArray[np.uint8], corner: tuple[int, int], mask: NDArray[np.uint8], color: Color, alpha: float
) -> None:
    """Blend a color with the canvas, weighted by a mask (h, w) whose upper left corner is at `corner` (x, y)."""
    x, y = corner
    part = canvas[y : y + mask.shape[0], x : x + mask.shape[1]]
    weight = mask[: part.shape[0], : part.shape[1], None].astype(np.float32) * np.float32(alpha / 255)
    part[:] = np.round(part + (np.array(color, np.float32) - part) * weight)


@functools.lru_cache(maxsize=256)
def _text_mask(text: str, height: int) -> NDArray[np.uint8]:
    """Return digits as a mask of `height` rows; drawn large and scaled down, as OpenCV's small text is illegible."""
    font, font_scale, thickness = cv2.FONT_HERSHEY_SIMPLEX, 4.0, 8
    (text_width, ascent), descent = cv2.getTextSize(text, font, font_scale, thickness)
    large = np.zeros((ascent + descent + 2 * thickness, text_width + 4 * thickness), np.uint8)
    cv2.putText(large, text, (2 * thickness, ascent + thickness), font, font_scale, 255, thickness, cv2.LINE_AA)
    x, y, large_width, large_height = cv2.boundingRect(large)
    size = max(round(large_width * height / large_height), 1), height
    mask = cv2.resize(large[y : y + large_height, x : x + large_width], size, interpolation=cv2.INTER_AREA)
    return mask.astype(np.uint8, copy=False)


@functools.lru_cache(maxsize=256)
def _label_mask(width: int, height: int) -> NDArray[np.uint8]:
    """Return the mask of a rectangle with round ends."""
    scale = 4
    radius = height * scale // 2
    mask = np.zeros((height * scale, width * scale), np.uint8)
    for x in (radius, width * scale - radius):
        cv2.circle(mask, (x, radius), radius, 255, -1)
    mask[:, radius : width * scale - radius] = 255
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
