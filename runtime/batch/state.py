"""What earlier runs finished: a file of JSON lines in the output folder, one line for each file.

A run appends to a file of its own and reads those of all runs, so that parts of the work (`--shard`) may run at the
same time on several machines. A line that a killed run wrote in part is ignored.
"""

import contextlib
import json
import os
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from canthus.runtime.abandoned import claim
from canthus.runtime.batch import storage
from canthus.runtime.batch.tasks import Figures, Outcome, Task
from canthus.runtime.errors import InputError

STATE_PREFIX = ".canthus-batch"

PART_PREFIX = ".canthus-part-"
"""Of the names of empty files, one for each part that a run works on."""

UPLOAD_SECONDS = 30.0
"""How often the state is written to a remote folder, where files cannot be extended."""


@dataclass(frozen=True)
class Shard:
    """One of several parts of the work. A file is in a part by the hash of its name, whatever other files there are."""

    number: int = 1  # 1 to count
    count: int = 1

    def has(self, name: str) -> bool:
        """Whether a file is in this part."""
        return zlib.crc32(name.encode("utf-8", "surrogateescape")) % self.count == self.number - 1

    @property
    def is_whole(self) -> bool:
        """Whether this is all of the work."""
        return self.count == 1


WHOLE = Shard()


@contextlib.contextmanager
def part_claimed(folder: Path, shard: Shard) -> Iterator[None]:
    """Reserve a part of the work in an output folder. Other parts of the same number of parts may run too.

    Raises InputError if another run does this part, or if one has divided the work otherwise.
    """
    mark = folder / f"{PART_PREFIX}{shard.number}-of-{shard.count}"
    with claim(mark), contextlib.ExitStack() as stack:
        try:
            mark.touch()
        except OSError as error:
            raise InputError(f"{mark}: cannot be written ({error.strerror})") from error
        stack.callback(mark.unlink, missing_ok=True)
        for other in folder.glob(f"{PART_PREFIX}*"):
            if not other.name.endswith(f"-of-{shard.count}"):
                with claim(other):
                    other.unlink(missing_ok=True)  # of a run that was killed
        yield


@dataclass(frozen=True)
class Finished:
    """A file that was processed, or only started (with an empty `key`)."""

    key: str  # hash of settings, model and version
    stamp: str
    sha256: str
    sizes: dict[str, int]  # bytes of the outputs, by kind
    figures: Figures
    seconds: float


class State:
    """The records of an output folder. As a context manager: the folder's state is reserved for this run.

    Args:
        folder: An address.
        key: Hash of all that determines the outputs beside the source.
        shard: The part of the work that this run does. Records of others are not kept.

    Raises:
        InputError: If the state cannot be read or written, or another run is writing it.
    """

    def __init__(self, folder: str, key: str, shard: Shard) -> None:
        self._folder, self.key, self._shard = folder, key, shard
        part = "" if shard.is_whole else f"-{shard.number}-of-{shard.count}"
        self._address = storage.join(folder, f"{STATE_PREFIX}{part}.jsonl")
        self._records: dict[str, Finished] = {}
        self._stack = contextlib.ExitStack()
        self._file: IO[str] | None = None
        self._text: list[str] = []  # of a remote file
        self._uploaded = time.monotonic()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            if not storage.is_remote(self._address):
                stack.enter_context(part_claimed(Path(self._folder), self._shard))
            for address in _state_files(self._folder):
                self._read(storage.read_text(address))
            if storage.is_remote(self._address):
                self._text = [storage.read_text(self._address)]
                stack.callback(self._upload)
            else:
                self._file = stack.enter_context(_open_for_append(Path(self._address)))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _read(self, text: str) -> None:
        for line in text.splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                record = json.loads(line)
                finished = _finished(record)
                if self._shard.has(record["name"]):
                    self._records[record["name"]] = finished

    def is_started(self, name: str) -> bool:
        """Whether a run has begun to write the outputs of a file: they are its own and may be replaced."""
        return name in self._records

    def has_other_results(self) -> bool:
        """Whether files were finished with other settings, or by another version."""
        return any(record.key not in ("", self.key) for record in self._records.values())

    def find(self, task: Task) -> Finished | None:
        """Return the record of a task if it is finished: its outputs exist and its source is the same as then.

        The content of the source is compared only if its size or time has changed.
        """
        record = self._records.get(task.name)
        if record is None or record.key != self.key:
            return None
        if any(storage.size(address) != record.sizes.get(kind) for kind, address in task.outputs.items()):
            return None
        with contextlib.suppress(InputError):
            stamp = storage.stamp(task.source)
            if stamp == record.stamp:
                return record
            if not storage.is_remote(task.source) and storage.content_hash(Path(task.source)) == record.sha256:
                return record
        return None

    def start(self, task: Task) -> None:
        """Record that the outputs of a task are written now."""
        if task.name not in self._records:
            self._add({"name": task.name, "started": True})

    def finish(self, outcome: Outcome) -> None:
        """Record that a task succeeded."""
        record = {
            "name": outcome.task.name,
            "key": self.key,
            "stamp": outcome.stamp,
            "sha256": outcome.sha256,
            "sizes": dict(outcome.sizes),
            "figures": outcome.figures,
            "seconds": round(outcome.seconds, 3),
        }
        self._add(record)

    def _add(self, record: dict[str, Any]) -> None:
        self._records[record["name"]] = _finished(record)
        line = json.dumps(record) + "\n"  # ASCII: names that are not UTF-8 are escaped
        if self._file is None:
            self._text.append(line)
            if time.monotonic() - self._uploaded >= UPLOAD_SECONDS:
                self._upload()
            return
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise InputError(f"{self._address}: cannot be written ({error.strerror})") from error

    def _upload(self) -> None:
        storage.write_lines(self._address, self._text)
        self._uploaded = time.monotonic()


_TYPES: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "key": str,
    "stamp": str,
    "sha256": str,
    "sizes": dict,
    "figures": dict,
    "seconds": (int, float),
}
"""Types of the values of a line."""


def _finished(record: dict[str, Any]) -> Finished:
    """Return the record of a line. Raises TypeError if a value has another type."""
    if not isinstance(record, dict):
        raise TypeError("not an object")
    for name, kind in _TYPES.items():
        if name in record and not isinstance(record[name], kind):
            raise TypeError(f"{name} is {record[name]!r}")
    return Finished(
        record.get("key", ""),
        record.get("stamp", ""),
        record.get("sha256", ""),
        record.get("sizes", {}),
        record.get("figures", {}),
        record.get("seconds", 0.0),
    )


def _state_files(folder: str) -> list[str]:
    if not storage.is_remote(folder):
        return [str(path) for path in sorted(Path(folder).glob(f"{STATE_PREFIX}*.jsonl"))]
    system, path = storage.open_remote(folder)
    with storage.remote_errors(folder):
        return [system.unstrip_protocol(one) for one in sorted(system.glob(f"{path}/{STATE_PREFIX}*.jsonl"))]


@contextlib.contextmanager
def _open_for_append(path: Path) -> Any:
    """Open a file of lines to add some. A last line without an end is ended first."""
    try:
        with path.open("a+b") as raw:
            if raw.seek(0, os.SEEK_END):
                raw.seek(-1, os.SEEK_END)
                if raw.read(1) != b"\n":
                    raw.write(b"\n")
        file = path.open("a", encoding="ascii")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error
    with file:
        yield file
