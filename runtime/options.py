"""Command-line options that several commands share."""

import argparse
import contextlib
import math
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from canthus.runtime.addresses import SCHEMES, is_address
from canthus.runtime.errors import UsageError

if TYPE_CHECKING:
    from canthus.runtime.pipeline import Settings
    from canthus.runtime.types import Frame


@dataclass(frozen=True)
class Outputs:
    """What a command writes."""

    overlay: Path | None  # a video, or a folder of images, with the points drawn
    table: Path | None  # a table of points; STDOUT of tables.py is standard output
    overwrite: bool = False
    measures: bool = False  # write the measures into the table
    drawings: tuple[str, ...] = ("points", "lines", "ids")  # of draw.DRAWINGS
    faces_only: bool = False  # write no row for a frame or an image without a face
    trace: Path | None = None  # what the networks found; see `canthus replay`


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, without all options."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; `{self.prog} --help` shows all options\n")


def command_parser(prog: str, description: str, examples: str) -> argparse.ArgumentParser:
    """Return a parser whose help shows the description and the examples with their line breaks."""
    return _Parser(
        prog=prog,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_landmarker_options(parser: argparse.ArgumentParser, max_faces: int = 8, tracking: bool = True) -> None:
    """Add --model, --detector-model, --cpu, --precision, --max-faces and, if faces are tracked, --no-smoothing."""
    parser.add_argument(
        "--model",
        help="tiny, fast, accurate, or the path of a .onnx or .engine file (default: accurate on a GPU, else fast)",
    )
    add_detector_option(parser)
    parser.add_argument("--cpu", action="store_true", help="run on the CPU even if a GPU is available")
    parser.add_argument(
        "--precision",
        choices=["float", "int8"],
        help="which version of the model to run (default: int8 if the model has it and this CPU is faster with it)",
    )
    parser.add_argument(
        "--max-faces",
        type=positive_int,
        default=max_faces,
        metavar="N",
        help="maximum number of faces (default: %(default)s)",
    )
    parser.set_defaults(no_smoothing=not tracking)
    if tracking:
        parser.add_argument("--no-smoothing", action="store_true", help="do not smooth the points over time")


def add_detector_option(parser: argparse.ArgumentParser) -> None:
    """Add --detector-model."""
    parser.add_argument(
        "--detector-model", type=Path, metavar="FILE", help="a .tflite face detector to use instead of the default"
    )


def settings_from_args(args: argparse.Namespace) -> "Settings":
    """Return the settings that the options of `add_landmarker_options` describe."""
    from canthus.runtime.draw_measures import MEASURE_DRAWINGS
    from canthus.runtime.pipeline import Settings

    draws_measures = not set(MEASURE_DRAWINGS).isdisjoint(parse_drawings(getattr(args, "draw", None)))
    return Settings(
        model=args.model,
        detector_model=args.detector_model,
        max_faces=args.max_faces,
        smoothing=not args.no_smoothing,
        gpu=not args.cpu,
        precision=args.precision,
        measures=getattr(args, "measures", False) or draws_measures,
        focal=getattr(args, "focal", None),
        person=getattr(args, "person", None),
    )


def add_measure_options(parser: argparse.ArgumentParser) -> None:
    """Add --measures, --focal and --person."""
    parser.add_argument(
        "--measures",
        action="store_true",
        help="add columns of head pose, gaze, eyes, mouth, brows and blend shapes to the table",
    )
    add_focal_option(parser)
    add_person_option(parser)


def add_focal_option(parser: argparse.ArgumentParser) -> None:
    """Add --focal."""
    parser.add_argument(
        "--focal",
        type=positive_number,
        metavar="PIXELS",
        help="focal length of the camera, for the head pose (default: the longer side of the image)",
    )


def add_person_option(parser: argparse.ArgumentParser) -> None:
    """Add --person."""
    parser.add_argument(
        "--person",
        type=Path,
        metavar="FILE",
        help="a file of `canthus calibrate`: the neutral face is this person's, and is not measured again",
    )


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """Add --camera and --source, as `canthus view` has them."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--camera", type=_camera_number, default=0, metavar="N", help="camera number (default: 0)")
    source.add_argument(
        "--source",
        type=file_or_address,
        metavar="FILE|ADDRESS",
        help="a video file, or a stream by its address (rtsp://…, http://…), instead of a camera",
    )


def open_source(args: argparse.Namespace) -> "AbstractContextManager[Iterable[Frame]]":
    """Open the source of the options of `add_source_options`. Raises InputError if that fails."""
    from canthus.runtime.camera_frames import Camera
    from canthus.runtime.network_stream import NetworkStream
    from canthus.runtime.video_file import VideoFile

    match args.source:
        case None:
            return Camera(args.camera)
        case Path():
            return VideoFile(args.source)
        case address:
            return NetworkStream(address)


def _camera_number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a camera number (expected 0, 1, 2, …)")
    return int(text)


def file_or_address(text: str) -> Path | str:
    """Parse the source of a live command, as argparse's `type`: the path of a file, or the address of a stream."""
    if "://" in text and not is_address(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not the address of a stream (expected {', '.join(SCHEMES)}, each with ://…)"
        )
    return text if is_address(text) else Path(text)


def add_trace_option(parser: argparse.ArgumentParser, remote: bool = False) -> None:
    """Add --record-trace. remote: it may be an address such as s3://bucket/clip.trace."""
    parser.add_argument(
        "--record-trace",
        type=local_path_or_address if remote else Path,
        metavar="FILE.trace",
        help="record what the networks find, for `canthus replay`: no images, about 1.2 kB for each face and frame",
    )


def add_output_options(parser: argparse.ArgumentParser, overlay: str, overlay_help: str) -> None:
    """Add -o OVERLAY, --table, --faces-only, --overwrite, --no-lines and --draw."""
    parser.add_argument("-o", "--output", type=local_path_or_address, metavar=overlay, help=overlay_help)
    parser.add_argument(
        "--table",
        type=local_path_or_address,
        metavar="FILE",
        help="write a table of points: .csv, .jsonl, .parquet, .feather or .npz; - writes CSV to standard output",
    )
    parser.add_argument("--faces-only", action="store_true", help="write no row for a frame or an image without a face")
    parser.add_argument("--overwrite", action="store_true", help="replace output files that exist")
    parser.add_argument("--no-lines", action="store_true", help="draw no lines between the points")
    parser.add_argument(
        "--draw",
        metavar="LIST",
        help="what to draw, separated by commas: points, lines, ids, pose (the axes of the head), gaze (a ray from "
        "each pupil), expressions (a small bar chart) (default: points,lines,ids)",
    )


def check_used(parser: argparse.ArgumentParser, args: argparse.Namespace, purpose: str, *names: str) -> None:
    """End the command if an option is given that has no effect. purpose: what would make use of these options."""
    for name in names:
        value = getattr(args, name)
        if value != parser.get_default(name):
            parser.error(f"--{name.replace('_', '-')} has no effect without {purpose}")


def outputs_from_args(args: argparse.Namespace) -> Outputs:
    """Return the outputs that the options of `add_output_options` describe."""
    return Outputs(
        overlay=args.output,
        table=args.table,
        overwrite=args.overwrite,
        measures=args.measures,
        drawings=tuple(name for name in parse_drawings(args.draw) if name != "lines" or not args.no_lines),
        faces_only=args.faces_only,
        trace=getattr(args, "record_trace", None),
    )


def parse_drawings(given: str | None) -> tuple[str, ...]:
    """Return what the value of --draw names, or the default. Raises InputError for a name that does not exist."""
    from canthus.runtime.draw import DEFAULT_DRAWINGS, DRAWINGS

    names = DEFAULT_DRAWINGS if given is None else tuple(name.strip() for name in given.split(",") if name.strip())
    if unknown := [name for name in names if name not in DRAWINGS]:
        raise UsageError(f"--draw {given}: cannot draw {unknown[0]!r} (expected some of {', '.join(DRAWINGS)})")
    return names


def local_path_or_address(text: str) -> Path | str:
    """Parse an output, as argparse's `type`. An address such as s3://bucket/folder stays a string."""
    return text if "://" in text else Path(text)


def positive_int(text: str) -> int:
    """Parse an integer of at least 1, as argparse's `type`."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def positive_number(text: str) -> float:
    """Parse a finite number above 0, as argparse's `type`."""
    with contextlib.suppress(ValueError):
        if 0 < (number := float(text)) < math.inf:
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")


def seconds_argument(text: str) -> float:
    """Parse a time as argparse's `type`: seconds, minutes:seconds or hours:minutes:seconds."""
    parts = text.split(":")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = [-1.0]
    if len(parts) > 3 or not all(0 <= number < math.inf for number in numbers) or max(numbers[1:], default=0) >= 60:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time (expected 90, 1:30 or 0:01:30.5)")
    return math.fsum(number * 60.0**place for place, number in enumerate(reversed(numbers)))
