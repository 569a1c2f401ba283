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


def display_pixels(
    image: NDArray[np.uint8], view_size: tuple[int, int] | None = None, pixel_aspect: float = 1.0
) -> NDArray[np.uint8]:
    """Return an image (H, W, 3) RGB as Qt paints it fastest: (h, w, 4) BGRA, not larger than it is shown.

    view_size: width and height of the view in device pixels; None: the image is not reduced.
    pixel_aspect: width of a displayed pixel of the image divided by its height.
    """
    import cv2

    height, width = image.shape[:2]
    if view_size is not None:
        scale = min(view_size[0] / (width * pixel_aspect), view_size[1] / height)
        size = (
            max(1, min(width, round(width * pixel_aspect * scale))),
            max(1, min(height, round(height * scale))),
        )
        if size != (width, height):
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    return cv2.cvtColor(image, cv2.COLOR_RGB2BGRA)  # type: ignore[return-value]


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
