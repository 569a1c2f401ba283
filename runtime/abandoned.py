"""Outputs that one run reserves, and what runs that were killed left beside them."""

import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from canthus.runtime.errors import InputError
from canthus.runtime.file_lock import FileLock
from canthus.runtime.files import DRAFT_PREFIX, LOCK_NAME, delete_part, draft_prefix, name_hash, partial_path


@contextlib.contextmanager
def claim(path: Path, keep: bool = False) -> Iterator[None]:
    """Reserve an output for this run until the end of the block, and delete what stopped runs left of it.

    Args:
        path: A file to be written, or an existing folder in which files are written.
        keep: Delete nothing, because this run goes on with it.

    Raises:
        InputError: If another run has reserved the output, or nothing can be written there.
    """
    try:
        target = path.resolve()
        folder = target if target.is_dir() else target.parent
        lock = _take(folder / f"{DRAFT_PREFIX}{name_hash(target)}.lock")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
    if lock is None:
        raise InputError(f"{path}: another run is writing it; wait until it ends, or choose another name")
    try:
        of_folder, of_file = f"**/{DRAFT_PREFIX}partial-*", f"{draft_prefix(target)}*"
        for draft in list(folder.glob(of_folder if folder == target else of_file)) if not keep else ():
            _delete_if_abandoned(draft)
        yield
    finally:
        _delete_lock(lock)


def delete_abandoned(folder: Path) -> None:
    """Delete the drafts that killed runs left in a folder and its sub-folders. Those in use are kept."""
    for draft in list(folder.glob(f"**/{DRAFT_PREFIX}partial-*")):
        _delete_if_abandoned(draft)


def rescue_drafts(folder: Path, prefix: str) -> list[Path]:
    """Move the unfinished files of killed runs out of their temporary folders; return their new paths.

    Only files whose names start with `prefix` are moved, to a name that is free: NAME.mp4 or NAME-rescued.mp4. Files
    of runs that go on are left where they are. Nothing is raised: what cannot be moved stays.
    """
    rescued: list[Path] = []
    for draft in sorted(folder.glob(f"{DRAFT_PREFIX}partial-*")):
        files = [file for file in sorted(draft.glob(f"{prefix}*")) if file.is_file() and file.stat().st_size]
        with contextlib.suppress(OSError):
            lock = FileLock(draft / LOCK_NAME)
            abandoned = lock.acquire()
            lock.close()
            for file in files if abandoned else ():
                names = (file.name, f"{file.stem}-rescued{file.suffix}")
                target = next((folder / name for name in names if not (folder / name).exists()), None)
                if target is not None:
                    rescued.append(file.rename(target))
            if files and abandoned and not any(file.exists() for file in files):
                shutil.rmtree(draft, ignore_errors=True)
                target_hash = draft.name.removeprefix(f"{DRAFT_PREFIX}partial-").partition("-")[0]
                if (claimed := _take(folder / f"{DRAFT_PREFIX}{target_hash}.lock")) is not None:
                    _delete_lock(claimed)
    return rescued


def delete_drafts(path: Path) -> None:
    """Delete the drafts of a target that stopped runs have left, and the parts that they gave a name."""
    for folder in abandoned_drafts(path):
        _delete_if_abandoned(folder)


def abandoned_drafts(path: Path) -> list[Path]:
    """Return the folders of the drafts of a target whose processes have ended, the newest first."""
    target = path.resolve()
    folders = [folder for folder in target.parent.glob(f"{draft_prefix(target)}*") if _is_abandoned(folder)]
    return sorted(folders, key=lambda folder: folder.stat().st_mtime, reverse=True)


def _take(path: Path) -> FileLock | None:
    """Create and lock a file; None if another process has locked it."""
    while True:
        lock = FileLock(path)
        if lock.acquire() is False:
            lock.close()
            return None
        if lock.is_current():
            return lock
        lock.close()


def _delete_lock(lock: FileLock) -> None:
    """Delete the file of a lock that this process has."""
    if sys.platform == "win32":  # an open file cannot be deleted there
        lock.close()
    with contextlib.suppress(OSError):
        lock.path.unlink()
    if sys.platform != "win32":
        lock.close()


def _delete_if_abandoned(folder: Path) -> None:
    """Delete the folder of a draft if its process has ended, and the parts that it gave a name."""
    if not _is_abandoned(folder):
        return
    for file in folder.iterdir():
        for target in (file, file.with_suffix("")):  # the table, and the metadata beside it
            delete_part(file, folder.parent / partial_path(file, target).name)
    shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    try:
        lock = FileLock(folder / LOCK_NAME)
    except OSError:
        return False
    abandoned = lock.acquire()
    lock.close()
    return bool(abandoned)
