"""Writes what the viewer shows to a video and a table, in a thread, while the viewer goes on."""

import contextlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import numpy as np
from PyQt6.QtCore import QCoreApplication

from canthus.gui.mailbox import Mailbox
from canthus.gui.overlay import OverlayStyle, Trails
from canthus.gui.rendering import render
from canthus.gui.stream import Result
from canthus.runtime.abandoned import rescue_drafts
from canthus.runtime.channel import Channel
from canthus.runtime.errors import CanthusError, InputError

if TYPE_CHECKING:
    from canthus.gui.live_trace import LiveTrace
    from canthus.runtime.files import Output
    from canthus.runtime.video_file import VideoFile

    RecordTrace = Callable[[LiveTrace | None], object]

WAITING_FRAMES = 4
"""Frames that wait for the encoder. If it is slower than the source, the oldest one is dropped."""

MAX_GAP = 2.0
"""Seconds between two frames of a file above which it was jumped to another place."""

CAMERA_RATE = 30.0
"""Frames per second that the header of a camera's recording names. Each frame has its own time."""

PREFIX = "canthus-"
"""Of the names of recordings and snapshots."""


def tr(text: str) -> str:
    """Translate a text of this file."""
    return QCoreApplication.translate("Recording", text)


@dataclass(frozen=True)
class RecordingOptions:
    """What is recorded."""

    video: Path
    table: Path | None = None
    trace: Path | None = None  # see `canthus replay`
    style: OverlayStyle | None = None  # the faces are painted in this style; None = frames as they are
    file: Path | None = None  # the video file that is played; None = a camera or a stream
    source: str = ""  # what is shown, for the metadata of the table
    measures: bool = False  # the faces have measures, which the table gets as well


@dataclass(frozen=True)
class Recording:
    """A recording goes on."""

    seconds: float = 0.0
    dropped: int = 0


@dataclass(frozen=True)
class Saving:
    """The end of a recording is written."""


@dataclass(frozen=True)
class Saved:
    """A recording is complete. `paths` is empty if there was no frame. `note` says what differs from expected."""

    paths: tuple[Path, ...]
    seconds: float = 0.0
    dropped: int = 0
    note: str = ""


@dataclass(frozen=True)
class RecordingFailed:
    """A recording could not be written."""

    error: str


RecordingState = Recording | Saving | Saved | RecordingFailed


class Recorder:
    """Records the results that `add` gets, from its creation until `stop` or a jump to another place of the file.

    record_trace: called in a thread with a trace, into which faces are recorded from then on, and with None to end it.

    A killed process loses at most the last second: `rescue_recordings` finds the rest.
    """

    def __init__(self, options: RecordingOptions, record_trace: "RecordTrace | None" = None) -> None:
        self.states: Mailbox[RecordingState] = Mailbox()
        self.options = options
        self._record_trace = record_trace
        self._stopped = False
        self._results: Channel[Result] = Channel(WAITING_FRAMES, newest_wins=True)
        self._thread = Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def add(self, result: Result) -> None:
        """Record a result, unless the recording was stopped. Never waits; may be called in any thread."""
        if not self._stopped:
            self._results.put(result)

    def stop(self) -> None:
        """End the recording after the results so far. Returns at once."""
        self._stopped = True
        self._results.close()

    def join(self, seconds: float | None = None) -> bool:
        """Wait until the files are complete; return whether they are."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self.states.post(self._record())
        except CanthusError as error:
            self._fail(str(error))
        except Exception as error:  # noqa: BLE001 - shown in the window
            self._fail(f"{type(error).__name__}: {error}")

    def _fail(self, reason: str) -> None:
        """Give what was recorded until an error its name, and say so."""
        self._results.leave()
        video = self.options.video
        rescued = sorted(path.name for path in rescue_recordings(video.parent) if path.stem.startswith(video.stem))
        note = tr("What was recorded until then: {files}.").format(files=", ".join(rescued))
        self.states.post(RecordingFailed(f"{reason}. {note}" if rescued else reason))

    def _record(self) -> RecordingState:
        """Write all results to the files. Returns the last state."""
        if self.options.trace is None or self._record_trace is None:
            return self._write_results(lambda: None)
        trace = _Trace(self.options.trace, self.options.source, self._record_trace)
        try:
            state = self._write_results(trace.end)
        finally:
            note = trace.close()
        if not state.paths:
            return state
        paths = (*state.paths, *(path for path in (self.options.trace,) if path.exists()))
        return replace(state, paths=paths, note="  ·  ".join(filter(None, (state.note, note))))

    def _write_results(self, ended: Callable[[], object]) -> Saved:
        """Write all results to the video and the table. `ended` is called after the last one."""
        from canthus.runtime.abandoned import claim

        results = iter(self._results)
        first = next((result for result in results if result.seconds), None)
        if first is None:
            return Saved(())
        options, seconds = self.options, 0.0
        paths = tuple(path for path in (options.video, options.table) if path)
        with contextlib.ExitStack() as stack:
            for path in paths:
                stack.enter_context(claim(path))
            outputs: list[Output] = []
            stack.push(partial(_complete, outputs))
            writer = _Writer(options, first, outputs)
            stack.callback(writer.close)
            result: Result | None = first
            while result is not None and writer.follows(result):
                seconds = writer.write(result)
                self.states.post(Recording(seconds, self._results.dropped))
                result = next(results, None)
            ended()
            note = "" if result is None else tr("The recording ended where the file was left.")
            self._results.leave()
            self.states.post(Saving())
        note = writer.audio_error or note
        return Saved(paths, seconds, self._results.dropped, note)


def _complete(outputs: "list[Output]", error: type[BaseException] | None, *_: object) -> None:
    """Give the files of a recording their names. After an error, leave them for `rescue_recordings`."""
    from canthus.runtime.files import commit_together, keep_parts

    try:
        if error is None:
            commit_together(outputs, kept=True)
            return
    except (CanthusError, OSError):
        keep_parts(outputs, named=False, resumable=True)
        raise
    keep_parts(outputs, named=False, resumable=True)


class _Trace:
    """The trace of a recording, from its creation on. `record` gets it, and None at the end: see `Recorder`."""

    def __init__(self, path: Path, source: str, record: "RecordTrace") -> None:
        from canthus.gui.live_trace import LiveTrace

        self._record = record
        self._trace = LiveTrace(path, source)
        self._going_on, self._cut = True, False
        record(self._trace)

    def end(self) -> None:
        """Record no more frames."""
        if self._going_on:
            self._going_on, self._cut = False, not self._trace.active
            self._record(None)

    def close(self) -> str:
        """Write the file. Return what differs from expected, as a sentence; or an empty text."""
        self.end()
        try:
            self._trace.close()
        except InputError as error:
            self._trace.problem = self._trace.problem or str(error)
        if self._trace.problem:
            return tr("There is no trace: {reason}.").format(reason=self._trace.problem)
        return tr("The trace ends where the settings were changed.") if self._cut else ""


class _Writer:
    """The open files of a recording."""

    def __init__(self, options: RecordingOptions, first: Result, outputs: "list[Output]") -> None:
        from canthus.runtime.codecs import Encoding
        from canthus.runtime.sinks import VideoSink
        from canthus.runtime.tables import FRAMES, TableSink

        self._options, self._begin, self._trails = options, first.frame.seconds, Trails()
        self._last: Result | None = None
        self._frames = 0
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            self._source = _open_source(options.file, first, Path(folder))
            begin = first.frame.seconds if self._source.path == options.file else 0.0
            self._video: VideoSink = VideoSink(options.video, self._source, Encoding(tone_map=True), begin)
        outputs.append(self._video)
        self._table: TableSink | None = None
        if options.table is not None:
            details = {"source": options.source, "backend": first.backend}
            self._table = TableSink(options.table, FRAMES.with_measures(options.measures), details)
            outputs.append(self._table)

    def follows(self, result: Result) -> bool:
        """Whether a result can be added: its frame has the same size, and a file was not jumped in."""
        if self._last is None:
            return True
        frame, last = result.frame, self._last.frame
        return frame.image.shape == last.image.shape and (
            self._options.file is None or 0 <= frame.seconds - last.seconds <= MAX_GAP
        )

    def write(self, result: Result) -> float:
        """Add a result, and return how long the recording is so far, in seconds."""
        frame, faces, style = result.frame, result.faces, self._options.style
        if self._last is not None:
            elapsed = frame.seconds - self._last.frame.seconds
            if elapsed == 0:  # its faces were found again, with other settings
                return frame.seconds - self._begin
            if not 0 < elapsed <= MAX_GAP:  # a camera was opened again
                self._begin += elapsed - 1 / CAMERA_RATE
        seconds = frame.seconds - self._begin
        image = frame.image
        if style is not None:
            self._trails.add(faces, frame.seconds)
            image = render(image, faces, style, self._trails)
        self._video.write(image, seconds)
        measured = faces.measures is not None or not (self._options.measures and len(faces))
        if self._table is not None and measured:
            self._table.write(self._frames, seconds, faces)
        self._last, self._frames = result, self._frames + 1
        return seconds

    def close(self) -> None:
        """Close the source."""
        self._source.close()

    @property
    def audio_error(self) -> str:
        """Why the sound is incomplete, as a sentence; or empty."""
        error = self._video.audio_error
        return tr("Its sound is incomplete: {reason}.").format(reason=error) if error else ""


def _open_source(file: Path | None, first: Result, folder: Path) -> "VideoFile":
    """Return the video whose size, colors and sound the recording gets: the file, or a template for a camera."""
    from canthus.runtime.video_file import VideoFile

    height, width = first.frame.image.shape[:2]
    if file is not None:
        source = VideoFile(file)
        if (source.width, source.height) == (width, height):
            return source
        source.close()  # its size changes in the middle
    return VideoFile(_write_template(folder / "template.mp4", width, height))


def _write_template(path: Path, width: int, height: int) -> Path:
    """Write a video of one black frame, with a size and the colors of HD video (BT.709)."""
    import av
    from av.video.reformatter import ColorRange, Colorspace

    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=round(CAMERA_RATE))
        stream.width, stream.height, stream.pix_fmt = max(width // 2, 1) * 2, max(height // 2, 1) * 2, "yuv420p"
        context = stream.codec_context
        context.time_base = Fraction(1, 90_000)
        context.colorspace = context.color_primaries = context.color_trc = Colorspace.ITU709
        context.color_range = ColorRange.MPEG
        black = av.VideoFrame.from_ndarray(np.zeros((stream.height, stream.width, 3), np.uint8), format="rgb24")
        black.pts, black.time_base = 0, Fraction(1, 90_000)
        file.mux(stream.encode(black))
        file.mux(stream.encode(None))
    return path


def recording_path(folder: Path, suffix: str, now: float | None = None) -> Path:
    """Return a new file name in a folder, from the time (seconds since the epoch)."""
    stem = PREFIX + time.strftime("%Y-%m-%d-%H%M%S", time.localtime(now))
    names = [stem, *(f"{stem}-{number}" for number in range(2, 100))]
    free = [path for name in names if not (path := folder / f"{name}{suffix}").exists()]
    return free[0] if free else folder / f"{stem}{suffix}"


def rescue_recordings(folder: Path) -> list[Path]:
    """Give the recordings of killed viewers their names again. Returns the files."""
    rescued = rescue_drafts(folder, PREFIX)
    for path in [path for path in rescued if path.suffix == ".trace"]:
        from canthus.runtime.trace import complete_trace

        with contextlib.suppress(CanthusError):
            if not complete_trace(path):
                path.unlink(missing_ok=True)
                rescued.remove(path)
    return rescued
