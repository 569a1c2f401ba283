"""`canthus eval`: models measured on labelled faces, and on clips."""

import argparse
import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from canthus.runtime.errors import BackendError, InputError
from canthus.runtime.extras import install_command
from canthus.trainer.commands.shared import make_parser, report_errors_once, start_processes

if TYPE_CHECKING:
    from canthus.trainer.evaluation.clips import ClipTracks
    from canthus.trainer.evaluation.evaluate import Candidate, Result, Worker
    from canthus.trainer.evaluation.speed import Speed
    from canthus.trainer.evaluation.stability import BoxStability
    from canthus.trainer.faces.labelled import LabelledSet

PICTURES = (".png", ".jpg")

LAUNCHED = "TORCHELASTIC_RUN_ID"
"""What torchrun sets in the environment of the processes that it starts."""


@report_errors_once()
def command(arguments: list[str]) -> int:
    """Measure models on labelled faces: NME, FR@10, AUC@10, overall and by subsets; and how calm they are on clips."""
    parser = _parser()
    args = parser.parse_args(arguments)
    drawn = (args.curve, args.reliability, args.worst, args.cases)
    if not (args.sets or args.clips):
        parser.error("nothing to measure on: give --wflw SET, --clips CLIP, or both")
    if not args.sets and (args.stability or args.speed or any(drawn)):
        parser.error(
            "--stability, --speed, --curve, --reliability, --worst and --cases need labelled faces: give --wflw SET"
        )
    if args.speed and (args.gpus or LAUNCHED in os.environ):
        parser.error("--speed measures in one process: leave out --gpus and torchrun")
    if any(number is not None and number < 1 for number in (args.held_out, args.gpus)):
        parser.error("--held-out and --gpus must be at least 1")
    for picture in drawn:
        if picture and picture.suffix.lower() not in PICTURES:
            parser.error(f"{picture}: a picture's name ends in {' or '.join(PICTURES)}")
    for out in (args.json, *drawn):
        if out and not out.absolute().parent.is_dir():
            raise InputError(f"{out}: its folder does not exist")

    if args.gpus and LAUNCHED not in os.environ:
        _start(arguments, args.gpus)
    with _shared() as worker:
        measured = _measure(args, worker)
        if worker.rank == 0:
            _tell(args, measured)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "eval",
        command,
        "  canthus eval --wflw WFLW\n"
        "  canthus eval --model fast runs/student/best.safetensors --wflw WFLW --boxes both --json out.json\n"
        "  canthus eval --peer PFLD.onnx --model fast --wflw WFLW --markdown --curve curve.png --worst worst.png\n"
        "  canthus eval --peer PFLD.onnx --model fast accurate --wflw WFLW --speed\n"
        "  canthus eval --peer PFLD.onnx --model fast accurate --clips videos/ --json calm.json\n"
        "  canthus eval --model runs/cofw/best.safetensors --data COFW_test_color.mat --flip\n"
        "  torchrun --nproc-per-node 8 -m canthus.trainer.commands eval --model best.safetensors --wflw WFLW\n",
    )
    parser.add_argument(
        "--model",
        nargs="+",
        default=[],
        metavar="MODEL",
        help="shipped models' names, .onnx files or checkpoints (default: the default model)",
    )
    parser.add_argument(
        "--peer",
        nargs="+",
        default=[],
        type=Path,
        metavar="FILE.onnx",
        help="others' networks of the PFLD family",
    )
    parser.add_argument(
        "--wflw",
        "--data",
        nargs="+",
        default=[],
        type=Path,
        metavar="SET",
        dest="sets",
        help="the folder of WFLW, COFW or 300W as published, or any set that `canthus data prepare` reads",
    )
    parser.add_argument(
        "--split",
        default="test",
        choices=("train", "test"),
        help="the official list (default: %(default)s)",
    )
    parser.add_argument(
        "--boxes",
        default="truth",
        choices=("truth", "detector", "both"),
        help="where the faces are: args by the true points, or found as in any picture (default: %(default)s)",
    )
    parser.add_argument("--flip", action="store_true", help="average each face with its mirror image")
    parser.add_argument(
        "--held-out",
        type=int,
        metavar="N",
        help="only the faces that training with held_out=N keeps aside, one in N",
    )
    parser.add_argument("--detector-model", type=Path, metavar="PATH", help="a detector of your own (.tflite)")
    parser.add_argument(
        "--stability",
        action="store_true",
        help="also tell how far points move when the box is shifted, turned or scaled a little",
    )
    parser.add_argument("--speed", action="store_true", help="also tell how long each model takes for a face")
    parser.add_argument(
        "--clips",
        nargs="+",
        default=[],
        type=Path,
        metavar="CLIP",
        help="videos, or folders of them: tell how much points tremble, jump and lag on their faces, raw and smoothed",
    )
    parser.add_argument("--gpus", type=int, metavar="N", help="share the work between N GPUs of this machine")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown, as papers order it")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures to this file too")
    parser.add_argument("--curve", type=Path, metavar="OUT.png", help="draw the cumulative error distribution")
    parser.add_argument(
        "--reliability", type=Path, metavar="OUT.png", help="draw what the scores of points foretell about their errors"
    )
    parser.add_argument(
        "--worst", type=Path, metavar="OUT.png", help="draw the first model's 20 worst faces, truth and answer"
    )
    parser.add_argument(
        "--cases",
        type=Path,
        metavar="OUT.png",
        help="draw the first model's best, middle and worst faces, four of each, without their photographs",
    )
    return parser


def _start(arguments: list[str], gpus: int) -> None:
    try:
        from torch import cuda
    except ImportError as missing:
        raise BackendError(
            f"--gpus needs {missing.name}, which is not installed: {install_command('train')}"
        ) from missing
    start_processes(["eval", *arguments], gpus, cuda.device_count())


@contextlib.contextmanager
def _shared() -> "Iterator[Worker]":
    """This process's share of the pictures: all, unless torchrun started several."""
    from canthus.trainer.evaluation.evaluate import Worker

    if LAUNCHED not in os.environ:
        yield Worker()
        return
    from torch import distributed

    from canthus.trainer.parallel import join_processes

    with join_processes() as world:

        def gather(own: Any) -> list[Any]:
            everyone = [own] * world.ranks
            if world.ranks > 1:
                distributed.all_gather_object(everyone, own, group=world.cpu_group)
            return everyone

        yield Worker(world.rank, world.ranks, gather)


@dataclass(frozen=True, eq=False)
class _Measured:
    """All that was measured; what was not asked for is empty."""

    sets: "list[LabelledSet]"
    results: "list[Result]"
    stability: "list[BoxStability]"
    speed: "list[Speed]"
    followed: "list[ClipTracks]"


def _measure(args: argparse.Namespace, worker: "Worker") -> _Measured:
    from canthus.runtime.detector import Detector
    from canthus.trainer.evaluation import evaluate as measuring
    from canthus.trainer.evaluation.clips import find_clips, track_clips
    from canthus.trainer.evaluation.speed import measure_speed
    from canthus.trainer.evaluation.stability import measure_box_stability
    from canthus.trainer.faces.formats import open_set

    sets = [open_set(path, args.split) for path in args.sets]
    if args.held_out is not None:
        sets = [one.held_out_subset(args.held_out) for one in sets]
    if sets and not any(one.faces for one in sets):
        raise InputError("no face is left to measure on; lower --held-out")
    clips = find_clips(args.clips)
    kinds: dict[str, tuple[measuring.Boxes, ...]] = {
        "truth": ("truth",),
        "detector": ("detector",),
        "both": ("truth", "detector"),
    }
    results: list[Result] = []
    stability: list[BoxStability] = []
    speed: list[Speed] = []
    followed: list[ClipTracks] = []
    with contextlib.ExitStack() as opened:
        candidates = _candidates(args, opened)
        finds = clips or (sets and args.boxes != "truth")
        detector = opened.enter_context(Detector(args.detector_model)) if finds else None
        if sets:
            detect = functools.partial(detector.detect, exhaustive=True) if detector and args.boxes != "truth" else None
            results = measuring.evaluate(sets, candidates, detect, kinds[args.boxes], worker)
        if args.stability:
            stability = measure_box_stability(sets, candidates, worker)
        if args.speed:
            speed = measure_speed(sets, candidates)
        if clips:
            assert detector
            follower = candidates[0]
            if not args.model:  # others' networks have no scores to lose a face by
                follower = measuring.open_candidate(None)
                opened.enter_context(follower.backend)
            followed = track_clips(clips, candidates, follower, detector.detect_in_stream, worker)
    return _Measured(sets, results, stability, speed, followed)


def _candidates(args: argparse.Namespace, opened: contextlib.ExitStack) -> "list[Candidate]":
    from canthus.trainer.evaluation import evaluate as measuring

    names = args.model or ([] if args.peer else [None])
    candidates = [measuring.open_candidate(name) for name in names] + [measuring.open_peer(path) for path in args.peer]
    candidates = [dataclasses.replace(candidate, flip_tta=args.flip) for candidate in candidates]
    for candidate in candidates:
        opened.enter_context(candidate.backend)
    return candidates


def _tell(args: argparse.Namespace, measured: _Measured) -> None:
    from canthus.trainer.evaluation import report
    from canthus.trainer.faces import contact_sheet

    results = measured.results
    if results:
        print(report.markdown(results) if args.markdown else report.table(results))
    if measured.stability:
        print("\nhow far points move when the box changes a little, in % of the same ruler")
        print(report.stability_table(measured.stability))
    if measured.speed:
        print("\ntime of one face, cut out, through the network and back in its picture, one model beside the others")
        print(report.speed_table(measured.speed))
    if measured.followed:
        print(("\n" if results else "") + report.clips_line(measured.followed))
        print(report.clips_table(measured.followed))
    if args.json:
        facts = report.to_json(results, measured.stability, measured.speed, measured.followed)
        try:
            args.json.write_text(json.dumps(facts, indent=2) + "\n")
        except OSError as unwritable:
            raise InputError(f"{args.json}: cannot be written: {unwritable.strerror}") from unwritable
    if args.curve:
        report.draw_curve(results, args.curve)
    if args.reliability:
        report.draw_reliability(results, args.reliability)
    if args.worst:
        contact_sheet.write_image(args.worst, report.worst_sheet(measured.sets, results[0]))
    if args.cases:
        contact_sheet.write_image(args.cases, report.cases_sheet(measured.sets, results[0]), drawing=True)
