"""The bar below the video: frame rate, faces, time per stage, dropped frames; and buttons."""

import time
from collections import deque
from collections.abc import Sequence

from PyQt6.QtCore import QCoreApplication, Qt
from PyQt6.QtGui import QAction, QResizeEvent
from PyQt6.QtWidgets import QHBoxLayout, QLabel, QSizePolicy, QToolButton, QWidget

from canthus.gui.stream import Result

WINDOW_SECONDS = 1.0
"""The rate and the times are averages over this long, so that they can be read."""

PAD = "\N{FIGURE SPACE}"
"""As wide as a digit, so that the line does not shift when a number gets shorter."""

MARGINS, SPACING = 20, 2
"""Pixels at both ends together, and between the buttons."""

SEPARATOR = "  ·  "
"""Between two values."""


def tr(text: str) -> str:
    """Translate a text of this file."""
    return QCoreApplication.translate("StatusBar", text)


class StatusBar(QWidget):
    """Shows a button for each of some actions, and the values of a meter, as far as there is room."""

    def __init__(self, actions: Sequence[QAction]) -> None:
        super().__init__()
        self.setObjectName("bar")
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self.meter = FrameRateMeter()
        self._values = QLabel()
        self._values.setObjectName("status")
        self._values.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        row = QHBoxLayout(self)
        row.setContentsMargins(MARGINS // 2, 4, MARGINS // 2, 4)
        row.setSpacing(SPACING)
        row.addWidget(self._values, 1)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self._hidden: set[QAction] = set()
        self._buttons: dict[QAction, QToolButton] = {}
        for action in actions:
            button = self._buttons[action] = QToolButton()
            button.setFocusPolicy(Qt.FocusPolicy.NoFocus)
            button.setDefaultAction(action)
            row.addWidget(button)

    def show_button(self, action: QAction, shown: bool) -> None:
        """Show or hide the button of an action."""
        (self._hidden.discard if shown else self._hidden.add)(action)
        self._place_buttons()

    def _place_buttons(self) -> None:
        """Show the buttons for which there is room."""
        room = self.width() - MARGINS
        for action, button in self._buttons.items():
            if action not in self._hidden:
                room -= button.sizeHint().width() + SPACING
            button.setVisible(action not in self._hidden and room >= 0)

    def resizeEvent(self, event: QResizeEvent | None) -> None:  # noqa: N802 - Qt's name
        super().resizeEvent(event)
        self._place_buttons()

    @property
    def text(self) -> str:
        """The values that are shown."""
        return self._values.text()

    def refresh(self, running: bool) -> None:
        """Show the values, or only the faces unless the playback is running."""
        width_of = self._values.fontMetrics().horizontalAdvance
        text = self.meter.text(running=running)
        if width_of(text) > self._values.width():
            text = self.meter.text(running=running, short=True)
        while width_of(text) > self._values.width():
            text = text.rpartition(SEPARATOR)[0]  # drop the last value rather than cut it off
        self._values.setText(text)


class FrameRateMeter:
    """Averages the results that the window has painted over the last second."""

    def __init__(self) -> None:
        self._painted: deque[tuple[float, Result]] = deque()  # seconds on the monotonic clock, result

    def add(self, result: Result, now: float | None = None) -> None:
        """Count a result that is painted now (seconds on the monotonic clock), unless no faces were searched in it."""
        if not result.seconds:
            return
        now = time.monotonic() if now is None else now
        self._painted.append((now, result))
        while now - self._painted[0][0] > WINDOW_SECONDS:
            self._painted.popleft()

    def text(self, now: float | None = None, short: bool = False, running: bool = True) -> str:
        """Return frames per second, faces, ms per stage, dropped frames and the backend's name.

        If `short`, the sum of the stages and no backend. Only the faces unless `running`, because the figures are those
        of the past. Empty before the first result.
        """
        if not self._painted:
            return ""
        if not running:
            return _faces(len(self._painted[-1][1].faces))
        now = time.monotonic() if now is None else now
        (first, _), (last, newest) = self._painted[0], self._painted[-1]
        is_running = last > first and now - last <= WINDOW_SECONDS
        rate = f"{(len(self._painted) - 1) / (last - first):.1f}" if is_running else "-"
        means = {
            stage: 1000 * sum(result.seconds[stage] for _, result in self._painted) / len(self._painted)
            for stage in newest.seconds
        }
        stages = "  ".join(f"{stage} {mean:.1f}" for stage, mean in means.items())
        parts = (
            tr("{rate} fps").format(rate=rate.rjust(4, PAD)),
            _faces(len(newest.faces)),
            f"{sum(means.values()):.1f} ms" if short else f"{stages} ms",
            tr("{count} dropped").format(count=newest.dropped),
        )
        backend = (newest.backend,) if newest.backend and not short else ()
        return SEPARATOR.join((*parts, *backend))


def _faces(count: int) -> str:
    return tr("1 face") if count == 1 else tr("{count} faces").format(count=count)
