"""The timeline of a clip: its position, and where faces were found."""

import math
from itertools import pairwise

import numpy as np
from PyQt6.QtCore import QRectF, Qt, pyqtSignal
from PyQt6.QtGui import QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPalette, QPen
from PyQt6.QtWidgets import QSlider

BINS = 1000
"""Parts of a clip that are marked on their own."""

MARGIN = 8
LONGEST_GAP = 1.0
"""Seconds. A larger distance to the frame before is a jump."""

SKIP_SECONDS = 5.0


class Timeline(QSlider):
    """A slider over the milliseconds of a clip. `moved` is emitted with the seconds that the user wants to see."""

    moved = pyqtSignal(float)

    def __init__(self) -> None:
        super().__init__(Qt.Orientation.Horizontal)
        self.setAccessibleName(self.tr("Position in the clip"))
        self.setToolTip(self.tr("Position in the clip. Blue: faces were found here (Left and Right: 5 seconds)"))
        self.setMinimumHeight(24)
        self._duration = 0.0
        self._marks = np.zeros(BINS, np.uint8)  # 0: not searched, 1: no face, 2: faces
        self._marked = -math.inf  # seconds of the frame that was marked last

    @property
    def position(self) -> float:
        """Seconds of the frame that is shown."""
        return self.value() / 1000

    @property
    def duration(self) -> float:
        """Seconds of the clip; 0 for a camera."""
        return self._duration

    def set_duration(self, seconds: float) -> None:
        """Show another clip, or the same one if its duration is the same."""
        if seconds != self._duration:
            self.clear()
            self._duration = seconds
            self.setRange(0, round(1000 * seconds))

    def clear(self) -> None:
        """Forget the clip."""
        self._duration, self._marked = 0.0, -math.inf
        self._marks[:] = 0
        self.setRange(0, 0)
        self.update()

    def show_frame(self, seconds: float) -> None:
        """Move the handle to a frame, unless the user holds it."""
        if not self.isSliderDown():
            self.setValue(round(1000 * seconds))

    def mark(self, seconds: float, period: float, has_faces: bool) -> None:
        """Mark a frame that is shown for `period` seconds, as one with or without faces.

        Frames that were skipped before it, because there was no time to search them, are marked as this one.
        """
        if self._duration:
            last, self._marked = self._marked, seconds
            if 0 < seconds - last < LONGEST_GAP:
                seconds, period = last, period + seconds - last
            first = int(np.clip(BINS * seconds / self._duration, 0, BINS - 1))
            last = int(np.clip(BINS * (seconds + period) / self._duration, first + 1, BINS))
            self._marks[first:last] = 2 if has_faces else 1
            self.update()

    def spans(self) -> list[tuple[float, float, bool]]:
        """Return start and end in seconds of each part that was searched, and whether it has faces."""
        edges = [0, *(np.flatnonzero(np.diff(self._marks)) + 1).tolist(), BINS]
        scale = self._duration / BINS
        return [
            (start * scale, end * scale, bool(self._marks[start] == 2))
            for start, end in pairwise(edges)
            if self._marks[start]
        ]

    def _go(self, seconds: float) -> None:
        seconds = float(np.clip(seconds, 0, self._duration))
        self.setValue(round(1000 * seconds))
        self._marked = -math.inf
        self.moved.emit(seconds)

    def _groove(self) -> QRectF:
        return QRectF(MARGIN, self.height() / 2 - 3, max(1, self.width() - 2 * MARGIN), 6)

    def _seconds_at(self, x: float) -> float:
        groove = self._groove()
        return self._duration * (x - groove.left()) / groove.width()

    def mousePressEvent(self, event: QMouseEvent | None) -> None:  # noqa: N802 - Qt's name
        if event is not None and event.button() == Qt.MouseButton.LeftButton:
            self.setSliderDown(True)
            self._go(self._seconds_at(event.position().x()))

    def mouseMoveEvent(self, event: QMouseEvent | None) -> None:  # noqa: N802 - Qt's name
        if event is not None and self.isSliderDown():
            self._go(self._seconds_at(event.position().x()))

    def mouseReleaseEvent(self, _event: QMouseEvent | None) -> None:  # noqa: N802 - Qt's name
        self.setSliderDown(False)

    def mouseDoubleClickEvent(self, event: QMouseEvent | None) -> None:  # noqa: N802 - Qt's name
        self.mousePressEvent(event)  # not full screen, as elsewhere in the window

    def keyPressEvent(self, event: QKeyEvent | None) -> None:  # noqa: N802 - Qt's name
        match event.key() if event is not None else None:
            case Qt.Key.Key_Left:
                self._go(self.position - SKIP_SECONDS)
            case Qt.Key.Key_Right:
                self._go(self.position + SKIP_SECONDS)
            case Qt.Key.Key_Home:
                self._go(0.0)
            case Qt.Key.Key_End:
                self._go(self._duration)
            case _:
                if event is not None:
                    event.ignore()

    def paintEvent(self, _event: QPaintEvent | None) -> None:  # noqa: N802 - Qt's name
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        groove, role, color = self._groove(), QPalette.ColorRole, self.palette().color
        painter.setBrush(color(role.Mid))
        painter.drawRoundedRect(groove, 3, 3)
        scale = groove.width() / self._duration if self._duration else 0.0
        for start, end, has_faces in self.spans():
            painter.setBrush(color(role.Accent if has_faces else role.PlaceholderText))
            painter.drawRect(
                QRectF(groove.left() + scale * start, groove.top(), scale * (end - start), groove.height())
            )
        painter.setBrush(color(role.WindowText))
        if self.hasFocus():
            painter.setPen(QPen(color(role.Accent), 3))
        center = groove.left() + scale * self.position
        painter.drawEllipse(QRectF(center - 6, self.height() / 2 - 6, 12, 12))
        painter.end()
