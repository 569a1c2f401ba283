"""Plays a camera or a clip in a thread: passes on each frame when it is due."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Condition, Thread

from canthus.gui.clock import Clock
from canthus.gui.media import Clip, Media, SelfReopening, Source
from canthus.runtime.errors import InputError
from canthus.runtime.types import Frame

RETRY_SECONDS = 1.0
"""Between two attempts to open a camera."""

LATE_SECONDS = 0.5
"""A clip that is further behind continues from the current frame and does not speed up to catch up."""

JUST_BEFORE = 0.001
"""The frame that was shown this many seconds before a frame is the one before it."""


OpenSound = Callable[[Path, float, Clock, Callable[[], bool]], AbstractContextManager[object]]
"""Plays the audio of a file until the `with` block ends: the file, its time at second 0 of the clock, whether muted."""


@dataclass(frozen=True)
class Opening:
    """The source is being opened for the first time."""


@dataclass(frozen=True)
class Playing:
    """The source yields frames. `duration` is that of a clip in seconds, and 0 for a camera."""

    duration: float = 0.0
    rate: float = 0.0  # frames per second of a clip
    repeated: bool = False  # a camera was opened again because it sent the same image again and again


@dataclass(frozen=True)
class Disconnected:
    """The camera is not available; it is opened again after `RETRY_SECONDS`."""

    reason: str


@dataclass(frozen=True)
class Ended:
    """The clip was played to its end. `damaged` says what could not be decoded; it is empty for an intact file."""

    damaged: str


@dataclass(frozen=True)
class Failed:
    """An error has ended the playback."""

    error: BaseException


State = Opening | Playing | Disconnected | Ended | Failed


@dataclass(frozen=True, eq=False)
class Shown:
    """A frame that is due. `jump` grows when the frame does not follow the one before it."""

    playback: "Playback"
    jump: int
    frame: Frame
    arrived: float = field(default_factory=time.monotonic)  # seconds


class Playback:
    """Plays `media` in a thread from `start` to `stop`. Its methods may be called in any thread and return at once.

    deliver: takes a frame that is due; returns False if no more are wanted. report: takes each change of the state.
    open_sound: plays the audio of a clip; None: it is silent.

    The clock of a clip starts when `release` was called: when the models are loaded. The first frame is passed on
    before, and those of a camera too.
    """

    def __init__(
        self,
        media: Media,
        deliver: Callable[[Shown], bool],
        report: Callable[["Playback", State], None],
        open_sound: OpenSound | None = None,
    ) -> None:
        self.media = media
        self.clock = Clock()
        self.loop = False
        self.muted = False
        self.arrived = time.monotonic()  # when the last frame arrived from the source
        self._deliver, self._report, self._open_sound = deliver, report, open_sound
        self._changed = Condition()  # notified when one of the following changes
        self._released = False
        self._paused = False
        self._ended = False
        self._stopped = False
        self._target: float | None = None  # seconds of the clip to jump to
        self._steps = 0  # frames to show although the playback is paused
        self._jump = 0
        self._shown = 0.0  # seconds of the frame that was passed on last
        # A daemon thread: a driver that never returns must not keep the process alive.
        self._thread = Thread(target=self._run, name="capture", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Signal the thread to end."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def join(self, seconds: float) -> bool:
        """Wait up to `seconds` for the thread; return whether it has ended."""
        self._thread.join(max(0.0, seconds))
        return not self._thread.is_alive()

    def release(self) -> None:
        """Let the clock of a clip run."""
        self._set(_released=True)

    @property
    def paused(self) -> bool:
        """Whether the user has paused it."""
        return self._paused

    @property
    def ended(self) -> bool:
        """Whether a clip was played to its end."""
        return self._ended

    def toggle_pause(self) -> None:
        """Pause or resume. A clip that has ended is played again."""
        if self._ended:
            self._set(_target=0.0, _paused=False)
        else:
            self._set(_paused=not self._paused)

    def set_paused(self, paused: bool) -> None:
        """Pause or resume."""
        self._set(_paused=paused)

    def set_speed(self, speed: float) -> None:
        """Play a clip faster or slower: 1 is its own speed."""
        self.clock.set_speed(speed)
        self._set()

    def seek(self, seconds: float) -> None:
        """Jump to another time of a clip. Only the last of several calls counts."""
        self._set(_target=max(0.0, seconds))

    def step(self, forward: bool) -> None:
        """Pause, and show the next or the previous frame of a clip."""
        if forward:
            self._set(_paused=True, _steps=self._steps + 1)
        else:
            self._set(_paused=True, _target=max(0.0, self._shown - JUST_BEFORE))

    def _set(self, **flags: object) -> None:
        with self._changed:
            for name, value in flags.items():
                setattr(self, name, value)
            self._changed.notify_all()

    def _run(self) -> None:
        """Run the thread: open the source and play it; open it again if it is live."""
        self._report(self, Opening())
        try:
            while not self._stopped:
                try:
                    with self.media.open() as source:
                        self._play(source)
                except InputError as error:
                    if not self.media.live:
                        raise
                    self._report(self, Disconnected(str(error)))
                    self._wait_while(lambda: True, RETRY_SECONDS)
        except BaseException as error:  # noqa: BLE001 - passed to the window, which shows or raises it
            self._report(self, Failed(error))

    def _play(self, source: Source) -> None:
        if self.media.live:
            self._play_live(source)
        else:
            assert isinstance(source, Clip), "what is not live has an end"
            with self._sound_of(source):
                self._play_clip(source)

    def _sound_of(self, clip: Clip) -> AbstractContextManager[object]:
        if self._open_sound is None or clip.audio is None:
            return nullcontext()
        return self._open_sound(*clip.audio, self.clock, lambda: self.muted)

    def _play_clip(self, clip: Clip) -> None:
        start = 0.0
        while not self._stopped:
            with self._changed:
                start, self._target = (start if self._target is None else self._target), None
                self._ended, self._steps = False, 0
            self._report(self, Playing(clip.duration, clip.rate))
            if self._play_from(clip, start):
                start = 0.0
                if not self.loop:
                    self._ended = True
                    self.clock.pause(True)
                    self._report(self, Ended(clip.damaged))
                    self._wait_while(lambda: self._target is None)

    def _play_live(self, source: Source) -> None:
        self._jump += 1
        reopened = 0
        for index, frame in enumerate(source):
            self.arrived = time.monotonic()
            if index == 0:
                self._report(self, Playing())
            if isinstance(source, SelfReopening) and source.reopened > reopened:
                reopened = source.reopened
                self._report(self, Playing(repeated=True))
            if self._stopped or (not self._paused and not self._deliver(Shown(self, self._jump, frame))):
                return

    def _play_from(self, clip: Clip, start: float) -> bool:
        """Pass on the frames of a clip after a jump; return whether its end was reached."""
        self._jump += 1
        last: Frame | None = None
        for frame in clip.frames_from(start, self._interrupted):
            if last is None:
                self.clock.jump(frame.seconds)
            elif not self._wait_until_due(frame.seconds):
                return False
            last, self._shown = frame, frame.seconds
            self._jump += clip.separate
            if not self._deliver(Shown(self, self._jump, frame)):
                self.stop()
                return False
        if self._interrupted():
            return False
        return last is None or self._wait_until_due(last.seconds + 1 / clip.rate)  # show the last frame in full

    def _wait_until_due(self, seconds: float) -> bool:
        """Wait until a frame is due; False if the playback has stopped or jumps. A pause stops the clock."""
        while not self._interrupted():
            if not self._released or self._paused:
                self.clock.pause(True)
                if self._paused and self._steps:
                    self._steps -= 1
                    self.clock.jump(seconds)
                    return True
                self._wait_while(lambda: (not self._released or self._paused) and not self._steps)
                continue
            self.clock.pause(False)
            wait = self.clock.seconds_until(seconds)
            if wait < -LATE_SECONDS:
                self.clock.jump(seconds)
            elif wait > 0:
                changes = self.clock.changes
                self._wait_while(partial(self._runs_since, changes), wait)
            else:
                return True
        return False

    def _runs_since(self, changes: int) -> bool:
        """Return whether the clock runs as it did after so many changes."""
        return not self._paused and self.clock.changes == changes

    def _interrupted(self) -> bool:
        return self._stopped or self._target is not None

    def _wait_while(self, condition: Callable[[], bool], seconds: float | None = None) -> None:
        """Wait until the condition is false, `seconds` have passed, or the playback stops or jumps."""
        with self._changed:
            self._changed.wait_for(lambda: self._interrupted() or not condition(), seconds)
