"""The live table of a batch on standard error: one line for all files, one for each worker."""

import contextlib
import sys
import time
from typing import Any, Self

from canthus.runtime.batch.tasks import Outcome
from canthus.runtime.batch.workers import Progress
from canthus.runtime.errors import printable

NAME_WIDTH = 32
"""Characters of a file's name in its line; of a longer one, the end is shown."""


LINE_SECONDS = 60.0
"""How often a line says how many files are done, where there is no terminal: in the log of a cluster's job."""


class Table:
    """Shows the progress with tqdm. Without a terminal it prints messages, and a line each minute.

    Args:
        command: The name of the command, for messages.
        total: Number of files, or None.
        unit: What a file is called: "video".
        workers: Number of lines for workers; 0 for a cluster, whose workers are not shown.
    """

    def __init__(self, command: str, total: int | None, unit: str, workers: int) -> None:
        from tqdm import tqdm

        self._command, self._unit, self._total, self.failed = command, unit, total, 0
        self.count = 0  # files that are finished, or have failed
        self._skipped, self._began = 0, time.monotonic()
        self._printed = self._began
        self._stack = contextlib.ExitStack()
        self._all: Any = self._stack.enter_context(tqdm(total=total, unit=unit, disable=None, smoothing=0.05))
        self._lines: list[Any] = [
            self._stack.enter_context(
                tqdm(position=place + 1, bar_format="{desc} {percentage:3.0f}%|{bar:20}|", leave=False, disable=None)
            )
            for place in range(workers)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def skip(self, count: int = 1) -> None:
        """Count files that were finished before."""
        self._skipped += count
        self._update(count)

    def show(self, progress: Progress) -> None:
        """Show how far a worker is."""
        if progress.worker >= len(self._lines):
            return
        line, name = self._lines[progress.worker], printable(progress.name)
        line.total, line.n = progress.total or None, progress.done
        line.set_description_str(f"  {name if len(name) <= NAME_WIDTH else '…' + name[1 - NAME_WIDTH :]:<{NAME_WIDTH}}")

    def end(self, outcome: Outcome) -> None:
        """Count the files of a task that has ended, and say why if it failed."""
        self._update(len(outcome.task.parts) or 1)
        if outcome.error:
            self.failed += 1
            self._all.set_postfix_str(f"{self.failed} failed")
            self.print(f"failed: {outcome.error}")
        if self._all.disable and time.monotonic() - self._printed >= LINE_SECONDS:
            self._printed = time.monotonic()
            self.print(self._line())

    def _line(self) -> str:
        """Return how far the run is, and how long the rest takes at the speed until now."""
        of, failed = f" of {self._total}" if self._total else "", f", {self.failed} failed" if self.failed else ""
        rate = (self.count - self._skipped) / max(time.monotonic() - self._began, 0.001)
        minutes = ((self._total or 0) - self.count) / rate / 60 if rate else 0
        left = f", about {minutes / 60:.1f} hours left" if minutes >= 90 else f", about {minutes:.0f} min left"
        return f"{self.count}{of} {self._unit}s{failed}{left if self._total else ''}"

    def _update(self, count: int) -> None:
        self.count += count
        self._all.update(count)

    def print(self, text: str) -> None:
        """Print a message above the table."""
        from tqdm import tqdm

        with contextlib.suppress(OSError):  # stderr was closed
            tqdm.write(f"{self._command}: {printable(text)}", file=sys.stderr)
