"""Contact sheets: a grid of faces with their points and a caption."""

import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from canthus.runtime.errors import UsageError
from canthus.runtime.files import write_file
from canthus.trainer.faces.schemes import Scheme

Image = NDArray[np.uint8]
Color = tuple[int, int, int]

LABEL_COLOR: Color = (120, 240, 140)
PREDICTION_COLOR: Color = (255, 90, 70)

TILE = 256
"""Side of a tile, pixels."""

CAPTION = 20
"""Height of the caption below a tile, pixels."""

_FRACTION_BITS = 4
"""OpenCV draws at multiples of 1/16 pixel."""


def draw_points(image: Image, points: NDArray[np.floating], scheme: Scheme, color: Color, radius: float = 1.5) -> Image:
    """Return a copy of an RGB image (H, W, 3) with points (K, 2) and the lines between them; radius in pixels.

    Points that are NaN are left out, with the lines to them.
    """
    canvas = image.copy()
    drawn = np.isfinite(points).all(-1)
    fixed = np.round(np.where(drawn[:, None], points, 0) * (1 << _FRACTION_BITS)).astype(np.int32)
    darker = tuple(int(0.6 * channel) for channel in color)
    for ends in (pair for chain in scheme.lines for pair in itertools.pairwise(chain)):
        if drawn[list(ends)].all():
            cv2.polylines(canvas, [fixed[list(ends)]], False, darker, 1, cv2.LINE_AA, _FRACTION_BITS)
    for x, y in fixed[drawn].tolist():
        cv2.circle(canvas, (x, y), round(radius * (1 << _FRACTION_BITS)), color, -1, cv2.LINE_AA, _FRACTION_BITS)
    return canvas


def contact_sheet(tiles: Iterable[tuple[Image, str]], columns: int = 5) -> Image:
    """Return tiles (TILE, TILE, 3) in rows, each above its caption."""
    cells = [_captioned(image, text) for image, text in tiles]
    empty = np.zeros((TILE + CAPTION, TILE, 3), np.uint8)
    cells += [empty] * (-len(cells) % columns)
    rows: Sequence[Image] = [np.hstack(cells[start : start + columns]) for start in range(0, len(cells), columns)]
    return np.vstack(rows)


def _captioned(image: Image, text: str) -> Image:
    canvas = np.zeros((TILE + CAPTION, TILE, 3), np.uint8)
    canvas[:TILE] = image
    ascii_text = text.encode("ascii", "replace").decode()  # OpenCV's font has no other characters
    cv2.putText(canvas, ascii_text, (4, TILE + 14), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (230, 230, 230), 1, cv2.LINE_AA)
    return canvas


def shorten_name(name: str, length: int = 26) -> str:
    """Return at most `length` characters of a name: its end, after dots."""
    return name if len(name) <= length else "..." + name[3 - length :]


def evenly_spaced(count: int, wanted: int) -> list[int]:
    """Return up to `wanted` of the numbers 0 to count - 1, evenly spaced."""
    return sorted({math.floor(place * count / wanted) for place in range(wanted)}) if count else []


def write_image(path: Path, image: Image, drawing: bool = False) -> None:
    """Write an RGB image (H, W, 3) in the format of the file name's suffix, completely or not at all.

    `drawing` makes smaller .png files of images with few colors.

    Raises:
        InputError: If the suffix is unknown or the file cannot be written.
    """
    # By default OpenCV stores differences between neighboring pixels, which suits photographs.
    options = [cv2.IMWRITE_PNG_COMPRESSION, 9, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]
    try:
        is_drawing = drawing and path.suffix.lower() == ".png"
        content = cv2.imencode(path.suffix, image[..., ::-1], options if is_drawing else [])[1]
    except cv2.error as unknown:
        raise UsageError(f"{path}: unknown image format (expected a name that ends in .png or .jpg)") from unknown
    write_file(path, content.tobytes())
