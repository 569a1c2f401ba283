"""Fake cameras, videos and networks for the tests of the viewer."""

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from PyQt6.QtCore import QSettings
from PyQt6.QtWidgets import QApplication

from canthus.gui import finder as finder_module
from canthus.gui.finder import Tracking, TrackingControl
from canthus.gui.live_trace import LiveTrace
from canthus.gui.media import Source
from canthus.gui.preferences import Preferences, save_preferences
from canthus.gui.stream import FaceFinder, Result, Stream
from canthus.gui.tools import Tools
from canthus.gui.window import Window
from canthus.runtime.closeable import Closeable
from canthus.runtime.measures import KnownPerson, Measurer
from canthus.runtime.types import Faces, Frame
from support.shape import SHAPE

BACKGROUND = (40, 80, 120)
POINT = (30.0, 20.0)  # frame pixels


def application() -> Iterator[QApplication]:
    """Yield one Qt application without a screen, for use as a session fixture."""
    os.environ["QT_QPA_PLATFORM"] = "offscreen"
    os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp()  # for the settings, on Linux
    existing = QApplication.instance()
    qt = existing if isinstance(existing, QApplication) else QApplication(["test"])
    qt.setQuitOnLastWindowClosed(False)
    yield qt
    qt.closeAllWindows()


def wait_for(condition: Callable[[], bool], seconds: float = 3.0) -> bool:
    """Run the Qt event loop until the condition is true; False after `seconds`."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        QApplication.processEvents()
        time.sleep(0.002)
    return True


def frame(index: int = 0, seconds: float = 0.0) -> Frame:
    return Frame(np.full((48, 64, 3), BACKGROUND, np.uint8), index, seconds)


def face_at(x: float, y: float) -> Faces:
    return Faces(np.full((1, 98, 2), (x, y), np.float32), np.ones((1, 98), np.float32), np.array([7], np.int64))


class FakeSource(Closeable):
    """Yields `count` frames 5 ms apart, or one frame for each of `times` (seconds) at once; then raises `error`."""

    rate = 30.0
    damaged = ""
    separate = False
    audio = None

    def __init__(self, times: list[float] | None = None, count: int = 10**6, error: Exception | None = None) -> None:
        self.times, self.count, self.error = times, count, error

    def __iter__(self) -> Iterator[Frame]:
        if self.times is not None:
            yield from (frame(index, seconds) for index, seconds in enumerate(self.times))
        else:
            for index in range(self.count):
                time.sleep(0.005)
                yield frame(index, 0.005 * index)
        if self.error:
            raise self.error

    @property
    def duration(self) -> float:
        return self.times[-1] if self.times else 0.005 * self.count

    def frames_from(self, seconds: float, cancelled: Callable[[], bool]) -> Iterator[Frame]:
        times = self.times or []
        shown = max((time for time in times if time <= seconds), default=0.0)
        return (frame for frame in self if frame.seconds >= shown)

    def close(self) -> None:
        pass


class FakeFinder(Closeable):
    """Finds one face at `POINT` in every frame and records the calls."""

    def __init__(self) -> None:
        self.seconds = {"detect": 0.001, "landmark": 0.002}
        self.backend_name = "a fake"
        self.seen: list[tuple[float, float]] = []  # (monotonic time of the call, seconds of the frame)
        self.restarts = 0

    def update(self, frame: Frame) -> Faces:
        self.seen.append((time.monotonic(), frame.seconds))
        return face_at(*POINT)

    def restart(self) -> None:
        self.restarts += 1

    def close(self) -> None:
        pass


class FakeMedia:
    """Something to open: a camera if `live`, otherwise a clip."""

    def __init__(
        self, source: Callable[[], AbstractContextManager[Source]] = FakeSource, live: bool = True, name: str = "fake"
    ) -> None:
        self.open, self.live, self.name = source, live, name


class FakeStream(Stream):
    """A stream, and the media that it shows in a test."""

    media: FakeMedia


def fake_stream(
    live: bool = True,
    source: Callable[[], AbstractContextManager[Source]] = FakeSource,
    finder: Callable[[], AbstractContextManager[FaceFinder]] = FakeFinder,
) -> FakeStream:
    stream = FakeStream(lambda live: finder())
    stream.media = FakeMedia(source, live)
    return stream


class FakeLandmarks(FakeFinder):
    """A model that knows its settings, and in which threads it was opened, used and closed."""

    def __init__(self, tracking: Tracking) -> None:
        super().__init__()
        self.backend_name = str(tracking.model)
        self.trackings = [tracking]
        self.threads = [threading.current_thread()]
        self.calibrations = 0
        self.known: KnownPerson | None = None
        self.trace: LiveTrace | None = None
        self.closed = False

    def update(self, frame: Frame) -> Faces:
        self.threads.append(threading.current_thread())
        return super().update(frame)

    def change(self, tracking: Tracking) -> None:
        self.trackings.append(tracking)

    def calibrate(self) -> None:
        self.calibrations += 1

    def person(self) -> KnownPerson | None:
        return self.known

    def record(self, trace: LiveTrace | None) -> None:
        if trace is None and self.trace is not None:
            self.trace.active = False
        self.trace = trace

    def close(self) -> None:
        self.threads.append(threading.current_thread())
        self.closed = True


def measured(face_id: int = 3, seconds: float = 0.0, size: float = 200.0) -> Result:
    """Return a result with one face with measures."""
    points = (SHAPE * size + (60, 40))[None].astype(np.float32)
    scores, ids = np.full((1, 98), 0.9, np.float32), np.array([face_id], np.int64)
    measures = Measurer().update(points, scores, ids, seconds, (320, 280))
    image = np.full((280, 320, 3), 90, np.uint8)
    return Result(
        Frame(image, 0, seconds), Faces(points, scores, ids, measures=measures), {"landmark": 0.01}, 2, "", 1.0
    )


class Viewer:
    """A window with its tools, a fake camera and fake models."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.models: list[FakeLandmarks] = []
        monkeypatch.setattr(finder_module, "TrackingLandmarker", lambda tracking, live: self._open(tracking))
        self.control = TrackingControl(Tracking())
        self.stream = Stream(self.control.open)
        self.window = Window(self.stream)
        self.tools = Tools(self.window, self.control)
        self.window.show()
        self.stream.start()
        self.window.open(FakeMedia())
        assert wait_for(lambda: self.tools._result is not None and len(self.tools._result.faces) == 1)

    def _open(self, tracking: Tracking) -> FakeLandmarks:
        self.models.append(FakeLandmarks(tracking))
        return self.models[-1]

    def close(self) -> None:
        self.window.close()
        self.stream.stop()
        self.tools.close()
        assert self.stream.join(2.0)


def viewer_with_new_settings(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Viewer]:
    """Yield a viewer whose preferences are the default ones and name `folder`, for use as a fixture."""
    QSettings("canthus", "canthus").clear()
    save_preferences(Preferences(folder=folder))
    opened = Viewer(monkeypatch)
    yield opened
    opened.close()
