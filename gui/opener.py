"""Everything with which something is opened: the File menu, its dialogs, what was opened last, and drag and drop."""

from collections.abc import Sequence
from pathlib import Path

from PyQt6.QtCore import QEvent, QMimeData, QObject, pyqtSignal
from PyQt6.QtGui import QAction, QDropEvent
from PyQt6.QtWidgets import QFileDialog, QInputDialog, QLineEdit, QMainWindow, QMenu

from canthus.gui.cameras import CameraWatcher
from canthus.gui.media import IMAGE_SUFFIXES, VIDEO_SUFFIXES, CameraMedia, Media, media_of, media_of_paths
from canthus.gui.menus import new_action
from canthus.gui.recent import forget_all, last_address, last_folder, recent, remember
from canthus.runtime.addresses import SCHEMES, is_address
from canthus.runtime.errors import InputError


class Opener(QObject):
    """Adds what opens something to the File menu. `chosen` is emitted with a list of `Media`, `problem` with a text."""

    chosen = pyqtSignal(list)
    problem = pyqtSignal(str)

    def __init__(self, window: QMainWindow, menu: QMenu, cameras: CameraWatcher) -> None:
        super().__init__(window)
        self._window = window
        self._cameras = cameras
        tr = self.tr
        files = new_action(window, tr("Open files…"), tr("Open videos and images"), "Ctrl+O")
        files.triggered.connect(self.ask_files)
        folder = new_action(window, tr("Open a folder…"), tr("Open all videos and images of a folder"), "Ctrl+Shift+O")
        folder.triggered.connect(self.ask_folder)
        address = new_action(window, tr("Open an address…"), tr("Open a network camera or stream"), "Ctrl+L")
        address.triggered.connect(self.ask_address)
        menu.addActions([files, folder, address])
        self._camera_menu, self._recent_menu = QMenu(tr("Camera"), menu), QMenu(tr("Opened last"), menu)
        menu.addMenu(self._camera_menu)
        menu.addMenu(self._recent_menu)
        menu.addSeparator()
        self._recent_menu.aboutToShow.connect(self._fill_recent)
        cameras.changed.connect(self._fill_cameras)
        window.setAcceptDrops(True)
        window.installEventFilter(self)
        self._fill_cameras()
        self._fill_recent()

    def ask_files(self) -> None:
        """Let the user choose files."""
        known = " ".join(f"*{suffix}" for suffix in (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES))
        filters = f"{self.tr('Videos and images')} ({known});;{self.tr('All files')} (*)"
        files, _ = QFileDialog.getOpenFileNames(self._window, self.tr("Open files"), last_folder(), filters)
        self.open_paths([Path(file) for file in files])

    def ask_folder(self) -> None:
        """Let the user choose a folder."""
        folder = QFileDialog.getExistingDirectory(self._window, self.tr("Open a folder"), last_folder())
        self.open_paths([Path(folder)] if folder else [])

    def ask_address(self) -> None:
        """Let the user type an address."""
        label = self.tr("Address of a network camera or stream, for example rtsp://192.0.2.1/1")
        text, accepted = QInputDialog.getText(
            self._window, self.tr("Open an address"), label, QLineEdit.EchoMode.Normal, last_address() or "rtsp://"
        )
        if accepted:
            self.open_text(text.strip())

    def open_text(self, text: str) -> None:
        """Open an address, or a path."""
        if is_address(text):
            remember(text)
            self.chosen.emit([media_of(text)])
        elif "://" in text:
            self.problem.emit(
                self.tr("{address}: not an address of a stream (expected one of {schemes}://…)").format(
                    address=text, schemes=", ".join(SCHEMES)
                )
            )
        elif text:
            self.open_paths([Path(text)])

    def open_paths(self, paths: Sequence[Path]) -> None:
        """Open files and folders as a list."""
        if not paths:
            return
        try:
            found = media_of_paths(paths)
        except (InputError, OSError) as error:
            self.problem.emit(str(error))
            return
        for path in reversed(paths):
            remember(str(path))
        self.chosen.emit(found)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802 - Qt's name
        """Open what the user drops on the window."""
        if isinstance(event, QDropEvent) and (data := event.mimeData()) is not None:
            if event.type() == QEvent.Type.DragEnter and (data.hasUrls() or data.hasText()):
                event.acceptProposedAction()
                return True
            if event.type() == QEvent.Type.Drop:
                event.acceptProposedAction()
                self.open_dropped(data)
                return True
        return super().eventFilter(watched, event)

    def open_dropped(self, data: QMimeData) -> None:
        """Open what the user has dropped on the window."""
        urls = data.urls()
        paths = [Path(url.toLocalFile()) for url in urls if url.isLocalFile()]
        if paths:
            self.open_paths(paths)
        else:
            self.open_text(urls[0].toString() if urls else data.text().strip())

    def _fill_cameras(self) -> None:
        self._camera_menu.clear()
        for camera in self._cameras.cameras:
            title = f"{camera.number}: {camera.name}"
            if not camera.modes:
                self._add(self._camera_menu, title, [CameraMedia(camera.number, camera.name)])
                continue
            modes = QMenu(title, self._camera_menu)
            self._camera_menu.addMenu(modes)
            self._add(modes, self.tr("Automatic"), [CameraMedia(camera.number, camera.name)])
            for mode in camera.modes:
                self._add(modes, str(mode), [CameraMedia(camera.number, camera.name, mode)])
        if not self._cameras.cameras:
            _disabled(self._camera_menu, self.tr("No camera was found"))

    def _fill_recent(self) -> None:
        self._recent_menu.clear()
        texts = recent()
        for text in texts:
            action = QAction(text, self._recent_menu)
            action.triggered.connect(lambda _checked=False, text=text: self.open_text(text))
            self._recent_menu.addAction(action)
        if texts:
            self._recent_menu.addSeparator()
            clear = QAction(self.tr("Clear this list"), self._recent_menu)
            clear.triggered.connect(forget_all)
            self._recent_menu.addAction(clear)
        else:
            _disabled(self._recent_menu, self.tr("Nothing was opened yet"))

    def _add(self, menu: QMenu, text: str, media: list[Media]) -> None:
        action = QAction(text, menu)
        action.triggered.connect(lambda _checked=False: self.chosen.emit(media))
        menu.addAction(action)


def _disabled(menu: QMenu, text: str) -> None:
    action = QAction(text, menu)
    action.setEnabled(False)
    menu.addAction(action)
