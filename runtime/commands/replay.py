"""`canthus replay`: repeat the processing of a recorded trace."""

import contextlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from canthus.runtime.options import check_used, command_parser

if TYPE_CHECKING:
    from canthus.runtime.tables import TableSink

DESCRIPTION = """Track, smooth and measure the faces of a trace again, without camera or model.

A trace is recorded by `canthus video` and `canthus stream` with --record-trace. It has the boxes of the detector, the
regions, points and scores of the network, the times and the settings, but no image. On the same machine, with the same
versions, the numbers are the recorded ones, bit for bit; the exit code is 1 if one differs."""

EXAMPLES = """examples:
  canthus video clip.mp4 --table points.csv --record-trace clip.trace    record a trace
  canthus replay clip.trace                                              compute the same again, and compare
  canthus replay clip.trace --table again.csv                            and write the numbers"""


def command(arguments: list[str]) -> int:
    """Repeat the tracking, smoothing and measuring of a recorded trace, without camera or model."""
    parser = command_parser("canthus replay", DESCRIPTION, EXAMPLES)
    parser.add_argument("trace", type=Path, metavar="FILE.trace", help="the recorded trace")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write a table, as `canthus video` does")
    parser.add_argument("--overwrite", action="store_true", help="replace an output file that exists")
    args = parser.parse_args(arguments)
    if args.table is None:
        check_used(parser, args, "--table", "overwrite")
    from canthus.runtime.abandoned import claim
    from canthus.runtime.run_details import describe_points
    from canthus.runtime.schemes import manifest_values
    from canthus.runtime.tables import FRAMES, STDOUT, TableSink, check_table
    from canthus.runtime.trace.format import read_header, versions_in_use
    from canthus.runtime.trace.replay import describe, replay

    header = read_header(args.trace)
    with contextlib.ExitStack() as stack:
        table = None
        if args.table:
            if args.table != STDOUT:
                stack.enter_context(claim(args.table))
            check_table(args.table, args.overwrite)
            schema = FRAMES.with_points(header.scheme).with_measures(header.processing.measures)
            about = {"trace": manifest_values(header), "scheme": describe_points(header.scheme)}
            table = stack.enter_context(TableSink(args.table, schema, about))
            stack.push(partial(_discard_part, table))
        frames = with_faces = 0
        first_other: int | None = None
        for one in replay(args.trace):
            frames, with_faces = frames + 1, with_faces + bool(len(one.faces))
            if not one.same and first_other is None:
                first_other = one.index
            if table:
                table.write(one.index, one.seconds, one.faces)
    if args.table != STDOUT:
        print(f"{frames} frames, {with_faces} with faces, {describe(header)}")
        if first_other is None:
            print("the same numbers")
        else:
            versions = versions_in_use(header)
            print(f"other numbers from frame {first_other} on{versions and f', here with {versions}'}")
    return 0 if first_other is None else 1


def _discard_part(table: "TableSink", error: type[BaseException] | None, *_: object) -> None:
    """Delete the table of a trace that was read in part: it would look like a whole one."""
    if error is not None:
        table.discard()
