"""Show the log messages of canthus on stderr, for the commands. Importing this file loads nothing heavy."""

import contextlib
import logging
import sys
from collections.abc import Iterator

from canthus.runtime.errors import printable


class ConsoleHandler(logging.Handler):
    """Prints each message as one line on stderr, above the progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        line = f"canthus: {printable(record.getMessage())}"
        with contextlib.suppress(OSError):  # stderr was closed
            if "tqdm" in sys.modules:
                sys.modules["tqdm"].tqdm.write(line, file=sys.stderr)
            else:
                print(line, file=sys.stderr)


@contextlib.contextmanager
def show_logs(level: int = logging.INFO) -> Iterator[None]:
    """Show the messages of the loggers `canthus` and below, from `level` on, within the block.

    with show_logs():
        run_command()
    """
    logger, handler = logging.getLogger("canthus"), ConsoleHandler()
    former, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False  # a handler of the root logger would print each line a second time
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(former)
        logger.propagate = propagate
