"""A progress bar for work that consists of a few long steps."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def show_steps(title: str, total: int, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Show a progress bar with `total` steps on a terminal; nothing if `quiet` or if stderr is not a terminal.

    Yields a function. Call it with the name of a step when the step begins.
    """
    with tqdm(total=total, desc=title, unit="step", leave=False, disable=quiet or None) as bar:
        started = False

        def begin(step: str) -> None:
            nonlocal started
            bar.update(started)  # the previous step is done
            started = True
            bar.set_postfix_str(step, refresh=True)

        yield begin
