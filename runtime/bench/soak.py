"""`canthus bench soak`: run the live pipeline for hours, and record memory, handles, threads and latency."""

import argparse
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from canthus.runtime.bench.machine import memory_mb, open_handles, running_threads
from canthus.runtime.errors import InputError
from canthus.runtime.options import add_landmarker_options, command_parser, positive_number, settings_from_args

if TYPE_CHECKING:
    from canthus.runtime.channel import Channel
    from canthus.runtime.pipeline import Settings
    from canthus.runtime.types import Frame

DESCRIPTION = """Run the live pipeline for hours, and record how memory, handles, threads and latency change.

The video is repeated without end, at its own frame rate. A thread decodes it and passes on the newest frame, as with a
camera. Latency is the time from there to the points. The record is written to a .json file and drawn in an .svg file
beside it, and both are updated at each sample. Ctrl-C stops early and keeps them. The last line says by how much the
memory grows per hour. Memory, handles and threads are measured on Linux only."""

EXAMPLES = """examples:
  canthus bench soak --hours 2                         the sample clip, at 30 frames per second
  canthus bench soak --hours 0.1 --full-speed          as fast as possible
  canthus bench soak --clip my.mp4 -o night.json       your video; writes night.json and night.svg"""

SAMPLES = 360
"""Number of samples of a run, at most."""

WARM_UP = 0.1
"""Part of a run that does not count for the growth: libraries still allocate their buffers."""

MIN_HOURS = 0.05
"""In a shorter run, growth per hour would be noise."""


class Sample(NamedTuple):
    """The state of the process at the end of an interval. Memory, handles and threads are None if unknown."""

    seconds: float  # since the start
    memory_mb: float | None
    handles: int | None
    threads: int | None
    frames: int  # since the start
    dropped: int  # since the start: frames that a newer one replaced
    latency_ms: tuple[float, float, float] | None  # 50, 95 and 99 % of the interval; None without a frame


@dataclass(frozen=True)
class Growth:
    """How much a run has grown. Growth and change are those after the warm-up; None if unknown."""

    hours: float
    memory_mb_per_hour: float | None  # slope of the memory over time
    handles: int | None  # change
    threads: int | None  # change


class _Arrival(NamedTuple):
    frame: "Frame"
    seconds: float  # perf_counter when it was passed on


class Record:
    """The record of a long run: a .json file and a drawing beside it. An error of writing does not end the run."""

    def __init__(self, path: Path) -> None:
        self.paths = path, path.with_suffix(".svg")
        self.problem = ""  # why it could not be written the last time

    def write(self, content: Mapping[str, object], samples: "list[Sample]", indent: int | None = None) -> None:
        """Replace the files by what is known now."""
        from canthus.runtime.files import write_file

        path, drawing = self.paths
        try:
            write_file(path, (json.dumps(content, indent=indent) + "\n").encode())
            write_file(drawing, draw_samples(samples).encode())
            self.problem = ""
        except InputError as error:
            self.problem = str(error)

    def describe(self) -> str:
        """Return what became of the files, for the last line of a command."""
        path, drawing = self.paths
        return f"the record is not complete: {self.problem}" if self.problem else f"wrote {path} and {drawing}"


def command(arguments: list[str]) -> int:
    """Run the live pipeline for hours, and record memory, handles, threads and latency."""
    from canthus.runtime import sample
    from canthus.runtime.abandoned import claim
    from canthus.runtime.files import check_output, check_suffix

    args = _parser().parse_args(arguments)
    check_suffix(args.output, (".json",), "format")
    written = Record(args.output)
    with contextlib.ExitStack() as stack:
        for output in written.paths:
            stack.enter_context(claim(output))
            check_output(output, args.overwrite)
        samples: list[Sample] = []

        def record(backend: str, one: Sample) -> None:
            samples.append(one)
            content = {"backend": backend, "clip": str(args.clip or sample.CLIP), "full_speed": args.full_speed}
            content |= {"growth": asdict(measure_growth(samples)), "samples": [one._asdict() for one in samples]}
            written.write(content, samples, indent=1)

        try:
            soak(args.clip or sample.CLIP, settings_from_args(args), 3600 * args.hours, args.full_speed, record)
        finally:
            if samples:
                print(f"{describe(samples)}; {written.describe()}")
    return 1 if written.problem else 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("canthus bench soak", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "--hours", type=positive_number, default=2.0, metavar="H", help="duration (default: %(default)s)"
    )
    parser.add_argument("--clip", type=Path, metavar="VIDEO", help="repeat this video, not the sample clip")
    parser.add_argument("--full-speed", action="store_true", help="process every frame, as fast as possible")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("soak.json"),
        metavar="FILE.json",
        help="the record (default: %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace output files that exist")
    add_landmarker_options(parser)
    return parser


def soak(
    clip: Path, settings: "Settings", seconds: float, full_speed: bool, record: Callable[[str, Sample], None]
) -> None:
    """Track the faces of a repeated clip for some seconds. Call `record` with the backend's name and each sample.

    The last sample is recorded even if the run is interrupted.

    Raises InputError if the clip cannot be read.
    """
    from tqdm import tqdm

    from canthus.runtime.channel import Channel
    from canthus.runtime.pipeline import Landmarker

    channel: Channel[_Arrival] = Channel(1, newest_wins=not full_speed)
    closing = threading.Event()
    reader = threading.Thread(target=_pass_on, args=(clip, channel, closing, full_speed), name="decode", daemon=True)
    latencies: list[float] = []  # ms, of the interval
    with Landmarker(settings) as landmarker, tqdm(total=round(seconds), unit="s", desc="soak", disable=None) as bar:
        began, frames, interval = time.perf_counter(), 0, max(seconds / SAMPLES, 1.0)
        due = interval

        def take() -> None:
            elapsed = time.perf_counter() - began
            latency = tuple(np.percentile(latencies, (50, 95, 99)).round(2).tolist()) if latencies else None
            state = (memory_mb(), open_handles(), running_threads())
            record(landmarker.backend_name, Sample(round(elapsed, 1), *state, frames, channel.dropped, latency))
            latencies.clear()

        reader.start()
        try:
            for frame, arrived in channel:
                landmarker.update(frame)
                now = time.perf_counter()
                latencies.append(1000 * (now - arrived))
                frames += 1
                bar.update(min(round(now - began), round(seconds)) - bar.n)
                if now - began >= seconds:
                    break
                if now - began >= due:
                    take()
                    due += interval
        finally:
            try:
                if frames:
                    take()
            finally:
                closing.set()
                channel.leave()
                reader.join(timeout=2)


def _pass_on(clip: Path, channel: "Channel[_Arrival]", closing: threading.Event, full_speed: bool) -> None:
    """Decode the clip again and again, and put its frames when they are due. Runs in the thread."""
    error: BaseException | None = None
    began = time.perf_counter()
    try:
        for frame in _repeat(clip):
            if not full_speed:
                closing.wait(max(began + frame.seconds - time.perf_counter(), 0))
            if closing.is_set() or not channel.put(_Arrival(frame, time.perf_counter())):
                break
    except BaseException as raised:  # noqa: BLE001 - raised again in the consumer
        error = raised
    channel.close(error)


def _repeat(clip: Path) -> "Iterator[Frame]":
    """Yield the frames of a clip without end, with increasing indices and times. It is opened again each time."""
    from canthus.runtime.types import Frame
    from canthus.runtime.video_file import VideoFile

    index, start = 0, 0.0
    while True:
        with VideoFile(clip) as video:
            for frame in video:
                yield Frame(frame.image, index, start + frame.seconds, frame.pixel_aspect)
                index += 1
            start += video.end or 0.0


def measure_growth(samples: list[Sample]) -> Growth:
    """Return the growth after the warm-up. The slope is the median of the slopes of all pairs of samples (Theil-Sen).

    It is unknown with fewer than three samples after the warm-up, or in a run of less than MIN_HOURS.
    """
    warm = [one for one in samples if one.seconds >= WARM_UP * samples[-1].seconds]
    hours = round(samples[-1].seconds / 3600, 3)
    first, last = warm[0], warm[-1]
    slope = None
    if hours >= MIN_HOURS and len(warm) >= 3 and last.memory_mb is not None:
        times, memory = np.array([(one.seconds / 3600, one.memory_mb) for one in warm]).T
        one, other = np.triu_indices(len(warm), 1)
        slope = round(float(np.median((memory[other] - memory[one]) / np.maximum(times[other] - times[one], 1e-9))), 2)
    return Growth(hours, slope, _change(first.handles, last.handles), _change(first.threads, last.threads))


def _change(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before


def describe(samples: list[Sample]) -> str:
    """Return the summary of a run, in one line."""
    growth, last = measure_growth(samples), samples[-1]
    lost = f" ({last.dropped} dropped)" if last.dropped else ""
    parts = [f"{growth.hours:.2f} hours, {last.frames} frames{lost}"]
    if last.memory_mb is None:
        parts.append("memory is not measured on this system")
    elif growth.memory_mb_per_hour is None:
        parts.append(f"memory {last.memory_mb:.0f} MB, too short a run to measure its growth")
    else:
        parts.append(f"memory {last.memory_mb:.0f} MB, growing by {growth.memory_mb_per_hour:+.1f} MB per hour")
    for name, change in (("handles", growth.handles), ("threads", growth.threads)):
        if change is not None:
            parts.append(f"{name} {change:+d}")
    medians = [one.latency_ms for one in samples if one.latency_ms]
    if medians:
        middle, _, high = np.median(np.array(medians), axis=0)
        parts.append(f"latency {middle:.1f} ms, 99 % below {high:.1f} ms")
    return "soak: " + "; ".join(parts)


WIDTH, HEIGHT, LEFT, GAP = 900, 150, 70, 40
"""Size of a diagram in the .svg file, its left margin, and the space between two of them, in pixels."""

COLORS = ("#1f5fa8", "#c77700", "#b02a2a")


def draw_samples(samples: list[Sample]) -> str:
    """Return an SVG image: diagrams of memory, handles, threads and latency over time. Unknown ones are left out."""
    diagrams: list[tuple[str, list[list[tuple[float, float]]]]] = [
        (title, [[(one.seconds, value) for one in samples if (value := getattr(one, name)) is not None]])
        for title, name in (("memory, MB", "memory_mb"), ("open handles", "handles"), ("threads", "threads"))
    ]
    latencies = [(one.seconds, one.latency_ms) for one in samples if one.latency_ms]
    lines = [[(seconds, latency[place]) for seconds, latency in latencies] for place in range(3)]
    diagrams.append(("latency, ms: 50 % (blue), 95 % (orange), 99 % (red)", lines))
    known = [(title, lines) for title, lines in diagrams if lines[0]]
    total = (HEIGHT + GAP) * len(known) + GAP
    drawn = [
        _draw_diagram(title, lines, GAP + place * (HEIGHT + GAP), samples[-1].seconds)
        for place, (title, lines) in enumerate(known)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{total}" viewBox="0 0 {WIDTH} {total}" '
        'font-family="sans-serif" font-size="12">\n'
        f'<rect width="{WIDTH}" height="{total}" fill="white"/>\n' + "\n".join(drawn) + "\n</svg>\n"
    )


def _draw_diagram(title: str, lines: list[list[tuple[float, float]]], top: int, seconds: float) -> str:
    """Return the SVG elements of a diagram: a frame, the ends of both axes, and one line for each list of points."""
    values = [value for line in lines for _, value in line]
    low, high = min(values), max(values)
    margin = max(0.05 * (high - low), 0.5)
    low, high = max(low - margin, min(low, 0.0)), high + margin
    width = WIDTH - LEFT - 20

    def place(x: float, value: float) -> str:
        return f"{LEFT + width * x / max(seconds, 1e-9):.1f},{top + HEIGHT * (high - value) / (high - low):.1f}"

    parts = [
        f'<text x="{LEFT}" y="{top - 6}">{title}</text>',
        f'<rect x="{LEFT}" y="{top}" width="{width}" height="{HEIGHT}" fill="none" stroke="#999"/>',
        f'<text x="{LEFT - 6}" y="{top + 12}" text-anchor="end">{high:.1f}</text>',
        f'<text x="{LEFT - 6}" y="{top + HEIGHT}" text-anchor="end">{low:.1f}</text>',
        f'<text x="{LEFT + width}" y="{top + HEIGHT + 14}" text-anchor="end">{seconds / 3600:.2f} hours</text>',
    ]
    for color, line in zip(COLORS, lines, strict=False):
        points = " ".join(place(x, value) for x, value in line)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.5"/>')
    return "\n".join(parts)
