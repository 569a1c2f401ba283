"""Run tasks on a Ray cluster. The only file that imports Ray."""

import contextlib
import importlib
import logging
import os
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from canthus.runtime.batch import storage
from canthus.runtime.batch.options import BatchOptions
from canthus.runtime.batch.tasks import Outcome, Task, Work, perform, threads_limited
from canthus.runtime.batch.workers import Event
from canthus.runtime.closeable import Closeable
from canthus.runtime.errors import InputError
from canthus.runtime.extras import install_command

_log = logging.getLogger(__name__)

MAX_CALLS = 200
"""Tasks after which a worker process of the cluster is replaced."""

START_SECONDS = 180
"""Time that a cluster on this machine has to start."""

CONNECT_SECONDS = 10.0
"""Time that a cluster has to answer."""

NOTICE_SECONDS = 15.0
"""How often a message says that Ray is not ready yet."""

QUEUED = 2
"""Tasks that are submitted beyond those that the cluster can run."""


def import_ray() -> Any:
    """Return the module ray. Raises InputError if it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage statistics are sent
    try:
        return importlib.import_module("ray")
    except ImportError as missing:
        raise InputError(f"--ray needs Ray, which is not installed: {install_command('cluster')}") from missing


@dataclass(frozen=True)
class Fetched:
    """The outcome of a task on a machine that shares no folders with this one, and its output files."""

    outcome: Outcome
    files: dict[str, bytes]  # kind/name -> content


def perform_remotely(work: Work, task: Task, threads: int) -> Outcome:
    """Process a task on the cluster, with a limit on the threads."""
    with threads_limited(threads):
        return perform(work, task, lambda *_: None)


def perform_and_return(work: Work, task: Task, threads: int, content: bytes) -> Fetched:
    """Process a task whose source is sent along, and return its output files."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source", Path(task.name).name)
        source.parent.mkdir()
        source.write_bytes(content)
        outputs = {kind: str(Path(folder, kind, Path(address).name)) for kind, address in task.outputs.items()}
        local = replace(task, source=str(source), outputs=outputs, origin=task.source)
        outcome = perform_remotely(work, local, threads)
        files = {
            f"{kind}/{path.name}": path.read_bytes()
            for kind in outputs
            for path in Path(folder, kind).glob("*")
            if path.is_file() and not path.name.startswith(".")
        }
        error = outcome.error.replace(str(source), task.source)
        return Fetched(replace(outcome, task=task, error=error), files)


class RayPool(Closeable):
    """Runs each task as a task of a Ray cluster, which reserves its CPUs and GPUs.

    A task whose worker or machine is lost has failed; the run tries it again.

    Args:
        work: What to do with each source. The machines of the cluster need the same version of canthus.
        options: The address, the number of tasks at a time, and the resources of each.

    Raises:
        InputError: If Ray is missing, or there is no cluster at the address.
    """

    def __init__(self, work: Work, options: BatchOptions) -> None:
        self._ray = import_ray()
        self._options, self._own = options, not self._ray.is_initialized()
        self._running: dict[Any, tuple[Task, str]] = {}  # by its reference: the task, and the stamp of its source
        self._failed: list[Outcome] = []  # that could not be sent
        if self._own:
            self._connect()
        self._work = self._ray.put(work)
        run = perform_and_return if options.fetch else perform_remotely
        self._remote = self._ray.remote(
            num_cpus=options.threads_each, num_gpus=options.gpus, max_retries=0, max_calls=MAX_CALLS
        )(run)

    def _connect(self) -> None:
        address = None if self._options.ray == "local" else self._options.ray
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address is None:
            os.environ.setdefault("RAY_raylet_start_wait_time_s", str(START_SECONDS))
            options["include_dashboard"] = False
            if self._options.jobs:
                options["num_cpus"] = self._options.jobs * self._options.threads_each
        else:
            _check_reachable(address)
        name = f"--ray {self._options.ray}"
        try:
            with _waiting_shown(name):
                self._ray.init(address, **options)
        except Exception as error:  # Ray raises plain exceptions too
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            what = "no cluster there" if address else "Ray cannot be started on this machine"
            advice = "; --ray local starts one for this run" if address == "auto" else ""
            raise InputError(f"{name}: {what} ({reason}){advice}") from error

    @property
    def running(self) -> int:
        """How many tasks have been submitted and have no outcome yet."""
        return len(self._running) + len(self._failed)

    @property
    def free(self) -> int:
        """How many tasks can be submitted now: some more than the cluster runs, so that no worker waits."""
        limit = self._options.jobs
        if limit is None:
            slots = int(self._ray.cluster_resources().get("CPU", 1) / self._options.threads_each)
            limit = max(1, slots) + QUEUED
        return limit - len(self._running)

    def submit(self, task: Task) -> None:
        """Start a task on the cluster."""
        arguments, stamp = [self._work, task, self._options.threads_each], ""
        if self._options.fetch:
            try:
                stamp = storage.stamp(task.source)
                with storage.local_copy(task.source) as source:
                    arguments.append(self._ray.put(source.read_bytes()))
            except (InputError, OSError) as error:
                self._failed.append(Outcome(task, error=str(error)))
                return
        self._running[self._remote.remote(*arguments)] = task, stamp

    def wait(self) -> Sequence[Event]:
        """Wait until a task has ended, and return its outcome."""
        if self._failed:
            return [self._failed.pop()]
        (ready, *_), _ = self._ray.wait(list(self._running), num_returns=1)
        task, stamp = self._running.pop(ready)
        try:
            result = self._ray.get(ready)
        except self._ray.exceptions.RayError as error:  # the worker or its machine is lost
            reason = str(error).strip().splitlines()[0]
            return [Outcome(task, error=f"{task.source}: its worker was lost ({type(error).__name__}: {reason})")]
        if isinstance(result, Fetched):
            return [_store(replace(result.outcome, stamp=stamp), result.files)]
        return [result]

    def close(self) -> None:
        """Cancel the tasks that run, and leave the cluster."""
        for reference in self._running:
            with contextlib.suppress(Exception):
                self._ray.cancel(reference, force=True)
        if self._own:
            self._ray.shutdown()


@contextlib.contextmanager
def _waiting_shown(name: str) -> Iterator[None]:
    """Say regularly that Ray is not ready yet, until the end of the block: it may take minutes on a busy machine."""
    ended = threading.Event()

    def show() -> None:
        seconds = 0.0
        while not ended.wait(NOTICE_SECONDS):
            seconds += NOTICE_SECONDS
            _log.warning("%s: Ray has not answered for %.0f s; still waiting (Ctrl-C stops)", name, seconds)

    thread = threading.Thread(target=show, name="waiting for Ray", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _check_reachable(address: str) -> None:
    """Raise InputError if nothing answers at HOST:PORT. Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        try:
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise InputError(f"--ray {address}: no cluster there ({error})") from error


def _store(outcome: Outcome, files: dict[str, bytes]) -> Outcome:
    """Write the files that came back, and return the outcome; its error if they cannot be written."""
    if outcome.error:
        return outcome
    try:
        with contextlib.ExitStack() as stack:
            for kind, address in outcome.task.outputs.items():
                target = stack.enter_context(storage.staged(address))
                for name, content in files.items():
                    if name.startswith(f"{kind}/"):
                        (target.parent / name.partition("/")[2]).write_bytes(content)
    except (InputError, OSError) as error:
        return replace(outcome, error=str(error))
    return outcome
