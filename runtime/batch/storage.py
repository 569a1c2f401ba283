"""Files that lie on this machine or behind an address of fsspec (s3://, gs://, hdfs://, memory://).

An address is a string: a path of this machine, or PROTOCOL://PATH. Remote files are copied to a temporary folder to be
read, and copied from there when they are complete. fsspec is imported only for remote addresses.
"""

import contextlib
import errno
import hashlib
import importlib
import logging
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from canthus.runtime.addresses import without_password
from canthus.runtime.errors import CanthusError, InputError
from canthus.runtime.extras import install_command, installer
from canthus.runtime.files import DRAFT_PREFIX, LOCK_NAME, Draft, check_free

CHUNK = 1 << 20
"""Bytes that are read at a time for a hash."""

_PACKAGES = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs", "hdfs": "pyarrow",
    "http": "aiohttp", "https": "aiohttp", "sftp": "paramiko", "ssh": "paramiko", "smb": "smbprotocol",
}  # fmt: skip
"""What fsspec needs beside itself, by the protocol."""

_SILENT = logging.NullHandler()


def is_remote(address: str) -> bool:
    """Whether an address is read and written with fsspec."""
    return "://" in address


def open_remote(address: str) -> tuple[Any, str]:
    """Return the file system of fsspec for a remote address, and the path in it.

    Raises InputError if fsspec, or the package for the protocol, is missing, or if the file system cannot be opened.
    """
    try:
        url_to_fs = importlib.import_module("fsspec.core").url_to_fs
    except ImportError as missing:
        raise InputError(f"{address}: needs fsspec, which is not installed: {install_command('cluster')}") from missing
    protocol = address.partition("://")[0].lower()
    package = _PACKAGES.get(protocol)
    for name in ("fsspec", *([package] if package else [])):  # what they log is in the error that they raise, too
        logging.getLogger(name).addHandler(_SILENT)
    options = {"auto_mkdir": True} if protocol in ("file", "local") else {}
    try:
        system, path = url_to_fs(address, **options)
    except Exception as error:  # each file system has errors of its own
        if isinstance(error, ImportError) and package:
            advice = f"{package}, which is not installed: {installer()} {package}"
            raise InputError(f"{without_password(address)}: needs {advice}") from error
        reason = (str(error) or type(error).__name__).splitlines()[0]
        advice = "; hdfs:// needs Java and libhdfs" if protocol == "hdfs" else ""
        raise InputError(f"{without_password(address)}: cannot be opened ({reason}){advice}") from error
    return system, str(path)


@contextlib.contextmanager
def remote_errors(address: str) -> Iterator[None]:
    """Convert any error of a remote file system in the block to an InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # each file system has errors of its own
        raise InputError(f"{address}: {type(error).__name__}: {error}".replace("\n", " ")) from error


def join(folder: str, name: str) -> str:
    """Return the address of a file in a folder; `name` has slashes."""
    return f"{folder.rstrip('/')}/{name}" if is_remote(folder) else str(Path(folder, name))


def relative(address: str, folder: str) -> str:
    """Return the name, with slashes, that `join` has added to a folder."""
    if is_remote(folder):
        return address.removeprefix(f"{folder.rstrip('/')}/")
    return Path(address).relative_to(folder).as_posix()


def parent(address: str) -> str:
    """Return the address of the folder that a file is in."""
    return address.rpartition("/")[0] if is_remote(address) else str(Path(address).parent)


def exists(address: str) -> bool:
    """Whether there is a file or a folder."""
    if is_remote(address):
        system, path = open_remote(address)
        with remote_errors(address):
            return bool(system.exists(path))
    return Path(address).exists()


def delete_others(folder: str, kept: set[str]) -> None:
    """Delete the files of a folder that are not kept, except hidden ones. A .json stays beside its .npz."""
    if is_remote(folder):
        system, path = open_remote(folder)
        with remote_errors(folder):
            addresses = [system.unstrip_protocol(one) for one in system.ls(path, detail=False)]
            for address in addresses:
                if not address.rpartition("/")[2].startswith(".") and f"{address.rpartition('.')[0]}.npz" not in kept:
                    system.rm_file(open_remote(address)[1])
        return
    for file in Path(folder).iterdir():
        if not file.name.startswith(".") and str(file.with_suffix(".npz")) not in kept:
            file.unlink()


def stamp(address: str) -> str:
    """Return a text that changes if the file is written: its size and time, or what its file system offers.

    Raises InputError if there is no such file.
    """
    if is_remote(address):
        system, path = open_remote(address)
        with remote_errors(address):
            details = system.info(path)
            changed = next((str(details[key]) for key in ("ETag", "etag", "mtime", "created") if key in details), "")
            return f"{details['size']} {changed}"
    try:
        found = Path(address).stat()
    except OSError as error:
        raise InputError(f"{address}: cannot be read ({error.strerror})") from error
    return f"{found.st_size} {found.st_mtime_ns}"


def size(address: str) -> int | None:
    """Return the size of a file in bytes; None if there is none."""
    if is_remote(address):
        system, path = open_remote(address)
        with remote_errors(address):
            return int(system.size(path)) if system.exists(path) else None
    file = Path(address)
    return file.stat().st_size if file.is_file() else None


def content_hash(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a local file. Raises InputError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while data := file.read(CHUNK):
                digest.update(data)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    return digest.hexdigest()


def read_text(address: str) -> str:
    """Return the text of a file; empty if there is none."""
    if is_remote(address):
        system, path = open_remote(address)
        with remote_errors(address):
            return str(system.cat_file(path).decode()) if system.exists(path) else ""
    try:
        return Path(address).read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise InputError(f"{address}: cannot be read ({error.strerror})") from error


def write_lines(address: str, lines: Iterable[str]) -> None:
    """Write a text file completely or not at all, line by line. Raises InputError if it cannot be written."""
    with staged(address) as path, path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        file.writelines(lines)


def make_folder(address: str) -> None:
    """Create a folder and its parents. Raises InputError if that fails.

    Remote folders need not be created. That files can be written there is found out with a small one.
    """
    if is_remote(address):
        system, path = open_remote(address)
        probe = f"{path.rstrip('/')}/{DRAFT_PREFIX}{uuid.uuid4().hex}"
        with remote_errors(address):
            system.pipe_file(probe, b"canthus can write here")
            system.rm_file(probe)
        return
    try:
        Path(address).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{address}: this folder cannot be created ({error.strerror})") from error


@contextlib.contextmanager
def local_copy(address: str, shown: bool = False) -> Iterator[Path]:
    """Yield the path of a file: its own, or that of a temporary copy of a remote one.

    shown: whether a terminal shows how much is copied.
    """
    if not is_remote(address):
        yield Path(address)
        return
    system, path = open_remote(address)
    with tempfile.TemporaryDirectory(prefix=DRAFT_PREFIX) as folder:
        copy = Path(folder, path.rstrip("/").rpartition("/")[2])
        with remote_errors(address):
            system.get_file(path, str(copy), callback=_bar(f"reading {copy.name}", shown))
        with _named(folder, parent(address)):
            yield copy


def _bar(text: str, shown: bool) -> Any:
    """Return a callback of fsspec that shows how much of a file is copied, if it is `shown`."""
    callbacks = importlib.import_module("fsspec.callbacks")
    if not shown:
        return callbacks.NoOpCallback()
    return callbacks.TqdmCallback({"desc": text, "unit": "B", "unit_scale": True, "disable": None, "leave": False})


@contextlib.contextmanager
def _named(folder: str, address: str) -> Iterator[None]:
    """Let errors of the block name an address instead of a temporary folder, which the user does not know."""
    try:
        yield
    except CanthusError as error:
        lines = [str(line).replace(folder, without_password(address)) for line in error.args]
        is_full = isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ENOSPC
        if is_full and is_remote(address):
            lines.append(f"it is written to {Path(folder).parent} first; set TMPDIR to a folder on a larger disk")
        raise type(error)(*lines) from error


@contextlib.contextmanager
def in_place(address: str) -> Iterator[Path]:
    """Yield the path of a local file that is to be written, in a folder that exists."""
    make_folder(parent(address))
    yield Path(address)


@contextlib.contextmanager
def staged(address: str, shown: bool = False) -> Iterator[Path]:
    """Yield a path to write a file to. After the block it is moved to its address, with all files beside it.

    A file that exists is replaced. After an error or Ctrl-C in the block nothing is moved.

    shown: whether a terminal shows how much is copied to a remote address.

    Raises InputError if the file cannot be written.
    """
    if is_remote(address):
        with tempfile.TemporaryDirectory(prefix=DRAFT_PREFIX) as folder:
            with _named(folder, parent(address)):
                yield Path(folder, address.rpartition("/")[2])
            system, path = open_remote(address)
            with remote_errors(address):
                for file in _written(Path(folder)):
                    bar = _bar(f"writing {file.name}", shown)
                    system.put_file(str(file), f"{path.rpartition('/')[0]}/{file.name}", callback=bar)
        return
    target = Path(address)
    make_folder(str(target.parent))
    check_free(target, overwrite=True)
    draft = Draft(target)
    try:
        with _named(str(draft.folder), str(target.parent)):
            with draft.errors_named():
                yield draft.file
            with draft.writing():
                for file in _written(draft.folder):
                    file.replace(target.parent / file.name)
    finally:
        draft.discard()


def _written(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and path.name != LOCK_NAME)
