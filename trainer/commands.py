"""The trainer's commands: pack, train, eval. Each imports what it needs when it runs."""

import argparse
import contextlib
import functools
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from canthus.runtime.errors import BackendError, InputError

if TYPE_CHECKING:
    from canthus.trainer.evaluate import Result
    from canthus.trainer.recipe import Recipe

RUN_FILES = (
    "recipe.json", "log.csv", "best.json", "best.safetensors", "last.json", "last.safetensors",
)  # fmt: skip
PACK_FILES = ("crops.npy", "labels.npz")


def pack(arguments: list[str]) -> int:
    """Cut labelled faces out of their pictures, once, into a folder that training reads fast."""
    parser = _parser(
        "pack",
        pack,
        "  canthus pack WFLW -o faces\n"
        "  canthus pack shard-0.tar shard-1.tar WFLW -o faces --size 256\n"
        "  canthus train faces -o runs/first\n",
    )
    parser.add_argument(
        "sets",
        type=Path,
        nargs="+",
        metavar="SET",
        help="the official WFLW folder, a shard's folder, or a shard's tar file",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument(
        "--size",
        type=int,
        default=192,
        metavar="PIXELS",
        help="side of a crop, 1.4 times what the network sees (default: %(default)s, for 128 px networks)",
    )
    parser.add_argument(
        "--split",
        default="train",
        choices=("train", "test"),
        help="the official list (default: %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing pack")
    told = parser.parse_args(arguments)
    if not 32 <= told.size <= 1024:
        parser.error("--size must lie between 32 and 1024")
    _refuse_existing(told.output, PACK_FILES, "--overwrite replaces it", told.overwrite)

    from canthus.trainer.data import open_set, write_pack

    sets = [open_set(path, told.split) for path in told.sets]
    try:
        faces = write_pack(sets, told.output, told.size)
    except OSError as unwritable:
        raise InputError(f"{told.output}: cannot be written: {unwritable.strerror}") from unwritable
    print(f"{told.output}: {len(faces)} faces of {told.size} px")
    return 0


def train(arguments: list[str]) -> int:
    """Train a network on a pack of faces; Ctrl-C saves, --resume goes on."""
    parser = _parser(
        "train",
        train,
        "  canthus train faces -o runs/student\n"
        "  canthus train faces -o runs/student --resume\n"
        "  canthus train faces -o runs/hrnet --network hrnet_w18 --set batch=32 --set augmentation.blur_p=0\n"
        "  canthus eval --model runs/student/best.safetensors --wflw WFLW\n",
    )
    parser.add_argument("pack", type=Path, metavar="PACK", help="a folder that `canthus pack` wrote")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="RUN",
        help="gets recipe.json, log.csv, and the checkpoints best and last",
    )
    parser.add_argument(
        "--network",
        choices=("student", "hrnet_w18"),
        help="the network, with its recipe (default: student)",
    )
    parser.add_argument(
        "--recipe", type=Path, metavar="FILE.json", help="a recipe, such as another run's, or a part of one"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=_setting,
        metavar="NAME=VALUE",
        dest="settings",
        help="change one value of the recipe; may be given again",
    )
    parser.add_argument("--resume", action="store_true", help="go on where RUN was stopped, with its recipe")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing run")
    told = parser.parse_args(arguments)
    if told.network and told.recipe:
        parser.error("--recipe tells the network; change it with --set network=...")
    if told.resume and (told.network or told.recipe or told.settings or told.overwrite):
        parser.error("--resume goes on with the run's own recipe; it takes no other")

    from canthus.trainer.data import open_pack
    from canthus.trainer.recipe import load_recipe

    if told.resume:
        recipe = load_recipe(told.output / "recipe.json")
    else:
        recipe = _recipe(told)
        answer = "--resume goes on with it, --overwrite replaces it"
        _refuse_existing(told.output, RUN_FILES, answer, told.overwrite)
    faces = open_pack(told.pack)
    try:
        from canthus.trainer.train import train as run
    except ImportError as missing:
        raise BackendError(
            f"training needs {missing.name}, which is not installed: pip install 'canthus[train]'"
        ) from missing
    if told.overwrite:
        for name in RUN_FILES:
            (told.output / name).unlink(missing_ok=True)
    try:
        best = run(faces, recipe, told.output, told.resume, compiled=_has_compiler())
    except KeyboardInterrupt:
        again = f"; go on with: canthus train {told.pack} -o {told.output} --resume"
        saved = (told.output / "last.safetensors").is_file()
        print(f"\ncanthus train: stopped{again if saved else ', nothing was saved'}", file=sys.stderr)
        return 130
    print(f"best on the held-out faces: {best.with_suffix('.safetensors')}")
    return 0


def evaluate(arguments: list[str]) -> int:
    """Measure models on labelled faces: NME, FR@10, AUC@10, overall and for each WFLW subset."""
    parser = _parser(
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


def _recipe(told: argparse.Namespace) -> "Recipe":
    from canthus.trainer.recipe import change, default_recipe, load_recipe

    recipe = load_recipe(told.recipe) if told.recipe else default_recipe(told.network or "student")
    return change(recipe, dict(told.settings))


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _refuse_existing(folder: Path, files: tuple[str, ...], answer: str, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file, not a folder")
    if not overwrite and any((folder / name).exists() for name in files):
        raise InputError(f"{folder}: exists already; {answer}")


def _has_compiler() -> bool:
    """Can torch.compile build its kernels? Without a C++ compiler training is slower, and as right."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++"))


def _parser(name: str, command: Callable[[list[str]], int], examples: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"canthus {name}",
        description=command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"examples:\n{examples}",
    )
