"""The panel with frame rate, latency, dropped frames and the time of each stage."""

import time
from collections import deque

from PyQt6.QtCore import QTimer
from PyQt6.QtWidgets import QFormLayout, QLabel, QVBoxLayout, QWidget

from canthus.gui.panels.plots import Plot, Scale
from canthus.gui.stream import Result

REFRESH_MS = 200
WINDOW_SECONDS = 1.0
"""Figures are means over this time."""

STALE_SECONDS = 1.0
"""Without a result for this long, no figures are shown."""


class PerformancePanel(QWidget):
    """Shows how fast the results arrive that were painted."""

    def __init__(self) -> None:
        super().__init__()
        self._painted: deque[tuple[float, Result]] = deque()  # monotonic seconds, result
        self.rate, self.latency, self.dropped = QLabel("-"), QLabel("-"), QLabel("-")
        stages = {
            "detect": self.tr("detect"),
            "landmark": self.tr("landmark"),
            "smooth": self.tr("smooth"),
            "measure": self.tr("measure"),
        }
        self.stages = Plot(self.tr("Time of each stage, ms"), stages, Scale(0, 20, "ms", grows=True), stacked=True)
        self.history = Plot(self.tr("Latency from capture to paint, ms"), {"latency": ""}, Scale(0, 50, "ms", True))
        form = QFormLayout()
        for text, label, tip in (
            (self.tr("Frames per second"), self.rate, self.tr("How many results were painted in the last second")),
            (self.tr("Latency"), self.latency, self.tr("From the arrival of a frame to its painting")),
            (self.tr("Dropped frames"), self.dropped, self.tr("Frames that arrived but were never shown")),
        ):
            label.setToolTip(tip)
            label.setAccessibleName(text)
            form.addRow(text, label)
        column = QVBoxLayout(self)
        column.addLayout(form)
        column.addWidget(self.stages, 2)
        column.addWidget(self.history, 1)
        self._timer = QTimer(self)
        self._timer.setInterval(REFRESH_MS)
        self._timer.timeout.connect(self.refresh)
        self._timer.start()

    def add(self, result: Result, now: float | None = None) -> None:
        """Count a result that is painted now, in seconds of the monotonic clock."""
        now = time.monotonic() if now is None else now
        if not result.seconds:
            return
        self._painted.append((now, result))
        while now - self._painted[0][0] > WINDOW_SECONDS:
            self._painted.popleft()
        self.stages.add(now, {stage: 1000 * seconds for stage, seconds in result.seconds.items()})
        if result.arrived:
            self.history.add(now, {"latency": 1000 * (now - result.arrived)})

    def refresh(self, now: float | None = None) -> None:
        """Show the figures of the last second, or none if nothing was painted."""
        if not self.isVisible():
            return
        now = time.monotonic() if now is None else now
        if not self._painted or now - self._painted[-1][0] > STALE_SECONDS:
            for label in (self.rate, self.latency):
                label.setText("-")
            return
        first, last = self._painted[0][0], self._painted[-1][0]
        if last > first:
            self.rate.setText(f"{(len(self._painted) - 1) / (last - first):.1f}")
        waits = [1000 * (painted - result.arrived) for painted, result in self._painted if result.arrived]
        self.latency.setText(f"{sum(waits) / len(waits):.0f} ms" if waits else "-")
        self.dropped.setText(str(self._painted[-1][1].dropped))
        self.stages.update()
        self.history.update()
