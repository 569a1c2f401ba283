"""What stands in for a camera and a network in the viewer's tests."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import numpy as np
from PyQt6.QtWidgets import QApplication

from canthus.gui.stream import FaceFinder, Source, Stream
from canthus.runtime.closing import Closing
from canthus.runtime.types import Faces, Frame

WALL = (40, 80, 120)
POINT = (30.0, 20.0)  # frame pixels


def application() -> Iterator[QApplication]:
    """Qt without a screen, one for all tests."""
    os.environ["QT_QPA_PLATFORM"] = "offscreen"
    running = QApplication.instance()
    one = running if isinstance(running, QApplication) else QApplication(["test"])
    one.setQuitOnLastWindowClosed(False)
    yield one
    one.closeAllWindows()


def wait_for(fact: Callable[[], bool], seconds: float = 3.0) -> bool:
    until = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > until:
            return False
        QApplication.processEvents()
        time.sleep(0.002)
    return True


def frame(index: int = 0, seconds: float = 0.0) -> Frame:
    return Frame(np.full((48, 64, 3), WALL, np.uint8), index, seconds)


def face_at(x: float, y: float) -> Faces:
    return Faces(np.full((1, 98, 2), (x, y), np.float32), np.ones((1, 98), np.float32), np.array([7], np.int64))


class FakeSource(Closing):
    """Gives frames 5 ms apart, or as fast as they are taken, and then fails if told to."""

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

    def close(self) -> None:
        pass


class FakeFinder(Closing):
    def __init__(self) -> None:
        self.seconds = {"detect": 0.001, "landmark": 0.002}
        self.runs = "a fake"
        self.seen: list[tuple[float, float]] = []  # when, and the frame's own seconds
        self.restarts = 0

    def update(self, frame: Frame) -> Faces:
        self.seen.append((time.monotonic(), frame.seconds))
        return face_at(*POINT)

    def restart(self) -> None:
        self.restarts += 1

    def close(self) -> None:
        pass


def fake_stream(
    live: bool = True,
    source: Callable[[], AbstractContextManager[Source]] = FakeSource,
    finder: Callable[[], AbstractContextManager[FaceFinder]] = FakeFinder,
) -> Stream:
    return Stream(source, finder, live=live)
