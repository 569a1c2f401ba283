"""One file (or a few) to process: the values that pass between a run and its workers, and what a worker does."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from canthus.runtime.batch import storage
from canthus.runtime.batch.listing import SourceFile
from canthus.runtime.errors import CanthusError, printable
from canthus.runtime.threads import VARIABLE

Figures = dict[str, int | float | str]
"""What a task found, by the names of the columns of the summary."""

OnProgress = Callable[[int, int, str], None]
"""Called with the parts that are done, their number (0 = unknown), and the part that is next or empty."""


@dataclass(frozen=True)
class Task:
    """A file to process and the files to write, all as addresses."""

    name: str  # of the source in the output folder
    source: str
    outputs: Mapping[str, str]  # by kind: "overlay", "table" …
    attempt: int = 1
    parts: tuple[SourceFile, ...] = ()  # of a task of several files; `source` is empty then
    excluded: tuple[str, ...] = ()  # names of parts that ended their process twice
    origin: str = ""  # the address for messages and metadata, if `source` is a copy


class Work(Protocol):
    """Processes the source of a task. It is pickled and sent to the workers."""

    goes_on: ClassVar[bool]
    """Whether a stopped attempt leaves what the next one goes on with. The outputs are given at their own paths then,
    and appear when they are complete. Otherwise they are written elsewhere and moved."""

    def __call__(self, task: Task, source: Path, outputs: Mapping[str, Path], progress: OnProgress, /) -> Figures:
        """Write the outputs, and return what the summary needs. Raises CanthusError or OSError if that fails."""
        ...


@dataclass(frozen=True)
class Outcome:
    """The end of an attempt at a task."""

    task: Task
    figures: Figures = field(default_factory=dict)
    error: str = ""  # one line, or empty: it succeeded
    died_at: str | None = None  # the part that was processed when the process ended; None if it did not end
    seconds: float = 0.0
    stamp: str = ""  # of the source, before it was read
    sha256: str = ""  # of the source, if it is one file
    sizes: Mapping[str, int] = field(default_factory=dict)  # bytes of the outputs, by kind


def perform(work: Work, task: Task, progress: OnProgress) -> Outcome:
    """Process a task in this process. An error becomes part of the outcome; Ctrl-C is raised."""
    began = time.monotonic()
    try:
        stamp = storage.stamp(task.source) if task.source else ""
        with storage.local_copy(task.source) as source, contextlib.ExitStack() as stack:
            sha256 = storage.content_hash(source) if task.source else ""
            in_place = work.goes_on and not any(map(storage.is_remote, task.outputs.values()))
            open_output = storage.in_place if in_place else storage.staged
            outputs = {kind: stack.enter_context(open_output(address)) for kind, address in task.outputs.items()}
            figures = work(task, source, outputs, progress)
        sizes = {kind: storage.size(address) or 0 for kind, address in task.outputs.items()}
    except (CanthusError, OSError, MemoryError) as error:
        message = str(error) or type(error).__name__
        return Outcome(task, error=" ".join(message.split()), seconds=time.monotonic() - began)
    except Exception as error:  # noqa: BLE001 - an error of ours in one file must not stop the others
        text = printable(f"{task.source}: unexpected {type(error).__name__}: {error}")
        return Outcome(task, error=text, seconds=time.monotonic() - began)
    return Outcome(task, figures, "", None, time.monotonic() - began, stamp, sha256, sizes)


@contextlib.contextmanager
def threads_limited(threads: int) -> Iterator[None]:
    """Limit the threads of the libraries in the block, as the variable CANTHUS_THREADS does."""
    import cv2

    before, former = os.environ.get(VARIABLE), cv2.getNumThreads()
    os.environ[VARIABLE] = str(threads)
    cv2.setNumThreads(threads)
    try:
        yield
    finally:
        cv2.setNumThreads(former)
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
