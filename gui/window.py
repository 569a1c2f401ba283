"""The window: shows a stream and its state, and handles keys and buttons."""

from PyQt6.QtCore import QEvent, QPoint, QRect, QSize, Qt, QTimer
from PyQt6.QtGui import QAction, QCloseEvent, QKeySequence, QMouseEvent, QShortcut
from PyQt6.QtWidgets import QHBoxLayout, QLabel, QMainWindow, QMenuBar, QSizePolicy, QToolButton, QVBoxLayout, QWidget

from canthus.gui.media import Media
from canthus.gui.menus import add_menus, new_action
from canthus.gui.meter import SEPARATOR, FrameRateMeter
from canthus.gui.overlay import OverlayStyle
from canthus.gui.playback import Disconnected, Ended, Failed, Opening, Playing, State
from canthus.gui.stream import Result, Stream
from canthus.gui.switches import OverlaySwitches
from canthus.gui.view import View
from canthus.runtime.errors import CanthusError, InputError

STYLE = """
QMainWindow, QWidget#bar { background: #12161d; }
QWidget#bar { border-top: 1px solid #232a35; }
QLabel#status { color: #b4bfcd; }
QToolButton { color: #b4bfcd; border: none; border-radius: 5px; padding: 4px 7px; }
QToolButton:hover { background: #232b38; color: #e6ebf2; }
QToolButton:checked { background: #1a2f42; color: #5ac8fa; }
QToolButton:disabled { color: #4a5564; }
QMenuBar { background: #12161d; color: #b4bfcd; }
QMenuBar::item { padding: 4px 10px; border-radius: 4px; }
QMenuBar::item:selected { background: #232b38; color: #e6ebf2; }
QMenu { background: #171c25; color: #d5dde8; border: 1px solid #2b3442; padding: 4px; }
QMenu::item { padding: 5px 22px; border-radius: 4px; }
QMenu::item:selected { background: #27405a; }
QMenu::separator { height: 1px; background: #2b3442; margin: 4px 8px; }
QToolTip { background: #171c25; color: #d5dde8; border: 1px solid #2b3442; padding: 3px; }
"""
MINIMUM_SIZE = QSize(640, 400)
SCREEN_FRACTION = 0.75
HINT_MS = 2500
STATUS_MS = 250


class Window(QMainWindow):
    """Shows a stream and stops it on close. `failure` is the error that ended the playback, if any."""

    def __init__(self, stream: Stream, loop: bool = False) -> None:
        super().__init__()
        self.failure: BaseException | None = None
        self._stream = stream
        self._loop = loop
        self._name = ""  # of the source
        self._meter = FrameRateMeter()
        self._state: State = Opening()
        self._has_result = False
        self._has_faces = False  # faces were searched in a frame of this source
        self._backend = ""  # of the last result
        self.view = View(OverlayStyle(mirrored=True))
        self._status = QLabel()
        self._hint_timer = QTimer(self)
        self._hint_timer.setSingleShot(True)
        self._hint_timer.setInterval(HINT_MS)
        self._hint_timer.timeout.connect(self._refresh)
        self._build()
        stream.states.filled.connect(self._take_state)
        stream.results.filled.connect(self._take_result)
        self._status_timer = QTimer(self)
        self._status_timer.setInterval(STATUS_MS)
        self._status_timer.timeout.connect(self._update_status)
        self._status_timer.start()
        self._refresh()
        self._initial_size = self.size()

    @property
    def status(self) -> str:
        """The text of the status line."""
        return self._status.text()

    def open(self, media: Media) -> None:
        """Show a camera or a clip."""
        self._name = media.name
        self.setWindowTitle(f"{self._name} — canthus")
        self.failure = None
        self._has_result = self._has_faces = False
        self._state = Opening()
        self._meter = FrameRateMeter()
        self.switches.actions["mirrored"].setChecked(media.live)
        self.view.clear()
        playback = self._stream.open(media)
        playback.loop = self._loop
        self._refresh()

    @property
    def _paused(self) -> bool:
        return self._stream.playback is not None and self._stream.playback.paused

    def _build(self) -> None:
        self.setWindowTitle("canthus")
        self.setStyleSheet(STYLE)
        self.setMinimumSize(MINIMUM_SIZE)
        size = QSize(960, 540 + self._status.sizeHint().height())
        if (screen := self.screen()) is not None:
            size = size.boundedTo(screen.availableSize() * SCREEN_FRACTION)
        self.resize(size.expandedTo(MINIMUM_SIZE))
        self._bar = QWidget()
        self._bar.setObjectName("bar")
        row = QHBoxLayout(self._bar)
        row.setContentsMargins(12, 4, 6, 4)
        row.setSpacing(2)
        self._status.setObjectName("status")
        self._status.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        row.addWidget(self._status, 1)
        row.addSpacing(10)
        self._menu_bar = QMenuBar(self)
        self.setMenuBar(self._menu_bar)
        self.menus = add_menus(self._menu_bar)
        for action in self._actions():
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
        """Create the actions and add them to the menus. Return those with a button in the bar, in its order."""
        self._pause = new_action(self, "Pause", "Pause or resume", "Space")
        self._pause.triggered.connect(self._toggle_pause)
        self.menus.playback.addAction(self._pause)
        self.switches = OverlaySwitches(self, self.menus.view, self.view.overlay_style)
        self.switches.changed.connect(self.view.set_style)
        full = new_action(self, "Full screen", "Show only the video", "F", "F11")
        full.triggered.connect(self._toggle_full_screen)
        self.menus.view.addSeparator()
        self.menus.view.addAction(full)
        keys = new_action(self, "Keys", "Show keyboard shortcuts", "H", "F1", "?")
        keys.triggered.connect(self._show_keys)
        self.menus.help.addAction(keys)
        close = new_action(self, "Close", "Close the window", "Q", "Ctrl+Q", "Ctrl+W")
        close.triggered.connect(self.close)
        self.menus.file.addAction(close)
        QShortcut(QKeySequence("Esc"), self).activated.connect(self._escape)
        return [self._pause, *(self.switches.actions[name] for name in ("lines", "ids", "mirrored")), full, keys]

    def _update_status(self) -> None:
        text, width_of = self._meter.text(), self._status.fontMetrics().horizontalAdvance
        if width_of(text) > self._status.width():
            text = self._meter.text(short=True)
        while width_of(text) > self._status.width():
            text = text.rpartition(SEPARATOR)[0]  # drop the last value rather than cut it off
        self._status.setText(text)

    def _toggle_pause(self) -> None:
        if self._stream.playback is not None:
            self._stream.playback.toggle_pause()
        self._hint_timer.stop()
        self._refresh()

    def _toggle_full_screen(self) -> None:
        self.setWindowState(self.windowState() ^ Qt.WindowState.WindowFullScreen)

    def _show_keys(self) -> None:
        self._show_hint("Space: pause  ·  L: lines  ·  I: IDs  ·  M: mirror  ·  F: full screen  ·  Q: close")

    def _escape(self) -> None:
        if self.isFullScreen():
            self._toggle_full_screen()
        else:
            self.close()

    def _show_hint(self, hint: str) -> None:
        """Show a hint for `HINT_MS`."""
        self._hint_timer.stop()
        self._refresh()
        if hint:
            self.view.show_hint(hint)
            self._hint_timer.start()

    def _take_state(self) -> None:
        state = self._stream.states.take()
        if state is not None:
            self._enter(state)

    def _take_result(self) -> None:
        match self._stream.results.take():
            case Result() as result:
                if not self._has_result:
                    self._has_result = True
                    self._fit(result)
                    self._refresh()
                if result.seconds and not self._has_faces:
                    self._has_faces = True
                    self._refresh()
                if self._backend and result.backend and result.backend != self._backend:
                    self._show_hint(f"Now using {result.backend}")
                self._backend = result.backend or self._backend
                self._meter.add(result)
                self.view.show_result(result)
            case Failed() as failed:
                self._enter(failed)

    def _enter(self, state: State) -> None:
        if isinstance(self._state, Failed):
            return  # keep the first error: the later ones follow from it
        self._state = state
        if isinstance(state, Failed):
            self.failure = state.error
        self._refresh()

    def _refresh(self) -> None:
        """Update message, hint and pause button for the current state."""
        hint = ""
        match self._state:
            case Failed(error):
                message = _failure_message(error, self._name)
            case Disconnected(reason):
                title = "Camera disconnected" if self._has_result else "Camera not available"
                message = (title, f"{_sentence(reason)}\nRetrying every second…")
            case Opening():
                message = (f"Opening {self._name}…", "")
            case Playing() if not self._has_faces:
                message = ("", "")
                hint = "Loading the models…  ·  The first start can take a little longer."
            case Ended(damaged):
                message = ("", "")
                action = f"The file is damaged: {damaged}" if damaged else "Press Space to play again"
                hint = f"End of video  ·  {action}"
            case Playing():
                message = ("", "")
        if self._paused:
            hint = "Paused  ·  Press Space to resume"
        self._pause.setText("Play" if self._paused or isinstance(self._state, Ended) else "Pause")
        self._pause.setEnabled(not isinstance(self._state, Failed))
        if not self._hint_timer.isActive():
            self.view.show_hint(hint)
        self.view.show_message(*message)

    def _fit(self, result: Result) -> None:
        """Resize the window to the shape of the first frame, unless the user has resized it already."""
        screen = self.screen()
        if screen is None or self.size() != self._initial_size or self.isFullScreen():
            return
        height, width = result.frame.image.shape[0], result.frame.image.shape[1] * result.frame.pixel_aspect
        available = screen.availableSize() * SCREEN_FRACTION
        bar = self._bar.sizeHint().height() + self._menu_bar.sizeHint().height()
        scale = min(available.width() / width, (available.height() - bar) / height, max(1.0, 640 / height))
        size = QSize(round(width * scale), round(height * scale) + bar).expandedTo(MINIMUM_SIZE)
        geometry = QRect(QPoint(), size)
        geometry.moveCenter(self.geometry().center())
        # The window grows around its center; keep its top left corner on the screen.
        corner = screen.availableGeometry().topLeft()
        geometry.moveTopLeft(QPoint(max(geometry.left(), corner.x()), max(geometry.top(), corner.y())))
        self.setGeometry(geometry)

    def changeEvent(self, event: QEvent | None) -> None:  # noqa: N802 - Qt's name
        # Handled here because the desktop environment can also toggle full screen.
        full = self.isFullScreen()
        if event is not None and event.type() == QEvent.Type.WindowStateChange and full != self._bar.isHidden():
            self._bar.setVisible(not full)
            self._menu_bar.setVisible(not full)
            self.view.setCursor(Qt.CursorShape.BlankCursor if full else Qt.CursorShape.ArrowCursor)
            self._show_hint("Press Esc to exit full screen" if full else "")
        super().changeEvent(event)

    def mouseDoubleClickEvent(self, _event: QMouseEvent | None) -> None:  # noqa: N802 - Qt's name
        self._toggle_full_screen()

    def closeEvent(self, event: QCloseEvent | None) -> None:  # noqa: N802 - Qt's name
        self._status_timer.stop()
        self._hint_timer.stop()
        self._stream.stop()
        super().closeEvent(event)


def _failure_message(error: BaseException, name: str) -> tuple[str, str]:
    """Return the title and the text for an error. `name` is the source."""
    if not isinstance(error, CanthusError):  # a bug: `command` raises it after the window has closed
        return (
            "Internal error",
            f"{type(error).__name__}: {error}\nThe terminal shows more when this window is closed.",
        )
    title = f"Can't play {name}" if isinstance(error, InputError) else "Can't start face tracking"
    return title, _sentence(str(error))


def _sentence(text: str) -> str:
    """Capitalise a command-line message for the window, unless it begins with a file name."""
    first = text.split(maxsplit=1)[0] if text else ""
    return text[:1].upper() + text[1:] if first.isalpha() else text
