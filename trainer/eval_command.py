"""`canthus eval`: models measured on labelled faces."""

import argparse
import contextlib
import functools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from canthus.runtime.errors import BackendError, InputError
from canthus.trainer.commands import parser_of, start_processes

if TYPE_CHECKING:
    from canthus.trainer.data import LabelledSet
    from canthus.trainer.evaluate import Entrant, Result, Share
    from canthus.trainer.stability import Stability

PICTURES = (".png", ".jpg")

LAUNCHED = "TORCHELASTIC_RUN_ID"
"""What torchrun sets in the environment of the processes that it starts."""


def evaluate(arguments: list[str]) -> int:
    """Measure models on labelled faces: NME, FR@10, AUC@10, overall and for each of the set's subsets."""
    parser = parser_of(
        "eval",
        evaluate,
        "  canthus eval --wflw WFLW\n"
        "  canthus eval --model fast runs/student/best.safetensors --wflw WFLW --boxes both --json out.json\n"
        "  canthus eval --peer PFLD.onnx --model fast --wflw WFLW --markdown --curve curve.png --worst worst.png\n"
        "  canthus eval --model runs/cofw/best.safetensors --data COFW_test_color.mat --flip\n"
        "  torchrun --nproc-per-node 8 -m canthus.trainer.eval_command --model best.safetensors --wflw WFLW\n",
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
        required=True,
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
        help="where the faces are: told by the true points, or found as in any picture (default: %(default)s)",
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
    parser.add_argument("--gpus", type=int, metavar="N", help="share the pictures between N GPUs of this machine")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown, as papers order it")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures to this file too")
    parser.add_argument("--curve", type=Path, metavar="OUT.png", help="draw the cumulative error distribution")
    parser.add_argument(
        "--reliability", type=Path, metavar="OUT.png", help="draw what the scores of points foretell about their errors"
    )
    parser.add_argument(
        "--worst", type=Path, metavar="OUT.png", help="draw the first model's 20 worst faces, truth and answer"
    )
    told = parser.parse_args(arguments)
    if any(number is not None and number < 1 for number in (told.held_out, told.gpus)):
        parser.error("--held-out and --gpus must be at least 1")
    for picture in (told.curve, told.reliability, told.worst):
        if picture and picture.suffix.lower() not in PICTURES:
            parser.error(f"{picture}: a picture's name ends in {' or '.join(PICTURES)}")
    for out in (told.json, told.curve, told.reliability, told.worst):
        if out and not out.absolute().parent.is_dir():
            raise InputError(f"{out}: its folder does not exist")

    if told.gpus and LAUNCHED not in os.environ:
        _start(arguments, told.gpus)
    with _shared() as share:
        sets, results, stability = _measured(told, share)
        if share.rank == 0:
            _tell(told, sets, results, stability)
    return 0


def _start(arguments: list[str], gpus: int) -> None:
    try:
        from torch import cuda
    except ImportError as missing:
        raise BackendError(
            f"--gpus needs {missing.name}, which is not installed: pip install 'canthus[train]'"
        ) from missing
    start_processes("canthus.trainer.eval_command", arguments, gpus, cuda.device_count())


@contextlib.contextmanager
def _shared() -> "Iterator[Share]":
    """This process's share of the pictures: all, unless torchrun started several."""
    from canthus.trainer.evaluate import Share

    if LAUNCHED not in os.environ:
        yield Share()
        return
    from torch import distributed

    from canthus.trainer.parallel import joined

    with joined() as world:

        def gather(own: Any) -> list[Any]:
            everyone = [own] * world.ranks
            if world.ranks > 1:
                distributed.all_gather_object(everyone, own, group=world.control)
            return everyone

        yield Share(world.rank, world.ranks, gather)


def _measured(told: argparse.Namespace, share: "Share") -> "tuple[list[LabelledSet], list[Result], list[Stability]]":
    from canthus.trainer import evaluate as measuring
    from canthus.trainer.data import open_set
    from canthus.trainer.stability import measure_stability

    sets = [open_set(path, told.split) for path in told.sets]
    if told.held_out is not None:
        sets = [one.kept_aside(told.held_out) for one in sets]
    if not any(one.faces for one in sets):
        raise InputError("no face is left to measure on; lower --held-out")
    kinds: dict[str, tuple[measuring.Boxes, ...]] = {
        "truth": ("truth",),
        "detector": ("detector",),
        "both": ("truth", "detector"),
    }
    with contextlib.ExitStack() as opened:
        entrants = _entrants(told, opened)
        detect = None
        if told.boxes != "truth":
            from canthus.runtime.detector import Detector

            detector = opened.enter_context(Detector(told.detector_model))
            detect = functools.partial(detector.detect, thorough=True)
        results = measuring.evaluate(sets, entrants, detect, kinds[told.boxes], told.flip, share)
        stability = measure_stability(sets, entrants, told.flip, share) if told.stability else []
    return sets, results, stability


def _entrants(told: argparse.Namespace, opened: contextlib.ExitStack) -> "list[Entrant]":
    from canthus.trainer import evaluate as measuring

    names = told.model or ([] if told.peer else [None])
    entrants = [measuring.open_entrant(name) for name in names] + [measuring.open_peer(path) for path in told.peer]
    for entrant in entrants:
        opened.enter_context(entrant.backend)
    return entrants


def _tell(
    told: argparse.Namespace, sets: "list[LabelledSet]", results: "list[Result]", stability: "list[Stability]"
) -> None:
    from canthus.trainer import report, sheet

    print(report.markdown(results) if told.markdown else report.table(results))
    if stability:
        print("\nhow far points move when the box changes a little, in % of the same ruler")
        print(report.stability_table(stability))
    if told.json:
        try:
            told.json.write_text(json.dumps(report.facts(results, stability), indent=2) + "\n")
        except OSError as unwritable:
            raise InputError(f"{told.json}: cannot be written: {unwritable.strerror}") from unwritable
    if told.curve:
        report.draw_curve(results, told.curve)
    if told.reliability:
        report.draw_reliability(results, told.reliability)
    if told.worst:
        sheet.write_picture(told.worst, report.worst_sheet(sets, results[0]))


if __name__ == "__main__":  # what torchrun starts
    from canthus.runtime.cli import main

    sys.exit(main(["eval", *sys.argv[1:]]))
