"""One run of `canthus video`: decode, find the faces, draw, and write the outputs."""

import contextlib
import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from canthus.runtime.abandoned import delete_drafts
from canthus.runtime.backends import Backend
from canthus.runtime.channel import Stage
from canthus.runtime.draw import draw
from canthus.runtime.draw_video import draw_alone, widen_drawing
from canthus.runtime.errors import CanthusError, InputError
from canthus.runtime.files import commit_together
from canthus.runtime.kept_landmarker import landmarker_thread, open_landmarker
from canthus.runtime.options import Outputs
from canthus.runtime.pipeline import Settings
from canthus.runtime.stopped_runs import (
    CHECKPOINT_INTERVAL,
    Checkpoint,
    Progress,
    StoppedRun,
    find_stopped_run,
)
from canthus.runtime.tone_mapping import place_drawing
from canthus.runtime.trace import Recorder
from canthus.runtime.types import Faces, Frame
from canthus.runtime.video_file import DeepFrame, VideoFile
from canthus.runtime.video_outputs import VideoOptions, VideoOutputs, VideoRun, keep_written, outputs_claimed

_log = logging.getLogger(__name__)

OnFrame = Callable[[int, int], None]
"""Called after each frame with the number of frames until then, and that of the video (an estimate, or 0)."""


@dataclass(frozen=True)
class Report:
    """The result of a run."""

    frames: int
    frames_with_faces: int
    damage: str  # what could not be decoded, or empty
    incomplete: str  # what is missing of the audio and the subtitles of the overlay, or empty


class _Result(NamedTuple):
    frame: Frame
    faces: Faces | None  # None: a stopped run has written the frame
    state: bytes | None  # of the landmarker after this frame, at a checkpoint


def process_video(
    source: Path,
    outputs: Outputs,
    settings: Settings,
    on_frame: OnFrame | None = None,
    options: VideoOptions | None = None,
) -> Report:
    """Track the faces of a video and write the outputs.

    If the run is stopped, by Ctrl-C or an error, what it has written gets the names of `partial_path`, and a later run
    with `options.resume` goes on with it. With `on_frame` neither a progress bar nor these names are shown.

    Raises:
        InputError: If the source cannot be read, an output cannot be written, or another run writes it. Checked before
            the work starts.
    """
    with contextlib.ExitStack() as stack:
        options = options or VideoOptions()
        file = stack.enter_context(VideoFile(source, options.hwaccel))
        run = VideoRun(file, outputs, settings, options)
        stack.enter_context(outputs_claimed(run))
        stack.enter_context(_new_start_after_error(run))
        stopped = _stopped_run(run) if run.options.resume else None
        sinks = VideoOutputs(run, stopped)
        if outputs.trace:
            sinks.recorder = Recorder(outputs.trace, source.name)
            stack.callback(sinks.recorder.discard)
        backends: list[Backend] = []
        landmarked = _landmark(run, stopped, backends.append, sinks.recorder)
        results = _begun(stack.enter_context(contextlib.closing(landmarked)), source)
        try:
            sinks.open(results.first.frame.seconds, backends[0])
            done = _write(run, sinks, results, on_frame)
        except BaseException:
            keep_written(run, sinks)
            raise
        try:
            commit_together(sinks.outputs, kept=True)
        except (CanthusError, OSError):
            keep_written(run, sinks)
            raise
    # Read after the sinks are closed: the rest of the audio is copied on close.
    return Report(done.frames, done.with_faces, file.damaged, sinks.overlay.incomplete if sinks.overlay else "")


def _write(run: VideoRun, sinks: VideoOutputs, results: "_Begun", on_frame: OnFrame | None) -> Progress:
    """Write the results, and return the progress at the end."""
    count, with_faces = 0, sinks.done.with_faces
    total = run.file.count(run.options.selection)
    hidden = None if on_frame is None else True  # None: shown on a terminal
    with tqdm(total=total or None, unit="frame", desc=run.file.path.name, disable=hidden) as bar:
        for frame, faces, state in results:
            if faces is None:
                if sinks.overlay:
                    sinks.overlay.copy(frame.seconds - sinks.begin)
            else:
                if sinks.table:
                    sinks.table.write(frame.index, frame.seconds, faces)
                with_faces += bool(len(faces))
                if sinks.overlay:
                    drawn, seconds = _draw(run, frame, faces), frame.seconds - sinks.begin
                    del frame  # 100 MB in an 8K video
                    sinks.overlay.write(drawn, seconds)
            count += 1
            if state is not None:
                progress = Progress(count, with_faces, sinks.table.position if sinks.table else 0)
                sinks.save(Checkpoint(progress, state))
            bar.update()
            if on_frame is not None:
                on_frame(count, total)
    return Progress(count, with_faces)


def _draw(run: VideoRun, frame: Frame, faces: Faces) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return the image to write: RGB of 8 or 16 bits, or RGBA with the drawing alone."""
    drawings = run.outputs.drawings
    if run.options.encoding.alpha:
        return draw_alone(frame.image.shape[:2], faces, drawings)
    if isinstance(frame, DeepFrame) and run.keeps_hdr:
        alone = draw_alone(frame.image.shape[:2], faces, drawings)
        return place_drawing(frame.deep, alone, run.file.transfer, run.file.primaries)
    drawn = draw(frame.image, faces, drawings=drawings)
    return widen_drawing(drawn, frame) if isinstance(frame, DeepFrame) else drawn


def _landmark(
    run: VideoRun, stopped: StoppedRun | None, opened: Callable[[Backend], None], recorder: Recorder | None
) -> Generator[_Result, None, None]:
    """Yield the frames of a video with their faces. A thread decodes, another one finds the faces.

    `opened` is called with the backend. The frames of a large video are not read ahead: each may have
    100 MB.
    """
    skip = stopped.checkpoint.progress.frames if stopped else 0

    def find_faces(frames: Iterable[Frame]) -> Iterator[_Result]:
        with open_landmarker(run.settings, recorder) as landmarker:  # in the thread that uses it
            opened(landmarker.backend)
            if stopped:
                landmarker.restore(stopped.checkpoint.state)
            for count, frame in enumerate(frames, 1):
                if count <= skip:
                    yield _Result(frame, None, None)
                    continue
                faces = landmarker.update(frame)
                save = run.can_resume and count % CHECKPOINT_INTERVAL == 0
                found = [_Result(frame, faces, landmarker.state() if save else None)]
                del frame
                yield found.pop()  # not kept here

    def read() -> Iterator[Frame]:
        return run.file.read(run.options.selection, skip, run.deep, run.options.encoding.tone_map)

    if run.file.is_large:
        yield from find_faces(read())
        return
    ahead = 2 if run.deep else 4
    with (
        Stage(read, "decode", ahead) as frames,
        Stage(lambda: find_faces(frames), "landmark", 2, executor=landmarker_thread()) as results,
    ):
        yield from results


class _Begun:
    """Results of which the first one is computed at once.

    So a model that cannot be opened is an error before an output is created.
    """

    def __init__(self, results: Iterator[_Result], first: _Result) -> None:
        self._results, self.first = results, first

    def __iter__(self) -> Iterator[_Result]:
        first = [self.first]
        del self.first
        while first:
            yield first.pop()  # not kept here: a frame may have 100 MB
        yield from self._results


def _begun(results: Iterator[_Result], source: Path) -> _Begun:
    """Compute the first result. Raises InputError if there is none."""
    first = next(results, None)
    if first is None:
        raise InputError(f"{source}: no frame is between --start and --end; give times within the video")
    return _Begun(results, first)


@contextlib.contextmanager
def _new_start_after_error(run: VideoRun) -> Iterator[None]:
    """Delete what an unattended run leaves after an error: its checkpoint may be the reason."""
    try:
        yield
    except Exception:
        if run.options.unattended:
            _delete_drafts(run)
        raise


def _delete_drafts(run: VideoRun) -> None:
    for path in run.paths:
        delete_drafts(path)


def _stopped_run(run: VideoRun) -> StoppedRun | None:
    """Return the stopped run to go on with. If there is none, delete what is left of others, and say so."""
    stopped = None
    try:
        stopped = find_stopped_run(run.paths, run.identity(), run.outputs.overlay)
    except InputError:  # it had other settings
        if not run.options.unattended:
            raise
    if stopped is None:
        if not run.options.unattended:
            _log.warning(
                "%s: no stopped run to go on with, or a very short one; this starts at the first frame", run.paths[0]
            )
        _delete_drafts(run)
    return stopped
