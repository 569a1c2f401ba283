"""Run tasks in worker processes of this machine. A process that ends, however it ends, costs its task one attempt."""

import contextlib
import multiprocessing
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import NamedTuple, Protocol

from canthus.runtime.batch.tasks import Outcome, Task, Work, perform, threads_limited
from canthus.runtime.closeable import Closeable

PROGRESS_SECONDS = 0.3
"""Least time between two messages of a worker about its progress."""

TASKS_PER_PROCESS = 200
"""Tasks after which a worker process is replaced. Its memory grows by some hundred kB each time that networks open."""

CLOSE_SECONDS = 10.0
"""Time that workers have to end after a request."""


class Progress(NamedTuple):
    """How far a worker is."""

    worker: int
    name: str  # of its task
    done: int
    total: int  # 0 if unknown
    part: str = ""


class LogLine(NamedTuple):
    """A message of a worker for the user."""

    text: str


Event = Progress | LogLine | Outcome


class Pool(Protocol):
    """Runs several tasks at a time."""

    @property
    def free(self) -> int:
        """How many tasks can be submitted now."""
        ...

    @property
    def running(self) -> int:
        """How many tasks have been submitted and have no outcome yet."""
        ...

    def submit(self, task: Task) -> None:
        """Start a task. Call it only if `free` is above 0."""
        ...

    def wait(self) -> Sequence[Event]:
        """Wait until something has happened, and return it."""
        ...

    def close(self) -> None:
        """Stop all tasks."""
        ...


def serve(work: Work, threads: int, connection: Connection) -> None:
    """Process the tasks that come through a connection until it is closed. Runs in a worker process."""
    import logging

    from canthus.runtime.interrupts import signals_end_command
    from canthus.runtime.kept_landmarker import landmarkers_kept
    from canthus.runtime.memory_arenas import limit_memory_arenas

    limit_memory_arenas()
    sending = threading.Lock()

    def send(event: Event) -> None:
        try:
            with sending:  # messages are logged in several threads
                connection.send(event)
        except OSError as error:  # the run has been killed: stop, and leave what the next one goes on with
            raise KeyboardInterrupt from error

    class Sender(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            send(LogLine(record.getMessage()))

    logger = logging.getLogger("canthus")
    logger.addHandler(Sender())
    logger.setLevel(logging.INFO)
    logger.propagate = False
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends the workers
    last = 0.0
    with (
        contextlib.suppress(KeyboardInterrupt, EOFError, OSError),
        signals_end_command(),
        threads_limited(threads),
        landmarkers_kept(),
    ):
        while True:
            task: Task = connection.recv()

            def report(done: int, total: int, part: str, name: str = task.name) -> None:
                nonlocal last
                if part or time.monotonic() - last >= PROGRESS_SECONDS:
                    last = time.monotonic()
                    send(Progress(0, name, done, total, part))

            send(perform(work, task, report))


@dataclass
class _Worker:
    """A worker process and its task."""

    process: SpawnProcess
    connection: Connection
    task: Task | None = None
    part: str = ""
    tasks: int = 0  # that it has been given


class LocalPool(Closeable):
    """Runs each task in one of several worker processes, which are started when they are needed.

    Args:
        work: What to do with each source.
        jobs: Number of processes.
        threads: Number of threads of each.
    """

    def __init__(self, work: Work, jobs: int, threads: int) -> None:
        self._work, self._threads = work, threads
        self._context = multiprocessing.get_context("spawn")  # this process may have threads
        self._workers: list[_Worker | None] = [None] * jobs

    @property
    def running(self) -> int:
        """How many tasks have been submitted and have no outcome yet."""
        return sum(worker is not None and worker.task is not None for worker in self._workers)

    @property
    def free(self) -> int:
        """How many tasks can be submitted now."""
        return len(self._workers) - self.running

    def submit(self, task: Task) -> None:
        """Start a task in a process that has none."""
        place = next(place for place, worker in enumerate(self._workers) if worker is None or worker.task is None)
        worker = self._workers[place]
        if worker is not None and worker.tasks >= TASKS_PER_PROCESS:
            worker.connection.close()  # it ends then
            worker.process.join(CLOSE_SECONDS)
            worker = None
        worker = worker or self._start()
        self._workers[place] = worker
        worker.task, worker.part, worker.tasks = task, "", worker.tasks + 1
        with contextlib.suppress(OSError):  # it has ended since its last task; `wait` notices that
            worker.connection.send(task)

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=serve, args=(self._work, self._threads, theirs), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def wait(self) -> list[Event]:
        """Wait until something has happened, and return it."""
        watched: dict[object, int] = {
            worker.connection: place for place, worker in enumerate(self._workers) if worker and worker.task
        }
        ready = wait([worker.connection for worker in self._workers if worker and worker.task])
        return [event for one in ready for event in self._receive(watched[one])]

    def _receive(self, place: int) -> list[Event]:
        worker = self._workers[place]
        assert worker is not None, "the connection is of a worker"
        try:
            event: Event = worker.connection.recv()
        except (EOFError, OSError):
            return [self._bury(place, worker)]
        if isinstance(event, Progress):
            worker.part = event.part or worker.part
            return [event._replace(worker=place)]
        if isinstance(event, Outcome):
            worker.task = None
        return [event]

    def _bury(self, place: int, worker: _Worker) -> Outcome:
        """Forget a worker whose process has ended, and return the outcome of its task."""
        worker.process.join(CLOSE_SECONDS)
        code, task = worker.process.exitcode, worker.task
        assert task is not None, "a worker without a task is not watched"
        worker.connection.close()
        self._workers[place] = None
        return Outcome(task, error=f"{task.source}: {describe_end(code)}", died_at=worker.part)

    def close(self) -> None:
        """End all workers. The files that they were writing are discarded."""
        workers = [worker for worker in self._workers if worker is not None]
        for worker in workers:
            worker.connection.close() if worker.task is None else worker.process.terminate()
        until = time.monotonic() + CLOSE_SECONDS
        for worker in workers:
            worker.process.join(max(0.0, until - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.connection.close()
            worker.process.close()
        self._workers = [None] * len(self._workers)


def describe_end(code: int | None) -> str:
    """Return how a process ended, from its exit code."""
    if code is not None and code < 0:
        hint = "; perhaps the memory did not suffice" if code == -signal.SIGKILL else ""
        return f"its process was ended by signal {-code} ({signal.strsignal(-code)}){hint}"
    return f"its process ended with code {code}"
