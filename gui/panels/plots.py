"""Plots of values over the last seconds, painted at the resolution of the screen.

pyqtgraph is not used: its import takes longer than the window may be blocked.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PyQt6.QtCore import QPointF, QRectF, QSize, Qt
from PyQt6.QtGui import QColor, QPainter, QPaintEvent, QPalette, QPen, QPolygonF
from PyQt6.QtWidgets import QWidget

SPAN = 10.0
"""Seconds that a plot shows."""

COLORS = ("#3d9be9", "#e69f00", "#2aa876", "#d1699f", "#e0623a", "#8a7fd6", "#b8a90a", "#7a8794")
"""Of the lines, in this order; visible on a light and on a dark background."""


@dataclass(frozen=True)
class Scale:
    """The values at the bottom and at the top of a plot. A larger value raises `high` if it `grows`."""

    low: float
    high: float
    unit: str = ""
    grows: bool = False


class Plot(QWidget):
    """Lines, or areas on top of each other, of named values. `add` only stores; painting waits for `update`."""

    def __init__(self, title: str, names: Mapping[str, str], scale: Scale, stacked: bool = False) -> None:
        """`names` are the values of `add` with their labels; `title` is for screen readers too."""
        super().__init__()
        self._title, self._names, self._scale, self._stacked = title, dict(names), scale, stacked
        self._rows: deque[tuple[float, list[float]]] = deque()  # seconds, values
        self.setAccessibleName(title)
        self.setToolTip(title)
        self.setMinimumSize(QSize(160, 74))

    def add(self, seconds: float, values: Mapping[str, float]) -> None:
        """Add values at a time. A jump back begins again."""
        if self._rows and seconds < self._rows[-1][0]:
            self._rows.clear()
        self._rows.append((seconds, [values.get(name, 0.0) for name in self._names]))
        while seconds - self._rows[0][0] > SPAN:
            self._rows.popleft()

    def clear(self) -> None:
        """Forget all values."""
        self._rows.clear()
        self.update()

    @property
    def values(self) -> dict[str, float]:
        """The newest values by name; empty if there are none."""
        return dict(zip(self._names, self._rows[-1][1], strict=True)) if self._rows else {}

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        return QSize(260, 96)

    def paintEvent(self, _event: QPaintEvent | None) -> None:  # noqa: N802 - Qt's name
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        metrics, colors = self.fontMetrics(), self.palette()
        painter.setPen(colors.color(QPalette.ColorRole.WindowText))
        painter.drawText(4, metrics.ascent(), self._title)
        top = self._paint_legend(painter, metrics.height())
        area = QRectF(self.rect()).adjusted(4, top + 2, -4, -4)
        painter.fillRect(area, colors.color(QPalette.ColorRole.Base))
        table = np.array([values for _, values in self._rows])
        if self._stacked and len(table):
            table = table.cumsum(1)
        high = max(self._scale.high, float(table.max()) * 1.1) if self._scale.grows and len(table) else self._scale.high
        painter.setClipRect(area)
        self._paint_grid(painter, area, high)
        if len(table):
            self._paint_values(painter, area, table, high)
        painter.end()

    def _paint_legend(self, painter: QPainter, top: int) -> int:
        """Paint the name and the newest value of each line in its color. Return the y below them."""
        metrics, x, newest = self.fontMetrics(), 4, self.values
        decimals = 0 if self._scale.high >= 50 else 1 if self._scale.high >= 5 else 2
        for (name, label), color in zip(self._names.items(), COLORS, strict=False):
            text = f"{label} {newest[name]:.{decimals}f}" if name in newest else label
            width = metrics.horizontalAdvance(text)
            if x > 4 and x + width > self.width() - 4:
                x, top = 4, top + metrics.height()
            painter.setPen(_readable(color, self.palette()))
            painter.drawText(x, top + metrics.ascent(), text)
            x += width + 12
        return top + metrics.height()

    def _paint_grid(self, painter: QPainter, area: QRectF, high: float) -> None:
        """Paint the line of zero, if it is inside, and the value at the top."""
        faint = self.palette().color(QPalette.ColorRole.PlaceholderText)
        painter.setPen(QPen(faint, 1, Qt.PenStyle.DotLine))
        if self._scale.low < 0 < high:
            y = area.bottom() - area.height() * -self._scale.low / (high - self._scale.low)
            painter.drawLine(QPointF(area.left(), y), QPointF(area.right(), y))
        painter.setPen(faint)
        top = f"{round(high) if high >= 10 else round(high, 1):g} {self._scale.unit}".strip()
        painter.drawText(area.adjusted(2, 0, -2, 0), Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignRight, top)

    def _paint_values(self, painter: QPainter, area: QRectF, table: NDArray[np.float64], high: float) -> None:
        """Paint the columns of a table (times, names)."""
        times = np.array([seconds for seconds, _ in self._rows])
        x = area.right() - (times[-1] - times) / SPAN * area.width()
        heights = np.clip((table - self._scale.low) / (high - self._scale.low), 0, 1)
        y = area.bottom() - heights * area.height()
        columns = list(zip(y.T, COLORS, strict=False))
        if not self._stacked:
            for column, color in columns:
                painter.setPen(QPen(QColor(color), 1.6))
                painter.drawPolyline(_polygon(x, column))
            return
        painter.setPen(Qt.PenStyle.NoPen)
        for column, color in reversed(columns):  # the sum of all first, so that each covers what is above it
            painter.setBrush(QColor(color))
            ground = np.array([area.bottom(), area.bottom()])
            painter.drawPolygon(_polygon(np.append(x, [x[-1], x[0]]), np.append(column, ground)))


def _polygon(x: NDArray[np.float64], y: NDArray[np.float64]) -> QPolygonF:
    return QPolygonF([QPointF(*place) for place in zip(x.tolist(), y.tolist(), strict=True)])


def _readable(color: str, palette: QPalette) -> QColor:
    """Return a color that can be read as text on the window's background."""
    dark = palette.color(QPalette.ColorRole.Window).lightness() < 128
    return QColor(color).lighter(125) if dark else QColor(color).darker(135)
