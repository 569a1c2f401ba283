"""`canthus eval`: measures models on labelled faces and on clips."""

import argparse
import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from canthus.runtime.errors import InputError
from canthus.runtime.files import write_file
from canthus.runtime.options import add_detector_option, positive_int
from canthus.trainer.commands.shared import make_parser, not_installed, report_errors_once, start_processes

if TYPE_CHECKING:
    from canthus.trainer.evaluation.evaluate import Boxes, Worker
    from canthus.trainer.evaluation.measure import Measurements, MeasureOptions

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
    from canthus.trainer.evaluation.measure import measure

    with _join_workers() as worker:
        measured = measure(_options(args), worker)
        if worker.rank == 0:
            _report(args, measured)
    return 0


def _check_args(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with an error message if options do not fit together. Raises InputError if a folder is missing."""
    images = (args.curve, args.reliability, args.worst, args.cases)
    if not (args.sets or args.clips):
        parser.error("nothing to measure on: give --wflw SET, --clips CLIP, or both")
    if not args.sets and (args.stability or args.speed or args.pose or any(images)):
        parser.error(
            "--stability, --speed, --pose, --curve, --reliability, --worst and --cases need labelled faces: "
            "give --wflw SET"
        )
    if args.speed and (args.gpus or TORCHRUN_VARIABLE in os.environ):
        parser.error("--speed measures in one process; leave out --gpus and torchrun")
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
        "  canthus eval --model fast fast:int8 --wflw WFLW --speed\n"
        "  canthus eval --peer PFLD.onnx --model fast accurate --clips videos/ --json clips.json\n"
        "  canthus eval --model accurate --wflw human98-aflw-0.tar --pose pose.csv --held-out 2\n"
        "  canthus eval --model runs/cofw/best.safetensors --data COFW_test_color.mat --flip\n"
        "  canthus eval --model fast --data 300W --as-98\n"
        "  torchrun --nproc-per-node 8 -m canthus.trainer.commands eval --model best.safetensors --wflw WFLW\n",
    )
    _add_models(parser)
    _add_faces(parser)
    _add_clips(parser)
    add_detector_option(parser)
    parser.add_argument("--gpus", type=positive_int, metavar="N", help="split the work over N GPUs of this machine")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown, in the order of papers")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all measurements to this file too")
    return parser


def _add_models(parser: argparse.ArgumentParser) -> None:
    models = parser.add_argument_group("models")
    models.add_argument(
        "--model",
        nargs="+",
        default=[],
        metavar="MODEL",
        help="names of included models, .onnx files or checkpoints; NAME:int8 is the 8-bit version of a model "
        "(default: fast)",
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


def _add_faces(parser: argparse.ArgumentParser) -> None:
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
        "--as-98",
        action="store_true",
        help="convert faces with 68 points to WFLW's 98; the 30 points that the 68 lack are not measured",
    )
    faces.add_argument(
        "--held-out",
        type=positive_int,
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
    faces.add_argument(
        "--pose",
        type=Path,
        metavar="FILE.csv",
        help="also measure the head pose; the table has image, yaw, pitch, roll in degrees (convention of "
        "AFLW2000-3D), and only its faces are measured. The included 3D head was fitted to faces that --held-out 2 "
        "leaves out",
    )
    _add_images(faces)


def _add_images(faces: argparse._ArgumentGroup) -> None:
    """Add the options that draw images."""
    faces.add_argument("--curve", type=Path, metavar="OUT.png", help="draw the cumulative error distribution")
    faces.add_argument(
        "--reliability",
        type=Path,
        metavar="OUT.png",
        help="draw the share of accurate points for each score (reliability diagram), and print it by pose",
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


def _add_clips(parser: argparse.ArgumentParser) -> None:
    clips = parser.add_argument_group("clips")
    clips.add_argument(
        "--clips",
        nargs="+",
        default=[],
        type=Path,
        metavar="CLIP",
        help="videos, or folders of them: measure jitter, jumps and lag of the points, without and with smoothing",
    )


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
            values = [value] * world.world_size
            if world.world_size > 1:
                distributed.all_gather_object(values, value, group=world.cpu_group)
            return values

        yield Worker(world.rank, world.world_size, gather)


def _options(args: argparse.Namespace) -> "MeasureOptions":
    from canthus.trainer.evaluation.measure import MeasureOptions

    kinds: dict[str, tuple[Boxes, ...]] = {
        "truth": ("truth",),
        "detector": ("detector",),
        "both": ("truth", "detector"),
    }
    return MeasureOptions(
        models=args.model,
        peers=args.peer,
        flip_tta=args.flip,
        sets=args.sets,
        split=args.split,
        as_98=args.as_98,
        held_out=args.held_out,
        boxes=kinds[args.boxes],
        stability=args.stability,
        speed=args.speed,
        clips=args.clips,
        pose=args.pose,
        detector_model=args.detector_model,
    )


def _report(args: argparse.Namespace, measured: "Measurements") -> None:
    from canthus.trainer.evaluation import diagrams, face_sheets, tables
    from canthus.trainer.evaluation.json_report import to_json
    from canthus.trainer.faces import contact_sheet

    results = measured.results
    gap = "\n" if args.markdown else ""  # Markdown needs an empty line before a table
    if results:
        print(tables.markdown(results) if args.markdown else tables.results_table(results))
    if tables.has_placed(results):
        print(f"\n{tables.placed_caption()}{gap}\n{tables.placed_table(results, args.markdown)}")
    if caption := tables.mouth_caption(results):
        print(f"\n{caption}{gap}\n{tables.mouth_table(results, args.markdown)}")
    if measured.stability:
        print("\nhow far points move if the box changes a little, in % of the normalizer")
        print(tables.stability_table(measured.stability))
    if measured.speed:
        print("\ntime per face: crop, network, and points back in the image; the models take turns")
        print(tables.speed_table(measured.speed))
    if measured.pose:
        print(f"\n{tables.POSE_CAPTION}\n{tables.pose_table(measured.pose)}")
    if measured.clips:
        print(("\n" if results else "") + tables.clips_summary(measured.clips))
        print(tables.clips_table(measured.clips))
    if args.json:
        measurements = to_json(results, measured.stability, measured.speed, measured.clips, measured.pose)
        write_file(args.json, (json.dumps(measurements, indent=2) + "\n").encode())
    if args.curve:
        diagrams.draw_curve(results, args.curve)
    if args.reliability:
        print(f"\n{tables.scores_caption()}\n{tables.scores_table(results)}")
        diagrams.draw_reliability(results, args.reliability)
    if args.worst:
        contact_sheet.write_image(args.worst, face_sheets.worst_sheet(measured.sets, results[0]))
    if args.cases:
        contact_sheet.write_image(args.cases, face_sheets.cases_sheet(measured.sets, results[0]), drawing=True)
