"""`canthus stream`: find the faces of a camera live and send them to other programs."""

import argparse
import contextlib
import logging
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from canthus.runtime.errors import InputError
from canthus.runtime.options import (
    add_focal_option,
    add_landmarker_options,
    add_person_option,
    add_source_options,
    add_trace_option,
    check_used,
    command_parser,
    open_source,
    parse_drawings,
    settings_from_args,
)

if TYPE_CHECKING:
    from canthus.runtime.pipeline import Landmarker, Settings
    from canthus.runtime.streams import Kind, Stream
    from canthus.runtime.trace import Recorder
    from canthus.runtime.types import Frame

_log = logging.getLogger(__name__)

DESCRIPTION = """Find the faces of a camera, a network stream or a video file live, and send them to other programs.

Several streams can be given. An address is HOST, PORT or HOST:PORT. Without one, data stay on this machine; with that
of another machine, or 0.0.0.0 for --websocket, others on the network can read them, and a line says so. A program that
reads slowly loses old frames. VMC sends the face with the smallest id, the others send all faces.

A video file plays at its own frame rate. Ctrl-C ends the command. A camera that is unplugged is opened again."""

EXAMPLES = """examples:
  canthus stream --vmc                              VSeeFace, Warudo, Unity or Blender, on this machine
  canthus stream --vmc 192.168.1.20                 the same on another machine
  canthus stream --openseeface --source clip.mp4    a program that reads OpenSeeFace
  canthus stream --websocket                        JSON, and a page at http://127.0.0.1:8765/ that draws the face
  canthus stream --virtual-camera --draw points,lines,pose   a webcam for other programs, with the overlay"""

RETRY_SECONDS = 1.0
"""Between two attempts to open a camera that was unplugged."""

LATE_SECONDS = 0.1
"""A frame of a file that is later than this is left out."""

MAX_GAP_SECONDS = 0.3
"""After such a time a late frame is sent too, so that a slow machine sends something."""


def command(arguments: list[str]) -> int:
    """Find faces live and send them to other programs: VMC, OSC, OpenSeeFace, WebSocket, virtual camera."""
    parser = _parser()
    args = parser.parse_args(arguments)
    requested = _requested(args)
    if not requested:
        parser.error("nothing to send: give --vmc, --osc, --openseeface, --websocket or --virtual-camera")
    if args.loop and not isinstance(args.source, Path):
        parser.error("--loop needs a file: --source FILE --loop")
    if args.virtual_camera is None:
        check_used(parser, args, "--virtual-camera", "draw", "clean")
    if args.clean and args.draw is not None:
        parser.error("--draw has no effect with --clean")
    if args.vmc is None:
        check_used(parser, args, "--vmc", "vmc_shapes")
    if args.record_trace is None:
        check_used(parser, args, "--record-trace", "overwrite")
    from canthus.runtime.streams import StreamOptions, open_stream

    settings = _with_measures(settings_from_args(args), [kind for kind, _ in requested])
    options = StreamOptions(args.focal, args.vmc_shapes == "arkit", () if args.clean else parse_drawings(args.draw))
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(open_stream(kind, where, options)) for kind, where in requested]
        _announce(requested, streams)
        recorder = stack.enter_context(_recorder(args)) if args.record_trace else None
        _run(args, settings, streams, recorder)
    return 0


def _with_measures(settings: "Settings", kinds: "list[Kind]") -> "Settings":
    """Return the settings with measures, or without if the model has other points and no stream needs them.

    Raises InputError if one does.
    """
    from canthus.runtime.pipeline import can_measure, scheme_of_model
    from canthus.runtime.streams.kinds import WITHOUT_MEASURES

    scheme = scheme_of_model(settings.model)
    if can_measure(scheme):
        return replace(settings, measures=True)
    needing = [kind for kind in kinds if kind not in WITHOUT_MEASURES]
    if needing or settings.person is not None:
        raise InputError(
            f"--{needing[0] if needing else 'person'} needs measures, and the model has the {scheme.points} points of "
            f"{scheme.name}, not WFLW's; --websocket and --virtual-camera send its points"
        )
    return settings


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("canthus stream", DESCRIPTION, EXAMPLES)
    add_source_options(parser)
    parser.add_argument("--loop", action="store_true", help="play the file again and again")
    streams = parser.add_argument_group("streams")
    for name, receiver in (
        ("vmc", "head, eyes and blend shapes by the VMC protocol (default address: 127.0.0.1:39539)"),
        ("osc", "all measures by OSC, as /canthus/0/jawOpen (127.0.0.1:9000)"),
        ("openseeface", "the UDP packet of OpenSeeFace (127.0.0.1:11573)"),
        ("websocket", "JSON over WebSocket, and a page that draws the faces (127.0.0.1:8765)"),
    ):
        streams.add_argument(f"--{name}", nargs="?", const="", metavar="ADDRESS", help=receiver)
    streams.add_argument(
        "--virtual-camera", nargs="?", const="", metavar="DEVICE", help="a webcam for other programs, with the overlay"
    )
    streams.add_argument("--clean", action="store_true", help="draw nothing on the frames of the virtual camera")
    streams.add_argument(
        "--draw", metavar="LIST", help="what is drawn on them, as in `canthus video` (default: points,lines,ids)"
    )
    streams.add_argument(
        "--vmc-shapes",
        choices=["arkit", "vrm"],
        default="arkit",
        help="names of the blend shapes: ARKit's, for avatars with perfect sync, or the six that every VRM avatar has "
        "(default: arkit)",
    )
    add_landmarker_options(parser)
    add_focal_option(parser)
    add_person_option(parser)
    add_trace_option(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace a trace that exists")
    return parser


def _requested(args: argparse.Namespace) -> "list[tuple[Kind, str]]":
    """Return the streams of the options, with their addresses."""
    from canthus.runtime.streams import KINDS

    given = vars(args)
    return [(kind, where) for kind in KINDS if (where := given[kind.replace("-", "_")]) is not None]


def _announce(requested: "list[tuple[Kind, str]]", streams: "list[Stream]") -> None:
    from canthus.runtime.streams.kinds import leaves_machine

    for (kind, where), stream in zip(requested, streams, strict=True):
        print(stream.name, flush=True)
        if leaves_machine(kind, where):
            print(f"canthus stream: others on the network can read the {kind} stream", file=sys.stderr)


def _recorder(args: argparse.Namespace) -> "Recorder":
    from canthus.runtime.trace import Recorder
    from canthus.runtime.trace.recorder import check_trace

    check_trace(args.record_trace, args.overwrite)
    return Recorder(args.record_trace, args.source.name if isinstance(args.source, Path) else "a live source")


def _run(args: argparse.Namespace, settings: "Settings", streams: "list[Stream]", recorder: "Recorder | None") -> None:
    """Send the faces of the source until it ends."""
    from tqdm import tqdm

    from canthus.runtime.pipeline import Landmarker

    live = not isinstance(args.source, Path)
    with Landmarker(settings, live=live, recorder=recorder) as landmarker:
        frames = _live(args, landmarker) if live else _played(args, landmarker)
        for frame in tqdm(frames, "stream", unit="frame", disable=None):
            faces = landmarker.update(frame)
            for stream in streams:
                stream.send(frame, faces)


def _live(args: argparse.Namespace, landmarker: "Landmarker") -> "Iterator[Frame]":
    """Yield the frames of a camera or network stream. Open a camera that fails again, after it has worked once."""
    worked = waiting = False
    while True:
        try:
            with open_source(args) as frames:
                for frame in frames:
                    worked, waiting = True, False
                    yield frame
            return
        except InputError as error:
            if not worked:
                raise
            if not waiting:
                _log.warning("%s; it is opened again when it is there", error)
            waiting = True
        time.sleep(RETRY_SECONDS)
        landmarker.restart()


def _played(args: argparse.Namespace, landmarker: "Landmarker") -> "Iterator[Frame]":
    """Yield the frames of a file when they are due; those that are late are left out."""
    from canthus.runtime.channel import Stage

    while True:
        with open_source(args) as file, Stage(partial(iter, file), "decode") as frames:
            yield from _paced(frames)
        if not args.loop:
            return
        landmarker.restart()


def _paced(frames: "Iterable[Frame]") -> "Iterator[Frame]":
    """Yield each frame when it is due, counted from when the first one was processed, which takes longest."""
    origin: float | None = None
    sent = 0.0
    for frame in frames:
        now = time.monotonic()
        early = 0.0 if origin is None else origin + frame.seconds - now
        if early > 0:
            time.sleep(early)
        if early > -LATE_SECONDS or now - sent > MAX_GAP_SECONDS:
            yield frame
            sent = time.monotonic()
        if origin is None:
            origin = sent - frame.seconds
