"""The numbers in the status line: frame rate, faces, time per stage, dropped frames."""

import time
from collections import deque

from canthus.gui.stream import Result

WINDOW_SECONDS = 1.0
"""The rate and the times are averages over this long, so that they can be read."""

PAD = "\N{FIGURE SPACE}"
"""As wide as a digit, so that the line does not shift when a number gets shorter."""

SEPARATOR = "  ·  "
"""Between two values."""


class FrameRateMeter:
    """Averages the results that the window has painted over the last second."""

    def __init__(self) -> None:
        self._painted: deque[tuple[float, Result]] = deque()  # seconds on the monotonic clock, result

    def add(self, result: Result, now: float | None = None) -> None:
        """Count a result that is painted now (seconds on the monotonic clock), unless no faces were searched in it."""
        if not result.seconds:
            return
        now = time.monotonic() if now is None else now
        self._painted.append((now, result))
        while now - self._painted[0][0] > WINDOW_SECONDS:
            self._painted.popleft()

    def text(self, now: float | None = None, short: bool = False, running: bool = True) -> str:
        """Return frames per second, faces, ms per stage, dropped frames and the backend's name.

        If `short`, the sum of the stages and no backend. Only the faces unless `running`, because the figures are those
        of the past. Empty before the first result.
        """
        if not self._painted:
            return ""
        if not running:
            return _faces(len(self._painted[-1][1].faces))
        now = time.monotonic() if now is None else now
        (first, _), (last, newest) = self._painted[0], self._painted[-1]
        is_running = last > first and now - last <= WINDOW_SECONDS
        rate = f"{(len(self._painted) - 1) / (last - first):.1f}" if is_running else "-"
        means = {
            stage: 1000 * sum(result.seconds[stage] for _, result in self._painted) / len(self._painted)
            for stage in newest.seconds
        }
        stages = "  ".join(f"{stage} {mean:.1f}" for stage, mean in means.items())
        parts = (
            f"{rate.rjust(4, PAD)} fps",
            _faces(len(newest.faces)),
            f"{sum(means.values()):.1f} ms" if short else f"{stages} ms",
            f"{newest.dropped} dropped",
        )
        backend = (newest.backend,) if newest.backend and not short else ()
        return SEPARATOR.join((*parts, *backend))


def _faces(count: int) -> str:
    return f"{count} face" + "s" * (count != 1)
