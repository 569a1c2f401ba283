"""Find the source files of a run: files, folders with their sub-folders, glob patterns, lists and remote addresses."""

import glob
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from canthus.runtime.addresses import is_address, without_password
from canthus.runtime.batch.storage import is_remote, open_remote, remote_errors
from canthus.runtime.errors import InputError, UsageError

VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".wmv", ".flv", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".3gp",
    ".ogv", ".mxf", ".vob", ".h264", ".hevc", ".mjpeg",
)  # fmt: skip
"""Suffixes of the files of a folder that count as videos. A file that is named itself may have any suffix."""


@dataclass(frozen=True)
class SourceFile:
    """A file to process."""

    address: str  # a path, or an address of fsspec
    name: str  # its path in the output folder, with slashes


def is_several(word: str) -> bool:
    """Whether a word of the command line may stand for other than one file of this machine."""
    if is_remote(word):
        return True
    return not Path(word).is_file() and (Path(word).is_dir() or word.startswith("@") or _is_pattern(word))


def is_file(word: str) -> bool:
    """Whether a word of the command line names one file, which may be remote. Raises InputError if nothing is there."""
    if not is_remote(word):
        return not is_several(word)
    _refuse_stream(word)
    system, path = open_remote(word)
    with remote_errors(word):
        if _is_pattern(path) or system.isdir(path):
            return False
        if not system.exists(path):
            raise InputError(f"{word}: no such file or folder")
        return True


def find_sources(words: Sequence[str], suffixes: tuple[str, ...], outputs: Iterable[str] = ()) -> Iterator[SourceFile]:
    """Yield the files that the words of a command line stand for, in order, each folder sorted by name.

    words: files, folders, glob patterns (`takes/*.mov`, `**` for any depth), @FILE for a list with one word on each
        line, and addresses of fsspec.
    suffixes: of the files of a folder that count, in lower case.
    outputs: folders whose files are left out if they are inside a source folder, so that a run does not read what
        another one wrote.

    Hidden files, and a file that is given again, are left out. The files of a folder are listed when they are reached:
    of a large tree, only one folder at a time is kept in memory.

    Raises InputError if a word stands for no file, or if two files have the same name.
    """
    folders = [Path(output).resolve() for output in outputs if not is_remote(output)]
    known: dict[int, int] | None = {} if len(words) > 1 or words[0].startswith("@") else None
    for word in words:
        found = False
        root = Path() if is_remote(word) else _root(word).resolve()
        ignored = [folder for folder in folders if root in folder.parents]
        for source in _find(word, suffixes):
            if ignored and not is_remote(source.address) and _is_inside(Path(source.address), ignored):
                continue
            found = True
            if known is None or not _is_known(source, known):
                yield source
        if not found:
            raise InputError(f"{word}: contains no files to process ({', '.join(suffixes)})")


def _is_known(source: SourceFile, known: dict[int, int]) -> bool:
    """Whether a file was found before, and add it: hash of the name -> hash of the address, as names take more memory.

    Raises InputError if it is another file of the same name.
    """
    count = len(known)
    address = source.address if is_remote(source.address) else os.path.abspath(source.address)  # noqa: PTH100
    before = known.setdefault(hash(source.name), hash(address))
    if before != hash(address):
        raise InputError(
            f"{source.address}: would have the same outputs as another file with the name {source.name}; give a folder "
            "that contains both"
        )
    return len(known) == count


def _is_inside(path: Path, folders: list[Path]) -> bool:
    resolved = path.resolve()
    return any(resolved.is_relative_to(folder) for folder in folders)


def _is_pattern(word: str) -> bool:
    return glob.has_magic(word)


def _find(word: str, suffixes: tuple[str, ...]) -> Iterator[SourceFile]:
    if is_remote(word):
        yield from _find_remote(word, suffixes)
    elif Path(word).is_file():
        yield SourceFile(word, Path(word).name)
    elif Path(word).is_dir():
        yield from walk(Path(word), suffixes)
    elif word.startswith("@"):
        yield from _read_list(Path(word[1:]), suffixes)
    elif _is_pattern(word):
        root = _fixed_part(word)
        matches = (path for path in glob.iglob(word, recursive=True) if Path(path).is_file())  # noqa: PTH207
        for path in sorted(path for path in matches if _counts(word, path, suffixes)):
            yield SourceFile(path, Path(path).relative_to(root).as_posix())
    else:
        raise InputError(f"{word}: no such file or folder")


def walk(folder: Path, suffixes: tuple[str, ...]) -> Iterator[SourceFile]:
    """Yield the files of a folder and its sub-folders with these suffixes, sorted as paths are."""
    yield from _walk(os.fspath(folder), "", suffixes)


def _walk(folder: str, below: str, suffixes: tuple[str, ...]) -> Iterator[SourceFile]:
    try:
        with os.scandir(folder) as entries:
            kinds = {one.name: one.is_dir(follow_symlinks=False) for one in entries if not one.name.startswith(".")}
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from error
    for name in sorted(kinds):
        path = os.path.join(folder, name)  # noqa: PTH118 - one string for each file of a large tree
        if kinds[name]:
            yield from _walk(path, f"{below}{name}/", suffixes)
        elif name.lower().endswith(suffixes) and os.path.isfile(path):  # noqa: PTH113
            yield SourceFile(path, below + name)


def _read_list(path: Path, suffixes: tuple[str, ...]) -> Iterator[SourceFile]:
    """Yield the files of a list. Its files are named by their paths below the folder that contains all of them."""
    try:
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if "\0" in text:
        raise InputError(f"{path}: is not a list of files (expected text in UTF-8, with one file on each line)")
    lines = [line.strip() for line in text.split("\n")]
    words = [line for line in lines if line and not line.startswith("#")]
    files = [word for word in words if not is_several(word)]
    root = os.path.commonpath([os.path.abspath(Path(file).parent) for file in files]) if files else ""  # noqa: PTH100
    for word in words:
        if word.startswith("@"):
            raise InputError(f"{path}: contains another list, {word} (expected files, folders and patterns)")
        if is_several(word):
            yield from _find(word, suffixes)
        else:  # a missing file is an error of that file, not of the list
            yield SourceFile(word, Path(os.path.relpath(word, root)).as_posix())


def _root(word: str) -> Path:
    """Return the folder that the files of a word are below."""
    return _fixed_part(word) if _is_pattern(word) and not Path(word).exists() else Path(word)


def _fixed_part(pattern: str) -> Path:
    """Return the folder of a glob pattern that all its files are below."""
    parts = Path(pattern).parts
    return Path(*itertools.takewhile(lambda part: not glob.has_magic(part), parts[:-1]))


def _counts(pattern: str, path: str, suffixes: tuple[str, ...]) -> bool:
    """Whether a match of a pattern is a source. A pattern that names a suffix decides by itself."""
    hidden = any(part.startswith(".") and part not in (".", "..") for part in Path(path).parts)
    return not hidden and ("." in PurePosixPath(pattern).name or path.lower().endswith(suffixes))


def _refuse_stream(word: str) -> None:
    if is_address(word) and not word.lower().startswith("http"):
        raise UsageError(
            f"{without_password(word)}: is a live stream, which has no end (expected files, or an address such as "
            "s3://BUCKET/FOLDER); `canthus view` shows it, `canthus stream` sends its faces"
        )


def _find_remote(word: str, suffixes: tuple[str, ...]) -> Iterator[SourceFile]:
    _refuse_stream(word)
    system, path = open_remote(word)
    with remote_errors(word):
        if _is_pattern(path):
            root = path[: min(path.find(mark) for mark in "*?[" if mark in path)].rpartition("/")[0]
            paths = [one for one in sorted(system.glob(path)) if system.isfile(one) and _counts(path, one, suffixes)]
        elif system.isdir(path):
            root, paths = path, [one for one in sorted(system.find(path)) if one.lower().endswith(suffixes)]
        elif system.exists(path):
            root, paths = path.rpartition("/")[0], [path]
        else:
            raise InputError(f"{word}: no such file or folder")
        for one in paths:
            yield SourceFile(system.unstrip_protocol(one), one[len(root) :].lstrip("/"))
