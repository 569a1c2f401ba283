"""A lock on a file, which the system frees when the process ends."""

import os
import sys
from pathlib import Path


class FileLock:
    """A lock on a file. The system frees it when the process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)

    def acquire(self) -> bool | None:
        """Return whether the lock was free and is taken now; None if the file system has no locks."""
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(self._descriptor, msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        except OSError:
            return None
        return True

    def is_current(self) -> bool:
        """Whether the path still names the file that is locked. Its last owner may have deleted it."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), self.path.stat())
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Free the lock."""
        os.close(self._descriptor)
