"""The size of the window: when it opens, and when the shape of the video is known."""

from PyQt6.QtCore import QPoint, QRect, QSize
from PyQt6.QtGui import QScreen
from PyQt6.QtWidgets import QWidget

from canthus.runtime.types import Frame

MINIMUM_SIZE = QSize(624, 360)
"""Fits a screen of 1280 x 800 pixels at 200 %, with the frame of the window and a bar of the desktop.

It has room for a panel too. It is fixed, because Qt's offscreen plugin warns of each change of a minimum size.
"""
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


def make_room(window: QWidget, view: QWidget) -> None:
    """Widen a window in which a panel leaves little room for the view, as far as its screen allows."""
    screen, missing = window.screen(), MINIMUM_SIZE.width() - view.width()
    if screen is None or missing <= 0 or window.isMaximized() or window.isFullScreen():
        return
    geometry, frame, available = window.geometry(), window.frameGeometry(), screen.availableGeometry()
    geometry.setWidth(min(geometry.width() + missing, available.width() - (frame.width() - geometry.width())))
    geometry.moveRight(min(geometry.right(), available.right() - (frame.right() - window.geometry().right())))
    window.setGeometry(geometry)
