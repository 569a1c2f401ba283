"""The window: shows what is opened, and its state, and handles keys, menus and buttons."""

import time
from functools import partial

from PyQt6.QtCore import QEvent, Qt, QTimer, pyqtSignal
from PyQt6.QtGui import (
    QAction,
    QCloseEvent,
    QContextMenuEvent,
    QKeySequence,
    QMouseEvent,
    QShortcut,
)
from PyQt6.QtWidgets import (
    QMainWindow,
    QMenu,
    QMenuBar,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from canthus.gui.cameras import CameraWatcher
from canthus.gui.controls import Controls
from canthus.gui.help_sheet import HelpSheet
from canthus.gui.machine import describe_machine
from canthus.gui.media import AddressMedia, CameraMedia, Media
from canthus.gui.menus import add_menus, new_action
from canthus.gui.message_card import Choice
from canthus.gui.messages import Message, describe_state
from canthus.gui.opener import Opener
from canthus.gui.overlay import OverlayStyle
from canthus.gui.playback import Disconnected, Ended, Failed, Opening, Playing, State
from canthus.gui.recent import recent
from canthus.gui.start_page import StartPage
from canthus.gui.status_bar import FrameRateMeter, StatusBar
from canthus.gui.stream import Result, Stream
from canthus.gui.switches import OverlaySwitches
from canthus.gui.theme import BAR_STYLE, MENU_STYLE
from canthus.gui.view import View
from canthus.gui.window_size import MINIMUM_SIZE, first_size, fitted_geometry
from canthus.runtime.errors import InputError
from canthus.runtime.types import Frame

HINT_MS, READING_MS = 2500, 60  # at least, and for each letter
STATUS_MS = 250

PATIENCE_SECONDS = 3.0
"""After this time of opening, the card offers something else."""

SILENT_SECONDS = 1.5
"""Without an image of a camera for so long, the window says so."""


class Window(QMainWindow):
    """Shows what is opened. `failure` is the error that ended the playback, if any. Stops the stream on close.

    `failed` is emitted with each error when it is shown, `result_shown` with each result, and `opened` with whether
    something is shown from now on, or the start page.
    """

    failed = pyqtSignal(object)
    opened = pyqtSignal(bool)
    result_shown = pyqtSignal(Result)

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self.failure: BaseException | None = None
        self._stream = stream
        self._list: list[Media] = []
        self._place = 0  # of the media that is shown
        self._opened = 0.0  # when it was opened, in seconds of the monotonic clock
        self._rate = 30.0  # frames per second
        self._name = ""  # of the source
        self._state: State = Opening()
        self._has_result = False
        self._has_faces = False  # faces were searched in a frame of this source
        self._backend = ""  # of the last result
        self._silent = False  # the window says that the camera sends no image
        self.view = View(OverlayStyle(mirrored=True))
        self.start_page = StartPage()
        self.cameras = CameraWatcher(self)
        self._hint_timer = QTimer(self)
        self._hint_timer.setSingleShot(True)
        self._hint_timer.timeout.connect(self._refresh)
        self._build()
        self.help = HelpSheet(self)
        self._connect()
        self._status_timer = QTimer(self)
        self._status_timer.setInterval(STATUS_MS)
        self._status_timer.timeout.connect(self._update_status)
        self._status_timer.start()
        self._initial_size = self.size()

    @property
    def status(self) -> str:
        """The text of the status line."""
        return self._bar.text

    @property
    def stream(self) -> Stream:
        """Plays what is shown, and finds the faces in it."""
        return self._stream

    @property
    def state(self) -> State:
        """The state of the playback."""
        return self._state

    @property
    def shown(self) -> Media | None:
        """What is shown; None on the start page."""
        return self._list[self._place] if self._list else None

    def open(self, *media: Media, place: int = 0) -> None:
        """Show a camera or a clip, or several clips one after the other, beginning with the one at `place`."""
        self._list, self._place = list(media), place
        shown = media[place]
        self._name = shown.name
        count = f" ({place + 1}/{len(media)})" if len(media) > 1 else ""
        self.setWindowTitle(f"{self._name}{count} — canthus")
        self.failure = None
        self._opened = time.monotonic()
        self._has_result = self._has_faces = False
        self._state = Opening()
        self._bar.meter = FrameRateMeter()
        self.switches.actions["mirrored"].setChecked(shown.live and not isinstance(shown, AddressMedia))
        self.view.clear()
        self.controls.show_playback(self._stream.open(shown))
        self.controls.show_list(place, len(media))
        self._bar.show_button(self.controls.pause, shown.live)  # a clip has one beside its timeline
        self._show_page(self._body)
        self._refresh()

    def show_start(self) -> None:
        """Show the start page."""
        self._stream.close()
        self._list, self.failure = [], None
        self.setWindowTitle("canthus")
        self.controls.show_playback(None)
        self.controls.show_list(0, 0)
        self.start_page.show_problem("")
        self.start_page.show_cameras(self.cameras.cameras)
        self.start_page.show_recent(recent())
        self.start_page.examine(describe_machine)
        self._show_page(self.start_page)

    def _show_page(self, page: QWidget) -> None:
        self._pages.setCurrentWidget(page)
        self.opened.emit(page is self._body)
        self._bar.setVisible(page is self._body and not self.isFullScreen())

    def _retry(self) -> None:
        self.open(*self._list, place=self._place)

    def _open_beside(self, distance: int) -> None:
        """Open the next (+1) or the previous (-1) media of the list."""
        if 0 <= self._place + distance < len(self._list):
            self.open(*self._list, place=self._place + distance)

    def _show_problem(self, problem: str) -> None:
        """Say that something else cannot be opened; what is shown stays."""
        self.failed.emit(InputError(problem))
        show = self.show_hint if self._list else self.start_page.show_problem
        show(problem)

    @property
    def _paused(self) -> bool:
        return self._stream.playback is not None and self._stream.playback.paused

    def _build(self) -> None:
        self.setWindowTitle("canthus")
        self.setStyleSheet(BAR_STYLE + MENU_STYLE)
        self.setMinimumSize(MINIMUM_SIZE)
        self._menu_bar = QMenuBar(self)
        self.setMenuBar(self._menu_bar)
        self.menus = add_menus(self._menu_bar)
        self._bar = StatusBar(self._actions())
        self.resize(first_size(self.screen(), self._bar.sizeHint().height()))
        self._body = QWidget()
        column = QVBoxLayout(self._body)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addWidget(self.view, 1)
        column.addWidget(self.controls)
        column.addWidget(self._bar)
        self._pages = QStackedWidget()
        self._pages.addWidget(self._body)
        self._pages.addWidget(self.start_page)
        self.setCentralWidget(self._pages)

    def _connect(self) -> None:
        self._stream.states.filled.connect(self._take_state)
        self._stream.results.filled.connect(self._take_result)
        self.view.resized.connect(lambda *size: setattr(self._stream, "view_size", size))
        self.opener.chosen.connect(lambda media: self.open(*media))
        self.opener.problem.connect(self._show_problem)
        self.start_page.chosen.connect(lambda media: self.open(media))
        self.start_page.path_chosen.connect(self.opener.open_text)
        self.start_page.files_wanted.connect(self.opener.ask_files)
        self.start_page.folder_wanted.connect(self.opener.ask_folder)
        self.start_page.address_wanted.connect(self.opener.ask_address)
        self.controls.changed.connect(self._user_acted)
        self.controls.file_wanted.connect(self._open_beside)
        self.cameras.changed.connect(self._cameras_changed)

    def _actions(self) -> list[QAction]:
        """Create the actions and add them to the menus. Return those with a button in the bar, in its order."""
        tr = self.tr
        self.opener = Opener(self, self.menus.file, self.cameras)
        self.controls = Controls(self, self.menus.playback)
        self.switches = OverlaySwitches(self, self.menus.view, self.view.overlay_style)
        self.switches.changed.connect(self.view.set_style)
        full = new_action(self, tr("Full screen"), tr("Show only the video"), "F", "F11")
        full.triggered.connect(self._toggle_full_screen)
        self.menus.view.addSeparator()
        self.menus.view.addAction(full)
        keys = new_action(self, tr("Keys"), tr("Show keyboard shortcuts"), "H", "F1", "?")
        keys.triggered.connect(self._show_help)
        self.menus.help.addAction(keys)
        start = new_action(self, tr("Start page"), tr("Close what is shown"), "Ctrl+T")
        start.triggered.connect(self.show_start)
        close = new_action(self, tr("Close"), tr("Close the window"), "Q", "Ctrl+Q", "Ctrl+W")
        close.triggered.connect(self.close)
        self.menus.file.addActions([start, close])
        QShortcut(QKeySequence("Esc"), self).activated.connect(self._escape)
        shown = (self.switches.actions[name] for name in ("lines", "ids", "mirrored"))
        return [self.controls.pause, *shown, full, keys]

    def _update_status(self) -> None:
        self._watch()
        self._bar.refresh(running=isinstance(self._state, Playing) and not self._paused)

    def _watch(self) -> None:
        """Notice a camera that takes long to open, or that sends no images."""
        playback = self._stream.playback
        if playback is None:
            return
        if isinstance(self._state, Opening) and time.monotonic() - self._opened > PATIENCE_SECONDS:
            self._refresh()
        elif playback.media.live and isinstance(self._state, Playing) and not self._hint_timer.isActive():
            seconds = time.monotonic() - playback.arrived
            if seconds > SILENT_SECONDS:
                text = self.tr("No image from {camera} for {seconds} s")
                self.view.show_hint(text.format(camera=self._name, seconds=round(seconds)))
            elif self._silent:
                self._refresh()
            self._silent = seconds > SILENT_SECONDS

    def _user_acted(self) -> None:
        """Show at once that the user has paused, resumed or jumped."""
        self._hint_timer.stop()
        self._refresh()

    def _cameras_changed(self) -> None:
        self.start_page.show_cameras(self.cameras.cameras)
        if self._list:
            self._refresh()

    def _toggle_full_screen(self) -> None:
        self.setWindowState(self.windowState() ^ Qt.WindowState.WindowFullScreen)

    def _show_help(self) -> None:
        """Show the shortcuts, also over a message or the start page."""
        self.help.show_menus(self.menus.all)

    def _escape(self) -> None:
        if self.isFullScreen():
            self._toggle_full_screen()
        else:
            self.close()

    def show_hint(self, hint: str) -> None:
        """Show a hint for as long as reading it takes; on the start page, until something else is shown."""
        if hint and not self._list:
            self.start_page.show_note(hint)
            return
        self._hint_timer.stop()
        self._refresh()
        if hint:
            self.view.show_hint(hint)
            self._hint_timer.start(max(HINT_MS, READING_MS * len(hint)))

    def _take_state(self) -> None:
        state = self._stream.states.take()
        if state is not None:
            self._enter(state)

    def _take_result(self) -> None:
        match self._stream.results.take():
            case Result() as result:
                if not self._has_result:
                    self._has_result = True
                    self._fit(result.frame)
                    self._refresh()
                if result.seconds and not self._has_faces:
                    self._has_faces = True
                    self._refresh()
                if self._backend and result.backend and result.backend != self._backend:
                    self.show_hint(self.tr("Now using {backend}").format(backend=result.backend))
                self._backend = result.backend or self._backend
                self.controls.show_position(result.frame.seconds)
                if result.seconds:
                    self.controls.timeline.mark(result.frame.seconds, 1 / self._rate, len(result.faces) > 0)
                self._bar.meter.add(result)
                self.view.show_result(result)
                self.result_shown.emit(result)
            case Failed() as failed:
                self._enter(failed)

    def _enter(self, state: State) -> None:
        if isinstance(self._state, Failed):
            return  # keep the first error: the later ones follow from it
        was_disconnected = isinstance(self._state, Disconnected)
        self._state = state
        match state:
            case Failed(error):
                self.failure = error
                self.failed.emit(error)
            case Disconnected(reason) if not was_disconnected:
                self.failed.emit(InputError(reason))
            case Playing(repeated=True):
                text = self.tr("{camera} repeated the same image and was opened again")
                self.show_hint(text.format(camera=self._name))
            case Playing(duration, rate):
                self._rate = rate or self._rate
                self.controls.show_playback(self._stream.playback, duration)
            case Ended(damaged) if not damaged:
                self._open_beside(1)
        self._refresh()

    def _refresh(self) -> None:
        """Update message, hint and pause button for the current state."""
        if not self._list:
            return
        is_stream = isinstance(self.shown, AddressMedia)
        message = describe_state(self._state, self._name, self._has_result, self._has_faces, is_stream)
        paused = self._paused or isinstance(self._state, Ended)
        self.controls.show_paused(paused)
        self.controls.pause.setEnabled(not isinstance(self._state, Failed))
        if not self._hint_timer.isActive():
            self.view.show_hint(self.tr("Paused  ·  Press Space to resume") if self._paused else message.hint)
        self.view.show_message(message.title, message.text, self._choices(message))

    def _choices(self, message: Message) -> list[Choice]:
        """Return the buttons of a card: what the user can do about what it says."""
        slow = isinstance(self._state, Opening) and time.monotonic() - self._opened > PATIENCE_SECONDS
        if not message.title or not (slow or isinstance(self._state, Failed | Disconnected)):
            return []
        choices: list[Choice] = [] if slow else [(self.tr("Try again"), self._retry)]
        if self._place + 1 < len(self._list):
            choices.append((self.tr("Next file"), lambda: self._open_beside(1)))
        numbers = [media.number for media in self._list if isinstance(media, CameraMedia)]
        for camera in self.cameras.cameras[:3]:
            if camera.number not in numbers:
                text = self.tr("Show {camera}").format(camera=camera.name)
                choices.append((text, partial(self.open, CameraMedia(camera.number, camera.name))))
        return [
            *choices,
            (self.tr("Open files…"), self.opener.ask_files),
            (self.tr("Start page"), self.show_start),
        ]

    def _fit(self, frame: Frame) -> None:
        """Resize the window to the shape of the first frame, unless the user has resized it already."""
        screen = self.screen()
        if screen is not None and self.size() == self._initial_size and not self.isFullScreen():
            bars = [self._bar, self._menu_bar, *([] if self.controls.isHidden() else [self.controls])]
            bar = sum(widget.sizeHint().height() for widget in bars)
            self.setGeometry(fitted_geometry(self.geometry(), frame, bar, screen))

    def changeEvent(self, event: QEvent | None) -> None:  # noqa: N802 - Qt's name
        # Handled here because the desktop environment can also toggle full screen.
        full = self.isFullScreen()
        if event is not None and event.type() == QEvent.Type.WindowStateChange and full != self._menu_bar.isHidden():
            self._bar.setVisible(not full and self._pages.currentWidget() is self._body)
            self.controls.setVisible(not full and self.controls.timeline.duration > 0)
            self._menu_bar.setVisible(not full)
            self.view.setCursor(Qt.CursorShape.BlankCursor if full else Qt.CursorShape.ArrowCursor)
            self.show_hint(self.tr("Press Esc to exit full screen") if full else "")
        super().changeEvent(event)

    def mouseDoubleClickEvent(self, _event: QMouseEvent | None) -> None:  # noqa: N802 - Qt's name
        self._toggle_full_screen()

    def contextMenuEvent(self, event: QContextMenuEvent | None) -> None:  # noqa: N802 - Qt's name
        if event is not None:
            menu = QMenu(self)
            for part in self.menus.all:
                menu.addMenu(part)
            menu.exec(event.globalPos())

    def closeEvent(self, event: QCloseEvent | None) -> None:  # noqa: N802 - Qt's name
        self._status_timer.stop()
        self._hint_timer.stop()
        self._stream.stop()
        super().closeEvent(event)
