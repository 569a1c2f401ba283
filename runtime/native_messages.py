"""Catch what native libraries print to standard error. They name no file, and their lines break progress bars."""

import contextlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import IO

MAX_BYTES = 10_000
"""Longer output is cut."""


class _Redirection:
    """File descriptor 2 in a temporary file, while a block of any thread is open.

    The descriptor belongs to the whole process, and blocks of several threads overlap. So the first block that begins
    redirects it; the last one that ends restores it, and then writes what no block has taken.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        self._stderr = -1
        self._file: IO[bytes] | None = None  # None: not redirected

    def begin(self) -> int:
        """Begin a block; return its first position in the file."""
        with self._lock:
            self._blocks += 1
            if self._blocks == 1:
                with contextlib.suppress(OSError):  # the shell has closed descriptor 2
                    self._redirect()
            return 0 if self._file is None else self._file.seek(0, os.SEEK_END)

    def _redirect(self) -> None:
        if sys.stderr is not None:
            sys.stderr.flush()
        self._stderr = os.dup(2)
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - open until the last block ends
        os.dup2(self._file.fileno(), 2)

    def take(self, start: int, limit: int = -1) -> bytes:
        """Return what was written since a position, up to `limit` bytes, and remove all of it."""
        with self._lock:
            if self._file is None:
                return b""
            start = min(start, self._file.seek(0, os.SEEK_END))  # another block may have removed it
            self._file.seek(start)
            content = self._file.read(limit)
            self._file.seek(start)
            self._file.truncate()
            return content

    def end(self) -> None:
        """End a block."""
        with self._lock:
            self._blocks -= 1
            if self._blocks or self._file is None:
                return
            file, self._file = self._file, None
            with file:
                os.dup2(self._stderr, 2)
                os.close(self._stderr)
                file.seek(0)
                left = file.read()
        with contextlib.suppress(OSError):
            os.write(2, left)


_redirection = _Redirection()
_catching = threading.Lock()  # so that each block of `native_messages_caught` gets its own lines


@contextlib.contextmanager
def native_messages_caught() -> Iterator[list[str]]:
    """Yield a list. After the block it has the lines that were written to the file descriptor of standard error.

    What other threads write in the meantime is caught too, so keep the block short.
    """
    lines: list[str] = []
    with _catching:
        start = _redirection.begin()
        try:
            yield lines
        finally:
            lines += _redirection.take(start, MAX_BYTES).decode(errors="replace").splitlines()
            _redirection.end()


@contextlib.contextmanager
def native_log_removed(log: re.Pattern[bytes]) -> Iterator[None]:
    """Remove what matches `log` from what is written to standard error in the block; after an error, all of it.

    What other threads write is kept, and appears when no block is open any more.
    """
    start = _redirection.begin()
    try:
        yield
    except BaseException:
        _redirection.take(start)  # a native stack trace; the exception says enough
        raise
    else:
        others = log.sub(b"", _redirection.take(start))
        with contextlib.suppress(OSError):
            os.write(2, others)
    finally:
        _redirection.end()
