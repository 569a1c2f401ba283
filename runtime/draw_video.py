"""Drawings of faces in the forms that an overlay can need beside RGB of 8 bits: alone with alpha, and with 16 bits."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.draw import draw
from canthus.runtime.types import Faces
from canthus.runtime.video_file import DeepFrame


def draw_alone(size: tuple[int, ...], faces: Faces, drawings: Sequence[str]) -> NDArray[np.uint8]:
    """Return what `draw` draws on images of a size (height, width), as RGBA (H, W, 4); alpha is not premultiplied.

    It is computed from the drawing on black and on white.
    """
    black, white = (draw(np.full((*size[:2], 3), level, np.uint8), faces, drawings=drawings) for level in (0, 255))
    found = np.zeros((*size[:2], 4), np.uint8)
    rows, columns = np.nonzero((white != 255).any(2) | black.any(2))
    on_black, on_white = black[rows, columns].astype(np.int32), white[rows, columns].astype(np.int32)
    alpha = np.clip(255 - (on_white - on_black).min(1, keepdims=True), 1, 255)
    found[rows, columns, :3] = np.clip((on_black * 255 + alpha // 2) // alpha, 0, 255)
    found[rows, columns, 3:] = alpha
    return found


def widen_drawing(drawn: NDArray[np.uint8], frame: DeepFrame) -> NDArray[np.uint16]:
    """Return the 16 bits of a frame, (H, W, 3), with what was drawn on its image of 8 bits, `drawn` (H, W, 3)."""
    changed = np.flatnonzero((drawn != frame.image).any(2))
    wide = frame.deep.reshape(-1, 3).copy()
    change = drawn.reshape(-1, 3)[changed].astype(np.int32) - frame.image.reshape(-1, 3)[changed]
    wide[changed] = np.clip(wide[changed] + 257 * change, 0, 65535)
    return wide.reshape(frame.deep.shape)
