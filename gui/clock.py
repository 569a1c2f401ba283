"""The clock of a playback: which second of a clip is due."""

import time
from collections.abc import Callable
from threading import Lock

CORRECTION = 0.1
"""Part of the distance to the sound that one call of `follow` removes: a jump of the clock would be visible."""

FAR = 0.1
"""Seconds of distance to the sound from which the clock jumps: an offset that one hears disturbs more."""


class Clock:
    """Seconds of a clip, that run with the monotonic clock times `speed` unless paused. For any thread."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.changes = 0  # jumps, pauses and changes of the speed so far
        self._now = now
        self._lock = Lock()
        self._position = 0.0  # at `_since`
        self._since = now()
        self._speed = 1.0
        self._paused = True

    @property
    def paused(self) -> bool:
        """Whether the clock stands still."""
        return self._paused

    @property
    def speed(self) -> float:
        """Seconds of the clip in one second."""
        return self._speed

    def position(self) -> float:
        """Return the second of the clip that is due now."""
        with self._lock:
            return self._at_now()

    def seconds_until(self, position: float) -> float:
        """Return how long to wait, in seconds of the monotonic clock, until a position is due. Negative: it is late."""
        with self._lock:
            return (position - self._at_now()) / self._speed

    def _at_now(self) -> float:
        return self._position + (0.0 if self._paused else (self._now() - self._since) * self._speed)

    def _change(self, position: float) -> None:
        self._position, self._since = position, self._now()
        self.changes += 1

    def jump(self, position: float) -> None:
        """Go to another position."""
        with self._lock:
            self._change(position)

    def pause(self, paused: bool) -> None:
        """Stop the clock, or let it run."""
        with self._lock:
            if paused != self._paused:
                self._change(self._at_now())
                self._paused = paused

    def set_speed(self, speed: float) -> None:
        """Run faster or slower from now on."""
        with self._lock:
            if speed != self._speed:
                self._change(self._at_now())
                self._speed = speed

    def follow(self, position: float) -> None:
        """Move a little towards the position of the sound that is heard now."""
        with self._lock:
            now = self._at_now()
            error = position - now
            self._position, self._since = now + (error if abs(error) > FAR else CORRECTION * error), self._now()
