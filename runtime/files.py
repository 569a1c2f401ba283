"""Write files so that a reader sees the old file or the new one, never half of it."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from canthus.runtime.errors import InputError

DRAFT_PREFIX = ".canthus-"
"""Name prefix of the temporary folders. Only a killed process leaves one behind."""


class Draft:
    """A file that gets its name only when it is complete.

    Write to `file`, which has the name of the target but lies in a new hidden folder beside it. `commit` moves it to
    the target. `discard` deletes it and leaves the target unchanged. As a context manager, a draft is committed at the
    end of the block and discarded after an exception, Ctrl-C included:

        with Draft(path) as draft:
            draft.file.write_bytes(data)

    Other temporary files may be written to `folder`. It is deleted with the draft. Two files that belong together take
    two drafts. The inner one is committed first. If the target is a symbolic link, the file it points to is replaced.

    Args:
        path: The target. Its folder must exist.

    Raises:
        InputError: If the file cannot be written (disk full, no permission, no such folder).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self.writing():
            self._target = path.resolve()
            self._temporary = tempfile.TemporaryDirectory(
                prefix=DRAFT_PREFIX, dir=self._target.parent, ignore_cleanup_errors=True
            )
        self.folder = Path(self._temporary.name)
        self.file = self.folder / self._target.name

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Convert an OSError of the block to an InputError that names the target."""
        try:
            yield
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror or error})") from error

    def commit(self) -> None:
        """Move the file to the target."""
        try:
            with self.writing():
                self.file.replace(self._target)
        finally:
            self.discard()

    def discard(self) -> None:
        """Delete the file and its folder. After `commit`, or a second time, this does nothing."""
        self._temporary.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.commit()
            return
        self.discard()
        if isinstance(error, OSError) and self._concerns(error):
            with self.writing():
                raise error

    def _concerns(self, error: OSError) -> bool:
        """Return whether the error is about this file. A failed write names no file."""
        return error.filename is None or Path(str(error.filename)).is_relative_to(self.folder)


def write_file(path: Path, content: bytes) -> None:
    """Write a file completely or not at all.

    Raises:
        InputError: If the file cannot be written.
    """
    with Draft(path) as draft:
        draft.file.write_bytes(content)


def check_output(path: Path, overwrite: bool) -> Path:
    """Return `path` if a file can be written there. Call it before long work starts.

    Raises:
        InputError: If not, or if a file exists and `overwrite` is false.
    """
    check_free(path, overwrite)
    draft = Draft(path)
    try:
        with draft.writing():
            draft.file.touch()
    finally:
        draft.discard()
    return path


def check_free(path: Path, overwrite: bool) -> None:
    """Raise InputError if `path` is a folder or a device, or if a file exists there and `overwrite` is false."""
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder (expected a file name)")
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: is a device or a pipe (expected a file name)")
        if path.exists() and not overwrite:
            raise InputError(f"{path}: exists already; use --overwrite to replace it")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error


def check_suffix(path: Path, supported: Sequence[str], what: str) -> None:
    """Raise InputError if the suffix of `path` is not one of `supported`. `what` names the format in the message."""
    if path.suffix.lower() not in supported:
        raise InputError(f"{path}: unsupported {what} (supported: {', '.join(supported)})")
