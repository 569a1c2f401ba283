"""The size of the window: when it opens, and when the shape of the video is known."""

from PyQt6.QtCore import QPoint, QRect, QSize
from PyQt6.QtGui import QScreen

from canthus.runtime.types import Frame

MINIMUM_SIZE = QSize(640, 400)
SCREEN_FRACTION = 0.75
"""The part of the width and height of the screen that the window takes at most, unless the user resizes it."""


def first_size(screen: QScreen | None, bar: int) -> QSize:
    """Return the size of the window before it shows anything. `bar` is the height of what is below the video."""
    size = QSize(960, 540 + bar)
    if screen is not None:
        size = size.boundedTo(screen.availableSize() * SCREEN_FRACTION)
    return size.expandedTo(MINIMUM_SIZE)


def fitted_geometry(window: QRect, frame: Frame, bar: int, screen: QScreen) -> QRect:
    """Return the place of the window that shows a frame without borders. `bar` is the height of menus and bars.

    The window grows around its center, but its top left corner stays on the screen.
    """
    height, width = frame.image.shape[0], frame.image.shape[1] * frame.pixel_aspect
    available = screen.availableSize() * SCREEN_FRACTION
    scale = min(available.width() / width, (available.height() - bar) / height, max(1.0, 640 / height))
    size = QSize(round(width * scale), round(height * scale) + bar).expandedTo(MINIMUM_SIZE)
    geometry = QRect(QPoint(), size)
    geometry.moveCenter(window.center())
    corner = screen.availableGeometry().topLeft()
    geometry.moveTopLeft(QPoint(max(geometry.left(), corner.x()), max(geometry.top(), corner.y())))
    return geometry
