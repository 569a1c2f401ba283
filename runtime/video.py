"""`canthus video`: a video in, an overlay video and a table of points out."""

import argparse
import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path

from canthus.runtime.errors import InputError
from canthus.runtime.options import add_landmarking, settings_from_args

EXAMPLES = """examples:
  canthus video clip.mp4 -o overlay.mp4
  canthus video clip.mp4 --table points.csv
  canthus video clip.mp4 -o overlay.mp4 --table points.csv --max-faces 1 --overwrite"""


@dataclass(frozen=True)
class Report:
    """What a run came to."""

    frames: int
    with_faces: int
    damaged: str
    sound_lost: str


def command(arguments: list[str]) -> int:
    """Put 98 points on every face of a video file."""
    parser = argparse.ArgumentParser(
        prog="canthus video",
        description=command.__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, help="the video file")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT.mp4", help="the overlay video to write")
    parser.add_argument("--table", type=Path, metavar="OUT.csv", help="the table to write: a row a face a frame")
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    parser.add_argument("--no-lines", action="store_true", help="draw points without lines")
    add_landmarking(parser)
    chosen = parser.parse_args(arguments)
    if not (chosen.output or chosen.table):
        parser.error("nothing to write: give -o OUT.mp4, --table OUT.csv, or both")

    report = process(chosen)
    written = " and ".join(str(path) for path in (chosen.output, chosen.table) if path)
    print(f"{report.frames} frames, faces in {report.with_faces}; wrote {written}")
    if report.damaged:
        print(
            f"canthus video: {chosen.source} is damaged ({report.damaged}); all that can be decoded was processed",
            file=sys.stderr,
        )
    if report.sound_lost:
        print(f"canthus video: the sound is not carried over whole ({report.sound_lost})", file=sys.stderr)
    return 0


def process(chosen: argparse.Namespace) -> Report:
    """Run a video through; outputs are whole however the run ends."""
    from tqdm import tqdm

    from canthus.runtime.channel import Stage
    from canthus.runtime.draw import draw
    from canthus.runtime.files import check_output
    from canthus.runtime.pipeline import Landmarker
    from canthus.runtime.sinks import FRAME_COLUMNS, TableSink, VideoSink
    from canthus.runtime.sources import VideoFile

    if chosen.output and chosen.table and chosen.output.resolve() == chosen.table.resolve():
        raise InputError(f"{chosen.table}: is the name of the overlay video too; give the table its own")
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(VideoFile(chosen.source))
        for output in (chosen.output, chosen.table):
            if output and output.resolve() == chosen.source.resolve():
                raise InputError(f"{output}: is the source itself")
            if output:
                check_output(output, chosen.overwrite)
        landmarker = stack.enter_context(Landmarker(settings_from_args(chosen)))
        video = stack.enter_context(VideoSink(chosen.output, source)) if chosen.output else None
        table = stack.enter_context(TableSink(chosen.table, FRAME_COLUMNS)) if chosen.table else None
        frames = stack.enter_context(Stage(lambda: iter(source), "decode"))
        bar = stack.enter_context(
            tqdm(total=source.frames or None, unit="frame", desc=chosen.source.name, disable=None)
        )

        count = with_faces = 0
        for frame in frames:
            faces = landmarker.update(frame)
            if table:
                table.write(frame.index, frame.seconds, faces)
            if video:
                video.write(draw(frame.image, faces, lines=not chosen.no_lines), frame.seconds)
            count, with_faces = count + 1, with_faces + bool(len(faces))
            bar.update()
    # The sound is carried to its end when the video closes.
    return Report(count, with_faces, source.damaged, video.sound_lost if video else "")
