"""From frame pixels to the pixels of a window or an image."""

import numpy as np
from numpy.typing import NDArray
from PyQt6.QtCore import QPointF, QRectF
from PyQt6.QtGui import QPolygonF, QTransform


def frame_to_window(width: int, height: int, window: QRectF, mirrored: bool, pixel_aspect: float = 1.0) -> QTransform:
    """Return the transform that fits a frame of `width` x `height` pixels into the window and keeps its aspect ratio.

    Coordinates start at the frame's outer edge: the left edge of the first pixel is 0, so the center of frame pixel x
    is at x + 0.5. `pixel_aspect` is the width of a displayed pixel divided by its height.
    """
    scale = min(window.width() / (width * pixel_aspect), window.height() / height)
    center = window.center()
    scale_x = scale * (-pixel_aspect if mirrored else pixel_aspect)
    transform = QTransform.fromTranslate(center.x(), center.y()).scale(scale_x, scale)
    return transform.translate(-width / 2, -height / 2)


def place_points(points: NDArray[np.floating], to_window: QTransform) -> NDArray[np.float64]:
    """Map points (..., 2) from frame pixels, with pixel centers at integers, to window pixels."""
    x, y = points[..., 0] + 0.5, points[..., 1] + 0.5
    return np.stack(
        [
            to_window.m11() * x + to_window.m21() * y + to_window.dx(),
            to_window.m12() * x + to_window.m22() * y + to_window.dy(),
        ],
        axis=-1,
    ).astype(np.float64)


def place_directions(vectors: NDArray[np.floating], to_window: QTransform) -> NDArray[np.float64]:
    """Map directions (..., 2) of a frame with square pixels to the window: they are flipped if it is mirrored."""
    return np.asarray(vectors * (-1.0 if to_window.m11() < 0 else 1.0, 1.0), np.float64)


def polygon(points: NDArray[np.float64]) -> QPolygonF:
    """Return points (K, 2) as a polygon of Qt."""
    return QPolygonF([QPointF(x, y) for x, y in points.tolist()])
