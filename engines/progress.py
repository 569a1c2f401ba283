"""A progress bar for work that consists of a few long steps."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

BAR_FORMAT = "{bar:20} {n_fmt}/{total_fmt} {desc}"
"""Without tqdm's estimate of the remaining time: the steps are not equally long."""


@contextmanager
def show_steps(title: str, total: int, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Show a progress bar with `total` steps on a terminal; nothing if `quiet` or if stderr is not a terminal.

    If the environment variable CANTHUS_PROGRESS is "lines", each step is a line "1/4 preparing: graph" on stdout, for a
    program that started this one.

    Yields a function. Call it with the name of a step when the step begins.
    """
    with tqdm(total=total, desc=title, bar_format=BAR_FORMAT, leave=False, disable=quiet or None) as bar:
        begun = 0

        def begin(step: str) -> None:
            nonlocal begun
            bar.update(begun - bar.n)  # all steps before this one are done
            begun += 1
            if os.environ.get("CANTHUS_PROGRESS") == "lines":
                print(f"{begun}/{total} {title}: {step}", flush=True)
            bar.set_description_str(f"{title}: {step}")

        yield begin
