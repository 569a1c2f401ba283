"""The page that is shown while nothing is open: cameras, files, and what was found on this machine."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from PyQt6.QtCore import Qt, pyqtSignal
from PyQt6.QtGui import QResizeEvent
from PyQt6.QtWidgets import QFrame, QGridLayout, QLabel, QLayout, QPushButton, QScrollArea, QVBoxLayout, QWidget

from canthus.gui.background_task import BackgroundTask
from canthus.gui.media import CameraMedia, VideoMedia
from canthus.runtime.addresses import is_address
from canthus.runtime.cameras import CameraInfo

STYLE = """
QScrollArea, QWidget#page { background: palette(window); border: none; }
QLabel { color: palette(placeholder-text); }
QLabel#name { color: palette(text); font-size: 28px; font-weight: 600; }
QLabel#heading { color: palette(text); font-weight: 600; }
QLabel#problem { color: palette(bright-text); }
QLabel#note { color: palette(text); }
QPushButton { background: palette(base); color: palette(text); border: 1px solid palette(mid);
    border-radius: 8px; padding: 10px 14px; text-align: left; }
QPushButton:hover, QPushButton:focus { background: palette(button); border-color: palette(accent); }
"""
RECENT_SHOWN = 5

TWO_COLUMNS = 560
"""The page has two columns if it is at least so wide, in pixels."""


class StartPage(QScrollArea):
    """Buttons for everything that can be opened.

    `chosen` is emitted with a `Media`, `path_chosen` with a path or address.
    """

    chosen = pyqtSignal(object)
    path_chosen = pyqtSignal(str)
    files_wanted = pyqtSignal()
    folder_wanted = pyqtSignal()
    address_wanted = pyqtSignal()

    def __init__(self) -> None:
        super().__init__()
        self.setStyleSheet(STYLE)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        page = QWidget()
        page.setObjectName("page")
        self.setWidget(page)
        self._grid = QGridLayout(page)
        self._grid.setContentsMargins(28, 24, 28, 24)
        self._grid.setHorizontalSpacing(36)
        self._grid.setVerticalSpacing(18)
        self._problem, self._note = _label("", "problem"), _label("", "note")
        self._problem.hide()
        self._note.hide()
        self._cameras, self._recent, self._machine = QVBoxLayout(), QVBoxLayout(), QGridLayout()
        files = QVBoxLayout()
        for buttons in (self._cameras, self._recent, files):
            buttons.setSpacing(8)
        self._machine.setHorizontalSpacing(18)
        self._machine.setVerticalSpacing(8)
        self._machine.setColumnStretch(1, 1)
        for text, tip, signal in (
            (self.tr("Open files…"), self.tr("Videos and images, one or several"), self.files_wanted),
            (self.tr("Open a folder…"), self.tr("All videos and images in it"), self.folder_wanted),
            (self.tr("Open an address…"), self.tr("A network camera or stream: rtsp://, http://"), self.address_wanted),
        ):
            files.addWidget(_button(text, tip, signal.emit))
        files.addWidget(_button(self.tr("Sample clip"), self.tr("A portrait of 10 seconds"), self._open_sample))
        for row, label in enumerate((
            _label("canthus", "name"),
            _label(self.tr("Choose a camera or a file, or drop files here."), ""),
            self._problem,
            self._note,
        )):  # fmt: skip
            self._grid.addWidget(label, row, 0, 1, 2)
        self._recent_section = _section(self.tr("Opened last"), self._recent)
        self._sections = (
            _section(self.tr("Cameras"), self._cameras),
            _section(self.tr("Files"), files),
            _section(self.tr("This machine"), self._machine),
            self._recent_section,
        )
        self._columns = 0
        self._arrange(2)
        self._background: BackgroundTask[list[tuple[str, str]]] | None = None

    def _arrange(self, columns: int) -> None:
        """Show the sections in one or two columns."""
        if columns == self._columns:
            return
        self._columns = columns
        for index, section in enumerate(self._sections):
            place = divmod(index, 2) if columns == 2 else ((0, 1, 3, 2)[index], 0)
            self._grid.addWidget(section, 4 + place[0], place[1], Qt.AlignmentFlag.AlignTop)
        self._grid.setColumnStretch(0, 1)
        self._grid.setColumnStretch(1, columns - 1)
        for row in range(4, 9):
            self._grid.setRowStretch(row, row == 8)

    def resizeEvent(self, event: QResizeEvent | None) -> None:  # noqa: N802 - Qt's name
        """Use one column if there is no room for two."""
        self._arrange(2 if self.width() >= TWO_COLUMNS else 1)
        super().resizeEvent(event)

    def show_problem(self, problem: str) -> None:
        """Say why nothing is shown; an empty text says nothing."""
        self._problem.setText(problem)
        self._problem.setVisible(bool(problem))
        self.show_note("")

    def show_note(self, note: str) -> None:
        """Say what was done, for example that a recording was saved."""
        self._note.setText(note)
        self._note.setVisible(bool(note))

    @property
    def problem(self) -> str:
        """What `show_problem` shows."""
        return self._problem.text()

    def show_cameras(self, cameras: list[CameraInfo]) -> None:
        """List the cameras."""
        _clear(self._cameras)
        for camera in cameras:
            modes = ", ".join(str(mode) for mode in camera.modes[:2]) or self.tr("resolution unknown")
            media = CameraMedia(camera.number, camera.name)
            text = f"{camera.name}\n{modes}"
            self._cameras.addWidget(_button(text, self.tr("Show this camera"), partial(self.chosen.emit, media)))
        if not cameras:
            self._cameras.addWidget(_label(self.tr("No camera was found. Plug one in: it appears here."), ""))

    def show_recent(self, texts: list[str]) -> None:
        """List what was opened last: paths and addresses."""
        _clear(self._recent)
        for text in texts[:RECENT_SHOWN]:
            name = text if is_address(text) else Path(text).name
            self._recent.addWidget(_button(name, text, partial(self.path_chosen.emit, text)))
        self._recent_section.setVisible(bool(texts))

    def examine(self, describe: Callable[[], list[tuple[str, str]]]) -> None:
        """Show what was found on this machine, once. `describe` runs in a thread."""
        if self._background is None:
            self.show_machine([(self.tr("Looking for CPU, GPU and TensorRT…"), "")])
            self._background = BackgroundTask(self, describe, self.show_machine)
            self._background.start()

    def show_machine(self, findings: list[tuple[str, str]]) -> None:
        """Show names and findings."""
        _clear(self._machine)
        for row, (name, finding) in enumerate(findings):
            label = _label(name, "")
            label.setWordWrap(not finding)
            self._machine.addWidget(label, row, 0, 1, 1 if finding else 2, Qt.AlignmentFlag.AlignTop)
            if finding:
                self._machine.addWidget(_label(finding, ""), row, 1, Qt.AlignmentFlag.AlignTop)

    def buttons(self) -> list[str]:
        """Return the texts of all buttons."""
        return [button.text() for button in self.findChildren(QPushButton)]

    def labels(self) -> list[QLabel]:
        """Return all texts that are no buttons."""
        return self.findChildren(QLabel)

    def press(self, text: str) -> None:
        """Press the button whose text begins so."""
        next(button for button in self.findChildren(QPushButton) if button.text().startswith(text)).click()

    def _open_sample(self) -> None:
        from canthus.runtime.sample import CLIP

        self.chosen.emit(VideoMedia(CLIP))


def _section(heading: str, content: QLayout) -> QWidget:
    """Return a heading with a layout below it."""
    section = QWidget()
    column = QVBoxLayout(section)
    column.setContentsMargins(0, 0, 0, 0)
    column.setSpacing(18)
    column.addWidget(_label(heading, "heading"))
    column.addLayout(content)
    return section


def _label(text: str, name: str) -> QLabel:
    label = QLabel(text)
    label.setObjectName(name)
    label.setWordWrap(True)
    label.setTextFormat(Qt.TextFormat.PlainText)
    return label


def _button(text: str, tip: str, act: Callable[[], object]) -> QPushButton:
    button = QPushButton(text)
    button.setToolTip(tip)
    button.setAccessibleDescription(tip)
    button.clicked.connect(lambda _checked=False: act())
    return button


def _clear(layout: QVBoxLayout | QGridLayout) -> None:
    while (item := layout.takeAt(0)) is not None:
        if (widget := item.widget()) is not None:
            widget.setParent(None)
            widget.deleteLater()
