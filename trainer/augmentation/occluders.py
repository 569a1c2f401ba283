"""Things in front of a face, drawn by chance: a hand, hair, glasses, a face mask, another head, some object.

Each is a small picture of colour and opacity over the whole crop. Where it lies is told along the face's own axes: u
from 0 to 1 across the box of its points, v from 0 to 1 down from the brows to the chin.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from canthus.trainer.faces.schemes import scheme_of

SIDE = 96
"""Of the picture of a cover, which is as wide as the crop, pixels."""

SHIFT = 4
"""Bits of the fractions of a pixel to which places are painted."""

MIDDLE = 128.0
"""The level of a cover's colour that becomes the skin's own, where it has that."""

Colour = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Occluder:
    """What hides parts of a crop."""

    picture: NDArray[np.uint8]  # (SIDE, SIDE, 4) red, green, blue and opacity
    skin: tuple[int, int] | None  # its colours are those of this pixel of the crop, times theirs over MIDDLE


class _Canvas:
    """Paints in the face's own axes, softly at the edges."""

    def __init__(self, points: NDArray[np.floating], size: int, rng: np.random.Generator) -> None:
        self.rng = rng
        self.points = points
        self.scheme = scheme_of(len(points))
        roll = self.scheme.roll(points)
        right = np.array([math.cos(roll), math.sin(roll)])
        axes = np.stack([right, [-right[1], right[0]]])  # rows: right and down
        turned = points @ axes.T
        low, high = turned.min(0), turned.max(0)
        self._start, self._span = low @ axes, axes * (high - low)[:, None]
        self._scale = SIDE / size
        self.unit = float(max(high - low))  # pixels of the crop
        self.colours = np.full((SIDE, SIDE, 3), MIDDLE, np.float32)
        self.opacity = np.zeros((SIDE, SIDE), np.float32)
        self._mask = np.zeros((SIDE, SIDE), np.uint8)  # of what is being painted

    def crop_pixels(self, places: NDArray[np.floating]) -> NDArray[np.float64]:
        """Places (N, 2) in u and v -> pixels of the crop (N, 2)."""
        pixels: NDArray[np.float64] = self._start + places @ self._span
        return pixels

    def polygon(self, places: NDArray[np.floating], colour: Colour, opacity: float = 1.0) -> None:
        """Fill the outline (N, 2) in u and v."""
        self.outline(self.crop_pixels(places), colour, opacity)

    def outline(self, pixels: NDArray[np.floating], colour: Colour, opacity: float = 1.0) -> None:
        """Fill the outline (N, 2) in pixels of the crop."""
        fine = self._fine(pixels)
        cv2.fillPoly(self._mask, [fine], 255, cv2.LINE_AA, SHIFT)
        self._lay(fine, 1, colour, opacity)

    def stroke(self, places: NDArray[np.floating], width: float, colour: Colour, opacity: float = 1.0) -> None:
        """A line through places (N, 2) in u and v; `width` in sides of the face, with round ends."""
        self.line(self.crop_pixels(places), width, colour, opacity)

    def line(self, pixels: NDArray[np.floating], width: float, colour: Colour, opacity: float = 1.0) -> None:
        """The same through pixels of the crop (N, 2)."""
        fine, thick = self._fine(pixels), max(1, round(width * self.unit * self._scale))
        cv2.polylines(self._mask, [fine], False, 255, thick, cv2.LINE_AA, SHIFT)
        self._lay(fine, thick, colour, opacity)

    def ellipse(self, place: NDArray[np.floating], radii: tuple[float, float], colour: Colour) -> None:
        """Around a place (2,) in u and v, radii in u and v."""
        turn = np.linspace(0, 2 * math.pi, 24, endpoint=False)
        self.polygon(place + np.stack([np.cos(turn) * radii[0], np.sin(turn) * radii[1]], 1), colour)

    def finished(self, skin: bool) -> Occluder:
        """With light that falls unevenly on all that was painted."""
        uneven = cv2.resize(self.rng.uniform(0.75, 1.25, (4, 4)).astype(np.float32), (SIDE, SIDE))
        colours = np.clip(self.colours * uneven[..., None], 0, 255)
        picture = np.concatenate([colours, 255 * self.opacity[..., None]], 2).round().astype(np.uint8)
        return Occluder(picture, self._skin() if skin else None)

    def _skin(self) -> tuple[int, int]:
        """A pixel of the crop on a cheek."""
        size = SIDE / self._scale
        u = 0.5 + self.rng.choice([-1, 1]) * self.rng.uniform(0.1, 0.22)
        x, y = np.clip(self.crop_pixels(np.array([[u, self.rng.uniform(0.45, 0.6)]]))[0], 0, size - 1).round()
        return int(x), int(y)

    def _fine(self, pixels: NDArray[np.floating]) -> NDArray[np.int32]:
        small = (pixels + 0.5) * self._scale - 0.5
        fine: NDArray[np.int32] = np.clip(small * 2**SHIFT, -(2**15), 2**15).round().astype(np.int32)
        return fine

    def _lay(self, fine: NDArray[np.int32], reach: int, colour: Colour, opacity: float) -> None:
        """Blend in what the mask has, which lies within `reach` pixels of these places, and clear the mask."""
        low, high = fine.min(0) // 2**SHIFT - reach, fine.max(0) // 2**SHIFT + reach + 2
        (x0, y0), (x1, y1) = np.clip([low, high], 0, SIDE)
        there = np.s_[y0:y1, x0:x1]
        share = self._mask[there] * np.float32(opacity / 255)
        self.colours[there] += share[..., None] * (colour.astype(np.float32) - self.colours[there])
        self.opacity[there] += share * (1 - self.opacity[there])
        self._mask[there] = 0


def draw_occluder(points: NDArray[np.floating], size: int, rng: np.random.Generator) -> Occluder:
    """Something in front of a face with these points (K, 2), pixels of a crop of `size`."""
    canvas = _Canvas(points, size, rng)
    kinds: list[Callable[[_Canvas], bool]] = [_hand, _hand, _hair, _hair, _glasses, _glasses, _mask, _head, _thing]
    return canvas.finished(skin=kinds[rng.integers(len(kinds))](canvas))


def apply_occluder(image: NDArray[np.uint8], cover: Occluder) -> NDArray[np.uint8]:
    """Put a cover over a crop (S, S, 3)."""
    size = image.shape[0]
    laid = cv2.resize(cover.picture, (size, size), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    colours, opacity = laid[..., :3], laid[..., 3:] / 255
    if cover.skin is not None:
        x, y = cover.skin
        colours = np.minimum(colours * (image[y, x] / np.float32(MIDDLE)), 255)
    return (image + opacity * (colours - image)).round().astype(np.uint8)


def _any_colour(rng: np.random.Generator) -> Colour:
    """Any, dark ones more often."""
    return rng.uniform(0, 255, 3) * rng.uniform(0.2, 1)


def _hair_colour(rng: np.random.Generator) -> Colour:
    """From black over brown to blond and grey."""
    light = rng.uniform(0.05, 1) ** 2
    return np.array([210, 180, 140]) * light + rng.normal(0, 5, 3)


def _side(rng: np.random.Generator) -> float:
    return float(rng.choice([-1, 1]))


def _hand(canvas: _Canvas) -> bool:
    """Fingers that reach from beside or below into the face, with palm and arm; or a palm flat on it."""
    rng = canvas.rng
    flat = rng.random() < 0.35
    turn = rng.uniform(math.radians(-25), math.radians(205))  # where from: 0 = the picture's right, 90 degrees = below
    out = np.array([math.cos(turn), math.sin(turn)])
    across = np.array([-out[1], out[0]])
    depth = rng.uniform(-0.6, 0) if flat else rng.uniform(0, 0.5)
    tip = np.array([0.5, 0.55]) + depth * out + rng.uniform(-0.2, 0.2) * across
    width, count = (rng.uniform(0.1, 0.16), 4) if flat else (rng.uniform(0.08, 0.13), int(rng.integers(1, 6)))
    skin = np.full(3, MIDDLE) * rng.uniform(0.75, 1.2) + rng.normal(0, 4, 3)
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
    """Strands from the forehead over the brows and eyes, or down one side."""
    rng = canvas.rng
    colour, count = _hair_colour(rng), int(rng.integers(8, 40))
    aside = _side(rng) * rng.uniform(0, 0.75)
    broad, length, thick = rng.uniform(0.15, 0.6), rng.uniform(0.25, 0.9), rng.uniform(0.015, 0.06)
    sweep = rng.normal(0, 0.35)
    if rng.random() < 0.4:  # a fringe that hides all behind it
        rim = np.linspace(0.5 + aside - broad, 0.5 + aside + broad, 12)
        lower = rng.uniform(-0.05, 0.25) + rng.normal(0, 0.03, 12)
        outline = np.concatenate([np.stack([rim, lower], 1), [[rim[-1] + 0.3, -1], [rim[0] - 0.3, -1]]])
        canvas.polygon(outline, colour)
    for _ in range(count):
        start = np.array([0.5 + aside + rng.uniform(-broad, broad), -0.5])
        down = np.linspace(0, 1, 6)[:, None] * (0.5 + length * rng.uniform(0.5, 1.1))
        bend = sweep * np.linspace(0, 1, 6)[:, None] ** 2 + rng.normal(0, 0.05)
        strand = start + np.concatenate([bend, down], 1)
        canvas.stroke(strand, thick * rng.uniform(0.4, 1.2), colour * rng.uniform(0.6, 1.35), rng.uniform(0.6, 1))
    return False


def _glasses(canvas: _Canvas) -> bool:
    """Sunglasses, or frames with clear or gleaming lenses, over the eyes."""
    rng = canvas.rng
    eyes = [canvas.points[list(group)] for group in canvas.scheme.eyes]
    centres = [eye.mean(0) for eye in eyes]
    between = centres[1] - centres[0]
    reach = float(np.linalg.norm(between))
    if reach < 0.1 * canvas.unit:  # the eyes of a profile lie too near each other
        return _thing(canvas)
    right = between / reach
    down = np.array([-right[1], right[0]])
    dark = rng.random() < 0.5
    lens = _any_colour(rng) * 0.4 if dark else np.full(3, 235.0)
    opacity = rng.uniform(0.75, 1) if dark else rng.choice([0.0, rng.uniform(0.1, 0.6)])
    frame, width = _any_colour(rng) * 0.6, rng.uniform(0.012, 0.045)
    corner = rng.uniform(2, 5)  # from an ellipse to a rounded box
    half = np.array([rng.uniform(0.34, 0.46) * reach, rng.uniform(0.22, 0.4) * canvas.unit * 0.45])
    turn = np.linspace(0, 2 * math.pi, 29)
    ring = np.stack([np.cos(turn), np.sin(turn)], 1)
    ring = np.sign(ring) * np.abs(ring) ** (2 / corner) * half
    slip = down * half[1] * rng.uniform(-0.2, 0.4)
    rims = [centre + slip + ring @ np.stack([right, down]) for centre in centres]
    for centre, rim, way in zip(centres, rims, (-1, 1), strict=True):
        if opacity:
            canvas.outline(rim, lens, opacity)
        canvas.line(rim, width, frame)
        temple = centre + slip + right * way * half[0]
        canvas.line(np.stack([temple, temple + right * way * 0.4 * reach - down * 0.04 * reach]), width, frame)
    inner = np.stack([centres[0] + slip + right * half[0], centres[1] + slip - right * half[0]])
    canvas.line(inner - down * half[1] * rng.uniform(0, 0.5), width, frame)
    return False


def _mask(canvas: _Canvas) -> bool:
    """A mask, scarf or collar over the lower part, up to the nose, the mouth or the chin."""
    rng = canvas.rng
    cloth = np.full(3, 225.0) * rng.uniform(0.7, 1.1) if rng.random() < 0.4 else _any_colour(rng)
    top = rng.choice([0.42, 0.6, 0.85]) + rng.normal(0, 0.04)
    rise = rng.uniform(0, 0.12) if top < 0.5 else rng.normal(0, 0.04)
    edge = np.linspace(-0.15, 1.15, 9)
    upper = np.stack([edge, top - rise * np.sin(np.clip(edge, 0, 1) * math.pi)], 1)
    low = rng.uniform(1.03, 1.6)
    canvas.polygon(np.concatenate([upper, [[0.85, low], [0.5, low + 0.06], [0.15, low]]]), cloth)
    for fold in range(rng.integers(0, 4)):
        height = top + 0.12 * (fold + 1)
        canvas.stroke(np.stack([edge, np.full(9, height)], 1)[2:-2], 0.012, cloth * 0.75)
    return False


def _head(canvas: _Canvas) -> bool:
    """Another head or a shoulder, from a side or below."""
    rng = canvas.rng
    turn = rng.choice([0.0, math.pi, math.pi / 2]) + rng.normal(0, 0.4)
    out = np.array([math.cos(turn), math.sin(turn)])
    radii = (rng.uniform(0.4, 0.7), rng.uniform(0.5, 0.9))
    middle = np.array([0.5, 0.5]) + out * (rng.uniform(0.15, 0.5) + max(radii))
    skin = np.full(3, MIDDLE) * rng.uniform(0.6, 1.2)
    canvas.ellipse(middle, radii, skin)
    if rng.random() < 0.7:
        # Hair takes the skin's tint too; dark enough, that does not show.
        canvas.ellipse(middle - [0, radii[1] * rng.uniform(0.2, 0.6)], radii, np.full(3, rng.uniform(5, 70)))
    return True


def _thing(canvas: _Canvas) -> bool:
    """A cup, a telephone, a microphone or a sheet, held before the face."""
    rng = canvas.rng
    middle = rng.uniform([-0.1, 0.2], [1.1, 1.1])
    half = rng.uniform(0.06, 0.35, 2)
    turn = rng.uniform(0, math.pi)
    axes = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    colour = _any_colour(rng)
    if rng.random() < 0.5:
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
        canvas.polygon(middle + corners @ axes, colour)
        canvas.polygon(middle + corners * 0.8 @ axes, _any_colour(rng), float(rng.choice([0.0, 1.0])))
    else:
        foot = middle + np.array([0.3 * rng.normal(), 1.2])
        canvas.stroke(np.stack([middle, foot]), rng.uniform(0.05, 0.15), _any_colour(rng))
        canvas.ellipse(middle, (half[0], half[0] * rng.uniform(0.8, 1.3)), colour)
    return False
