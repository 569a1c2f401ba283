"""`canthus train`, and what the trainer's commands share. Each imports what it needs when it runs."""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from canthus.runtime.errors import BackendError, InputError

if TYPE_CHECKING:
    from canthus.trainer.recipe import Recipe

RUN_FILES = (
    "recipe.json", "log.csv", "best.json", "best.safetensors", "last.json", "last.safetensors",
)  # fmt: skip


def train(arguments: list[str]) -> int:
    """Train a network on a pack of faces; Ctrl-C saves, --resume goes on."""
    parser = parser_of(
        "train",
        train,
        "  canthus train faces -o runs/student\n"
        "  canthus train faces -o runs/student --resume\n"
        "  canthus train faces -o runs/hrnet --network hrnet_w18 --set batch=32 --set augmentation.blur_p=0\n"
        "  canthus eval --model runs/student/best.safetensors --wflw WFLW\n",
    )
    parser.add_argument("pack", type=Path, metavar="PACK", help="a folder that `canthus data prepare` wrote")
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
        refuse_existing(told.output, RUN_FILES, answer, told.overwrite)
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


def refuse_existing(folder: Path, files: tuple[str, ...], answer: str, overwrite: bool) -> None:
    """InputError where the folder holds one of these files, unless they may be replaced."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file, not a folder")
    if not overwrite and any((folder / name).exists() for name in files):
        raise InputError(f"{folder}: exists already; {answer}")


def _has_compiler() -> bool:
    """Can torch.compile build its kernels? Without a C++ compiler training is slower, and as right."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++"))


def parser_of(name: str, command: Callable[[list[str]], int], examples: str) -> argparse.ArgumentParser:
    """A parser that tells a command's docstring and examples."""
    return argparse.ArgumentParser(
        prog=f"canthus {name}",
        description=command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"examples:\n{examples}",
    )
