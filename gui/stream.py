"""The two threads behind the window: one captures frames, the other finds the faces. Nothing here paints.

    source -> Channel (newest wins) -> landmarker -> Mailbox -> window

A camera that fails is opened again every second. A file plays at its own frame rate. Any other error ends the stream.
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
"""A file that is further behind continues from the current frame and does not speed up to catch up."""


class Source(Protocol):
    """Yields frames: a camera or a video file."""

    def __iter__(self) -> Iterator[Frame]: ...


class FaceFinder(Protocol):
    """Finds the faces in each frame: the runtime's `Landmarker`."""

    @property
    def seconds(self) -> dict[str, float]: ...

    @property
    def backend_name(self) -> str: ...

    def update(self, frame: Frame) -> Faces: ...

    def restart(self) -> None: ...


@dataclass(frozen=True)
class Opening:
    """The source is being opened for the first time."""


@dataclass(frozen=True)
class Playing:
    """The source yields frames."""


@dataclass(frozen=True)
class Disconnected:
    """The camera is not available; it is opened again after `RETRY_SECONDS`."""

    reason: str


@dataclass(frozen=True)
class Ended:
    """The file was played to its end. `damaged` says what could not be decoded; it is empty for an intact file."""

    damaged: str


@dataclass(frozen=True)
class Failed:
    """An error has ended the stream."""

    error: BaseException


@dataclass(frozen=True, eq=False)
class Result:
    """A frame with its faces and how they were computed."""

    frame: Frame
    faces: Faces
    seconds: dict[str, float]  # by stage
    dropped: int  # frames that were captured so far but never shown
    backend: str = ""  # what ran the network: "OpenVINO on the CPU"


State = Opening | Playing | Disconnected | Ended | Failed


class Stream:
    """Captures frames and finds faces in two threads, from `start` to `stop`.

    open_source, open_finder: called in the thread that uses what they open.
    live: a camera, which is opened again when it fails and which never waits; otherwise a file, which plays at its own
    frame rate. loop: play the file again and again.
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
        self.failure: BaseException | None = None  # the first error, also if it came after `stop`
        self._loop = loop
        self._open_source = open_source
        self._open_finder = open_finder
        # (playback, frame). The playback number grows when a file is played again or a camera is opened again.
        self._frames: Channel[tuple[int, Frame]] = Channel(capacity=1, newest_wins=True)
        self._changed = Condition()  # notified when one of the following flags changes
        self._ready = False
        self._paused = False
        self._ended = False
        self._stopped = False
        self._origin = -math.inf  # monotonic time at which second 0 of the file was due
        # Daemon threads: a driver that never returns must not keep the process alive.
        self._threads = (
            Thread(target=self._capture, name="capture", daemon=True),
            Thread(target=self._process, name="process", daemon=True),
        )

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Signal both threads to end. Returns at once."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._frames.leave()

    def join(self, seconds: float) -> bool:
        """Wait up to `seconds` for both threads; return whether they have ended."""
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def paused(self) -> bool:
        return self._paused

    def toggle_pause(self) -> None:
        """Pause or resume. A file that has ended is played again."""
        with self._changed:
            if self._ended:
                self._ended = False
            else:
                self._paused = not self._paused
            self._changed.notify_all()

    def _capture(self) -> None:
        """Run the capture thread: open the source and play it; open it again if it is live, loops or is replayed."""
        self.states.post(Opening())
        playback = 0
        try:
            while not self._stopped:
                playback += 1
                try:
                    self._play(playback)
                except InputError as error:
                    if not self.live:
                        raise
                    self.states.post(Disconnected(str(error)))
                    self._wait_while(lambda: True, RETRY_SECONDS)
        except BaseException as error:  # noqa: BLE001 - passed to the window, which shows or raises it
            self.states.post(self._fail(error))
            self.stop()

    def _play(self, playback: int) -> None:
        """Pass on the frames of one playback until it ends or the stream stops."""
        with self._open_source() as source:
            self._origin = -math.inf
            seconds = 0.0
            for index, frame in enumerate(source):
                if index == 0:
                    self.states.post(Playing())
                is_due = self._ready and not self._paused if self.live else self._wait_until_due(frame.seconds)
                if self._stopped or (is_due and not self._frames.put((playback, frame))):
                    return
                seconds = frame.seconds
            if self._loop:
                self._wait_until_due(seconds + 1 / getattr(source, "rate", 30.0))  # show the last frame in full
            elif not self.live:
                self._ended = True
                self.states.post(Ended(getattr(source, "damaged", "")))
        self._wait_while(lambda: self._ended)

    def _wait_until_due(self, seconds: float) -> bool:
        """Wait until a frame's presentation time; False if the stream has stopped. A pause stops the clock."""
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

    def _wait_while(self, condition: Callable[[], bool], seconds: float | None = None) -> None:
        """Wait until the condition is false, `seconds` have passed or the stream stops."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or not condition(), seconds)

    def _process(self) -> None:
        """Run the processing thread: find the faces of the newest frame until there are no more frames."""
        try:
            with self._open_finder() as finder:
                with self._changed:
                    self._ready = True
                    self._changed.notify_all()
                last = 0
                for playback, frame in self._frames:
                    if playback != last:
                        finder.restart()
                        last = playback
                    faces = finder.update(frame)
                    dropped = self._frames.dropped + self.results.overwritten
                    self.results.post(Result(frame, faces, dict(finder.seconds), dropped, finder.backend_name))
        except BaseException as error:  # noqa: BLE001 - passed to the window, which shows or raises it
            self.results.post(self._fail(error))
            self.stop()

    def _fail(self, error: BaseException) -> Failed:
        """Keep the first error: the later ones follow from it."""
        self.failure = self.failure or error
        return Failed(error)
