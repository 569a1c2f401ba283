"""Paints faces: filled regions, lines, points, their numbers, boxes and ids."""

import numpy as np
from numpy.typing import NDArray
from PyQt6.QtCore import QPointF, QRectF, Qt
from PyQt6.QtGui import QColor, QFont, QFontInfo, QFontMetricsF, QPainter, QPainterPath, QPen, QTransform

from canthus.gui.overlay.measures import paint_measures
from canthus.gui.overlay.place import place_points, polygon
from canthus.gui.overlay.style import OUTLINE_COLOR, OverlayStyle, qcolor, score_color, score_levels
from canthus.gui.overlay.trails import Trails, paint_trails
from canthus.runtime import draw
from canthus.runtime.draw import FAINT_BELOW, FOREHEAD
from canthus.runtime.schemes import Color, Scheme
from canthus.runtime.types import Faces

FILLED = (("left_brow",), ("right_brow",), ("left_eye",), ("right_eye",), ("outer_lips", "inner_lips"))
"""Regions of a scheme that are filled together. What two of them enclose is not filled: the open mouth."""

REGION_ALPHA = 105
FAINT_ALPHA = 90

NUMBER_SIZE = 30
"""The numbers of the points are 1/30 of the face high, and not shown if that is less than MIN_NUMBER pixels."""
MIN_NUMBER = 7.5


def paint_faces(
    painter: QPainter, faces: Faces, to_window: QTransform, style: OverlayStyle, trails: Trails | None = None
) -> None:
    """Paint all faces, and their trails. Only coordinates are transformed, so dots stay round and text readable."""
    painter.save()
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    if style.trails and trails is not None:
        paint_trails(painter, trails, to_window, style.palette)
    placed = place_points(faces.points, to_window)
    sizes = [_dot_size(points) for points in placed]
    for points, scores, size in zip(placed, faces.scores, sizes, strict=True):
        if style.regions:
            _paint_regions(painter, points, faces.scheme, style)
        if style.boxes:
            _paint_box(painter, points, size, style)
        if style.lines:
            _paint_lines(painter, points, size, faces.scheme, style)
        if style.points:
            colors = None if style.scores else style.palette.points(faces.scheme)
            _paint_points(painter, points, scores, size, colors)
        if style.numbers:
            _paint_numbers(painter, points)
    if style.needs_measures and faces.measures is not None:
        paint_measures(painter, faces.measures, placed, to_window, style)
    if style.ids:  # last, so that no face covers the id of another
        for face_id, points, score, size in zip(faces.ids, placed, faces.face_scores, sizes, strict=True):
            _paint_id(painter, f"{face_id}  {score:.2f}" if style.scores else str(face_id), points, size)
    painter.restore()


def _dot_size(points: NDArray[np.float64]) -> float:
    """Return the diameter of the dots in pixels: 1/75 of the face, a little less for large faces, as in `draw`."""
    size = max(float(np.ptp(points, axis=0).max()) / 75, 1.6)
    return size if size < 5 else (size + 5) / 2


def _pen(color: QColor, width: float) -> QPen:
    return QPen(color, width, Qt.PenStyle.SolidLine, Qt.PenCapStyle.RoundCap, Qt.PenJoinStyle.RoundJoin)


def _paint_regions(painter: QPainter, points: NDArray[np.float64], scheme: Scheme, style: OverlayStyle) -> None:
    """Fill the regions that a closed line of the scheme goes around."""
    colors = style.palette.points(scheme)
    painter.setPen(Qt.PenStyle.NoPen)
    closed = {frozenset(line): line for line in scheme.lines if line[0] == line[-1]}
    for names in FILLED:
        found = [closed.get(frozenset(scheme.regions.get(name, ()))) for name in names]
        outlines = [outline for outline in found if outline is not None]
        if not outlines:
            continue
        path = QPainterPath()  # an odd-even fill
        for outline in outlines:
            path.addPolygon(polygon(points[list(outline)]))
            path.closeSubpath()
        painter.fillPath(path, qcolor(colors[outlines[0][0]], REGION_ALPHA))


def _paint_box(painter: QPainter, points: NDArray[np.float64], size: float, style: OverlayStyle) -> None:
    (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
    box, radius = QRectF(left, top, right - left, bottom - top), 2 * size
    painter.setBrush(Qt.BrushStyle.NoBrush)
    for color, width in ((OUTLINE_COLOR, 3.2), (qcolor(style.palette.groups[0]), 1.6)):
        painter.setPen(_pen(color, width))
        painter.drawRoundedRect(box, radius, radius)


def _paint_lines(
    painter: QPainter, points: NDArray[np.float64], size: float, scheme: Scheme, style: OverlayStyle
) -> None:
    width, colors = max(1.0, size * 0.42), style.palette.points(scheme)
    chains = [(polygon(points[list(line)]), colors[line[0]]) for line in scheme.lines]
    painter.setPen(_pen(qcolor(draw.OUTLINE, 90), width + 1.6))
    for chain, _ in chains:
        painter.drawPolyline(chain)
    for chain, color in chains:
        painter.setPen(_pen(qcolor(color, 205), width))
        painter.drawPolyline(chain)


def _paint_points(
    painter: QPainter,
    points: NDArray[np.float64],
    scores: NDArray[np.float32],
    size: float,
    colors: tuple[Color, ...] | None,
) -> None:
    """Paint points in the color of each, or in colors of their scores if it is None."""
    confident = scores >= FAINT_BELOW
    if colors is None:  # the color says how certain a point is, so none is faint
        painter.setPen(_pen(OUTLINE_COLOR, size + 1.6))
        painter.drawPoints(polygon(points))
        levels = score_levels(scores)
        for level in np.unique(levels).tolist():
            painter.setPen(_pen(qcolor(score_color(level)), size))
            painter.drawPoints(polygon(points[levels == level]))
        return
    painter.setPen(_pen(OUTLINE_COLOR, size + 1.6))
    painter.drawPoints(polygon(points[confident]))
    for rgb in dict.fromkeys(colors):
        members = np.array([point for point, color in enumerate(colors) if color == rgb])
        for shown, alpha in ((confident, 255), (~confident, FAINT_ALPHA)):
            painter.setPen(_pen(qcolor(rgb, alpha), size))
            painter.drawPoints(polygon(points[members[shown[members]]]))


def _paint_numbers(painter: QPainter, points: NDArray[np.float64]) -> None:
    """Paint the number of each point beside it, if the face is large enough."""
    height = float(np.ptp(points, axis=0).max()) / NUMBER_SIZE
    if height < MIN_NUMBER:
        return
    painter.save()
    font = QFont(painter.font())
    font.setPixelSize(round(min(height, 14)))
    painter.setFont(font)
    for color, offset in ((qcolor(draw.OUTLINE), 3.0), (qcolor(draw.TEXT), 2.0)):
        painter.setPen(color)
        for number, (x, y) in enumerate(points.tolist()):
            painter.drawText(QPointF(x + offset, y + offset - 4), str(number))
    painter.restore()


def _paint_id(painter: QPainter, text: str, points: NDArray[np.float64], size: float) -> None:
    """Paint a label above the head. It stays inside the window as long as the center of the face is inside."""
    font = QFont(painter.font())
    font.setPixelSize(round((0.9 + size / 12) * QFontInfo(font).pixelSize()))
    font.setWeight(QFont.Weight.DemiBold)
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
    painter.setBrush(OUTLINE_COLOR)
    painter.drawRoundedRect(label, height / 2, height / 2)
    painter.setFont(font)
    painter.setPen(qcolor(draw.TEXT))
    painter.drawText(label, Qt.AlignmentFlag.AlignCenter, text)
