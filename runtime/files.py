"""Write files so that a reader sees the old file or the new one, never half of it."""

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol, Self

from canthus.runtime.errors import CanthusError, InputError, UsageError
from canthus.runtime.file_lock import FileLock
from canthus.runtime.interrupts import ctrl_c_deferred

DRAFT_PREFIX = ".canthus-"
"""Name prefix of the temporary folders: .canthus-partial-HASH-RANDOM, with a hash of the target's name. Only a killed
process leaves one behind, and `abandoned.claim` deletes it."""

LOCK_NAME = ".canthus-lock"
"""A file in each temporary folder, locked while the draft is in use."""


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
        folder: The folder of a stopped run's draft, to go on with; only `commit` deletes it. None: a new one.

    Raises:
        InputError: If the file cannot be written (disk full, no permission, no such folder).
    """

    def __init__(self, path: Path, folder: Path | None = None) -> None:
        self.path = path
        with self.writing():
            self._target = path.resolve()
            self.folder = folder or Path(tempfile.mkdtemp(prefix=draft_prefix(self._target), dir=self._target.parent))
            self._cleanup = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
            if folder is not None:
                self._cleanup.detach()
            self._lock: FileLock | None = FileLock(self.folder / LOCK_NAME)
            self._lock.acquire()
        self.file = self.folder / self._target.name
        self._beside: list[Path] = []  # names of the files that `commit` moves first

    def beside(self, path: Path) -> Path:
        """Return where to write a second file, which `commit` moves to `path`, in the folder of the target."""
        self._beside.append(self._target.with_name(path.name))
        return self.folder / path.name

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
                for path in self._beside:
                    (self.folder / path.name).replace(path)
                self.file.replace(self._target)
        except InputError:
            self.discard()
            raise
        self._free()
        self._cleanup.detach()
        shutil.rmtree(self.folder, ignore_errors=True)

    def discard(self) -> None:
        """Delete the file and its folder. After `commit` or `keep`, or a second time, this does nothing.

        The draft of a stopped run is kept, so that another run can go on with it.
        """
        self._free()
        self._cleanup()

    def _free(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()

    def keep(self) -> Path:
        """Give the file the name of a part beside the target, and keep the folder so that a later run can go on.

        Returns the path: overlay.mp4 -> overlay.partial.mp4.
        """
        try:
            with self.writing():
                for path in (*self._beside, self._target):
                    part = partial_path(path, self._target)
                    part.unlink(missing_ok=True)
                    _link_or_copy(self.folder / path.name, part)
        finally:
            self.leave()
        return partial_path(self._target if self.path.is_symlink() else self.path, self._target)

    def leave(self) -> None:
        """Keep the folder so that a later run can go on."""
        self._free()
        self._cleanup.detach()

    def delete_part(self) -> None:
        """Delete the part that `keep` of an earlier run gave a name, if it is still the same file."""
        for path in (*self._beside, self._target):
            delete_part(self.folder / path.name, partial_path(path, self._target))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.commit()
            return
        self.discard()
        if isinstance(error, OSError):
            with self.errors_named():
                raise error

    @contextlib.contextmanager
    def errors_named(self) -> Iterator[None]:
        """Convert an OSError of the block that is about this file to an InputError. A failed write names no file."""
        try:
            yield
        except OSError as error:
            if error.filename is not None and not Path(str(error.filename)).is_relative_to(self.folder):
                raise
            with self.writing():
                raise


def partial_path(path: Path, target: Path) -> Path:
    """Return the name of a part of a target or of a file beside it: t.csv -> t.partial.csv, t.csv.json the same."""
    return path.with_name(f"{target.stem}.partial{path.name.removeprefix(target.stem)}")


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


class Output(Protocol):
    """A file that is written over the time of a run."""

    @property
    def draft(self) -> Draft | None:
        """The draft of the file; None for standard output."""
        ...

    @property
    def has_part(self) -> bool:
        """Whether the file in the draft can be read up to a write that failed, after `finish`."""
        ...

    def finish(self) -> bool:
        """Complete the file in the draft. Return whether it is whole and not empty."""
        ...


def write_all(file: IO[bytes], content: bytes) -> None:
    """Write all of the content to an unbuffered file, which may take a part only if its disk becomes full."""
    left = memoryview(content)
    while left:
        written = file.write(left)
        if written is None:  # a pipe that does not wait for its reader
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        left = left[written:]


def commit_together(outputs: Sequence[Output], kept: bool = False) -> None:
    """Finish the outputs of a run and give all of them their names. If one is not whole, none gets its name.

    Ctrl-C is handled afterwards.

    Args:
        outputs: They are deleted if one is not whole.
        kept: After an error they are not deleted: `keep_parts` comes next.

    Raises:
        InputError: If an output cannot be written.
    """
    with ctrl_c_deferred(), contextlib.ExitStack() as discarding:
        drafts = [output.draft for output in outputs if output.draft is not None]
        for draft in drafts:
            discarding.callback(draft.discard)
        whole, errors = True, list[Exception]()
        for output in outputs:
            try:
                whole &= output.finish()
            except (CanthusError, OSError) as error:
                errors.append(error)
                whole &= output.draft is None  # the reader of standard output may have closed it
        for draft in drafts if whole else ():
            draft.commit()
        if errors:
            if kept:
                discarding.pop_all()
            raise errors[0]


def keep_parts(outputs: Sequence[Output], named: bool = True, resumable: bool = False) -> list[Path]:
    """Finish the outputs of a run that has stopped, and return the names of their parts; none if not `named`.

    Their drafts are kept so that another run can go on. If one is not whole, those without a part that can be read are
    deleted, unless the run is `resumable`.
    """
    with ctrl_c_deferred(), contextlib.ExitStack() as discarding:
        drafts = [output.draft for output in outputs if output.draft is not None]
        for draft in drafts:
            discarding.callback(draft.discard)
        kept = list[Draft]()
        for output in outputs:
            whole = False
            with contextlib.suppress(CanthusError, OSError):  # the error that has stopped the run is raised
                whole = output.finish()
            if output.draft is not None and (whole or output.has_part):
                kept.append(output.draft)
        parts = list[Path]()
        for draft in kept if named else ():
            with contextlib.suppress(InputError):
                parts.append(draft.keep())
        if resumable or kept == drafts:
            for draft in drafts:
                draft.leave()
        return parts


def delete_part(file: Path, part: Path) -> None:
    """Delete a part if it is the file that `Draft.keep` gave this name."""
    with contextlib.suppress(OSError):
        if part.samefile(file):
            part.unlink()


def draft_prefix(target: Path) -> str:
    """Return how the names of the temporary folders of a target start."""
    return f"{DRAFT_PREFIX}partial-{name_hash(target)}-"


def name_hash(target: Path) -> str:
    """Return a hash of the name of a target: 8 hexadecimal digits."""
    return hashlib.sha256(os.fsencode(target.name)).hexdigest()[:8]


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
        raise UsageError(f"{path}: unsupported {what} (supported: {', '.join(supported)})")
