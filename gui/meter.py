"""The figures of the status line: averages over the last second, so that they can be read."""

import time
from collections import deque

from canthus.gui.stream import Result

SPAN = 1.0  # seconds

# As wide as a digit, so that the line does not tremble when a number gets shorter.
PAD = "\N{FIGURE SPACE}"

GAP = "  ·  "
"""Between two figures."""


class FrameRateMeter:
    """Counts the results that reached the window."""

    def __init__(self) -> None:
        self._shown: deque[tuple[float, Result]] = deque()

    def add(self, result: Result, now: float | None = None) -> None:
        """Note a result that is painted now (seconds on the monotonic clock)."""
        now = time.monotonic() if now is None else now
        self._shown.append((now, result))
        while now - self._shown[0][0] > SPAN:
            self._shown.popleft()

    def text(self, now: float | None = None, short: bool = False) -> str:
        """Frames a second, faces, ms of each stage (`short`: of all), dropped frames, what runs the network.

        Empty before the first result.
        """
        if not self._shown:
            return ""
        now = time.monotonic() if now is None else now
        (first, _), (last, newest) = self._shown[0], self._shown[-1]
        running = last > first and now - last <= SPAN
        rate = f"{(len(self._shown) - 1) / (last - first):.1f}" if running else "-"
        faces = len(newest.faces)
        means = {
            name: 1000 * sum(result.seconds[name] for _, result in self._shown) / len(self._shown)
            for name in newest.seconds
        }
        each = "  ".join(f"{name} {mean:.1f}" for name, mean in means.items())
        parts = (
            f"{rate.rjust(4, PAD)} fps",
            f"{faces} face" + "s" * (faces != 1),
            f"{sum(means.values()):.1f} ms" if short else f"{each} ms",
            f"{newest.dropped} dropped",
        )
        runs = (newest.runs,) if newest.runs and not short else ()
        return GAP.join((*parts, *runs))
