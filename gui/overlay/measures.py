"""Paints the axes of the head and the rays of the gaze."""

import math

import numpy as np
from numpy.typing import NDArray
from PyQt6.QtCore import QPointF, Qt
from PyQt6.QtGui import QPainter, QPen, QPolygonF, QTransform

from canthus.gui.overlay.place import place_directions
from canthus.gui.overlay.style import OUTLINE_COLOR, OverlayStyle, qcolor
from canthus.runtime.draw_measures import AXIS_LENGTH, GAZE_LENGTH, MIN_GAZE_SCORE, NOSE_TIP
from canthus.runtime.measures import Measures
from canthus.runtime.schemes import Color
from canthus.runtime.wflw import PUPILS

HEAD_LENGTH, HEAD_ANGLE = 0.16, 0.45
"""Of an arrow: the length of its head relative to its own, and the angle of the head in radians."""


def paint_measures(
    painter: QPainter, measures: Measures, points: NDArray[np.float64], to_window: QTransform, style: OverlayStyle
) -> None:
    """Paint what the style selects of the measures of faces with points (N, K, 2) in window pixels.

    The directions are those of `draw_measures`: as seen from the camera, without perspective.
    """
    for face, places in enumerate(points):
        size = float(np.ptp(places, axis=0).max())
        width = float(np.clip(size / 110, 1.5, 5))
        if style.pose:
            axes = (measures.rotations[face] * (1, 1, -1)).T  # rows: right, down, towards the viewer
            ends = place_directions(AXIS_LENGTH * size * axes[:, :2], to_window)
            for axis in np.argsort(-axes[:, 2]).tolist():  # the axis that points away first
                _paint_arrow(painter, places[NOSE_TIP], ends[axis], style.palette.axes[axis], width)
        if style.gaze and measures.gaze_score[face] >= MIN_GAZE_SCORE:
            ray = place_directions(GAZE_LENGTH * size * measures.gaze_directions[face, :2], to_window)
            for pupil in PUPILS:
                _paint_arrow(painter, places[pupil], ray, style.palette.gaze, width)


def _paint_arrow(
    painter: QPainter, start: NDArray[np.float64], vector: NDArray[np.float64], color: Color, width: float
) -> None:
    """Paint an outlined arrow; a short vector, which points at the viewer, becomes a dot."""
    length = float(np.hypot(*vector))
    (x, y), (dx, dy) = start.tolist(), vector.tolist()
    tip = QPointF(x + dx, y + dy)
    sides = QPolygonF()
    if length >= 3 * width:
        for turn in (HEAD_ANGLE, -HEAD_ANGLE):
            angle = math.atan2(dy, dx) + turn
            reach = max(HEAD_LENGTH * length, 3 * width)
            sides.append(QPointF(tip.x() - reach * math.cos(angle), tip.y() - reach * math.sin(angle)))
        sides.insert(1, tip)
    for shade, thickness in ((OUTLINE_COLOR, width + 2), (qcolor(color), width)):
        dot = 0.0 if sides else width
        painter.setPen(QPen(shade, thickness + dot, cap=Qt.PenCapStyle.RoundCap, join=Qt.PenJoinStyle.RoundJoin))
        if sides:
            painter.drawLine(QPointF(x, y), tip)
            painter.drawPolyline(sides)
        else:
            painter.drawPoint(QPointF(x, y))
