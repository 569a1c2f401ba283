"""Watches which cameras are plugged in."""

import sys
from pathlib import Path

from PyQt6.QtCore import QObject, QTimer, pyqtSignal

from canthus.gui.background_task import BackgroundTask
from canthus.runtime.cameras import CameraInfo, CameraMode, list_cameras

LOOK_MS = 1000
"""Between two looks at the device files, which are only listed: that takes no time."""


class CameraWatcher(QObject):
    """`cameras` are those that are plugged in. `changed` is emitted when they change."""

    changed = pyqtSignal()

    def __init__(self, parent: QObject | None = None, folder: Path = Path("/dev")) -> None:
        super().__init__(parent)
        self._folder = folder
        self._devices: set[str] | None = None
        self._settled = True  # the devices were examined after they have appeared
        self.cameras: list[CameraInfo] = find_cameras(folder)
        self._background = BackgroundTask(self, lambda: list_cameras(folder), self._take)
        self._timer = QTimer(self)
        self._timer.setInterval(LOOK_MS)
        self._timer.timeout.connect(self._look)
        self._timer.start()

    def _look(self) -> None:
        devices = {path.name for path in self._folder.glob("video*")} if sys.platform == "linux" else set()
        if devices == self._devices and self._settled and sys.platform == "linux":
            return
        self._settled = devices == self._devices  # the permissions of a new device are set a moment after it appears
        self._devices = devices
        if sys.platform == "linux":
            self._background.start()
        else:
            self._take(find_cameras(self._folder))

    def _take(self, cameras: list[CameraInfo]) -> None:
        if cameras != self.cameras:
            self.cameras = cameras
            self.changed.emit()


def find_cameras(folder: Path = Path("/dev")) -> list[CameraInfo]:
    """Return the cameras: from the device files on Linux, from Qt elsewhere."""
    if sys.platform == "linux":
        return list_cameras(folder)
    try:
        from PyQt6.QtMultimedia import QMediaDevices
    except ImportError:
        return []
    return [  # OpenCV numbers cameras in the order of the system
        CameraInfo(
            number,
            device.description(),
            tuple(
                CameraMode(format_.resolution().width(), format_.resolution().height(), format_.maxFrameRate(), "")
                for format_ in device.videoFormats()
            ),
        )
        for number, device in enumerate(QMediaDevices.videoInputs())
    ]
