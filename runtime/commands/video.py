"""`canthus video`: track the faces of video files; write overlay videos, tables of points, or both."""

import argparse
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from canthus.runtime.batch.one_file import is_one_file, local_files, remote_outputs
from canthus.runtime.batch.options import add_batch_options, batch_from_args, is_batch
from canthus.runtime.batch.storage import is_remote
from canthus.runtime.errors import UsageError
from canthus.runtime.hardware_names import HARDWARE_CODECS, HARDWARE_DECODERS
from canthus.runtime.options import (
    Outputs,
    add_landmarker_options,
    add_measure_options,
    add_output_options,
    add_trace_option,
    check_used,
    command_parser,
    outputs_from_args,
    positive_int,
    seconds_argument,
    settings_from_args,
)

if TYPE_CHECKING:
    from canthus.runtime.batch.tasks import Figures, OnProgress, Task
    from canthus.runtime.pipeline import Settings
    from canthus.runtime.video_outputs import VideoOptions
    from canthus.runtime.video_run import Report

DESCRIPTION = """Find the points of every face of a video file, or of many.

The included models have 98 points, your own as many as they were trained with.

The overlay video shows the points on the frames and keeps the timestamps and the audio. The table has one row for
each face of each frame: frame, seconds, face (the id of the track), the face's box and scores, then x, y and score of
each point. Coordinates are pixels of the frame. A frame without a face has a row in which `face` and what follows is
empty. Give -o, --table, or both.

Ctrl-C stops early. What was written until then gets the names overlay.partial.mp4 and points.partial.csv; the same
command with --resume goes on, and its table is the same as without the stop. This works after a crash too.

If the file is damaged or incomplete, all frames that can be decoded are processed, and one line on standard error says
what is missing; the exit code is 0. Not noticed are: the end of a .h264, .hevc, .mpg or .ts file that is cut between
two frames or packets, and frames that are missing before a key frame of a .h264 or .hevc file. The exit code is 1 if
the file cannot be read or an output cannot be written, and 2 for wrong options. Frames of more than 36 megapixels are
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
  canthus video clip.mp4 -o overlay.mp4 --resume    go on after Ctrl-C or a crash
  canthus video clip.mp4 -o part.mp4 --start 1:30 --end 2:00 --codec hevc --crf 18
  canthus video phone.mov -o sdr.mp4 --tone-map     an HDR video (PQ, HLG) as SDR
  canthus video clip.mp4 -o o.mp4 --hwaccel auto --codec h264_nvenc    decode and encode by a GPU
  canthus video clip.mp4 -o points.mov --overlay-only    the drawing alone, with transparency
  canthus video clips/ other.mp4 'takes/*.mov' --table tables/ --jobs 4    many files, in four processes
  canthus video @list.txt -o drawn/ --table tables/ --shard 3/8            the third of eight parts of a list
  canthus video s3://b/clips --table s3://b/tables --ray auto              on a Ray cluster"""


TABLE_FORMATS = ("csv", "jsonl", "parquet", "feather", "npz")

FIGURES = ("frames", "frames_with_faces", "damage")
"""Columns of the summary of many videos."""


CODEC_NAMES = ("h264", "hevc", "av1", "vp9", "prores", "ffv1", "qtrle")

SUFFIX_OF_CODEC = {"prores": ".mov", "ffv1": ".mkv", "qtrle": ".mov"}
SUFFIX_OF_TRANSPARENT = {None: ".mov", "prores": ".mov", "vp9": ".webm", "ffv1": ".mkv", "qtrle": ".mov"}
"""Suffixes of the overlays of many videos; the others are .mp4."""


def command(arguments: list[str]) -> int:
    """Find the points of every face of a video file."""
    parser = command_parser("canthus video", DESCRIPTION, EXAMPLES)
    parser.add_argument("sources", nargs="+", metavar="VIDEO", help="the video file, or several; see above")
    add_output_options(parser, "OVERLAY.mp4", "write the video with points drawn on every face")
    add_landmarker_options(parser)
    add_measure_options(parser)
    add_trace_option(parser, remote=True)
    _add_video_options(parser)
    add_batch_options(parser)
    parser.add_argument(
        "--table-format", default="csv", choices=TABLE_FORMATS, help="of the tables of many files (default: csv)"
    )
    args = parser.parse_args(arguments)
    if not (args.output or args.table or args.record_trace):
        parser.error("nothing to write: give -o OVERLAY.mp4, --table FILE, or both")
    if not args.output:
        check_used(parser, args, "-o", "codec", "crf", "pix_fmt", "overlay_only", "tone_map", "draw", "no_lines")
    if not args.table:
        check_used(parser, args, "--table", "faces_only")
    many = is_batch(args, args.sources) and not is_one_file(args, _file_suffixes())
    if many and (args.table == Path("-") or args.record_trace):
        parser.error("several videos cannot be written to standard output, or to one trace: give --table FOLDER")
    if not many:
        check_used(parser, args, "several videos", "table_format")
    if not args.ray:
        check_used(parser, args, "--ray", "gpus", "fetch")
    if many and args.resume:
        parser.error("--resume is for one video; the same command for several skips the finished ones")

    outputs, settings, options = outputs_from_args(args), settings_from_args(args), _video_options(args)
    if not (settings.measures or args.record_trace):
        check_used(parser, args, "--measures", "focal", "person")
    if many:
        return _process_many(args, outputs, VideoWork(outputs, settings, options))
    source = args.sources[0]
    _print_report(source, outputs, _process_one(source, outputs, settings, options))
    return 0


def _process_one(source: str, outputs: Outputs, settings: "Settings", options: "VideoOptions") -> "Report":
    """Process a video; its source and outputs may be addresses of fsspec."""
    from canthus.runtime.video_run import process_video

    if remote := remote_outputs(outputs):
        if options.resume:
            address = next(iter(remote.values()))
            raise UsageError(f"{address}: cannot go on at an address; give local outputs, or leave out --resume")
        options = replace(options, unattended=True)  # the local parts are deleted, so their names are of no use
    with local_files(source, outputs) as (file, local):
        return process_video(
            file, local, settings, options=replace(options, origin=source if is_remote(source) else "")
        )


def _file_suffixes() -> tuple[str, ...]:
    """Return the suffixes of outputs that are files."""
    from canthus.runtime.sinks import VIDEO_SUFFIXES as WRITTEN
    from canthus.runtime.trace.recorder import TRACE_SUFFIXES

    return (*WRITTEN, *(f".{name}" for name in TABLE_FORMATS), *TRACE_SUFFIXES)


@dataclass(frozen=True)
class VideoWork:
    """Processes one of many videos."""

    outputs: Outputs  # without paths
    settings: "Settings"
    options: "VideoOptions"
    goes_on: ClassVar[bool] = True

    def __call__(self, task: "Task", source: Path, outputs: Mapping[str, Path], progress: "OnProgress") -> "Figures":
        """Write the overlay and the table, and return the columns FIGURES of the summary."""
        from canthus.runtime.video_run import process_video

        paths = replace(self.outputs, overlay=outputs.get("overlay"), table=outputs.get("table"))
        show = lambda done, total: progress(done, total, "")  # noqa: E731
        origin = task.origin or (task.source if task.source != str(source) else "")
        options = replace(self.options, resume=True, unattended=True, origin=origin)
        report = process_video(source, paths, self.settings, show, options)
        damage = "; ".join(text for text in (report.damage, report.incomplete) if text)
        return dict(zip(FIGURES, (report.frames, report.frames_with_faces, damage), strict=True))


def _process_many(args: argparse.Namespace, outputs: Outputs, given: VideoWork) -> int:
    from canthus.runtime.batch.identity import describe_settings
    from canthus.runtime.batch.listing import VIDEO_SUFFIXES
    from canthus.runtime.batch.process import Batch, process_files

    work = replace(given, outputs=replace(outputs, overlay=None, table=None, overwrite=True))
    folders = {}
    if args.table:
        folders["table"] = (str(args.table), f".{args.table_format}")
    if args.output:
        suffixes = SUFFIX_OF_TRANSPARENT if args.overlay_only else SUFFIX_OF_CODEC
        folders["overlay"] = (str(args.output), suffixes.get(args.codec, ".mp4"))
    for folder, _ in folders.values():
        if Path(folder).suffix.lower() in _file_suffixes() and not Path(folder).is_dir():
            raise UsageError(f"{folder}: is the name of a file (expected a folder: for several videos, or for workers)")
    identity = {
        "outputs": asdict(work.outputs),
        "settings": describe_settings(given.settings),
        "selection": asdict(given.options.selection),
        "encoding": asdict(given.options.encoding),
        "hwaccel": given.options.hwaccel,
        "formats": {kind: suffix for kind, (_, suffix) in folders.items()},
    }
    batch = Batch(
        "canthus video", "video", args.sources, VIDEO_SUFFIXES, folders, work, identity, FIGURES, args.overwrite
    )
    return process_files(batch, batch_from_args(args))


def _add_video_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the part that is read, of the encoding and of stopped runs."""
    parser.add_argument(
        "--start", type=seconds_argument, default=0.0, metavar="TIME", help="first time: 90, 1:30, 0:01:30.5"
    )
    parser.add_argument("--end", type=seconds_argument, default=math.inf, metavar="TIME", help="time at which to stop")
    parser.add_argument("--every", type=positive_int, default=1, metavar="N", help="read one frame of N (default: 1)")
    parser.add_argument(
        "--codec",
        choices=(*CODEC_NAMES, *HARDWARE_CODECS),
        metavar="NAME",
        help=f"of the overlay: {', '.join(CODEC_NAMES)}, or an encoder of a GPU such as h264_nvenc, hevc_vaapi, "
        "h264_videotoolbox or hevc_qsv (default: h264, of a source with more than 8 "
        "bits hevc; in a .webm vp9 and av1)",
    )
    parser.add_argument(
        "--hwaccel",
        choices=HARDWARE_DECODERS,
        default="none",
        metavar="DEVICE",
        help=f"what decodes the video: {', '.join(HARDWARE_DECODERS[2:])}; auto: the first of these that can, else the "
        "CPU (default: none, the CPU)",
    )
    parser.add_argument("--tone-map", action="store_true", help="write the overlay of an HDR video as SDR (BT.709)")
    parser.add_argument(
        "--crf", type=int, metavar="N", help="quality of the overlay, 0 is best (default: by the codec)"
    )
    parser.add_argument("--pix-fmt", metavar="NAME", help="format of pixels of the overlay, as yuv420p10le in FFmpeg")
    parser.add_argument(
        "--overlay-only",
        action="store_true",
        help="write the drawing alone, with transparency: .mov (ProRes 4444), .webm (VP9) or .mkv (FFV1)",
    )
    parser.add_argument("--resume", action="store_true", help="go on with a run that was stopped")


def _video_options(args: argparse.Namespace) -> "VideoOptions":
    from canthus.runtime.codecs import Encoding
    from canthus.runtime.video_file import Selection
    from canthus.runtime.video_outputs import VideoOptions

    if args.end <= args.start:
        raise UsageError(f"--end {args.end:g}: is not after --start {args.start:g} (seconds)")
    selection = Selection(args.start, args.end, args.every)
    encoding = Encoding(args.codec, args.crf, args.pix_fmt, args.overlay_only, args.tone_map)
    return VideoOptions(selection, encoding, args.resume, hwaccel=args.hwaccel)


def _print_report(source: str, outputs: Outputs, report: "Report") -> None:
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
    if report.incomplete:
        print(f"canthus video: {outputs.overlay}: {report.incomplete}", file=sys.stderr)
