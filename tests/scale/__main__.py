"""`make scale`: run canthus over 2,000 clips, 100,000 images and a video of four hours, and record memory and handles.

    PYTHONPATH=tests python -m scale                             all three; it takes hours
    PYTHONPATH=tests python -m scale clips --count 200           a part of one
    PYTHONPATH=tests python -m scale long --hours 1 --every 5    every fifth frame of one hour

Inputs and records (.json and .svg, of `canthus bench watch`) are written below build/scale. The exit code is 1 if a run
fails, or grows more than is allowed. A second run over the clips and the images skips what is finished.
"""

import argparse
import csv
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from canthus.runtime.bench.watch import Moment, Process, measure_use
from scale.inputs import make_clips, make_images, make_long

CANTHUS = str(Path(sys.executable).with_name("canthus"))
MOST_GROWTH = 0.15
"""Share by which the memory of the processes may grow from the second fifth of a run to the last one."""

MORE_HANDLES = 8
"""By how many the handles may grow: those of the files that are open at that moment differ."""

LONG_MB = 600
"""Memory of the run over the long video, at most."""


def main() -> int:
    """Parse the options, run, print the figures."""
    parser = argparse.ArgumentParser(prog="python -m scale", description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="*", choices=["clips", "images", "long", []], help="(default: all)")
    parser.add_argument("--count", type=int, help="number of files (default: 2,000 clips, 100,000 images)")
    parser.add_argument("--hours", type=float, default=4.0, help="of the long video (default: 4)")
    parser.add_argument("--every", type=int, default=1, help="frames of the long video: one of N (default: 1)")
    parser.add_argument("--jobs", type=int, default=2, help="worker processes (default: 2)")
    parser.add_argument("--table", default="csv", help="format of the tables (default: csv)")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/scale"), help="folder (default: build/scale)")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    checks = {"clips": clips, "images": images, "long": long}
    return max([checks[name](args) for name in args.runs or checks])


def clips(args: argparse.Namespace) -> int:
    """Process many short clips, twice."""
    folder, tables = args.output / "clips", args.output / "tables"
    make_clips(folder, args.count or 2000)
    shutil.rmtree(tables, ignore_errors=True)
    words = ["video", folder, "--table", tables, "--table-format", args.table, "--jobs", args.jobs, "--cpu"]
    return max(_watched(args, "clips", words), _skipped(words, tables / "summary.csv"))


def images(args: argparse.Namespace) -> int:
    """Process very many images, twice."""
    folder, table = args.output / "images", args.output / f"images-table/points.{args.table}"
    make_images(folder, args.count or 100_000)
    shutil.rmtree(table.parent, ignore_errors=True)
    words = ["images", folder, "--table", table, "--jobs", args.jobs, "--cpu"]
    return max(_watched(args, "images", words), _skipped(words, table.parent / "summary.csv"))


def long(args: argparse.Namespace) -> int:
    """Process a video of hours."""
    source, table = make_long(args.output / f"{args.hours:g}-hours.mp4", args.hours), args.output / f"long.{args.table}"
    words = ["video", source, "--table", table, "--every", args.every, "--max-faces", 1, "--cpu", "--overwrite"]
    return _watched(args, "long", words, LONG_MB)


def _watched(args: argparse.Namespace, name: str, words: list[object], most_mb: float | None = None) -> int:
    """Run a command, and return 1 if it fails or grows."""
    record = args.output / f"{name}.json"
    began = time.monotonic()
    code = subprocess.call([CANTHUS, "bench", "watch", "-o", record, "--overwrite", "--", CANTHUS, *map(str, words)])
    print(f"{name}: {time.monotonic() - began:.0f} s, exit code {code}", flush=True)
    if code:
        return 1
    samples = json.loads(record.read_text())["samples"]
    moments = [
        Moment(seconds, Process(*first), tuple(Process(*one) for one in others)) for seconds, first, *others in samples
    ]
    failed = 0
    for workers in {False, bool(moments[len(moments) // 2].workers)}:
        use = measure_use(moments, workers)
        if most_mb is not None and use.most_mb > most_mb:
            print(f"{name}: {use.most_mb:.0f} MB (at most {most_mb:.0f} MB are allowed)")
            failed = 1
        if use.late_mb > (1 + MOST_GROWTH) * use.early_mb or use.late_handles > use.early_handles + MORE_HANDLES:
            print(f"{name}: {'the workers grow' if workers else 'the command grows'}: {use}")
            failed = 1
    return failed


def _skipped(words: list[object], summary: Path) -> int:
    """Run a command that has finished again, and return 1 if it does more than to skip all files."""
    began = time.monotonic()
    code = subprocess.call([CANTHUS, *map(str, words)])
    with summary.open(newline="") as file:
        kinds = {row["status"] for row in csv.DictReader(file)}
    print(f"again: {time.monotonic() - began:.0f} s, exit code {code}, files {', '.join(sorted(kinds))}", flush=True)
    return int(code != 0 or kinds != {"skipped"})


if __name__ == "__main__":
    sys.exit(main())
