"""The page that is shown while nothing is open: cameras, files, and what was found on this machine."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from PyQt6.QtCore import Qt, pyqtSignal
from PyQt6.QtWidgets import QFrame, QGridLayout, QLabel, QPushButton, QScrollArea, QVBoxLayout, QWidget

from canthus.gui.background_task import BackgroundTask
from canthus.gui.media import CameraMedia
from canthus.runtime.addresses import is_address
from canthus.runtime.cameras import CameraInfo

STYLE = """
QScrollArea, QWidget#page { background: palette(window); border: none; }
QLabel { color: palette(placeholder-text); }
QLabel#name { color: palette(text); font-size: 28px; font-weight: 600; }
QLabel#heading { color: palette(text); font-weight: 600; }
QLabel#problem { color: palette(bright-text); }
QPushButton { background: palette(base); color: palette(text); border: 1px solid palette(mid);
    border-radius: 8px; padding: 10px 14px; text-align: left; }
QPushButton:hover, QPushButton:focus { background: palette(button); border-color: palette(accent); }
"""
RECENT_SHOWN = 5


class StartPage(QScrollArea):
    """Buttons for everything that can be opened. `chosen` is emitted with a `Media`, `path` with a path or address."""

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
        page = QWidget()
        page.setObjectName("page")
        self.setWidget(page)
        grid = QGridLayout(page)
        grid.setContentsMargins(28, 24, 28, 24)
        grid.setHorizontalSpacing(36)
        grid.setVerticalSpacing(18)
        name = QLabel("canthus")
        name.setObjectName("name")
        self._problem = _label("", "problem")
        self._problem.hide()
        self._cameras, self._recent, self._machine = QVBoxLayout(), QVBoxLayout(), QGridLayout()
        files = QVBoxLayout()
        for buttons in (self._cameras, self._recent, files):
            buttons.setSpacing(8)
        self._machine.setHorizontalSpacing(18)
        for text, tip, signal in (
            (self.tr("Open files…"), self.tr("Videos and images, one or several"), self.files_wanted),
            (self.tr("Open a folder…"), self.tr("All videos and images in it"), self.folder_wanted),
            (self.tr("Open an address…"), self.tr("A network camera or stream: rtsp://, http://"), self.address_wanted),
        ):
            files.addWidget(_button(text, tip, signal.emit))
        files.addWidget(_button(self.tr("Sample clip"), self.tr("A portrait of 10 seconds"), self._open_sample))
        grid.addWidget(name, 0, 0, 1, 2)
        grid.addWidget(_label(self.tr("Choose a camera or a file, or drop files here."), ""), 1, 0, 1, 2)
        grid.addWidget(self._problem, 2, 0, 1, 2)
        for column, (text, content) in enumerate(((self.tr("Cameras"), self._cameras), (self.tr("Files"), files))):
            grid.addWidget(_label(text, "heading"), 3, column)
            grid.addLayout(content, 4, column, Qt.AlignmentFlag.AlignTop)
            grid.setColumnStretch(column, 1)
        self._recent_heading = _label(self.tr("Opened last"), "heading")
        grid.addWidget(self._recent_heading, 5, 1)
        grid.addLayout(self._recent, 6, 1, Qt.AlignmentFlag.AlignTop)
        grid.addWidget(_label(self.tr("This machine"), "heading"), 5, 0)
        grid.addLayout(self._machine, 6, 0, Qt.AlignmentFlag.AlignTop)
        self._machine.setColumnStretch(1, 1)
        grid.setRowStretch(7, 1)
        self._background: BackgroundTask[list[tuple[str, str]]] | None = None

    def show_problem(self, problem: str) -> None:
        """Say why nothing is shown; an empty text says nothing."""
        self._problem.setText(problem)
        self._problem.setVisible(bool(problem))

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
        self._recent_heading.setVisible(bool(texts))

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
                self._machine.addWidget(_label(finding, ""), row, 1)

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

        self.path_chosen.emit(str(CLIP))


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
