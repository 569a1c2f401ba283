"""Where some points of each face were shortly before."""

from collections import deque
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PyQt6.QtCore import Qt
from PyQt6.QtGui import QPainter, QPen, QTransform

from canthus.gui.overlay.place import place_points, polygon
from canthus.gui.overlay.style import OUTLINE_COLOR, Palette, qcolor
from canthus.runtime.schemes import WFLW, Scheme
from canthus.runtime.types import Faces

TRAIL_SECONDS = 1.0

TRAIL_POINTS = (54, 16, 76, 82, 96, 97)
"""Of WFLW: tip of the nose, chin, corners of the mouth, pupils."""

PARTS = 5
"""A trail fades out in so many steps."""


def trail_points(scheme: Scheme) -> tuple[int, ...]:
    """Return the points that have a trail. Of other schemes than WFLW: tip of the nose, eyes, pupils, if there are."""
    if scheme == WFLW:
        return TRAIL_POINTS
    pupils = [point for name in ("left_pupil", "right_pupil") for point in scheme.regions.get(name, ())]
    corners = [point for group in scheme.normalizer for point in group[:1]]
    return tuple(dict.fromkeys([*([] if scheme.nose_tip is None else [scheme.nose_tip]), *corners, *pupils]))


class Trails:
    """Keeps the `trail_points` of the faces of the last TRAIL_SECONDS."""

    def __init__(self) -> None:
        self.scheme = WFLW  # of the newest frame
        self._seconds = 0.0  # of the newest frame
        self._places: dict[int, deque[tuple[float, NDArray[np.float32]]]] = {}  # id -> seconds, (P, 2) frame pixels

    def add(self, faces: Faces, seconds: float) -> None:
        """Add the faces of the next frame. A face that is not among them has no trail any more.

        A jump back or of more than TRAIL_SECONDS begins again, and so do other points.
        """
        if not 0 <= seconds - self._seconds <= TRAIL_SECONDS or faces.scheme != self.scheme:
            self._places = {}
        self.scheme = faces.scheme
        self._seconds = seconds
        self._places = {face_id: self._places.get(face_id, deque()) for face_id in faces.ids.tolist()}
        for places, points in zip(self._places.values(), faces.points, strict=True):
            places.append((seconds, points[list(trail_points(self.scheme))]))
            while seconds - places[0][0] > TRAIL_SECONDS:
                places.popleft()

    def paths(self) -> list[NDArray[np.float32]]:
        """Return the path of each face, (frames, P, 2) frame pixels, oldest first, if it has two frames or more."""
        return [np.stack([points for _, points in places]) for places in self._places.values() if len(places) > 1]


def paint_trails(painter: QPainter, trails: Trails, to_window: QTransform, palette: Palette) -> None:
    """Paint the trails, the older parts fainter."""
    colors, shown = palette.points(trails.scheme), trail_points(trails.scheme)
    for path in trails.paths():
        placed = place_points(path, to_window)
        ends = np.unique(np.linspace(0, len(placed) - 1, PARTS + 1).round().astype(int)).tolist()
        for part, (begin, end) in enumerate(pairwise(ends), PARTS + 1 - len(ends)):
            opacity = (part + 1) / PARTS
            for column, point in enumerate(shown):
                line = polygon(placed[begin : end + 1, column])
                for color, width in ((OUTLINE_COLOR, 3.5), (qcolor(colors[point]), 1.8)):
                    pen = QPen(color, width * (0.5 + opacity / 2), cap=Qt.PenCapStyle.FlatCap)
                    painter.setPen(pen)
                    painter.setOpacity(opacity)
                    painter.drawPolyline(line)
    painter.setOpacity(1.0)
