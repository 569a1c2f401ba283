"""Measures the real viewer: how long it blocks, how old its results are, and whether it grows.

python -m support.measure_viewer heartbeat CLIP [--seconds 10]   in tests/: how long the window does not respond
python -m support.measure_viewer age [--seconds 60]              age of a result when it is painted, at 30 frames/s
python -m support.measure_viewer cycles [--count 200]            open and close a stream: threads, handles, memory
"""

import argparse
import ctypes
import faulthandler
import gc
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from PyQt6.QtCore import Qt, QTimer
from PyQt6.QtGui import QPaintEvent
from PyQt6.QtWidgets import QApplication

from canthus.gui import app
from canthus.gui.media import Source
from canthus.gui.stream import Result
from canthus.gui.view import View
from canthus.gui.window import Window
from canthus.runtime.bench.machine import memory_mb, open_handles, running_threads
from canthus.runtime.cli import main as run_canthus
from canthus.runtime.closeable import Closeable
from canthus.runtime.types import Frame

BEAT_MS = 5
LATE_SECONDS = 0.05
"""The stacks of all threads are printed when a beat is so late."""

RATE = 30.0
"""Frames per second of the camera."""

PAUSE_MS = 60
"""How long a stream is shown with faces in each cycle, and how long none is open."""


class Heartbeat:
    """Measures by how much a timer of Qt is late, before and after the first faces."""

    def __init__(self, seconds: float, stacks: Path) -> None:
        self.late: dict[str, list[float]] = {"loading": [], "playing": []}
        self.cpu: dict[str, list[float]] = {"loading": [], "playing": []}  # of all threads, in that time
        self._phase = "loading"
        self._stacks = stacks.open("w")
        self._last = (time.monotonic(), time.process_time())
        self._end = float("inf")
        self._seconds = seconds
        self._timer = QTimer()
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.setInterval(BEAT_MS)
        self._timer.timeout.connect(self._beat)
        self._timer.start()

    def _beat(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        now = (time.monotonic(), time.process_time())
        self.late[self._phase].append(now[0] - self._last[0] - BEAT_MS / 1000)
        self.cpu[self._phase].append(now[1] - self._last[1])
        self._last = now
        faulthandler.dump_traceback_later(LATE_SECONDS, file=self._stacks)
        if now[0] > self._end:
            self._timer.stop()
            faulthandler.cancel_dump_traceback_later()
            QApplication.closeAllWindows()

    def take(self, result: Result) -> None:
        """Note that faces are found from now on."""
        if result.seconds and self._phase == "loading":
            self._phase, self._end = "playing", time.monotonic() + self._seconds

    def report(self) -> None:
        """Print the figures of both phases."""
        for phase, late in self.late.items():
            if late:
                cpu = 1000 * np.array(self.cpu[phase])
                values = 1000 * np.array(late)
                print(
                    f"{phase}: {len(late)} beats, late by {np.percentile(values, 99):.1f} ms (p99), "
                    f"{values.max():.1f} ms (max), {(values > 1000 * LATE_SECONDS).sum()} over 50 ms; "
                    f"CPU time of the process in a beat {np.percentile(cpu, 99):.1f} ms (p99), {cpu.max():.1f} ms (max)"
                )


class SteadyCamera(Closeable):
    """Yields `RATE` frames per second of one size, as a camera does."""

    def __init__(self, image: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        self._image = image

    def __iter__(self) -> Iterator[Frame]:
        start, index = time.monotonic(), 0
        while True:
            time.sleep(max(0.0, start + index / RATE - time.monotonic()))
            yield Frame(self._image, index, time.monotonic() - start)
            index += 1

    def close(self) -> None:
        """Do nothing."""


class SteadyMedia:
    """A `SteadyCamera` for the stream, which shows one frame of the sample clip."""

    live, name = True, "steady camera"

    def __init__(self) -> None:
        from canthus.runtime.sample import CLIP
        from canthus.runtime.video_file import VideoFile

        with VideoFile(CLIP) as clip:
            self._image = next(iter(clip)).image

    def open(self) -> AbstractContextManager[Source]:
        """Return the camera."""
        return SteadyCamera(self._image)


def run_viewer(arguments: list[str], prepare: Callable[[Window], object]) -> int:
    """Run the command. `prepare` gets the window once it is shown."""
    open_qt = app._open_qt

    def opened() -> QApplication:
        application = open_qt()
        QTimer.singleShot(0, lambda: prepare(next(w for w in application.topLevelWidgets() if isinstance(w, Window))))
        return application

    app._open_qt = opened
    return run_canthus(["view", *arguments])


def measure_heartbeat(args: argparse.Namespace) -> int:
    """Play a clip, and print how long the thread of the window was blocked."""
    beats: list[Heartbeat] = []

    def prepare(window: Window) -> None:
        beats.append(Heartbeat(args.seconds, args.stacks))
        window.result_shown.connect(beats[0].take)

    code = run_viewer([str(args.clip), "--loop", "--cpu", "--model", args.model], prepare)
    beats[0].report()
    print(f"stacks of the beats over 50 ms: {args.stacks}")
    return code


def measure_age(args: argparse.Namespace) -> int:
    """Print how old the results are when they are painted, from the arrival of their frame."""
    ages: list[float] = []
    cpu: list[float] = []
    paint = View.paintEvent
    shown: list[Result] = []

    def paint_event(view: View, event: QPaintEvent | None) -> None:
        paint(view, event)
        if shown:
            result = shown.pop()
            ages.append(time.monotonic() - result.arrived)
            cpu.append(time.process_time())

    def take(result: Result) -> None:
        if result.seconds:
            shown[:] = [result]

    def prepare(window: Window) -> None:
        window.result_shown.connect(take)
        QTimer.singleShot(round(1000 * args.seconds), window.close)

    View.paintEvent = paint_event  # type: ignore[method-assign]
    app._media = lambda _: [SteadyMedia()]  # type: ignore[assignment]
    code = run_viewer(["--cpu", "--model", args.model], prepare)
    values = 1000 * np.array(ages[int(RATE) :])  # without the first second
    middle, late, most = np.percentile(values, (50, 99, 100))
    each = 1000 * (cpu[-1] - cpu[int(RATE)]) / len(values)
    print(f"CPU time of the process: {each:.1f} ms a result")
    limit = 1000 / RATE + 5
    print(f"{len(values)} results painted; age {middle:.1f} ms (p50), {late:.1f} ms (p99), {most:.1f} ms (max)")
    print(f"limit: one interval + 5 ms = {limit:.1f} ms at p99: {'kept' if late <= limit else 'MISSED'}")
    return code


def measure_cycles(args: argparse.Namespace) -> int:
    """Open and close the sample clip, and print how threads, handles and memory have changed since the first tenth."""
    states: list[tuple[float | None, ...]] = []  # of each cycle, with nothing open

    def prepare(window: Window) -> None:
        from canthus.gui.media import VideoMedia
        from canthus.runtime.sample import CLIP

        def close() -> None:
            playback = window.stream.playback
            if playback is not None:
                window.show_start()
                playback.join(1.0)
                QTimer.singleShot(PAUSE_MS, count)

        def count() -> None:
            gc.collect()
            if sys.platform == "linux":
                ctypes.CDLL(None).malloc_trim(0)  # memory that is free counts no longer
            states.append((running_threads(), open_handles(), len(gc.get_objects()), memory_mb()))
            if len(states) > args.count:
                window.close()
            else:
                window.open(VideoMedia(CLIP))

        window.result_shown.connect(lambda result: QTimer.singleShot(PAUSE_MS, close) if result.seconds else None)
        window.open(VideoMedia(CLIP))

    code = run_viewer(["--start-page", "--cpu", "--model", args.model], prepare)
    names = "threads", "handles", "objects of Python", "memory (MB)"
    for name, values in zip(names, zip(*states, strict=True), strict=True):
        steps = [values[index * (len(values) - 1) // 10] for index in range(11)]
        print(f"{name} after each tenth of {args.count} cycles: {', '.join(map(str, steps))}")
    return code


def main() -> int:
    """Run the measurement that the arguments select."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fast")
    commands = parser.add_subparsers(required=True)
    heartbeat = commands.add_parser("heartbeat")
    heartbeat.add_argument("clip", type=Path)
    heartbeat.add_argument("--seconds", type=float, default=10.0)
    heartbeat.add_argument("--stacks", type=Path, default=Path(tempfile.gettempdir()) / "heartbeat-stacks.txt")
    heartbeat.set_defaults(measure=measure_heartbeat)
    age = commands.add_parser("age")
    age.add_argument("--seconds", type=float, default=60.0)
    age.set_defaults(measure=measure_age)
    cycles = commands.add_parser("cycles")
    cycles.add_argument("--count", type=int, default=200)
    cycles.set_defaults(measure=measure_cycles)
    args = parser.parse_args()
    code: int = args.measure(args)
    return code


if __name__ == "__main__":
    sys.exit(main())
