"""The size of the window: when it opens, and when the shape of the video is known."""

from PyQt6.QtCore import QPoint, QRect, QSize
from PyQt6.QtGui import QScreen
from PyQt6.QtWidgets import QWidget

from canthus.runtime.types import Frame

MINIMUM_SIZE = QSize(320, 240)
"""Of what is beside a panel: with it, the window fits a screen of 1280 x 800 pixels at 200 %."""
USUAL_SIZE = QSize(640, 400)
"""The window is not smaller when it opens, except on such a screen."""
SCREEN_FRACTION, SMALL_SCREEN_FRACTION = 0.75, 0.88
"""The part of the width and height of the screen that the window takes at most, unless the user resizes it."""


def first_size(screen: QScreen | None, bar: int) -> QSize:
    """Return the size of the window before it shows anything. `bar` is the height of what is below the video."""
    size = QSize(960, 540 + bar)
    return size if screen is None else size.boundedTo(largest_size(screen.availableSize()))


def largest_size(screen: QSize) -> QSize:
    """Return the largest size of the window on a screen (the part without bars of the desktop) when it opens."""
    return (screen * SCREEN_FRACTION).expandedTo(USUAL_SIZE.boundedTo(screen * SMALL_SCREEN_FRACTION))


def fitted_geometry(window: QRect, frame: Frame, bar: int, screen: QScreen) -> QRect:
    """Return the place of the window that shows a frame without borders. `bar` is the height of menus and bars.

    The window grows around its center, but its top left corner stays on the screen.
    """
    height, width = frame.image.shape[0], frame.image.shape[1] * frame.pixel_aspect
    available = largest_size(screen.availableSize())
    scale = min(available.width() / width, (available.height() - bar) / height, max(1.0, 640 / height))
    size = QSize(round(width * scale), round(height * scale) + bar).expandedTo(USUAL_SIZE.boundedTo(available))
    geometry = QRect(QPoint(), size)
    geometry.moveCenter(window.center())
    corner = screen.availableGeometry().topLeft()
    geometry.moveTopLeft(QPoint(max(geometry.left(), corner.x()), max(geometry.top(), corner.y())))
    return geometry


def make_room(window: QWidget, view: QWidget) -> None:
    """Widen a window in which a panel leaves little room for the view, as far as its screen allows."""
    screen, missing = window.screen(), USUAL_SIZE.width() - view.width()
    if screen is None or missing <= 0 or window.isMaximized() or window.isFullScreen():
        return
    geometry, available = window.geometry(), screen.availableGeometry()
    geometry.setWidth(min(geometry.width() + missing, available.width()))
    geometry.moveRight(min(geometry.right(), available.right()))
    window.setGeometry(geometry)
