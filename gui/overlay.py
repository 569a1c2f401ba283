"""Paints faces over the video: lines, points and ids, at the window's resolution."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PyQt6.QtCore import QPointF, QRectF, Qt
from PyQt6.QtGui import QColor, QFont, QFontInfo, QFontMetricsF, QPainter, QPen, QPolygonF, QTransform

from canthus.runtime import draw, wflw
from canthus.runtime.draw import FAINT_BELOW, FOREHEAD
from canthus.runtime.types import Faces

OUTLINE = QColor(*draw.OUTLINE, 170)
"""Under points, lines and ids, so that they are visible on skin and on bright backgrounds."""


@dataclass(frozen=True)
class OverlayStyle:
    """What is painted besides the points, and whether the view is mirrored."""

    lines: bool = True
    ids: bool = True
    mirrored: bool = False


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


def paint_faces(painter: QPainter, faces: Faces, to_window: QTransform, style: OverlayStyle) -> None:
    """Paint all faces. Only coordinates are transformed, so dots stay round and text stays readable."""
    painter.save()
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    for face, (points, scores) in enumerate(zip(_to_window(faces.points, to_window), faces.scores, strict=True)):
        span = float(np.ptp(points, axis=0).max())
        size = float(np.clip(span / 75, 1.6, 5.0))
        if style.lines:
            _paint_lines(painter, points, size)
        _paint_points(painter, points, scores >= FAINT_BELOW, size)
        if style.ids:
            _paint_id(painter, int(faces.ids[face]), points, size)
    painter.restore()


def _to_window(points: NDArray[np.float32], to_window: QTransform) -> NDArray[np.float64]:
    """Map points (N, 98, 2) from frame pixels, with pixel centers at integers, to window pixels."""
    x, y = points[..., 0] + 0.5, points[..., 1] + 0.5
    return np.stack(
        [
            to_window.m11() * x + to_window.m21() * y + to_window.dx(),
            to_window.m12() * x + to_window.m22() * y + to_window.dy(),
        ],
        axis=-1,
    ).astype(np.float64)


def _polygon(points: NDArray[np.float64]) -> QPolygonF:
    return QPolygonF([QPointF(x, y) for x, y in points.tolist()])


def _pen(color: QColor, width: float) -> QPen:
    return QPen(color, width, Qt.PenStyle.SolidLine, Qt.PenCapStyle.RoundCap, Qt.PenJoinStyle.RoundJoin)


def _paint_lines(painter: QPainter, points: NDArray[np.float64], size: float) -> None:
    width = max(1.0, size * 0.42)
    chains = [(_polygon(points[list(line)]), draw.POINT_COLORS[line[0]]) for line in wflw.LINES]
    painter.setPen(_pen(QColor(*draw.OUTLINE, 90), width + 1.6))
    for chain, _ in chains:
        painter.drawPolyline(chain)
    for chain, color in chains:
        painter.setPen(_pen(QColor(*color, 205), width))
        painter.drawPolyline(chain)


def _paint_points(painter: QPainter, points: NDArray[np.float64], confident: NDArray[np.bool_], size: float) -> None:
    painter.setPen(_pen(OUTLINE, size + 1.6))
    painter.drawPoints(_polygon(points[confident]))
    for group, rgb in wflw.COLORS:
        members = np.array(group)
        for shown, alpha in ((confident, 255), (~confident, 90)):
            color = QColor(*rgb)
            color.setAlpha(alpha)
            painter.setPen(_pen(color, size))
            painter.drawPoints(_polygon(points[members[shown[members]]]))


def _paint_id(painter: QPainter, face_id: int, points: NDArray[np.float64], size: float) -> None:
    """Paint a label above the head. It stays inside the window as long as the center of the face is inside."""
    font = QFont(painter.font())
    font.setPixelSize(round((0.9 + size / 12) * QFontInfo(font).pixelSize()))
    font.setWeight(QFont.Weight.DemiBold)
    text = str(face_id)
    metrics = QFontMetricsF(font)
    height = metrics.height() + 2
    width = max(height, metrics.horizontalAdvance(text) + 12)
    window = painter.window()
    (left, top), (right, bottom) = points.min(0), points.max(0)
    if not window.contains(round((left + right) / 2), round((top + bottom) / 2)):
        return
    top -= (bottom - top) * FOREHEAD
    x = float(np.clip((left + right) / 2 - width / 2, 2, max(2, window.width() - width - 2)))
    y = float(np.clip(top - height, 2, max(2, window.height() - height - 2)))
    label = QRectF(x, y, width, height)
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(OUTLINE)
    painter.drawRoundedRect(label, height / 2, height / 2)
    painter.setFont(font)
    painter.setPen(QColor(*draw.TEXT))
    painter.drawText(label, Qt.AlignmentFlag.AlignCenter, text)
