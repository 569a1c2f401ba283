"""The threads behind the window: one plays a source, the other finds the faces. Nothing here paints.

    playback -> Channel (newest wins) -> landmarker -> Mailbox -> window

Each source that is opened gets a `Playback` with a thread of its own. One thread finds the faces of all of them, so
that the models are loaded once.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from threading import Condition, Thread
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from canthus.gui.identities import Identities
from canthus.gui.mailbox import Mailbox
from canthus.gui.media import Media
from canthus.gui.playback import Failed, OpenSound, Playback, Shown, State
from canthus.gui.rendering import display_pixels
from canthus.runtime.channel import Channel
from canthus.runtime.types import Faces, Frame


class FaceFinder(Protocol):
    """Finds the faces in each frame: the runtime's `Landmarker`."""

    @property
    def seconds(self) -> dict[str, float]: ...

    @property
    def backend_name(self) -> str: ...

    def update(self, frame: Frame) -> Faces: ...

    def restart(self) -> None: ...


@dataclass(frozen=True, eq=False)
class Result:
    """A frame with its faces and how they were computed."""

    frame: Frame
    faces: Faces
    seconds: dict[str, float]  # by stage; empty if the faces were not searched, because the models are being loaded
    dropped: int  # frames that were captured so far but never shown
    backend: str = ""  # what ran the network: "OpenVINO on the CPU"
    arrived: float = 0.0  # monotonic seconds at which the frame was due; 0 = unknown
    view_size: tuple[int, int] | None = None  # width and height in device pixels, for which `pixels` are reduced
    pixels: NDArray[np.uint8] = field(init=False, repr=False)  # (h, w, 4) BGRA: the frame as it is painted

    def __post_init__(self) -> None:
        """Convert the frame here, in the thread that found the faces: the thread of the window must only paint."""
        pixels = display_pixels(self.frame.image, self.view_size, self.frame.pixel_aspect)
        object.__setattr__(self, "pixels", pixels)


class Stream:
    """Plays one source after the other and finds the faces in it, from `start` to `stop`.

    open_finder: called in the thread that uses what it opens, with whether the frames are those of a camera. It is
    called again when that changes. open_sound: plays the audio of clips.
    """

    def __init__(
        self, open_finder: Callable[[bool], AbstractContextManager[FaceFinder]], open_sound: OpenSound | None = None
    ) -> None:
        self.states: Mailbox[State] = Mailbox()
        self.results: Mailbox[Result | Failed] = Mailbox()
        self.playback: Playback | None = None  # of the source that was opened last
        self.failure: BaseException | None = None  # the first error of this source, also if it came after `stop`
        self.listener: Callable[[Result], None] | None = None  # gets each result; it must not wait
        self.view_size: tuple[int, int] | None = None  # of the view that shows the results, in device pixels
        self._open_finder, self._open_sound = open_finder, open_sound
        self._frames: Channel[Shown] = Channel(capacity=1, newest_wins=True)
        self._changed = Condition()  # notified when one of the following changes
        self._live = True  # whether the finder is or will be opened for a camera
        self._ready = False  # the finder is open
        self._failed = False  # the finder could not be opened, or has failed
        self._stopped = False
        self._newest: Shown | None = None
        self._dropped_before = 0  # frames dropped before this source was opened
        self._playbacks: list[Playback] = []
        self._thread = Thread(target=self._process, name="process", daemon=True)

    def start(self) -> None:
        """Start the thread that finds faces. It waits for a source."""
        self._thread.start()

    def open(self, media: Media) -> Playback:
        """Play another source instead. After a failure, the models are loaded again. Returns at once."""
        self.close()
        playback = Playback(media, self._deliver, self._report, self._open_sound)
        with self._changed:
            self.playback = playback
            self._playbacks = [*(old for old in self._playbacks if not old.join(0)), playback]
            self._failed = False
            if media.live != self._live:
                self._live, self._ready = media.live, False
                self._frames.leave()
            if self._ready:
                playback.release()
            self._changed.notify_all()
        playback.start()
        return playback

    def close(self) -> None:
        """Play nothing. Results and states of the source so far will not arrive any more. Returns at once."""
        with self._changed:
            if self.playback is not None:
                self.playback.stop()
            self.playback = self._newest = self.failure = None
            self._dropped_before = self._count_dropped()
            self.results.take()
            self.states.take()

    def refresh(self) -> None:
        """Find the faces of the newest frame again, for example with other settings while the playback is paused."""
        with self._changed:
            if self._ready and self._newest is not None:
                self._frames.put(replace(self._newest, jump=-1, arrived=time.monotonic()))

    def stop(self) -> None:
        """Signal all threads to end. Returns at once."""
        with self._changed:
            self._stopped = True
            playbacks, frames = self._playbacks, self._frames
            self._changed.notify_all()
        for playback in playbacks:
            playback.stop()
        frames.leave()

    def join(self, seconds: float) -> bool:
        """Wait up to `seconds` for all threads; return whether they have ended."""
        until = time.monotonic() + seconds
        if self._thread.ident is not None:  # it was started
            self._thread.join(seconds)
        ended = [playback.join(until - time.monotonic()) for playback in self._playbacks]
        return all(ended) and not self._thread.is_alive()

    def _count_dropped(self) -> int:
        return self._frames.dropped + self.results.overwritten

    def _deliver(self, shown: Shown) -> bool:
        """Take a frame that is due. Called by the thread of a playback."""
        with self._changed:
            if self._stopped or shown.playback is not self.playback:
                return False
            self._newest = shown
            if not self._ready:
                self.results.post(Result(shown.frame, Faces.none(), {}, 0, view_size=self.view_size))
                return True
            frames = self._frames
        frames.put(shown)
        return True

    def _report(self, playback: Playback, state: State) -> None:
        """Take a state. Called by the thread of a playback."""
        with self._changed:
            if playback is self.playback:
                if isinstance(state, Failed):
                    self.failure = self.failure or state.error
                self.states.post(state)

    def _process(self) -> None:
        """Run the thread that finds faces: open the finder, and open it again for another kind of source."""
        while self._wait_for_source():
            live = self._live
            try:
                with self._open_finder(live) as finder:
                    frames = self._set_ready(live)
                    self._find(finder, frames, live)
            except BaseException as error:  # noqa: BLE001 - passed to the window, which shows or raises it
                with self._changed:
                    self.failure = self.failure or error
                    self._failed = True
                    if self.playback is not None:
                        self.playback.stop()
                    self.results.post(Failed(error))
            finally:
                self._ready = False

    def _wait_for_source(self) -> bool:
        """Wait until there is something to do; False if the stream has stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or (self.playback is not None and not self._failed))
        return not self._stopped

    def _set_ready(self, live: bool) -> Channel[Shown]:
        """Pass frames to the finder from now on, beginning with the newest one, unless another source was opened."""
        frames: Channel[Shown] = Channel(capacity=1, newest_wins=True)
        with self._changed:
            self._frames = frames
            self._dropped_before = self._count_dropped()
            self._ready = live == self._live and not self._stopped
            if not self._ready:
                frames.leave()
            elif self.playback is not None:
                if self._newest is not None:
                    frames.put(self._newest)
                self.playback.release()
        return frames

    def _find(self, finder: FaceFinder, frames: Channel[Shown], live: bool) -> None:
        """Find the faces of the newest frame until there are no more frames."""
        identities, last = Identities(), None
        for shown in frames:
            place = shown.playback, shown.jump
            if place != last:
                finder.restart()
                identities.jump()
                if last is None or last[0] is not shown.playback:
                    identities = Identities()
                last = place
            faces = finder.update(shown.frame)
            if not live:
                faces = identities.rename(faces, shown.frame.seconds)
            dropped = self._count_dropped() - self._dropped_before
            seconds, backend = dict(finder.seconds), finder.backend_name
            result = Result(shown.frame, faces, seconds, dropped, backend, shown.arrived, self.view_size)
            with self._changed:
                if shown.playback is self.playback:
                    self.results.post(result)
                    if self.listener is not None:
                        self.listener(result)
