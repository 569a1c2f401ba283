"""The live table of a batch on standard error: one line for all files, one for each worker."""

import contextlib
import sys
from typing import Any, Self

from canthus.runtime.batch.tasks import Outcome
from canthus.runtime.batch.workers import Progress
from canthus.runtime.errors import printable

NAME_WIDTH = 32
"""Characters of a file's name in its line; of a longer one, the end is shown."""


class Table:
    """Shows the progress with tqdm. Without a terminal it shows nothing but messages.

    Args:
        command: The name of the command, for messages.
        total: Number of files, or None.
        unit: What a file is called: "video".
        workers: Number of lines for workers; 0 for a cluster, whose workers are not shown.
    """

    def __init__(self, command: str, total: int | None, unit: str, workers: int) -> None:
        from tqdm import tqdm

        self._command, self.failed = command, 0
        self.count = 0  # files that are finished, or have failed
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

    def _update(self, count: int) -> None:
        self.count += count
        self._all.update(count)

    def print(self, text: str) -> None:
        """Print a message above the table."""
        from tqdm import tqdm

        with contextlib.suppress(OSError):  # stderr was closed
            tqdm.write(f"{self._command}: {printable(text)}", file=sys.stderr)
