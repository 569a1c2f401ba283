"""`canthus eval`: measures models on labelled faces and on clips."""

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

from canthus.runtime.errors import InputError
from canthus.runtime.files import write_file
from canthus.trainer.commands.shared import make_parser, not_installed, report_errors_once, start_processes

if TYPE_CHECKING:
    from canthus.trainer.evaluation.clips import ClipTracks
    from canthus.trainer.evaluation.evaluate import Candidate, Result, Worker
    from canthus.trainer.evaluation.speed import Speed
    from canthus.trainer.evaluation.stability import BoxStability
    from canthus.trainer.faces.labelled import LabelledSet

IMAGE_SUFFIXES = (".png", ".jpg")

TORCHRUN_VARIABLE = "TORCHELASTIC_RUN_ID"
"""Environment variable of the processes that torchrun starts."""


@report_errors_once()
def command(arguments: list[str]) -> int:
    """Measure models: NME, FR@10 and AUC@10 on labelled faces, and jitter, jumps and lag on clips."""
    parser = _parser()
    args = parser.parse_args(arguments)
    _check_args(parser, args)
    if args.gpus and TORCHRUN_VARIABLE not in os.environ:
        _start_processes(arguments, args.gpus)
    with _join_workers() as worker:
        measured = _measure(args, worker)
        if worker.rank == 0:
            _report(args, measured)
    return 0


def _check_args(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with an error message if options do not fit together. Raises InputError if a folder is missing."""
    images = (args.curve, args.reliability, args.worst, args.cases)
    if not (args.sets or args.clips):
        parser.error("nothing to measure on: give --wflw SET, --clips CLIP, or both")
    if not args.sets and (args.stability or args.speed or any(images)):
        parser.error(
            "--stability, --speed, --curve, --reliability, --worst and --cases need labelled faces: give --wflw SET"
        )
    if args.speed and (args.gpus or TORCHRUN_VARIABLE in os.environ):
        parser.error("--speed measures in one process; leave out --gpus and torchrun")
    if any(number is not None and number < 1 for number in (args.held_out, args.gpus)):
        parser.error("--held-out and --gpus must be at least 1")
    for image in images:
        if image and image.suffix.lower() not in IMAGE_SUFFIXES:
            parser.error(f"{image}: the name of an image must end in {' or '.join(IMAGE_SUFFIXES)}")
    for out in (args.json, *images):
        if out and not out.absolute().parent.is_dir():
            raise InputError(f"{out}: its folder does not exist")


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "eval",
        command,
        "  canthus eval --wflw WFLW\n"
        "  canthus eval --model fast runs/student/best.safetensors --wflw WFLW --boxes both --json out.json\n"
        "  canthus eval --peer PFLD.onnx --model fast --wflw WFLW --markdown --curve curve.png --worst worst.png\n"
        "  canthus eval --peer PFLD.onnx --model fast accurate --wflw WFLW --speed\n"
        "  canthus eval --peer PFLD.onnx --model fast accurate --clips videos/ --json clips.json\n"
        "  canthus eval --model runs/cofw/best.safetensors --data COFW_test_color.mat --flip\n"
        "  torchrun --nproc-per-node 8 -m canthus.trainer.commands eval --model best.safetensors --wflw WFLW\n",
    )
    models = parser.add_argument_group("models")
    models.add_argument(
        "--model",
        nargs="+",
        default=[],
        metavar="MODEL",
        help="names of included models, .onnx files or checkpoints (default: the default model)",
    )
    models.add_argument(
        "--peer",
        nargs="+",
        default=[],
        type=Path,
        metavar="FILE.onnx",
        help="public third-party networks of the PFLD family, for comparison",
    )
    models.add_argument(
        "--flip", action="store_true", help="flip test-time augmentation: average over the crop and its mirror image"
    )
    faces = parser.add_argument_group("labelled faces")
    faces.add_argument(
        "--wflw",
        "--data",
        nargs="+",
        default=[],
        type=Path,
        metavar="SET",
        dest="sets",
        help="the published folder of WFLW, COFW or 300W, or any set that `canthus data prepare` reads",
    )
    faces.add_argument(
        "--split",
        default="test",
        choices=("train", "test"),
        help="the official list of faces to read (default: %(default)s)",
    )
    faces.add_argument(
        "--held-out",
        type=int,
        metavar="N",
        help="measure only the validation faces of a recipe with held_out=N, one face in N",
    )
    faces.add_argument(
        "--boxes",
        default="truth",
        choices=("truth", "detector", "both"),
        help="where the crops come from: the true points, or the face detector (default: %(default)s)",
    )
    faces.add_argument(
        "--stability",
        action="store_true",
        help="also measure how far points move if the box is shifted, rotated or scaled a little",
    )
    faces.add_argument("--speed", action="store_true", help="also measure the time of each model per face")
    faces.add_argument("--curve", type=Path, metavar="OUT.png", help="draw the cumulative error distribution")
    faces.add_argument(
        "--reliability",
        type=Path,
        metavar="OUT.png",
        help="draw the share of accurate points for each score (reliability diagram)",
    )
    faces.add_argument(
        "--worst",
        type=Path,
        metavar="OUT.png",
        help="draw the 20 faces with the largest errors of the first model, with true and predicted points",
    )
    faces.add_argument(
        "--cases",
        type=Path,
        metavar="OUT.png",
        help="draw the best, the median and the worst faces of the first model, four of each, without the photographs",
    )
    clips = parser.add_argument_group("clips")
    clips.add_argument(
        "--clips",
        nargs="+",
        default=[],
        type=Path,
        metavar="CLIP",
        help="videos, or folders of them: measure jitter, jumps and lag of the points, without and with smoothing",
    )
    parser.add_argument("--detector-model", type=Path, metavar="PATH", help="use your own face detector (.tflite)")
    parser.add_argument("--gpus", type=int, metavar="N", help="split the work over N GPUs of this machine")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown, in the order of papers")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all measurements to this file too")
    return parser


def _start_processes(arguments: list[str], gpus: int) -> None:
    """Replace this process with torchrun. Raises BackendError if torch is not installed."""
    try:
        from torch import cuda
    except ImportError as missing:
        raise not_installed("--gpus", missing) from missing
    start_processes(["eval", *arguments], gpus, cuda.device_count())


@contextlib.contextmanager
def _join_workers() -> "Iterator[Worker]":
    """Yield the worker of this process. It measures all images, or its share if torchrun started several processes."""
    from canthus.trainer.evaluation.evaluate import Worker

    if TORCHRUN_VARIABLE not in os.environ:
        yield Worker()
        return
    from torch import distributed

    from canthus.trainer.parallel import join_processes

    with join_processes() as world:

        def gather(value: Any) -> list[Any]:
            values = [value] * world.ranks
            if world.ranks > 1:
                distributed.all_gather_object(values, value, group=world.cpu_group)
            return values

        yield Worker(world.rank, world.ranks, gather)


@dataclass(frozen=True, eq=False)
class _Measured:
    """The measurements. Those that were not requested are empty."""

    sets: "list[LabelledSet]"
    results: "list[Result]"
    stability: "list[BoxStability]"
    speed: "list[Speed]"
    clips: "list[ClipTracks]"


def _measure(args: argparse.Namespace, worker: "Worker") -> _Measured:
    from canthus.runtime.detector import Detector
    from canthus.trainer.evaluation import evaluate as measuring
    from canthus.trainer.evaluation.clips import find_clips, track_clips
    from canthus.trainer.evaluation.speed import measure_speed
    from canthus.trainer.evaluation.stability import measure_box_stability
    from canthus.trainer.faces.formats import open_set

    sets = [open_set(path, args.split) for path in args.sets]
    sets = [measuring.leave_out_unmeasurable(one) for one in sets]
    if args.held_out is not None:
        sets = [one.held_out_subset(args.held_out) for one in sets]
    if sets and not any(one.faces for one in sets):
        raise InputError("no face is left to measure; lower --held-out")
    clips = find_clips(args.clips)
    kinds: dict[str, tuple[measuring.Boxes, ...]] = {
        "truth": ("truth",),
        "detector": ("detector",),
        "both": ("truth", "detector"),
    }
    results: list[Result] = []
    stability: list[BoxStability] = []
    speed: list[Speed] = []
    tracks: list[ClipTracks] = []
    with contextlib.ExitStack() as opened:
        candidates = _open_candidates(args, opened)
        detects = clips or (sets and args.boxes != "truth")
        detector = opened.enter_context(Detector(args.detector_model)) if detects else None
        if sets:
            detect = functools.partial(detector.detect, exhaustive=True) if detector and args.boxes != "truth" else None
            results = measuring.evaluate(sets, candidates, detect, kinds[args.boxes], worker)
        if args.stability:
            stability = measure_box_stability(sets, candidates, worker)
        if args.speed:
            speed = measure_speed(sets, candidates)
        if clips:
            assert detector
            tracking = candidates[0]
            if not args.model:  # third-party networks have no scores, and the tracker needs them to notice a lost face
                tracking = measuring.open_candidate(None)
                opened.enter_context(tracking.backend)
            tracks = track_clips(clips, candidates, tracking, detector.detect_in_stream, worker)
    return _Measured(sets, results, stability, speed, tracks)


def _open_candidates(args: argparse.Namespace, opened: contextlib.ExitStack) -> "list[Candidate]":
    from canthus.trainer.evaluation import evaluate as measuring

    names = args.model or ([] if args.peer else [None])
    candidates = [measuring.open_candidate(name) for name in names] + [measuring.open_peer(path) for path in args.peer]
    candidates = [dataclasses.replace(candidate, flip_tta=args.flip) for candidate in candidates]
    for candidate in candidates:
        opened.enter_context(candidate.backend)
    return candidates


def _report(args: argparse.Namespace, measured: _Measured) -> None:
    from canthus.trainer.evaluation import report
    from canthus.trainer.faces import contact_sheet

    results = measured.results
    if results:
        print(report.markdown(results) if args.markdown else report.results_table(results))
    if report.has_placed(results):
        table = f"\n{report.placed_markdown(results)}" if args.markdown else report.placed_table(results)
        print(f"\n{report.placed_caption()}\n{table}")
    if measured.stability:
        print("\nhow far points move if the box changes a little, in % of the normalizer")
        print(report.stability_table(measured.stability))
    if measured.speed:
        print("\ntime per face: crop, network, and points back in the image; the models take turns")
        print(report.speed_table(measured.speed))
    if measured.clips:
        print(("\n" if results else "") + report.clips_summary(measured.clips))
        print(report.clips_table(measured.clips))
    if args.json:
        measurements = report.to_json(results, measured.stability, measured.speed, measured.clips)
        write_file(args.json, (json.dumps(measurements, indent=2) + "\n").encode())
    if args.curve:
        report.draw_curve(results, args.curve)
    if args.reliability:
        report.draw_reliability(results, args.reliability)
    if args.worst:
        contact_sheet.write_image(args.worst, report.worst_sheet(measured.sets, results[0]))
    if args.cases:
        contact_sheet.write_image(args.cases, report.cases_sheet(measured.sets, results[0]), drawing=True)
