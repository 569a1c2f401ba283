"""`canthus calibrate`: measure the neutral face of a person and write it to a file."""

import argparse
import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from canthus.runtime.errors import InputError
from canthus.runtime.options import (
    add_focal_option,
    add_landmarker_options,
    add_source_options,
    command_parser,
    open_source,
    positive_number,
    settings_from_args,
)

if TYPE_CHECKING:
    from canthus.runtime.measures import KnownPerson

DESCRIPTION = """Measure the neutral face of one person, for `--person FILE` of other commands.

Look calmly into the camera, with closed lips, until the bar is full; blink once or twice, so that the closed eyes
are known. The command ends after --seconds, or at the end of a file. The file has 16 distances of the neutral
face, the closed eyes, and how the head differs from the mean head: numbers, no image. With it, expressions are right
from the first frame on, and a person who smiles at the start is not measured as neutral."""

EXAMPLES = """examples:
  canthus calibrate -o me.json                          the first camera
  canthus calibrate -o me.json --source calm.mp4        a video file
  canthus video clip.mp4 --table face.csv --measures --person me.json"""

SECONDS = 8.0
"""How long a camera is watched: time to sit down, two seconds of a neutral face, and some blinks."""

TIMEOUT = 30.0
"""Seconds after which a camera is not watched any more if there was no neutral face."""


def command(arguments: list[str]) -> int:
    """Measure the neutral face of a person, and write it to a file."""
    parser = command_parser("canthus calibrate", DESCRIPTION, EXAMPLES)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.json", help="the file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    parser.add_argument(
        "--seconds", type=positive_number, default=SECONDS, help="how long a camera is watched (default: %(default)s)"
    )
    add_source_options(parser)
    add_landmarker_options(parser, max_faces=1)
    add_focal_option(parser)
    args = parser.parse_args(arguments)
    from canthus.runtime.files import check_output, check_suffix
    from canthus.runtime.person_file import write_person

    check_suffix(args.output, (".json",), "format of a person")
    check_output(args.output, args.overwrite)
    write_person(args.output, _calibrate(args))
    print(f"wrote {args.output}; use it with --person {args.output}")
    return 0


def _calibrate(args: argparse.Namespace) -> "KnownPerson":
    """Return the person in front of the camera or in the file. Raises InputError if no face looks into the camera."""
    from tqdm import tqdm

    from canthus.runtime.pipeline import Landmarker

    settings = dataclasses.replace(settings_from_args(args), measures=True)
    live = not isinstance(args.source, Path)
    known = 0.0
    with contextlib.ExitStack() as stack:
        frames = stack.enter_context(open_source(args))
        landmarker = stack.enter_context(Landmarker(settings, live=live))
        bar = stack.enter_context(tqdm(total=100, desc="neutral face", unit="%", disable=None))
        person: KnownPerson | None = None
        for frame in frames:
            faces = landmarker.update(frame)
            known = float(faces.measures.calibrated[0]) if faces.measures is not None and len(faces) else known
            bar.update(round(100 * known) - bar.n)
            if len(faces):
                person = landmarker.people()[int(faces.ids[0])]
            if live and frame.seconds >= (args.seconds if known >= 1 else max(args.seconds, TIMEOUT)):
                break
    if person is None or known < 1:
        raise InputError(
            f"the face was not seen long enough ({100 * known:.0f} % of 2 seconds); look straight into the camera, in "
            "good light"
        )
    return person
