"""Paints faces onto the window: lines, points and ids, at the window's own resolution."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PyQt6.QtCore import QPointF, QRectF, Qt
from PyQt6.QtGui import QColor, QFont, QFontInfo, QFontMetricsF, QPainter, QPen, QPolygonF, QTransform

from canthus.runtime import wflw
from canthus.runtime.types import Faces

SHADE = QColor(8, 12, 18, 170)
"""Under every point and id, so that they stand out on skin and on light walls."""

TRUSTED = 0.7
"""A point with a lower score, such as many behind a hand or hair have, is painted faintly."""

FOREHEAD = 0.5
"""From the brows, where the points end, to above the hair, in heights of the box of the points."""


@dataclass(frozen=True)
class OverlayStyle:
    """What is painted beside the points, and which way round."""

    lines: bool = True
    ids: bool = True
    mirrored: bool = False


def frame_to_window(width: int, height: int, window: QRectF, mirrored: bool, pixel_aspect: float = 1.0) -> QTransform:
    """The largest place for a picture (pixels) in the window that keeps its aspect, as a map from its edges.

    The left edge of the leftmost pixel is 0 here, so the centre of frame pixel x lies at x + 0.5. `pixel_aspect` is how
    wide a pixel is shown over how high.
    """
    scale = min(window.width() / (width * pixel_aspect), window.height() / height)
    middle = window.center()
    across = scale * (-pixel_aspect if mirrored else pixel_aspect)
    placed = QTransform.fromTranslate(middle.x(), middle.y()).scale(across, scale)
    return placed.translate(-width / 2, -height / 2)


def paint_faces(painter: QPainter, faces: Faces, to_window: QTransform, look: OverlayStyle) -> None:
    """Paint all faces. Only places go through the transform: dots stay round and text readable."""
    painter.save()
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    points = _mapped(faces.points, to_window)
    for face, (places, scores) in enumerate(zip(points, faces.scores, strict=True)):
        span = float(np.ptp(places, axis=0).max())
        size = float(np.clip(span / 75, 1.6, 5.0))
        if look.lines:
            _paint_lines(painter, places, size)
        _paint_points(painter, places, scores >= TRUSTED, size)
        if look.ids:
            _paint_id(painter, int(faces.ids[face]), places, size)
    painter.restore()


def _mapped(points: NDArray[np.float32], to_window: QTransform) -> NDArray[np.float64]:
    """(N, 98, 2) frame pixels, centres at integers -> window."""
    x, y = points[..., 0] + 0.5, points[..., 1] + 0.5
    return np.stack(
        [
            to_window.m11() * x + to_window.m21() * y + to_window.dx(),
            to_window.m12() * x + to_window.m22() * y + to_window.dy(),
        ],
        axis=-1,
    ).astype(np.float64)


def _polygon(places: NDArray[np.float64]) -> QPolygonF:
    return QPolygonF([QPointF(x, y) for x, y in places.tolist()])


def _pen(colour: QColor, width: float) -> QPen:
    return QPen(colour, width, Qt.PenStyle.SolidLine, Qt.PenCapStyle.RoundCap, Qt.PenJoinStyle.RoundJoin)


def _paint_lines(painter: QPainter, places: NDArray[np.float64], size: float) -> None:
    for chain in wflw.LINES:
        colour = QColor(*next(colour for group, colour in wflw.COLOURS if chain[0] in group))
        colour.setAlpha(150)
        painter.setPen(_pen(colour, max(1.0, size * 0.42)))
        painter.drawPolyline(_polygon(places[list(chain)]))


def _paint_points(painter: QPainter, places: NDArray[np.float64], trusted: NDArray[np.bool_], size: float) -> None:
    painter.setPen(_pen(SHADE, size + 1.6))
    painter.drawPoints(_polygon(places[trusted]))
    for group, rgb in wflw.COLOURS:
        members = np.array(group)
        for shown, alpha in ((trusted, 255), (~trusted, 90)):
            colour = QColor(*rgb)
            colour.setAlpha(alpha)
            painter.setPen(_pen(colour, size))
            painter.drawPoints(_polygon(places[members[shown[members]]]))


def _paint_id(painter: QPainter, face: int, places: NDArray[np.float64], size: float) -> None:
    """A small tag above the head, kept inside the window as long as the middle of the face is."""
    font = QFont(painter.font())
    font.setPixelSize(round((0.9 + size / 12) * QFontInfo(font).pixelSize()))
    font.setWeight(QFont.Weight.DemiBold)
    text = str(face)
    measure = QFontMetricsF(font)
    height = measure.height() + 2
    width = max(height, measure.horizontalAdvance(text) + 12)
    window = painter.window()
    (left, top), (right, bottom) = places.min(0), places.max(0)
    if not window.contains(round((left + right) / 2), round((top + bottom) / 2)):
        return
    top -= (bottom - top) * FOREHEAD
    x = float(np.clip((left + right) / 2 - width / 2, 2, max(2, window.width() - width - 2)))
    y = float(np.clip(top - height, 2, max(2, window.height() - height - 2)))
    tag = QRectF(x, y, width, height)
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(SHADE)
    painter.drawRoundedRect(tag, height / 2, height / 2)
    painter.setFont(font)
    painter.setPen(QColor("#f4f7fa"))
    painter.drawText(tag, Qt.AlignmentFlag.AlignCenter, text)
