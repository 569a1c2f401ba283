"""`canthus video`: track the faces of video files; write overlay videos, tables of points, or both."""

import contextlib
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from canthus.runtime.batch.options import add_batch_options, batch_from_args, is_batch
from canthus.runtime.errors import InputError
from canthus.runtime.options import (
    Outputs,
    add_landmarker_options,
    add_measure_options,
    add_output_options,
    add_trace_option,
    command_parser,
    outputs_from_args,
    settings_from_args,
)

if TYPE_CHECKING:
    import argparse

    from canthus.runtime.batch.tasks import Figures, OnProgress, Task
    from canthus.runtime.pipeline import Settings
    from canthus.runtime.sources import VideoFile
    from canthus.runtime.trace import Recorder
    from canthus.runtime.types import Faces, Frame

DESCRIPTION = """Find 98 points on every face of a video file, or of many.

The overlay video shows the points on the frames and keeps the timestamps and the audio. The table has one row for
each face of each frame: frame, seconds, face (the id of the track), the face's box and scores, then x, y and score of
each point. Coordinates are pixels of the frame. A frame without a face has a row in which `face` and what follows is
empty. Give -o, --table, or both. Ctrl-C stops early and keeps the results.

If the file is damaged or incomplete, all frames that can be decoded are processed, and one line on standard error says
what is missing; the exit code is 0. Not noticed are: the end of a .h264, .hevc or .ts file that is cut between two
frames or packets, and frames that are missing before a key frame of a .h264 or .hevc file. The exit code is 1 if the
file cannot be read or an output cannot be written, and 2 for wrong options. Frames of more than 36 megapixels are
refused, unless the environment variable CANTHUS_MAX_FRAME_MEGAPIXELS sets another limit.

Many files: give several files, folders, glob patterns in quotes, @LIST (one of these on each line), or addresses such
as s3://BUCKET/FOLDER. -o and --table are folders then. They mirror the folders of the sources: clips/a/b.mp4 becomes
a/b.mp4 and a/b.csv. A second run skips the files that are finished and unchanged. A file that fails is tried once more
and does not stop the others; summary.csv, in the folder of the tables, names it, and the exit code is 1."""

EXAMPLES = """examples:
  canthus video clip.mp4 -o overlay.mp4             draw the points
  canthus video clip.mp4 --table points.csv         write their coordinates
  canthus video clip.mp4 --table points.parquet     the same, for pandas, Polars or R
  canthus video clip.mp4 --table - | head           write them to standard output
  canthus video clip.mp4 --table face.csv --measures  with head pose, gaze, blinks, expressions
  canthus video clip.mp4 -o overlay.mp4 --table points.csv --max-faces 1 --overwrite
  canthus video clips/ other.mp4 'takes/*.mov' --table tables/ --jobs 4    many files, in four processes
  canthus video @list.txt -o drawn/ --table tables/ --shard 3/8            the third of eight parts of a list
  canthus video s3://b/clips --table s3://b/tables --ray auto              on a Ray cluster"""


TABLE_FORMATS = ("csv", "jsonl", "parquet", "feather", "npz")

FIGURES = ("frames", "frames_with_faces", "damage")
"""Columns of the summary of many videos."""


@dataclass(frozen=True)
class Report:
    """The result of a run."""

    frames: int
    frames_with_faces: int
    damage: str  # what could not be decoded, or empty
    audio_error: str  # why the audio of the overlay is incomplete, or empty


def command(arguments: list[str]) -> int:
    """Find 98 points on every face of a video file."""
    parser = command_parser("canthus video", DESCRIPTION, EXAMPLES)
    parser.add_argument("sources", nargs="+", metavar="VIDEO", help="the video file, or several; see above")
    add_output_options(parser, "OVERLAY.mp4", "write the video with points drawn on every face")
    add_landmarker_options(parser)
    add_measure_options(parser)
    add_trace_option(parser)
    add_batch_options(parser)
    parser.add_argument(
        "--table-format", default="csv", choices=TABLE_FORMATS, help="of the tables of many files (default: csv)"
    )
    args = parser.parse_args(arguments)
    if is_batch(args, args.sources) and (args.table == Path("-") or args.record_trace):
        parser.error("several videos cannot be written to standard output, or to one trace: give --table FOLDER")
    if not (args.output or args.table or args.record_trace):
        parser.error("nothing to write: give -o OVERLAY.mp4, --table FILE, or both")

    outputs, settings = outputs_from_args(args), settings_from_args(args)
    if is_batch(args, args.sources):
        return _process_many(args, outputs, settings)
    source = Path(args.sources[0])
    _print_report(source, outputs, process_video(source, outputs, settings))
    return 0


@dataclass(frozen=True)
class VideoWork:
    """Processes one of many videos."""

    outputs: Outputs  # without paths
    settings: "Settings"

    def __call__(self, _task: "Task", source: Path, outputs: Mapping[str, Path], progress: "OnProgress") -> "Figures":
        """Write the overlay and the table, and return the columns FIGURES of the summary."""
        paths = replace(self.outputs, overlay=outputs.get("overlay"), table=outputs.get("table"))
        report = process_video(source, paths, self.settings, lambda done, total: progress(done, total, ""))
        damage = "; ".join(text for text in (report.damage, report.audio_error) if text)
        return dict(zip(FIGURES, (report.frames, report.frames_with_faces, damage), strict=True))


def _process_many(args: "argparse.Namespace", outputs: Outputs, settings: "Settings") -> int:
    from canthus.runtime.batch.identity import describe_settings
    from canthus.runtime.batch.listing import VIDEO_SUFFIXES
    from canthus.runtime.batch.process import Batch, process_files
    from canthus.runtime.sinks import VIDEO_SUFFIXES as WRITTEN

    work = VideoWork(replace(outputs, overlay=None, table=None, overwrite=True), settings)
    folders = {}
    if args.table:
        folders["table"] = (str(args.table), f".{args.table_format}")
    if args.output:
        folders["overlay"] = (str(args.output), ".mp4")
    for folder, _ in folders.values():
        if Path(folder).suffix in (*WRITTEN, *(f".{name}" for name in TABLE_FORMATS)) and not Path(folder).is_dir():
            raise InputError(
                f"{folder}: is the name of a file (expected a folder: there are several videos, or workers)"
            )
    identity = {
        "outputs": asdict(work.outputs),
        "settings": describe_settings(settings),
        "formats": {kind: suffix for kind, (_, suffix) in folders.items()},
    }
    batch = Batch(
        "canthus video", "video", args.sources, VIDEO_SUFFIXES, folders, work, identity, FIGURES, args.overwrite
    )
    return process_files(batch, batch_from_args(args))


def process_video(
    source: Path, outputs: Outputs, settings: "Settings", on_frame: Callable[[int, int], None] | None = None
) -> Report:
    """Track the faces of a video and write the outputs. They are complete files even if the run is interrupted.

    With `on_frame` no progress bar is shown: it is called after each frame with the number of frames until then, and
    that of the video (an estimate, or 0).

    Raises:
        InputError: If the source cannot be read, an output cannot be written, or another run writes it. Checked before
            the work starts.
    """
    from tqdm import tqdm

    from canthus.runtime.draw import draw
    from canthus.runtime.files import Output, commit_together
    from canthus.runtime.run_details import describe_model, describe_settings, describe_video
    from canthus.runtime.sinks import VideoSink
    from canthus.runtime.sources import VideoFile
    from canthus.runtime.tables import FRAMES, TableSink
    from canthus.runtime.trace import Recorder

    with contextlib.ExitStack() as stack:
        file = stack.enter_context(VideoFile(source))
        stack.enter_context(_claimed(source, outputs))
        sinks: list[Output] = []
        recorder = None
        if outputs.trace:
            recorder = Recorder(outputs.trace, source.name)
            stack.callback(recorder.discard)
            sinks.append(recorder)
        backends: list[str] = []
        landmarked = _landmark(file, settings, backends.append, recorder)
        results = _begun(stack.enter_context(contextlib.closing(landmarked)))
        stack.callback(commit_together, sinks)
        overlay = table = None
        if outputs.overlay:
            overlay = VideoSink(outputs.overlay, file)
            sinks.append(overlay)
        if outputs.table:
            details = {
                "source": describe_video(file),
                "model": describe_model(settings, backends[0]),
                "settings": describe_settings(settings),
            }
            table = TableSink(outputs.table, FRAMES.with_measures(outputs.measures), details, outputs.faces_only)
            sinks.append(table)
        hidden = None if on_frame is None else True  # None: shown on a terminal
        bar = stack.enter_context(tqdm(total=file.frames or None, unit="frame", desc=source.name, disable=hidden))

        count = with_faces = 0
        for frame, faces in results:
            if table:
                table.write(frame.index, frame.seconds, faces)
            if overlay:
                drawn, seconds = draw(frame.image, faces, drawings=outputs.drawings), frame.seconds
                del frame  # 100 MB in an 8K video
                overlay.write(drawn, seconds)
            count, with_faces = count + 1, with_faces + bool(len(faces))
            bar.update()
            if on_frame is not None:
                on_frame(count, file.frames)
    # Read after the sinks are closed: the rest of the audio is copied on close.
    return Report(count, with_faces, file.damaged, overlay.audio_error if overlay else "")


def _landmark(
    file: "VideoFile", settings: "Settings", opened: Callable[[str], None], recorder: "Recorder | None"
) -> Generator[tuple["Frame", "Faces"], None, None]:
    """Yield the frames of a video with their faces. A thread decodes, another one finds the faces.

    `opened` is called with the name of the backend. The frames of a large video are not read ahead: each may have
    100 MB.
    """
    from canthus.runtime.channel import Stage
    from canthus.runtime.pipeline import Landmarker

    def find_faces(frames: Iterable["Frame"]) -> Iterator[tuple["Frame", "Faces"]]:
        with Landmarker(settings, recorder=recorder) as landmarker:  # in the thread that uses it
            opened(landmarker.backend_name)
            for frame in frames:
                found = [(frame, landmarker.update(frame))]
                del frame
                yield found.pop()  # not kept here

    if file.is_large:
        yield from find_faces(file)
        return
    with Stage(lambda: iter(file), "decode") as frames, Stage(lambda: find_faces(frames), "landmark", 2) as results:
        yield from results


def _begun(results: Iterator[tuple["Frame", "Faces"]]) -> Iterator[tuple["Frame", "Faces"]]:
    """Compute the first result now, so that a model that cannot be opened is an error before an output is created."""
    first = [result for result in (next(results, None),) if result is not None]

    def go_on() -> Iterator[tuple["Frame", "Faces"]]:
        while first:
            yield first.pop()  # not kept here: a frame may have 100 MB
        yield from results

    return go_on()


@contextlib.contextmanager
def _claimed(source: Path, outputs: Outputs) -> Iterator[None]:
    """Reserve the outputs in the block, and check that they can be written."""
    from canthus.runtime.files import claim
    from canthus.runtime.sinks import check_video
    from canthus.runtime.tables import STDOUT, check_table
    from canthus.runtime.trace.recorder import check_trace

    with contextlib.ExitStack() as stack:
        checks = ((outputs.overlay, check_video), (outputs.table, check_table), (outputs.trace, check_trace))
        for output, check in checks:
            if output and output.resolve() == source.resolve():
                raise InputError(f"{output}: is the source; choose another name for the output")
            if output and (output != STDOUT or check is not check_table):
                stack.enter_context(claim(output))
            if output:
                check(output, outputs.overwrite)
        yield


def _print_report(source: Path, outputs: Outputs, report: Report) -> None:
    from canthus.runtime.tables import STDOUT

    written = " and ".join(
        str(path) for path in (outputs.overlay, outputs.table, outputs.trace) if path and path != STDOUT
    )
    print(
        f"{report.frames} frames, {report.frames_with_faces} with faces" + (f"; wrote {written}" if written else ""),
        file=sys.stderr if outputs.table == STDOUT else sys.stdout,
    )
    if report.damage:
        print(f"canthus video: {source}: is damaged ({report.damage}); the rest was processed", file=sys.stderr)
    if report.audio_error:
        print(f"canthus video: {outputs.overlay}: the audio is incomplete ({report.audio_error})", file=sys.stderr)
