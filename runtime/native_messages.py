"""Catch what native libraries print to standard error. They name no file, and their lines break progress bars."""

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator

MAX_BYTES = 10_000
"""Longer output is cut."""

_lock = threading.Lock()  # standard error belongs to the whole process


@contextlib.contextmanager
def native_messages_caught() -> Iterator[list[str]]:
    """Yield a list. After the block it has the lines that were written to the file descriptor of standard error.

    What other threads write in the meantime is caught too, so keep the block short.
    """
    lines: list[str] = []
    with _lock, tempfile.TemporaryFile() as caught:
        try:
            stderr = os.dup(2)
        except OSError:  # the shell has closed it
            yield lines
            return
        os.dup2(caught.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            caught.seek(0)
            lines += caught.read(MAX_BYTES).decode(errors="replace").splitlines()
