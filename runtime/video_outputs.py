"""The outputs of one run of `canthus video`: which they are, reserved, opened, and kept if the run stops."""

import contextlib
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import av

from canthus.runtime.abandoned import claim
from canthus.runtime.backends import Backend
from canthus.runtime.codecs import Encoding, codec_for, select_pixels
from canthus.runtime.errors import UsageError
from canthus.runtime.files import Draft, Output, keep_parts
from canthus.runtime.media import has_many_bits
from canthus.runtime.options import Outputs
from canthus.runtime.pipeline import Settings
from canthus.runtime.run_details import describe_model, describe_points, describe_settings, describe_video
from canthus.runtime.sinks import VideoSink, check_video
from canthus.runtime.stopped_runs import Checkpoint, Checkpoints, Progress, StoppedRun, run_identity
from canthus.runtime.tables import FRAMES, STDOUT, Stopped, TableSink, check_table
from canthus.runtime.trace import Recorder
from canthus.runtime.trace.recorder import check_trace
from canthus.runtime.video_file import Selection, VideoFile

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoOptions:
    """Which frames of a video are read, how the overlay is written, and whether a stopped run goes on."""

    selection: Selection = field(default_factory=Selection)
    encoding: Encoding = field(default_factory=Encoding)
    resume: bool = False
    unattended: bool = False  # with `resume`: go on if possible, or start again, without a message; name no parts
    hwaccel: str = "none"  # the device that decodes
    origin: str = ""  # the address of the source, if the file is a copy of it


@dataclass(frozen=True)
class VideoRun:
    """What the parts of a run have in common."""

    file: VideoFile
    outputs: Outputs
    settings: Settings
    options: VideoOptions

    @property
    def paths(self) -> list[Path]:
        """The files that are written. The draft of the first one has the checkpoints."""
        return [path for path in (self.outputs.overlay, self.outputs.table) if path and path != STDOUT]

    @property
    def can_resume(self) -> bool:
        return bool(self.paths) and self.outputs.table != STDOUT and not self.outputs.trace

    def identity(self) -> dict[str, object]:
        """Return what must be the same in a run that goes on with this one."""
        return run_identity(
            self.file.path,
            {
                "model": {**describe_model(self.settings, ""), "version": av.__version__},
                "settings": describe_settings(self.settings),
                "selection of frames": asdict(self.options.selection),
                "encoding": asdict(self.options.encoding),
                "decoding": self.file.device,
                "drawings": self.outputs.drawings,
                "table": [self.outputs.measures, self.outputs.faces_only],
                "outputs": [path.name for path in self.paths],
            },
        )

    @property
    def keeps_hdr(self) -> bool:
        """Whether the frames of the overlay are HDR."""
        return bool(self.file.transfer) and not (self.options.encoding.tone_map or self.options.encoding.alpha)

    @property
    def deep(self) -> bool:
        """Whether frames are read, and the overlay is written, with more than 8 bits."""
        source = self.file.pixels
        if self.outputs.overlay is None or self.options.encoding.alpha:
            return False
        if self.keeps_hdr:
            return True
        if not has_many_bits(source):
            return False
        codec = codec_for(self.outputs.overlay, self.options.encoding, source)
        return has_many_bits(select_pixels(codec, self.options.encoding, source))


class VideoOutputs:
    """The outputs of a run."""

    def __init__(self, run: VideoRun, stopped: StoppedRun | None) -> None:
        self._run, self._stopped = run, stopped
        self.outputs: list[Output] = []
        self.overlay: VideoSink | None = None
        self.table: TableSink | None = None
        self.recorder: Recorder | None = None
        self.begin = 0.0  # seconds of the first frame
        self.done = stopped.checkpoint.progress if stopped else Progress()
        self.checkpoints: Checkpoints | None = None

    def _draft(self, path: Path) -> Draft | None:
        return Draft(path, self._stopped.folders[path]) if self._stopped else None

    def open(self, begin: float, backend: Backend) -> None:
        """Create the outputs, or go on with those of the stopped run."""
        run, self.begin = self._run, begin
        if run.outputs.overlay:
            path = run.outputs.overlay
            self.overlay = VideoSink(path, run.file, run.options.encoding, begin, self._draft(path))
            self.outputs.append(self.overlay)
        if run.outputs.table:
            draft = self._draft(run.outputs.table)
            details = {
                "source": describe_video(run.file, run.options.origin),
                "model": describe_model(run.settings, backend.name),
                "scheme": describe_points(backend.scheme),
                "settings": describe_settings(run.settings) | self._describe_selection(),
            }
            self.table = TableSink(
                run.outputs.table,
                FRAMES.with_points(backend.scheme).with_measures(run.outputs.measures),
                details,
                run.outputs.faces_only,
                Stopped(draft, self.done.position) if draft else None,
            )
            self.outputs.append(self.table)
        if self.recorder:
            self.outputs.append(self.recorder)
        if run.can_resume and (draft := self.outputs[0].draft):
            with draft.writing():
                self.checkpoints = Checkpoints(draft.folder, run.identity())

    def _describe_selection(self) -> dict[str, object]:
        """Return which frames of the source were read."""
        selection = asdict(self._run.options.selection)
        return selection | {"end": selection["end"] if math.isfinite(selection["end"]) else None}

    def save(self, checkpoint: Checkpoint) -> None:
        """Save a checkpoint, if a later run could go on with it."""
        draft = self.outputs[0].draft
        if self.checkpoints and draft:
            with draft.writing():
                self.checkpoints.save(checkpoint)


def keep_written(run: VideoRun, sinks: VideoOutputs) -> None:
    """Keep what a run that has stopped has written, and say so."""
    resumable = sinks.checkpoints is not None and sinks.checkpoints.saved
    parts = keep_parts(sinks.outputs, not run.options.unattended, resumable)
    notes = [f"{' and '.join(map(str, parts))}: what was written until then"] if parts else []
    notes += ["--resume goes on"] if resumable else []
    if notes and not run.options.unattended:
        _log.warning("stopped; %s", "; ".join(notes))


@contextlib.contextmanager
def outputs_claimed(run: VideoRun) -> Iterator[None]:
    """Reserve the outputs in the block, and check that they can be written."""
    outputs, encoding = run.outputs, run.options.encoding
    checks: tuple[tuple[Path | None, Callable[[Path, bool], object]], ...] = (
        (outputs.overlay, partial(check_video, encoding=encoding, pixels=run.file.pixels)),
        (outputs.table, check_table),
        (outputs.trace, check_trace),
    )
    if run.options.resume and not run.can_resume:
        raise UsageError(
            f"{outputs.trace or STDOUT}: cannot go on; give -o and --table with file names, or leave out --resume"
        )
    files = [output.resolve() for output, _ in checks if output]
    with contextlib.ExitStack() as stack:
        for output, check in checks:
            if output and files.count(output.resolve()) > 1:
                raise UsageError(f"{output}: is given for two outputs; choose another name for one")
            if output and output.resolve() == run.file.path.resolve():
                raise UsageError(f"{output}: is the source; choose another name for the output")
            if output and (output != STDOUT or check is not check_table):
                stack.enter_context(claim(output, keep=run.options.resume))
            if output:
                check(output, outputs.overwrite)
        yield
