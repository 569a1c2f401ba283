"""Draw random objects in front of a face: a hand, hair, glasses, a face mask, another head, or a plain object.

An occluder is a small RGBA image, stretched over the whole crop. Its shapes are placed in face coordinates (u, v),
which follow the roll of the face: u goes from 0 to 1 over the width of the box of the points, v from 0 at the brows to
1 at the chin.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from canthus.trainer.faces.schemes import Scheme, scheme_of

IMAGE_SIDE = 96
"""Side of an occluder's image, pixels."""

FRACTION_BITS = 4
"""OpenCV draws at multiples of 1/16 pixel."""

NEUTRAL_LEVEL = 128.0
"""Level of an occluder's color that becomes exactly the skin's color, if the occluder is tinted by skin."""

Color = NDArray[np.float64]  # (3,) red, green, blue, 0 to 255


@dataclass(frozen=True, eq=False)
class Occluder:
    """Something that covers parts of a crop."""

    image: NDArray[np.uint8]  # (IMAGE_SIDE, IMAGE_SIDE, 4) red, green, blue, opacity
    skin: tuple[int, int] | None  # x, y of the crop's pixel whose color, over NEUTRAL_LEVEL, multiplies the image's


class _Canvas:
    """An occluder while it is drawn: shapes with soft edges, placed in face coordinates or in crop pixels."""

    def __init__(
        self, points: NDArray[np.floating], size: int, rng: np.random.Generator, scheme: Scheme | None
    ) -> None:
        self.rng = rng
        self.points = points
        self.scheme = scheme or scheme_of(len(points))
        roll = self.scheme.roll(points)
        right = np.array([math.cos(roll), math.sin(roll)])
        axes = np.stack([right, [-right[1], right[0]]])  # rows: right and down
        rotated = points @ axes.T
        low, high = rotated.min(0), rotated.max(0)
        self._origin, self._spans = low @ axes, axes * (high - low)[:, None]
        self._scale = IMAGE_SIDE / size
        self.face_side = float(max(high - low))  # crop pixels
        self.colors = np.full((IMAGE_SIDE, IMAGE_SIDE, 3), NEUTRAL_LEVEL, np.float32)
        self.opacity = np.zeros((IMAGE_SIDE, IMAGE_SIDE), np.float32)
        self._mask = np.zeros((IMAGE_SIDE, IMAGE_SIDE), np.uint8)  # of the shape that is being drawn

    def to_crop_pixels(self, places: NDArray[np.floating]) -> NDArray[np.float64]:
        """Convert face coordinates (N, 2) to crop pixels (N, 2)."""
        pixels: NDArray[np.float64] = self._origin + places @ self._spans
        return pixels

    def fill(self, outline: NDArray[np.floating], color: Color, opacity: float = 1.0) -> None:
        """Fill an outline (N, 2) in face coordinates."""
        self.fill_pixels(self.to_crop_pixels(outline), color, opacity)

    def fill_pixels(self, outline: NDArray[np.floating], color: Color, opacity: float = 1.0) -> None:
        """Fill an outline (N, 2) in crop pixels."""
        fixed = self._to_fixed_point(outline)
        cv2.fillPoly(self._mask, [fixed], 255, cv2.LINE_AA, FRACTION_BITS)
        self._blend(fixed, 1, color, opacity)

    def stroke(self, line: NDArray[np.floating], width: float, color: Color, opacity: float = 1.0) -> None:
        """Draw a line (N, 2) in face coordinates with round ends; `width` is a fraction of the face's side."""
        self.stroke_pixels(self.to_crop_pixels(line), width, color, opacity)

    def stroke_pixels(self, line: NDArray[np.floating], width: float, color: Color, opacity: float = 1.0) -> None:
        """Draw a line (N, 2) in crop pixels with round ends; `width` is a fraction of the face's side."""
        fixed, thickness = self._to_fixed_point(line), max(1, round(width * self.face_side * self._scale))
        cv2.polylines(self._mask, [fixed], False, 255, thickness, cv2.LINE_AA, FRACTION_BITS)
        self._blend(fixed, thickness, color, opacity)

    def ellipse(self, center: NDArray[np.floating], radii: tuple[float, float], color: Color) -> None:
        """Fill an ellipse with center (2,) and radii along u and v in face coordinates."""
        angle = np.linspace(0, 2 * math.pi, 24, endpoint=False)
        self.fill(center + np.stack([np.cos(angle) * radii[0], np.sin(angle) * radii[1]], 1), color)

    def finish(self, skin: bool) -> Occluder:
        """Return the occluder with uneven light on it, tinted by the color of a cheek if `skin`."""
        light = cv2.resize(self.rng.uniform(0.75, 1.25, (4, 4)).astype(np.float32), (IMAGE_SIDE, IMAGE_SIDE))
        colors = np.clip(self.colors * light[..., None], 0, 255)
        image = np.concatenate([colors, 255 * self.opacity[..., None]], 2).round().astype(np.uint8)
        return Occluder(image, self._cheek() if skin else None)

    def _cheek(self) -> tuple[int, int]:
        """Choose a pixel (x, y) of the crop on a cheek."""
        size = IMAGE_SIDE / self._scale
        u = 0.5 + self.rng.choice([-1, 1]) * self.rng.uniform(0.1, 0.22)
        place = self.to_crop_pixels(np.array([[u, self.rng.uniform(0.45, 0.6)]]))[0]
        x, y = np.clip(place, 0, size - 1).round()
        return int(x), int(y)

    def _to_fixed_point(self, pixels: NDArray[np.floating]) -> NDArray[np.int32]:
        """Convert crop pixels to the image's pixels, as integers with FRACTION_BITS."""
        scaled = (pixels + 0.5) * self._scale - 0.5
        fixed: NDArray[np.int32] = np.clip(scaled * 2**FRACTION_BITS, -(2**15), 2**15).round().astype(np.int32)
        return fixed

    def _blend(self, fixed: NDArray[np.int32], reach: int, color: Color, opacity: float) -> None:
        """Blend the shape in the mask into the image, and clear the mask.

        Only the rectangle around the shape is touched: its places and `reach` pixels around them.
        """
        low, high = fixed.min(0) // 2**FRACTION_BITS - reach, fixed.max(0) // 2**FRACTION_BITS + reach + 2
        (x0, y0), (x1, y1) = np.clip([low, high], 0, IMAGE_SIDE)
        area = np.s_[y0:y1, x0:x1]
        alpha = self._mask[area] * np.float32(opacity / 255)
        self.colors[area] += alpha[..., None] * (color.astype(np.float32) - self.colors[area])
        self.opacity[area] += alpha * (1 - self.opacity[area])
        self._mask[area] = 0


def draw_occluder(
    points: NDArray[np.floating], size: int, rng: np.random.Generator, scheme: Scheme | None = None
) -> Occluder:
    """Draw a random occluder of the face with points (K, 2), in pixels of a crop of `size` pixels."""
    canvas = _Canvas(points, size, rng, scheme)
    kinds: list[Callable[[_Canvas], bool]] = [_hand, _hand, _hair, _hair, _glasses, _glasses, _mask, _head, _object]
    return canvas.finish(skin=kinds[rng.integers(len(kinds))](canvas))


def apply_occluder(image: NDArray[np.uint8], occluder: Occluder) -> NDArray[np.uint8]:
    """Blend an occluder over a crop (S, S, 3)."""
    size = image.shape[0]
    enlarged = cv2.resize(occluder.image, (size, size), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    colors, opacity = enlarged[..., :3], enlarged[..., 3:] / 255
    if occluder.skin is not None:
        x, y = occluder.skin
        colors = np.minimum(colors * (image[y, x] / np.float32(NEUTRAL_LEVEL)), 255)
    return (image + opacity * (colors - image)).round().astype(np.uint8)


# The functions below draw one kind of occluder each, and return whether it is tinted by the skin's color.


def _random_color(rng: np.random.Generator) -> Color:
    """Return a random color; dark ones are more frequent."""
    return rng.uniform(0, 255, 3) * rng.uniform(0.2, 1)


def _hair_color(rng: np.random.Generator) -> Color:
    """Return a hair color: black, brown, blond or gray."""
    light = rng.uniform(0.05, 1) ** 2
    return np.array([210, 180, 140]) * light + rng.normal(0, 5, 3)


def _side(rng: np.random.Generator) -> float:
    """Return -1 or 1."""
    return float(rng.choice([-1, 1]))


def _hand(canvas: _Canvas) -> bool:
    """Draw fingers that reach into the face from a side or from below, with palm and arm; or a palm flat on it."""
    rng = canvas.rng
    flat = rng.random() < 0.35
    direction = rng.uniform(math.radians(-25), math.radians(205))  # 0 = to the right, 90 degrees = down
    out = np.array([math.cos(direction), math.sin(direction)])
    across = np.array([-out[1], out[0]])
    depth = rng.uniform(-0.6, 0) if flat else rng.uniform(0, 0.5)
    tip = np.array([0.5, 0.55]) + depth * out + rng.uniform(-0.2, 0.2) * across
    width, count = (rng.uniform(0.1, 0.16), 4) if flat else (rng.uniform(0.08, 0.13), int(rng.integers(1, 6)))
    skin = np.full(3, NEUTRAL_LEVEL) * rng.uniform(0.75, 1.2) + rng.normal(0, 4, 3)
    length = rng.uniform(0.25, 0.5)
    palm = tip + out * (length + (0.1 if flat else 0.2))
    canvas.stroke(np.stack([palm, palm + out * 1.2]), width * rng.uniform(2.2, 3.2), skin * rng.uniform(0.5, 1.1))
    canvas.ellipse(palm, (width * 2.2, width * 2.2), skin)
    spread = rng.uniform(-0.1, 0.05 if flat else 0.35)
    for finger in range(count):
        beside = finger - (count - 1) / 2
        reach = -out * rng.uniform(-0.06, 0.06) + out * 0.04 * beside**2
        end = tip + across * beside * width * (1.02 + spread) + reach
        root = palm + across * beside * width * 0.95
        joint = (end + root) / 2 + across * rng.normal(0, 0.02)
        canvas.stroke(np.stack([end, joint, root]), width * 1.12, skin * rng.uniform(0.55, 0.8))
        canvas.stroke(np.stack([end, joint, root]), width * 0.95, skin * rng.uniform(0.93, 1.07))
        if rng.random() < 0.3:
            canvas.ellipse(end, (width * 0.28, width * 0.28), skin * rng.uniform(1, 1.25))
    return True


def _hair(canvas: _Canvas) -> bool:
    """Draw strands from the forehead over brows and eyes, or down one side of the face."""
    rng = canvas.rng
    color, count = _hair_color(rng), int(rng.integers(8, 40))
    center = 0.5 + _side(rng) * rng.uniform(0, 0.75)
    half_width, length, thickness = rng.uniform(0.15, 0.6), rng.uniform(0.25, 0.9), rng.uniform(0.015, 0.06)
    sweep = rng.normal(0, 0.35)
    if rng.random() < 0.4:  # an opaque fringe
        rim = np.linspace(center - half_width, center + half_width, 12)
        lower = rng.uniform(-0.05, 0.25) + rng.normal(0, 0.03, 12)
        outline = np.concatenate([np.stack([rim, lower], 1), [[rim[-1] + 0.3, -1], [rim[0] - 0.3, -1]]])
        canvas.fill(outline, color)
    for _ in range(count):
        start = np.array([center + rng.uniform(-half_width, half_width), -0.5])
        down = np.linspace(0, 1, 6)[:, None] * (0.5 + length * rng.uniform(0.5, 1.1))
        bend = sweep * np.linspace(0, 1, 6)[:, None] ** 2 + rng.normal(0, 0.05)
        strand = start + np.concatenate([bend, down], 1)
        canvas.stroke(strand, thickness * rng.uniform(0.4, 1.2), color * rng.uniform(0.6, 1.35), rng.uniform(0.6, 1))
    return False


def _glasses(canvas: _Canvas) -> bool:
    """Draw sunglasses, or glasses with clear or reflecting lenses."""
    rng = canvas.rng
    eyes = [canvas.points[list(group)] for group in canvas.scheme.eyes]
    centers = [eye.mean(0) for eye in eyes]
    between_eyes = centers[1] - centers[0]
    eye_distance = float(np.linalg.norm(between_eyes))
    if eye_distance < 0.1 * canvas.face_side:  # in a profile the eyes are too close together
        return _object(canvas)
    right = between_eyes / eye_distance
    down = np.array([-right[1], right[0]])
    dark = rng.random() < 0.5
    lens = _random_color(rng) * 0.4 if dark else np.full(3, 235.0)
    opacity = rng.uniform(0.75, 1) if dark else rng.choice([0.0, rng.uniform(0.1, 0.6)])
    frame, width = _random_color(rng) * 0.6, rng.uniform(0.012, 0.045)
    exponent = rng.uniform(2, 5)  # of the superellipse: 2 = ellipse, 5 = rounded rectangle
    half_size = np.array([rng.uniform(0.34, 0.46) * eye_distance, rng.uniform(0.22, 0.4) * canvas.face_side * 0.45])
    angle = np.linspace(0, 2 * math.pi, 29)
    ring = np.stack([np.cos(angle), np.sin(angle)], 1)
    ring = np.sign(ring) * np.abs(ring) ** (2 / exponent) * half_size
    shift = down * half_size[1] * rng.uniform(-0.2, 0.4)
    rims = [center + shift + ring @ np.stack([right, down]) for center in centers]
    for center, rim, sign in zip(centers, rims, (-1, 1), strict=True):
        if opacity:
            canvas.fill_pixels(rim, lens, opacity)
        canvas.stroke_pixels(rim, width, frame)
        hinge = center + shift + right * sign * half_size[0]
        temple = np.stack([hinge, hinge + right * sign * 0.4 * eye_distance - down * 0.04 * eye_distance])
        canvas.stroke_pixels(temple, width, frame)
    inner = np.stack([centers[0] + shift + right * half_size[0], centers[1] + shift - right * half_size[0]])
    canvas.stroke_pixels(inner - down * half_size[1] * rng.uniform(0, 0.5), width, frame)
    return False


def _mask(canvas: _Canvas) -> bool:
    """Draw a face mask, scarf or collar over the lower part of the face, up to the nose, the mouth or the chin."""
    rng = canvas.rng
    cloth = np.full(3, 225.0) * rng.uniform(0.7, 1.1) if rng.random() < 0.4 else _random_color(rng)
    top = rng.choice([0.42, 0.6, 0.85]) + rng.normal(0, 0.04)
    rise = rng.uniform(0, 0.12) if top < 0.5 else rng.normal(0, 0.04)
    edge = np.linspace(-0.15, 1.15, 9)
    upper = np.stack([edge, top - rise * np.sin(np.clip(edge, 0, 1) * math.pi)], 1)
    low = rng.uniform(1.03, 1.6)
    canvas.fill(np.concatenate([upper, [[0.85, low], [0.5, low + 0.06], [0.15, low]]]), cloth)
    for fold in range(rng.integers(0, 4)):
        height = top + 0.12 * (fold + 1)
        canvas.stroke(np.stack([edge, np.full(9, height)], 1)[2:-2], 0.012, cloth * 0.75)
    return False


def _head(canvas: _Canvas) -> bool:
    """Draw another head or a shoulder, at a side or below."""
    rng = canvas.rng
    direction = rng.choice([0.0, math.pi, math.pi / 2]) + rng.normal(0, 0.4)
    out = np.array([math.cos(direction), math.sin(direction)])
    radii = (rng.uniform(0.4, 0.7), rng.uniform(0.5, 0.9))
    center = np.array([0.5, 0.5]) + out * (rng.uniform(0.15, 0.5) + max(radii))
    skin = np.full(3, NEUTRAL_LEVEL) * rng.uniform(0.6, 1.2)
    canvas.ellipse(center, radii, skin)
    if rng.random() < 0.7:
        # Hair. It gets the skin's tint too, which does not show on dark colors.
        canvas.ellipse(center - [0, radii[1] * rng.uniform(0.2, 0.6)], radii, np.full(3, rng.uniform(5, 70)))
    return True


def _object(canvas: _Canvas) -> bool:
    """Draw a cup, phone, microphone or sheet of paper in front of the face."""
    rng = canvas.rng
    center = rng.uniform([-0.1, 0.2], [1.1, 1.1])
    half_size = rng.uniform(0.06, 0.35, 2)
    angle = rng.uniform(0, math.pi)
    axes = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    color = _random_color(rng)
    if rng.random() < 0.5:
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half_size
        canvas.fill(center + corners @ axes, color)
        canvas.fill(center + corners * 0.8 @ axes, _random_color(rng), float(rng.choice([0.0, 1.0])))
    else:
        foot = center + np.array([0.3 * rng.normal(), 1.2])
        canvas.stroke(np.stack([center, foot]), rng.uniform(0.05, 0.15), _random_color(rng))
        canvas.ellipse(center, (half_size[0], half_size[0] * rng.uniform(0.8, 1.3)), color)
    return False
