"""Contact sheets: faces side by side with their points and a line of text."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from canthus.runtime.errors import InputError
from canthus.trainer.faces.schemes import Scheme

Image = NDArray[np.uint8]
Colour = tuple[int, int, int]

LABEL_COLOR: Colour = (120, 240, 140)
PREDICTION_COLOR: Colour = (255, 90, 70)

TILE = 256
CAPTION = 20
"""Pixels of a tile's side and of the line of text below it."""

_SHIFT = 4
"""OpenCV draws at 1/16 pixel."""


def draw_points(
    image: Image, points: NDArray[np.floating], scheme: Scheme, colour: Colour, radius: float = 1.5
) -> Image:
    """A copy of an RGB image (H, W, 3) with points (K, 2) and the scheme's lines in one colour."""
    canvas = image.copy()
    fixed = np.round(points * (1 << _SHIFT)).astype(np.int32)
    dim = tuple(int(0.6 * part) for part in colour)
    for chain in scheme.lines:
        cv2.polylines(canvas, [fixed[list(chain)]], False, dim, 1, cv2.LINE_AA, _SHIFT)
    for x, y in fixed.tolist():
        cv2.circle(canvas, (x, y), round(radius * (1 << _SHIFT)), colour, -1, cv2.LINE_AA, _SHIFT)
    return canvas


def contact_sheet(tiles: Iterable[tuple[Image, str]], columns: int = 5) -> Image:
    """Tiles (TILE, TILE, 3), each above its text, row by row."""
    made = [_captioned(image, text) for image, text in tiles]
    empty = np.zeros((TILE + CAPTION, TILE, 3), np.uint8)
    made += [empty] * (-len(made) % columns)
    rows: Sequence[Image] = [np.hstack(made[start : start + columns]) for start in range(0, len(made), columns)]
    return np.vstack(rows)


def _captioned(image: Image, text: str) -> Image:
    canvas = np.zeros((TILE + CAPTION, TILE, 3), np.uint8)
    canvas[:TILE] = image
    plain = text.encode("ascii", "replace").decode()  # what OpenCV's font has
    cv2.putText(canvas, plain, (4, TILE + 14), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (230, 230, 230), 1, cv2.LINE_AA)
    return canvas


def shorten_name(name: str, length: int = 26) -> str:
    """The end of a picture's name."""
    return name if len(name) <= length else "..." + name[3 - length :]


def evenly_spaced(count: int, wanted: int) -> list[int]:
    """Up to `wanted` of the numbers below `count`, spread over all."""
    return sorted({math.floor(place * count / wanted) for place in range(wanted)}) if count else []


def write_image(path: Path, image: Image, drawing: bool = False) -> None:
    """Write an RGB picture; the name's ending tells the kind, and drawings of few colours become small files."""
    # OpenCV's own way, differences between neighbours, suits photographs.
    plain = [cv2.IMWRITE_PNG_COMPRESSION, 9, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]
    try:
        written = cv2.imwrite(str(path), image[..., ::-1], plain if drawing and path.suffix.lower() == ".png" else [])
    except cv2.error as unknown:
        raise InputError(f"{path}: not a name of a picture; end it in .png or .jpg") from unknown
    if not written:
        raise InputError(f"{path}: cannot be written")
