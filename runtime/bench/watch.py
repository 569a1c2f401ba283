"""`canthus bench watch`: run a command, and record the memory and the handles of its processes over time."""

import argparse
import contextlib
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from canthus.runtime.bench.soak import Record, Sample, measure_growth
from canthus.runtime.errors import InputError
from canthus.runtime.options import command_parser

DESCRIPTION = """Run a command, and record the memory, the handles and the threads of it and of its worker processes.

The record is written to a .json file and drawn in an .svg file beside it, and both are updated at each sample. Ctrl-C
ends the command and keeps them. The last line says how much memory and how many handles the command and its workers
have at most, and near the start and the end of the run (the medians of the second and of the last fifth). The exit code
is that of the command. Linux only."""

EXAMPLES = """examples:
  canthus bench watch -o clips.json -- canthus video clips/ --table tables/ --jobs 2
  canthus bench watch -o long.json --interval 5 -- canthus video long.mp4 --table points.parquet"""

SAMPLES = 2000
"""Number of samples that are kept, at most: of more, every second one is dropped and the interval is doubled."""


class Process(NamedTuple):
    """What a process uses."""

    pid: int
    memory_mb: float  # resident
    handles: int
    threads: int


class Moment(NamedTuple):
    """The processes of a command at one time: the command itself, and those that it has started."""

    seconds: float  # since the start
    command: Process
    workers: tuple[Process, ...]

    @property
    def all(self) -> tuple[Process, ...]:
        """The command and its workers."""
        return (self.command, *self.workers)


@dataclass(frozen=True)
class Use:
    """What the command, or a group of processes, has used."""

    most_mb: float
    early_mb: float  # median of the second fifth of the run
    late_mb: float  # median of the last fifth
    early_handles: float
    late_handles: float


def command(arguments: list[str]) -> int:
    """Run a command, and record the memory and the handles of its processes."""
    from canthus.runtime.abandoned import claim
    from canthus.runtime.files import check_output, check_suffix

    args = _parser().parse_args(arguments)
    check_suffix(args.output, (".json",), "format")
    written, moments = Record(args.output), list[Moment]()

    def record(exit_code: int | None) -> None:
        content = {"command": args.command, "exit_code": exit_code, "growth": measure_growth(_totals(moments)).__dict__}
        content |= {"samples": [[one.seconds, *map(list, one.all)] for one in moments]}
        written.write(content, _totals(moments))

    with contextlib.ExitStack() as stack:
        for output in written.paths:
            stack.enter_context(claim(output))
            check_output(output, args.overwrite)
        try:
            code = watch(args.command, args.interval, moments, record)
        finally:
            if moments:
                print(f"{describe(moments)}; {written.describe()}")
    return code or int(bool(written.problem))


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("canthus bench watch", DESCRIPTION, EXAMPLES)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.json", help="write the record here")
    parser.add_argument(
        "--interval", type=_seconds, default=1.0, metavar="SECONDS", help="between two samples (default: 1)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace output files that exist")
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="after --, with its arguments")
    return parser


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0.05 <= (number := float(text)) <= 3600:
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds (expected 0.05 to 3600)")


def watch(words: Sequence[str], interval: float, moments: list[Moment], record: Callable[[int | None], None]) -> int:
    """Run a command to its end, and return its exit code. Samples are added to `moments`.

    `record` is called after each sample, and at the end with the exit code. Ctrl-C is left to the command, and raised
    again after its end.

    Raises InputError if the command cannot be started.
    """
    began, interrupted = time.monotonic(), False
    try:
        running = subprocess.Popen(words)
    except OSError as error:
        raise InputError(f"{words[0]}: cannot be run ({error.strerror or error})") from error
    due = began
    while True:
        try:
            found = sample(running.pid, time.monotonic() - began)
            if found is not None:
                moments.append(found)
                record(None)
            if len(moments) >= SAMPLES:
                del moments[1::2]
                interval *= 2
            due += interval
            running.wait(max(due - time.monotonic(), 0.02))
            break
        except subprocess.TimeoutExpired:
            continue
        except KeyboardInterrupt:  # the command has received it too, or ends now
            interrupted = True
            running.terminate()
    if moments:
        record(running.returncode)
    if interrupted:
        raise KeyboardInterrupt
    return running.returncode if running.returncode >= 0 else 128 - running.returncode


def sample(pid: int, seconds: float) -> Moment | None:
    """Return what a process and its descendants use; None if it has ended, or the system is not Linux."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    waiting, found = [pid], []
    while waiting:
        one = waiting.pop()
        waiting += children.get(one, [])
        with contextlib.suppress(OSError):
            found.append(_measure(one))
    if not found or found[0].pid != pid:
        return None
    return Moment(round(seconds, 2), found[0], tuple(found[1:]))


def _measure(pid: int) -> Process:
    folder = Path("/proc", str(pid))
    pages = int((folder / "statm").read_text().split()[1])
    handles, threads = (sum(1 for _ in (folder / name).iterdir()) for name in ("fd", "task"))
    return Process(pid, round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1), handles, threads)


def _totals(moments: Sequence[Moment]) -> list[Sample]:
    """Return the sums over all processes, as samples of `canthus bench soak`."""
    return [
        Sample(
            one.seconds,
            round(sum(process.memory_mb for process in one.all), 1),
            sum(process.handles for process in one.all),
            sum(process.threads for process in one.all),
            frames=0,
            dropped=0,
            latency_ms=None,
        )
        for one in moments
    ]


def measure_use(moments: Sequence[Moment], workers: bool) -> Use:
    """Return what the command, or its workers together, have used. `most_mb` is that of one process."""
    groups = [one.workers if workers else (one.command,) for one in moments]
    memory = [sum(process.memory_mb for process in group) for group in groups]
    handles = [sum(process.handles for process in group) for group in groups]
    fifth = max(len(groups) // 5, 1)
    early, late = slice(fifth, 2 * fifth) if len(groups) >= 5 else slice(1), slice(-fifth, None)
    return Use(
        max((process.memory_mb for group in groups for process in group), default=0.0),
        *(round(statistics.median(memory[part]), 1) for part in (early, late)),
        *(statistics.median(handles[part]) for part in (early, late)),
    )


def describe(moments: Sequence[Moment]) -> str:
    """Return what the processes have used, in one line."""
    parts = [f"{moments[-1].seconds / 3600:.2f} hours"]
    for name, workers in (("command", False), ("workers", True)):
        number = max(len(one.workers) for one in moments)
        if workers and not number:
            continue
        use = measure_use(moments, workers)
        each = f"{use.most_mb:.0f} MB at most" + (f" each of up to {number}" if workers else "")
        parts.append(
            f"{name} {each}, {use.early_mb:.0f} to {use.late_mb:.0f} MB in all, "
            f"handles {use.early_handles:g} to {use.late_handles:g}"
        )
    together = max(sum(process.memory_mb for process in one.all) for one in moments)
    return "watch: " + "; ".join([*parts, f"together {together:.0f} MB at most"])
