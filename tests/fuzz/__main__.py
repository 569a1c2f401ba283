"""`make fuzz`: read thousands of damaged and hostile files of each kind, and count what happens.

    PYTHONPATH=tests python -m fuzz                            every kind
    PYTHONPATH=tests python -m fuzz videos coco --count 2000   two kinds
    PYTHONPATH=tests python -m fuzz images --input 4711        one input again, with its outcome

Inputs are read in a child process, many in each. If it crashes, hangs or needs too much memory, a new one goes on with
the next input. Its temporary folder is deleted after it. Inputs with a bad outcome are saved, up to three for each
place, each with the outcome in a .txt file. The exit code is 1 if there are any.
"""

import argparse
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from fuzz.kinds import KINDS, Seeds
from fuzz.worker import Outcome, make_input

OUTCOMES = ("answered", "refused", "unclear", "noise", "traceback", "signal", "hang", "memory")
"""Good are the first two: the file was read, or refused by a CanthusError of one line that names it. Unclear is any
other CanthusError, and noise are messages of libraries on standard error."""

GOOD = OUTCOMES[:2]

TESTS = Path(__file__).parent.parent
WORKER = ["-m", "fuzz.worker"]
"""The child process: arguments of Python."""

BATCH = 2000
"""Inputs for each process."""

START_SECONDS = 120.0
"""Time for a process to start and to make the seed files."""

IDLE_FACTOR = 15.0
"""A process that does not answer is ended after its limit of CPU time, or after this many times as long if it waits. On
a busy machine it gets a small part of the time."""

SAVED = 3
"""Inputs that are saved for each place of a finding."""


def main() -> int:
    """Parse the options, run, print the table."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Read damaged and hostile files.")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"{', '.join(KINDS)} (default: all)")
    parser.add_argument("--count", type=int, default=1000, help="inputs of each kind (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first input (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="other seeds give other inputs (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="CPU time for one input (default: %(default)s)")
    parser.add_argument("--input", type=int, metavar="NUMBER", help="read only this input, and print the outcome")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/fuzz"), help="where findings are saved")
    args = parser.parse_args()
    if unknown := set(args.kinds) - set(KINDS):
        parser.error(f"unknown kind {', '.join(sorted(unknown))} (expected {', '.join(KINDS)})")
    first, count = (args.first, args.count) if args.input is None else (args.input, 1)
    print("| kind | inputs | " + " | ".join(OUTCOMES) + " | seconds |")
    print("|---" * (len(OUTCOMES) + 3) + "|")
    found = False
    for kind in args.kinds or KINDS:
        began, findings = time.monotonic(), Findings(kind, args.seed, args.output)
        for index, outcome in run(kind, args.seed, first, first + count, args.seconds):
            findings.add(index, outcome)
            if args.input is not None:
                print(*outcome, sep="\n", file=sys.stderr)
        counts = [findings.counts[outcome] for outcome in OUTCOMES]
        seconds = round(time.monotonic() - began)
        print(f"| {kind} | {sum(counts)} | " + " | ".join(map(str, counts)) + f" | {seconds} |", flush=True)
        found |= bool(sum(counts[len(GOOD) :]))
    return found


class Findings:
    """Counts the outcomes of a kind, and saves the inputs with a bad one."""

    def __init__(self, kind: str, seed: int, folder: Path) -> None:
        self.counts: Counter[str] = Counter()
        self._places: Counter[tuple[str, str]] = Counter()
        self._kind, self._seed, self._folder = kind, seed, folder
        self._seeds: Seeds = {}

    def add(self, index: int, outcome: Outcome) -> None:
        """Count an outcome. Save the input if it is bad."""
        self.counts[outcome.outcome] += 1
        key = (outcome.outcome, outcome.place)
        self._places[key] += 1
        if outcome.outcome in GOOD or self._places[key] > SAVED:
            return
        if not self._seeds:
            with tempfile.TemporaryDirectory() as folder:
                self._seeds = KINDS[self._kind].make(Path(folder))
        name, content = make_input(self._kind, self._seeds, self._seed, index)
        saved = self._folder / self._kind / f"{self._seed}-{index}-{name}"
        saved.parent.mkdir(parents=True, exist_ok=True)
        saved.write_bytes(content)
        saved.with_name(f"{saved.name}.txt").write_text(f"{outcome.outcome}\n{outcome.place}\n{outcome.detail}\n")


def run(kind: str, seed: int, first: int, last: int, seconds: float) -> Iterator[tuple[int, Outcome]]:
    """Yield the number and the outcome of each input from `first` to before `last`."""
    while first < last:
        for index, outcome in _run_batch(kind, seed, range(first, min(first + BATCH, last)), seconds):
            yield index, outcome
            first = index + 1


def _run_batch(kind: str, seed: int, inputs: range, seconds: float) -> Iterator[tuple[int, Outcome]]:
    """Run one process, until it ends or has a finding that ends it."""
    with tempfile.TemporaryDirectory(prefix="canthus-fuzz-", ignore_cleanup_errors=True) as folder:
        noise = Path(folder, "noise")
        numbers = map(str, (seed, inputs.start, inputs.stop))
        command = [sys.executable, *WORKER, kind, *numbers, folder]
        paths = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
        environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout is not None
            expected = iter(inputs)
            try:
                for index in expected:
                    if not _answers(process, START_SECONDS if index == inputs.start else seconds):
                        yield index, Outcome("hang", "hang", f"no answer after {seconds:g} s of CPU time")
                        return
                    line = process.stdout.readline()
                    if not line:
                        yield index, _describe_end(process.wait(), noise)
                        return
                    number, *outcome = json.loads(line)
                    yield number, Outcome(*outcome)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                process.wait()


def _answers(process: "subprocess.Popen[bytes]", seconds: float) -> bool:
    """Wait for a line of a process, or for its end. Return False after some seconds of its CPU time without either."""
    assert process.stdout is not None
    began, used = time.monotonic(), _cpu_seconds(process.pid)
    while not select.select([process.stdout], [], [], 0.5)[0]:
        if _cpu_seconds(process.pid) - used > seconds or time.monotonic() - began > IDLE_FACTOR * seconds:
            return False
    return True


def _cpu_seconds(process: int) -> float:
    """Return the CPU time of a process."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _describe_end(code: int, noise: Path) -> Outcome:
    text = noise.read_text(errors="replace")[-4000:] if noise.exists() else ""
    if code < 0:
        return Outcome("signal", f"signal {-code} {signal.strsignal(-code)}", text)
    return Outcome("traceback", f"exit code {code}", text)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # with what is to be done at the end
    sys.exit(main())
