"""The two threads behind the window: one captures, one finds the faces. Nothing here paints.

    source ─Channel, newest wins→ landmarker ─Mailbox→ window

A camera that fails is opened again every second; a file plays at its own pace. Every other failure ends the
stream.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from threading import Condition, Thread
from typing import Protocol

from canthus.gui.mailbox import Mailbox
from canthus.runtime.channel import Channel
from canthus.runtime.errors import InputError
from canthus.runtime.types import Faces, Frame

RETRY_SECONDS = 1.0
"""Between two attempts to open a camera."""

LATE_SECONDS = 0.5
"""A file that falls further behind than this goes on from where it is instead of rushing to catch up."""


class Source(Protocol):
    """What gives frames: a camera or a video file."""

    def __iter__(self) -> Iterator[Frame]: ...


class FaceFinder(Protocol):
    """What finds the faces in each frame: the runtime's landmarker."""

    @property
    def seconds(self) -> dict[str, float]: ...

    @property
    def runs(self) -> str: ...

    def update(self, frame: Frame) -> Faces: ...

    def restart(self) -> None: ...


@dataclass(frozen=True)
class Opening:
    """The source is being opened for the first time."""


@dataclass(frozen=True)
class Playing:
    """The source gives frames."""


@dataclass(frozen=True)
class Disconnected:
    """The camera is not there; it is tried again."""

    reason: str


@dataclass(frozen=True)
class Ended:
    """The file has been played to its end; `damaged` tells what of it could not be decoded."""

    damaged: str


@dataclass(frozen=True)
class Failed:
    """The stream has ended by an error."""

    error: BaseException


@dataclass(frozen=True, eq=False)
class Result:
    """One frame, its faces, and what it took to find them."""

    frame: Frame
    faces: Faces
    seconds: dict[str, float]  # by stage
    dropped: int  # frames so far that were captured and never shown
    runs: str = ""  # what ran the network: "OpenVINO on the CPU"


State = Opening | Playing | Disconnected | Ended | Failed


class Stream:
    """Captures and finds faces in two threads, from `start` to `stop`.

    open_source, open_finder: called in the thread that uses what they open.
    live: a camera, which is tried again and never waited for; otherwise a file, which has its own pace.
    """

    def __init__(
        self,
        open_source: Callable[[], AbstractContextManager[Source]],
        open_finder: Callable[[], AbstractContextManager[FaceFinder]],
        live: bool,
        loop: bool = False,
    ) -> None:
        self.states: Mailbox[State] = Mailbox()
        self.results: Mailbox[Result | Failed] = Mailbox()
        self.live = live
        self._loop = loop
        self._open_source = open_source
        self._open_finder = open_finder
        # Each item carries the number of its take: a file played again or a camera found again is a new one.
        self._frames: Channel[tuple[int, Frame]] = Channel(capacity=1, newest_wins=True)
        self._changed = Condition()  # of one of the facts below
        self._ready = False
        self._paused = False
        self._ended = False
        self._stopped = False
        self._origin = -math.inf  # when a file's time 0 was, on the monotonic clock
        # Daemons: a driver that never returns must not keep the process alive.
        self._threads = (
            Thread(target=self._capture, name="capture", daemon=True),
            Thread(target=self._process, name="process", daemon=True),
        )

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ask both threads to end; returns at once."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._frames.leave()

    def join(self, seconds: float) -> bool:
        """Wait for both threads, no longer than this; tells whether they have ended."""
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def paused(self) -> bool:
        return self._paused

    def toggle(self) -> None:
        """Pause or go on; a file that has ended is played again."""
        with self._changed:
            if self._ended:
                self._ended = False
            else:
                self._paused = not self._paused
            self._changed.notify_all()

    def _capture(self) -> None:
        """The capture thread: open, play, and open again what is live or loops."""
        self.states.post(Opening())
        take = 0
        try:
            while not self._stopped:
                take += 1
                try:
                    self._play(take)
                except InputError as error:
                    if not self.live:
                        raise
                    self.states.post(Disconnected(str(error)))
                    self._wait_while(lambda: True, RETRY_SECONDS)
        except BaseException as error:  # noqa: BLE001 - handed to the window, which shows or raises it
            self.states.post(Failed(error))
            self.stop()

    def _play(self, take: int) -> None:
        """Put the frames of one take, until it ends or the stream stops."""
        with self._open_source() as source:
            self._origin = -math.inf
            seconds = 0.0
            for index, frame in enumerate(source):
                if index == 0:
                    self.states.post(Playing())
                wanted = self._ready and not self._paused if self.live else self._wait_until_due(frame.seconds)
                if self._stopped or (wanted and not self._frames.put((take, frame))):
                    return
                seconds = frame.seconds
            if self._loop:
                self._wait_until_due(seconds + 1 / getattr(source, "rate", 30.0))  # the last frame has its time too
            elif not self.live:
                self._ended = True
                self.states.post(Ended(getattr(source, "damaged", "")))
        self._wait_while(lambda: self._ended)

    def _wait_until_due(self, seconds: float) -> bool:
        """Wait for a file's presentation time; while it pauses, the clock stands still."""
        while not self._stopped:
            now = time.monotonic()
            if not self._ready or self._paused:
                self._wait_while(lambda: not self._ready or self._paused)
                self._origin += time.monotonic() - now
            elif now - self._origin - seconds > LATE_SECONDS:
                self._origin = now - seconds
            elif now - self._origin < seconds:
                self._wait_while(lambda: not self._paused, self._origin + seconds - now)
            else:
                return True
        return False

    def _wait_while(self, fact: Callable[[], bool], seconds: float | None = None) -> None:
        """Wait until the fact is no more, the time is over or the stream stops."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or not fact(), seconds)

    def _process(self) -> None:
        """The processing thread: find the faces of the newest frame, as long as there are frames."""
        try:
            with self._open_finder() as finder:
                with self._changed:
                    self._ready = True
                    self._changed.notify_all()
                last = 0
                for take, frame in self._frames:
                    if take != last:
                        finder.restart()
                        last = take
                    faces = finder.update(frame)
                    dropped = self._frames.dropped + self.results.overwritten
                    self.results.post(Result(frame, faces, dict(finder.seconds), dropped, finder.runs))
        except BaseException as error:  # noqa: BLE001 - handed to the window, which shows or raises it
            self.results.post(Failed(error))
            self.stop()
