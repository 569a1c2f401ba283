"""Draws frames as the window shows them, at their own resolution. Works in any thread."""

import numpy as np
from numpy.typing import NDArray
from PyQt6.QtGui import QImage, QPainter, QTransform
from PyQt6.sip import voidptr

from canthus.gui.overlay import OverlayStyle, Trails, paint_faces
from canthus.runtime.types import Faces


def render(
    image: NDArray[np.uint8], faces: Faces, style: OverlayStyle, trails: Trails | None = None
) -> NDArray[np.uint8]:
    """Return a copy of an image (H, W, 3) RGB with the faces painted on it. It is not mirrored."""
    canvas = np.ascontiguousarray(image).copy()
    borrowed = as_qimage(canvas)
    painter = QPainter(borrowed)
    paint_faces(painter, faces, QTransform(), style, trails)
    painter.end()
    return canvas


def as_qimage(pixels: NDArray[np.uint8]) -> QImage:
    """Return a contiguous array as an image of Qt that uses its memory. Keep the array as long.

    pixels: (H, W, 3) RGB, or (H, W, 4) BGRA, whose A is ignored.
    """
    height, width, channels = pixels.shape
    kind = QImage.Format.Format_RGB888 if channels == 3 else QImage.Format.Format_RGB32
    # Not pixels.data: of a buffer, Qt makes a copy before it paints.
    address, line = voidptr(pixels.ctypes.data), pixels.strides[0]
    image: QImage = QImage(address, width, height, line, kind)  # type: ignore[call-overload]
    return image
