"""The window: shows a stream, says what there is to say, and listens to keys and buttons."""

from dataclasses import replace

from PyQt6.QtCore import QEvent, QPoint, QRect, QSize, Qt, QTimer
from PyQt6.QtGui import (
    QAction,
    QCloseEvent,
    QKeySequence,
    QMouseEvent,
    QShortcut,
)
from PyQt6.QtWidgets import QHBoxLayout, QLabel, QMainWindow, QSizePolicy, QToolButton, QVBoxLayout, QWidget

from canthus.gui.meter import GAP, FrameRateMeter
from canthus.gui.overlay import OverlayStyle
from canthus.gui.stream import Disconnected, Ended, Failed, Opening, Playing, Result, State, Stream
from canthus.gui.view import View
from canthus.runtime.errors import CanthusError

STYLE = """
QMainWindow, QWidget#bar { background: #12161d; }
QWidget#bar { border-top: 1px solid #232a35; }
QLabel#status { color: #b4bfcd; }
QToolButton { color: #b4bfcd; border: none; border-radius: 5px; padding: 4px 7px; }
QToolButton:hover { background: #232b38; color: #e6ebf2; }
QToolButton:checked { background: #1a2f42; color: #5ac8fa; }
QToolButton:disabled { color: #4a5564; }
QMenu { background: #171c25; color: #d5dde8; border: 1px solid #2b3442; padding: 4px; }
QMenu::item { padding: 5px 22px; border-radius: 4px; }
QMenu::item:selected { background: #27405a; }
QMenu::separator { height: 1px; background: #2b3442; margin: 4px 8px; }
QToolTip { background: #171c25; color: #d5dde8; border: 1px solid #2b3442; padding: 3px; }
"""
SMALLEST = QSize(640, 400)
SHARE_OF_SCREEN = 0.75
HINT_MS = 2500
STATUS_MS = 250


class Window(QMainWindow):
    """Shows a stream, and asks it to stop when it closes. `failure` is the error that ended it, if any."""

    def __init__(self, stream: Stream, name: str) -> None:
        super().__init__()
        self.failure: BaseException | None = None
        self._stream = stream
        self._name = name
        self._meter = FrameRateMeter()
        self._state: State = Opening()
        self._shown = False  # has a result been shown?
        self._runs = ""  # what ran the network for the last one
        self.view = View(OverlayStyle(mirrored=stream.live))
        self._status = QLabel()
        self._hint_over = QTimer(self)
        self._hint_over.setSingleShot(True)
        self._hint_over.setInterval(HINT_MS)
        self._hint_over.timeout.connect(self._refresh)
        self._build()
        stream.states.filled.connect(self._take_state)
        stream.results.filled.connect(self._take_result)
        self._beat = QTimer(self)
        self._beat.setInterval(STATUS_MS)
        self._beat.timeout.connect(self._tell_figures)
        self._beat.start()
        self._refresh()
        self._unfitted = self.size()

    @property
    def status(self) -> str:
        """The figures of the status line."""
        return self._status.text()

    def _build(self) -> None:
        self.setWindowTitle(f"{self._name} — canthus")
        self.setStyleSheet(STYLE)
        self.setMinimumSize(SMALLEST)
        size = QSize(960, 540 + self._status.sizeHint().height())
        if (screen := self.screen()) is not None:
            size = size.boundedTo(screen.availableSize() * SHARE_OF_SCREEN)
        self.resize(size.expandedTo(SMALLEST))
        self._bar = QWidget()
        self._bar.setObjectName("bar")
        row = QHBoxLayout(self._bar)
        row.setContentsMargins(12, 4, 6, 4)
        row.setSpacing(2)
        self._status.setObjectName("status")
        self._status.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        row.addWidget(self._status, 1)
        row.addSpacing(10)
        for action in self._actions():
            self.addAction(action)
            if action.text() == "Close":
                continue  # the window's frame has a button for it
            button = QToolButton()
            button.setFocusPolicy(Qt.FocusPolicy.NoFocus)
            button.setDefaultAction(action)
            row.addWidget(button)
        body = QWidget()
        column = QVBoxLayout(body)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addWidget(self.view, 1)
        column.addWidget(self._bar)
        self.setCentralWidget(body)
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.ActionsContextMenu)

    def _actions(self) -> list[QAction]:
        """What one can do, in the order of the bar and of the menu."""
        self._pause = self._action("Pause", "Pause or go on", "Space")
        self._pause.triggered.connect(self._toggle_pause)
        look = self.view.look
        lines = self._action("Lines", "Lines between the points", "L", checked=look.lines)
        lines.toggled.connect(lambda on: self._look(lines=on))
        ids = self._action("Ids", "The number of each face", "I", checked=look.ids)
        ids.toggled.connect(lambda on: self._look(ids=on))
        mirror = self._action("Mirror", "Left and right as in a mirror", "M", checked=look.mirrored)
        mirror.toggled.connect(lambda on: self._look(mirrored=on))
        full = self._action("Full screen", "The picture alone", "F", "F11")
        full.triggered.connect(self._toggle_full_screen)
        keys = self._action("Keys", "Show the keys", "H", "F1", "?")
        keys.triggered.connect(self._show_keys)
        close = self._action("Close", "Close the window", "Q", "Ctrl+Q", "Ctrl+W")
        close.triggered.connect(self.close)
        QShortcut(QKeySequence("Esc"), self).activated.connect(self._leave)
        return [self._pause, lines, ids, mirror, full, keys, close]

    def _action(self, text: str, tip: str, *keys: str, checked: bool | None = None) -> QAction:
        action = QAction(text, self)
        action.setToolTip(f"{tip} ({keys[0]})")
        action.setShortcuts([QKeySequence(key) for key in keys])
        action.setAutoRepeat(False)
        if checked is not None:
            action.setCheckable(True)
            action.setChecked(checked)
        return action

    def _tell_figures(self) -> None:
        figures, wide = self._meter.text(), self._status.fontMetrics().horizontalAdvance
        if wide(figures) > self._status.width():
            figures = self._meter.text(short=True)
        while wide(figures) > self._status.width():
            figures = figures.rpartition(GAP)[0]  # rather one figure less than half a word
        self._status.setText(figures)

    def _look(self, **facts: bool) -> None:
        self.view.look = replace(self.view.look, **facts)
        self.view.update()

    def _toggle_pause(self) -> None:
        self._stream.toggle()
        self._hint_over.stop()
        self._refresh()

    def _toggle_full_screen(self) -> None:
        self.setWindowState(self.windowState() ^ Qt.WindowState.WindowFullScreen)

    def _show_keys(self) -> None:
        self._say("Space pauses  ·  L lines  ·  I ids  ·  M mirror  ·  F full screen  ·  Q closes")

    def _leave(self) -> None:
        if self.isFullScreen():
            self._toggle_full_screen()
        else:
            self.close()

    def _say(self, hint: str) -> None:
        """Show a hint for a moment."""
        self._hint_over.stop()
        self._refresh()
        if hint:
            self.view.show_hint(hint)
            self._hint_over.start()

    def _take_state(self) -> None:
        state = self._stream.states.take()
        if state is not None:
            self._enter(state)

    def _take_result(self) -> None:
        match self._stream.results.take():
            case Result() as result:
                if not self._shown:
                    self._shown = True
                    self._fit(result)
                    self._refresh()
                if self._runs and result.runs != self._runs:
                    self._say(f"{result.runs} from here on")
                self._runs = result.runs
                self._meter.add(result)
                self.view.show_result(result)
            case Failed() as failed:
                self._enter(failed)

    def _enter(self, state: State) -> None:
        if isinstance(self._state, Failed):
            return  # the first failure is the cause; what comes after it is its echo
        self._state = state
        if isinstance(state, Failed):
            self.failure = state.error
            if not isinstance(state.error, CanthusError):
                self.close()  # our own mistake: whoever opened the window raises it
        self._refresh()

    def _refresh(self) -> None:
        """Say what there is to say now."""
        hint = ""
        match self._state:
            case Failed(error):
                message = ("This cannot be shown", _sentence(str(error)))
            case Disconnected(reason):
                message = (f"Waiting for {self._name}", f"{_sentence(reason)}\nTrying again every second.")
            case Opening():
                message = (f"Opening {self._name} …", "")
            case Playing() | Ended() if not self._shown:
                message = ("Loading the models …", "The first start takes longer.")
            case Ended(damaged):
                message = ("", "")
                hint = f"The end  ·  The file is damaged: {damaged}" if damaged else "The end  ·  Space plays it again"
            case Playing():
                message = ("", "")
        if self._stream.paused:
            hint = "Paused  ·  Space goes on"
        self._pause.setText("Play" if hint else "Pause")
        self._pause.setEnabled(not isinstance(self._state, Failed))
        if not self._hint_over.isActive():
            self.view.show_hint(hint)
        self.view.show_message(*message)

    def _fit(self, result: Result) -> None:
        """Take the shape of the first picture, unless the user has chosen a size already."""
        screen = self.screen()
        if screen is None or self.size() != self._unfitted or self.isFullScreen():
            return
        height, width = result.frame.image.shape[0], result.frame.image.shape[1] * result.frame.pixel_aspect
        room = screen.availableSize() * SHARE_OF_SCREEN
        bar = self._bar.sizeHint().height()
        scale = min(room.width() / width, (room.height() - bar) / height, max(1.0, 640 / height))
        size = QSize(round(width * scale), round(height * scale) + bar).expandedTo(SMALLEST)
        place = QRect(QPoint(), size)
        place.moveCenter(self.geometry().center())
        # Growing about the middle must not push a corner off the screen.
        corner = screen.availableGeometry().topLeft()
        place.moveTopLeft(QPoint(max(place.left(), corner.x()), max(place.top(), corner.y())))
        self.setGeometry(place)

    def changeEvent(self, event: QEvent | None) -> None:  # noqa: N802 - Qt's name
        # The desktop has keys of its own for full screen too.
        full = self.isFullScreen()
        if event is not None and event.type() == QEvent.Type.WindowStateChange and full != self._bar.isHidden():
            self._bar.setVisible(not full)
            self.view.setCursor(Qt.CursorShape.BlankCursor if full else Qt.CursorShape.ArrowCursor)
            self._say("Esc leaves full screen" if full else "")
        super().changeEvent(event)

    def mouseDoubleClickEvent(self, _event: QMouseEvent | None) -> None:  # noqa: N802 - Qt's name
        self._toggle_full_screen()

    def closeEvent(self, event: QCloseEvent | None) -> None:  # noqa: N802 - Qt's name
        self._beat.stop()
        self._hint_over.stop()
        self._stream.stop()
        super().closeEvent(event)


def _sentence(text: str) -> str:
    """A message of the command line, made ready for the window: a capital unless it begins with a name."""
    first = text.split(maxsplit=1)[0] if text else ""
    return text[:1].upper() + text[1:] if first.isalpha() else text
