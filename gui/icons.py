"""The icon of the viewer, and the symbols on its buttons, drawn here so that they do not depend on fonts."""

from collections.abc import Callable
from pathlib import Path

from PyQt6.QtCore import QPointF, QRectF, Qt
from PyQt6.QtGui import QColor, QIcon, QPainter, QPen, QPixmap, QPolygonF

ICON = Path(__file__).with_name("canthus.svg")
SIZE = 64


def _triangle(painter: QPainter, left: float, right: float) -> None:
    painter.drawPolygon(QPolygonF([QPointF(left, 12), QPointF(right, 32), QPointF(left, 52)]))


def _play(painter: QPainter) -> None:
    _triangle(painter, 16, 52)


def _pause(painter: QPainter) -> None:
    painter.drawRect(QRectF(16, 12, 11, 40))
    painter.drawRect(QRectF(37, 12, 11, 40))


def _next(painter: QPainter) -> None:
    _triangle(painter, 14, 42)
    painter.drawRect(QRectF(43, 12, 7, 40))


def _previous(painter: QPainter) -> None:
    _triangle(painter, 50, 22)
    painter.drawRect(QRectF(14, 12, 7, 40))


def _loop(painter: QPainter) -> None:
    color = painter.brush().color()
    painter.setBrush(Qt.BrushStyle.NoBrush)
    painter.setPen(QPen(color, 6))
    painter.drawArc(QRectF(13, 13, 38, 38), 60 * 16, 290 * 16)
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(color)
    painter.drawPolygon(QPolygonF([QPointF(36, 4), QPointF(56, 14), QPointF(36, 27)]))


_DRAWINGS: dict[str, Callable[[QPainter], None]] = {
    "play": _play,
    "pause": _pause,
    "next": _next,
    "previous": _previous,
    "loop": _loop,
}


def symbol(name: str, color: QColor) -> QIcon:
    """Return the icon "play", "pause", "next", "previous" or "loop" in a color."""
    pixmap = QPixmap(SIZE, SIZE)
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(color)
    _DRAWINGS[name](painter)
    painter.end()
    return QIcon(pixmap)
