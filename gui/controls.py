"""Play, pause, step, jump, loop and speed: the Playback menu, and the bar under a clip."""

from collections.abc import Callable

from PyQt6.QtCore import QEvent, QSize, Qt, pyqtSignal
from PyQt6.QtGui import QAction, QActionGroup, QPalette
from PyQt6.QtWidgets import QHBoxLayout, QLabel, QMainWindow, QMenu, QToolButton, QWidget

from canthus.gui.icons import symbol
from canthus.gui.menus import new_action
from canthus.gui.playback import Playback
from canthus.gui.timeline import SKIP_SECONDS, Timeline

SPEEDS = (0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 4.0)


class Controls(QWidget):
    """Controls the playback of the window. `changed` is emitted after the user has paused, resumed or jumped."""

    changed = pyqtSignal()
    file_wanted = pyqtSignal(int)  # +1: the next one of the list, -1: the previous one

    def __init__(self, window: QMainWindow, menu: QMenu) -> None:
        super().__init__(window)
        self.setObjectName("controls")
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self._window = window
        self._playback: Playback | None = None
        self._speed = 1.0
        self._paused = False
        self._of_clips: list[QAction] = []
        self.timeline = Timeline()
        self.timeline.moved.connect(self.seek)
        self._time = QLabel()
        self._time.setObjectName("status")
        self._fill_menu(menu)
        self._fill_bar()
        self.show_playback(None)

    def _fill_menu(self, menu: QMenu) -> None:
        tr = self.tr
        self.pause = new_action(self._window, tr("Pause"), tr("Pause or resume"), "Space")
        self.pause.triggered.connect(self.toggle_pause)
        menu.addAction(self.pause)
        before = lambda: self.step(forward=False)  # noqa: E731
        after = lambda: self.step(forward=True)  # noqa: E731
        self._back = self._add(menu, tr("Previous frame"), tr("Pause and show the frame before"), ",", before)
        self._next = self._add(menu, tr("Next frame"), tr("Pause and show the next frame"), ".", after)
        self._add(menu, tr("Back 5 seconds"), tr("Jump back"), "Left", lambda: self.skip(-SKIP_SECONDS))
        self._add(menu, tr("Forward 5 seconds"), tr("Jump ahead"), "Right", lambda: self.skip(SKIP_SECONDS))
        self._add(menu, tr("Go to the start"), tr("Show the first frame"), "Home", lambda: self.seek(0.0))
        menu.addSeparator()
        self._speeds = QMenu(tr("Speed"), menu)
        menu.addMenu(self._speeds)
        group = QActionGroup(self)
        for speed in SPEEDS:
            action = QAction(f"{speed:g} x", group)
            action.setCheckable(True)
            action.setChecked(speed == self._speed)
            action.triggered.connect(lambda _checked, speed=speed: self.set_speed(speed))
            self._speeds.addAction(action)
        self.loop = new_action(self._window, tr("Loop"), tr("Play again and again"), "O", checked=False)
        self.loop.toggled.connect(self._set_loop)
        self.mute = new_action(self._window, tr("Mute"), tr("Switch the sound off"), "U", checked=False)
        self.mute.toggled.connect(self._set_muted)
        menu.addActions([self.loop, self.mute])
        self._of_clips += [self.loop, self.mute]
        menu.addSeparator()
        self._previous_file = new_action(self._window, tr("Previous file"), tr("Show the file before"), "PgUp")
        self._next_file = new_action(self._window, tr("Next file"), tr("Show the next file"), "PgDown")
        self._previous_file.triggered.connect(lambda: self.file_wanted.emit(-1))
        self._next_file.triggered.connect(lambda: self.file_wanted.emit(1))
        menu.addActions([self._previous_file, self._next_file])

    def _add(self, menu: QMenu, text: str, tip: str, key: str, act: Callable[[], object]) -> QAction:
        """Add an action for clips to the menu, which repeats while its key is held."""
        action = new_action(self._window, text, tip, key)
        action.setAutoRepeat(True)
        action.triggered.connect(lambda _checked=False: act())
        menu.addAction(action)
        self._of_clips.append(action)
        return action

    def _fill_bar(self) -> None:
        self._speed_button = QToolButton()
        self._speed_button.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self._speed_button.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self._speed_button.setMenu(self._speeds)
        self._speed_button.setToolTip(self.tr("Speed"))
        self._speed_button.setAccessibleName(self.tr("Speed"))
        self._speed_button.setText("1 x")
        row = QHBoxLayout(self)
        row.setContentsMargins(6, 2, 6, 2)
        row.setSpacing(2)
        for action in (self._back, self.pause, self._next):
            row.addWidget(_button(action))
        row.addWidget(self.timeline, 1)
        row.addWidget(self._time)
        row.addSpacing(6)
        row.addWidget(self._speed_button)
        row.addWidget(_button(self.loop))
        self._draw_symbols()

    def _draw_symbols(self) -> None:
        """Draw the symbols of the actions in the color of the theme."""
        color = self.palette().color(QPalette.ColorRole.ButtonText)
        for action, name in (
            (self._back, "previous"),
            (self.pause, "play" if self._paused else "pause"),
            (self._next, "next"),
            (self.loop, "loop"),
        ):
            action.setIcon(symbol(name, color))

    def changeEvent(self, event: QEvent | None) -> None:  # noqa: N802 - Qt's name
        """Follow the theme."""
        super().changeEvent(event)
        if event is not None and event.type() == QEvent.Type.PaletteChange:
            self._draw_symbols()

    def show_playback(self, playback: Playback | None, duration: float = 0.0) -> None:
        """Control this playback; `duration` is that of a clip in seconds, and 0 for a camera."""
        if playback is not self._playback:
            self.timeline.clear()
            self._time.clear()
        self._playback = playback
        is_clip = playback is not None and not playback.media.live
        if playback is not None:
            playback.loop, playback.muted = self.loop.isChecked(), self.mute.isChecked()
            playback.set_speed(self._speed if is_clip else 1.0)
        self.timeline.set_duration(duration)
        self.setVisible(is_clip)
        self.pause.setEnabled(playback is not None)
        for action in self._of_clips:
            action.setEnabled(is_clip)

    def show_position(self, seconds: float) -> None:
        """Show the time of the frame that is painted."""
        self.timeline.show_frame(seconds)
        self._time.setText(f"{_clock(seconds)} / {_clock(self.timeline.duration)}")

    def show_paused(self, paused: bool) -> None:
        """Show what the button does now: play or pause."""
        self.pause.setText(self.tr("Play") if paused else self.tr("Pause"))
        if paused != self._paused:
            self._paused = paused
            self._draw_symbols()

    def show_list(self, place: int, count: int) -> None:
        """Show whether there are files before and after this one."""
        self._previous_file.setEnabled(place > 0)
        self._next_file.setEnabled(place < count - 1)

    def toggle_pause(self) -> None:
        """Pause or resume."""
        if self._playback is not None:
            self._playback.toggle_pause()
            self.changed.emit()

    def step(self, forward: bool) -> None:
        """Pause and show the next or the previous frame."""
        if self._playback is not None:
            self._playback.step(forward)
            self.changed.emit()

    def seek(self, seconds: float) -> None:
        """Jump to a time of the clip."""
        if self._playback is not None:
            self._playback.seek(seconds)
            self.changed.emit()

    def skip(self, seconds: float) -> None:
        """Jump ahead, or back if negative."""
        self.seek(min(max(0.0, self.timeline.position + seconds), self.timeline.duration))

    def set_speed(self, speed: float) -> None:
        """Play faster or slower; 1 is the clip's own speed."""
        self._speed = speed
        self._speed_button.setText(f"{speed:g} x")
        if self._playback is not None:
            self._playback.set_speed(speed)

    def _set_loop(self, on: bool) -> None:
        if self._playback is not None:
            self._playback.loop = on

    def _set_muted(self, on: bool) -> None:
        if self._playback is not None:
            self._playback.muted = on


def _button(action: QAction) -> QToolButton:
    button = QToolButton()
    button.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonIconOnly)
    button.setIconSize(QSize(18, 18))
    button.setDefaultAction(action)
    return button


def _clock(seconds: float) -> str:
    """Return minutes and seconds: "1:05.2"."""
    minutes, rest = divmod(round(max(0.0, seconds), 1), 60)
    return f"{minutes:.0f}:{rest:04.1f}"
