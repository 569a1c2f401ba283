"""`canthus eval`: models measured on labelled faces."""

import argparse
import contextlib
import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING

from canthus.runtime.errors import InputError
from canthus.trainer.commands import parser_of

if TYPE_CHECKING:
    from canthus.trainer.evaluate import Result


def evaluate(arguments: list[str]) -> int:
    """Measure models on labelled faces: NME, FR@10, AUC@10, overall and for each WFLW subset."""
    parser = parser_of(
        "eval",
        evaluate,
        "  canthus eval --wflw WFLW\n"
        "  canthus eval --model fast runs/student/best.safetensors --wflw WFLW --boxes both --json out.json\n"
        "  canthus eval --peer PFLD.onnx --model fast --wflw WFLW\n",
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
        nargs="+",
        required=True,
        type=Path,
        metavar="SET",
        help="the official WFLW folder (or shards: folders or tar files)",
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
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures to this file too")
    told = parser.parse_args(arguments)
    if told.held_out is not None and told.held_out < 1:
        parser.error("--held-out must be at least 1")
    if told.json and not told.json.absolute().parent.is_dir():
        raise InputError(f"{told.json}: its folder does not exist")

    from canthus.trainer.evaluate import facts, table

    results = _results(told)
    print(table(results))
    if told.json:
        try:
            told.json.write_text(json.dumps(facts(results), indent=2) + "\n")
        except OSError as unwritable:
            raise InputError(f"{told.json}: cannot be written: {unwritable.strerror}") from unwritable
    return 0


def _results(told: argparse.Namespace) -> "list[Result]":
    from canthus.runtime.detector import Detector
    from canthus.trainer.data import open_set
    from canthus.trainer.evaluate import Boxes, evaluate, open_entrant, open_peer

    sets = [open_set(path, told.split) for path in told.wflw]
    if told.held_out is not None:
        sets = [one.kept_aside(told.held_out) for one in sets]
    if not any(one.faces for one in sets):
        raise InputError("no face is left to measure on; lower --held-out")
    kinds: dict[str, tuple[Boxes, ...]] = {
        "truth": ("truth",),
        "detector": ("detector",),
        "both": ("truth", "detector"),
    }
    names = told.model or ([] if told.peer else [None])
    with contextlib.ExitStack() as opened:
        entrants = [open_entrant(name) for name in names] + [open_peer(path) for path in told.peer]
        for entrant in entrants:
            opened.enter_context(entrant.backend)
        detect = None
        if told.boxes != "truth":
            detector = opened.enter_context(Detector(told.detector_model))
            detect = functools.partial(detector.detect, thorough=True)
        return evaluate(sets, entrants, detect, kinds[told.boxes], told.flip)
