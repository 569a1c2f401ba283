"""`canthus train`: trains a network on a pack of faces."""

import argparse
import math
import os
import shlex
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from canthus.runtime.errors import InputError, UsageError
from canthus.trainer.commands.shared import (
    make_parser,
    not_installed,
    refuse_existing,
    report_errors_once,
    start_processes,
)
from canthus.trainer.commands.train_options import add_options

if TYPE_CHECKING:
    from canthus.trainer.packs.pack import Pack
    from canthus.trainer.recipe import Recipe
    from canthus.trainer.run import TrainOptions

TRAINED_FILES = ("log.csv", "best.safetensors", "last.safetensors")
"""Files of a run that must not be replaced without --overwrite."""


MIN_STEPS = 200
"""Steps of a run at least, if neither its epochs nor its minutes are given. The epochs of a recipe are meant for
thousands of faces; with 26 they are 24 steps, after which a new last layer errs about 20 % (RESULTS.md)."""


class Trained(NamedTuple):
    """The end of a training on the command line."""

    folder: Path
    best: Path | None  # the best checkpoint, without suffix; None: stopped with Ctrl-C
    first: bool  # whether this process prints; the others, started by torchrun, print nothing


@report_errors_once()
def command(arguments: list[str]) -> int:
    """Train a network on a pack of faces. Ctrl-C saves the run, --resume continues it."""
    started = time.monotonic()
    parser = _parser()
    args = parser.parse_args(arguments)
    check_args(parser, args)
    trained = run(args, ["train", *arguments], started)
    if trained.best is None:
        if trained.first:
            _report_stop(args, trained.folder)
        return 130
    if trained.first:
        _report_end(args, trained.folder, trained.best)
    return 0


def run(args: argparse.Namespace, words: list[str], started: float) -> Trained:
    """Train as the options say.

    words: the command line, which torchrun runs if several GPUs are to be used.
    started: when the command started (time.monotonic); `args.minutes` count from then.
    """
    from canthus.trainer.packs.pack import open_pack

    pack = open_pack(args.pack)
    try:
        import torch

        from canthus.trainer.train import train
    except ImportError as missing:
        raise not_installed("training", missing) from missing
    launched = torch.distributed.is_torchelastic_launched()
    first = not launched or os.environ["RANK"] == "0"
    folder, recipe_name, recipe = choose_recipe(args, pack, torch.cuda.is_available())
    if first and not args.resume:
        refuse_existing(folder, TRAINED_FILES, "--resume continues it, --overwrite replaces it", args.overwrite)
    if args.gpus and recipe.batch % args.gpus:
        raise InputError(f"a batch of {recipe.batch} cannot be split over {args.gpus} processes; change batch")
    if args.gpus and not launched:
        start_processes(words, args.gpus, torch.cuda.device_count())
    can_compile = _has_compiler()
    if first:
        print(f"{folder}: {recipe.network}, recipe {recipe_name}, {len(pack)} faces")
        _print_advice(pack, recipe, recipe_name, lacks_compiler=not (can_compile or args.no_compile))
    try:
        return Trained(folder, train(pack, recipe, folder, _options(args, started, can_compile)), first)
    except KeyboardInterrupt:
        return Trained(folder, None, first)


def _options(args: argparse.Namespace, started: float, can_compile: bool) -> "TrainOptions":
    from canthus.trainer.run import TrainOptions
    from canthus.trainer.time_limit import TimeLimit

    return TrainOptions(
        resume=args.resume,
        overwrite=args.overwrite,
        compile=can_compile and not args.no_compile,
        pretrained=args.pretrained,
        workers=args.workers,
        augment_on=args.augment_on,
        tensorboard=args.tensorboard,
        pad_channels=args.pad_channels,
        time_limit=TimeLimit(60 * args.minutes, started) if args.minutes else None,
    )


def _print_advice(pack: "Pack", recipe: "Recipe", recipe_name: str, lacks_compiler: bool) -> None:
    """Print why this run will be less accurate or slower than it could be."""
    if problem := _crop_problem(pack, recipe):
        print(f"{problem}; to make crops for it: canthus data prepare SET... -o PACK --recipe {recipe_name}")
    if lacks_compiler:
        print("training is slower without torch.compile; it needs a C++ compiler: g++, clang++, or the one in CXX")


def _report_stop(args: argparse.Namespace, folder: Path) -> None:
    saved = (folder / "last.safetensors").is_file()
    advice = f"; to continue: canthus train {_resume_arguments(args, folder)}" if saved else ", nothing was saved"
    print(f"\ncanthus train: stopped{advice}", file=sys.stderr)


def _report_end(args: argparse.Namespace, folder: Path, best: Path) -> None:
    weights = best.with_suffix(".safetensors")
    measure = shlex.join(["canthus", "eval", "--model", str(weights), "--data", "SET"])
    print(f"the best checkpoint: {weights}; to measure it: {measure}")
    if args.minutes:
        print(f"the time is up; to continue: canthus train {_resume_arguments(args, folder)}")


def check_args(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with an error message if options do not fit together."""
    if args.network and args.recipe:
        parser.error(
            "--recipe sets the network too; to change it: --set network=NAME (size and sigma stay those of the recipe)"
        )
    if args.resume and (args.network or args.recipe or args.settings or args.pretrained or args.overwrite):
        parser.error(
            "--resume uses the recipe of the run; leave out --network, --recipe, --set, --pretrained and --overwrite"
        )
    if args.workers is not None and args.workers < 0:
        parser.error("--workers must be at least 0")


def choose_recipe(args: argparse.Namespace, pack: "Pack", has_gpu: bool) -> "tuple[Path, str, Recipe]":
    """Return the folder of the run, the name or path of its recipe, and the recipe with the options applied."""
    from canthus.trainer.recipe import (
        SMALL_NETWORK,
        change,
        default_name,
        default_recipe,
        find_recipe,
        named_recipes,
    )

    network, points = args.network or ("hrnet_w18" if has_gpu or args.gpus else SMALL_NETWORK), pack.points.shape[1]
    name = args.recipe or default_name(network, points)
    folder = args.output or Path("runs", f"{args.pack.resolve().name}-{Path(name).stem}")
    if args.resume:
        if not (folder / "recipe.json").is_file():
            raise InputError(
                f"{folder}: not a run (expected recipe.json in it); name its folder with -o, or leave out --resume to "
                "start a run"
            )
        name = str(folder / "recipe.json")
    recipe = find_recipe(name) if args.recipe or args.resume else default_recipe(network, points)
    try:
        recipe = change(recipe, dict(args.settings))
    except InputError as wrong:
        raise UsageError(f"--set {wrong}") from wrong
    if recipe.held_out and not (args.resume or args.choose_on or "held_out" in dict(args.settings)):
        recipe = _fit_held_out(pack, recipe)
    if not (args.resume or args.minutes or "epochs" in dict(args.settings)) and name in named_recipes():
        recipe = _fit_epochs(pack, recipe)
    if args.teacher:
        if args.resume and not recipe.teacher:
            raise InputError(f"{folder}: this run has no teacher; resume it without --teacher")
        recipe = change(recipe, {"teacher": str(args.teacher.resolve())})
    if args.choose_on:
        if args.resume and recipe.held_out:
            raise InputError(
                f"{folder}: this run chooses its best checkpoint on held-out faces (held_out={recipe.held_out}); "
                "resume it without --choose-on"
            )
        recipe = change(recipe, {"choose_on": str(args.choose_on.resolve()), "held_out": 0})
    return folder, name, recipe


def _fit_held_out(pack: "Pack", recipe: "Recipe") -> "Recipe":
    """Return the recipe, with a smaller `held_out` if the pack has so few faces that it would hold out hardly any."""
    from canthus.trainer.faces.labelled import fitting_held_out
    from canthus.trainer.recipe import change

    every = fitting_held_out(pack.names, recipe.held_out)
    if every != recipe.held_out and os.environ.get("RANK", "0") == "0":
        print(f"one face in {every} is held out for validation, not one in {recipe.held_out}: the pack is small")
    return change(recipe, {"held_out": every})


def _fit_epochs(pack: "Pack", recipe: "Recipe") -> "Recipe":
    """Return the recipe, with more epochs if the pack has so few faces that it would do less than MIN_STEPS steps."""
    from canthus.trainer.faces.labelled import is_held_out
    from canthus.trainer.recipe import change

    faces = max(sum(not (recipe.held_out and is_held_out(name, recipe.held_out)) for name in pack.names), 1)
    epochs = float(math.ceil(MIN_STEPS * recipe.batch / faces))
    if epochs <= recipe.epochs:
        return recipe
    if os.environ.get("RANK", "0") == "0":
        print(f"{epochs:g} epochs ({MIN_STEPS} steps), not {recipe.epochs:g}: the pack is small (--set epochs=N)")
    return change(recipe, {"epochs": epochs, "milestones": [one * epochs / recipe.epochs for one in recipe.milestones]})


def _crop_problem(pack: "Pack", recipe: "Recipe") -> str:
    """Return what is wrong if the crops of the pack were made for a recipe with other needs; else nothing."""
    from canthus.trainer.packs.pack import PACK_MARGIN, packed_region

    side = pack.crops.shape[1]
    if side / PACK_MARGIN < recipe.size:
        return f"the crops of the pack ({side} px) are too small for the recipe ({recipe.size} px) and will be enlarged"
    sample = pack.points[:: max(len(pack) // 100, 1)]
    if statistics.median(packed_region(points, recipe.augmentation).side for points in sample) > 1.1 * side:
        return "the margin of the crops is too small for the rotation, scale and shift of the recipe"
    if recipe.augmentation.published and (share := _resampled_share(pack)) > 0.5:
        return f"{share:.0%} of the crops of the pack are not in the scale of their image, as the recipe expects"
    return ""


def _resampled_share(pack: "Pack") -> float:
    """Return the share of crops that are not copies of whole pixels of their images."""
    off = abs(pack.image_boxes + 0.5 - (pack.image_boxes + 0.5).round()).max(-1)
    return float((off > 0.01).mean())


def _resume_arguments(args: argparse.Namespace, folder: Path) -> str:
    """Return the arguments that resume a run, quoted for a shell: those that recipe.json does not hold."""
    words = [str(args.pack), "-o", str(folder), "--resume"]
    for name in ("gpus", "workers", "minutes"):
        if (value := getattr(args, name)) is not None:
            words += [f"--{name}", f"{value:g}"]
    for name in ("augment_on", "pad_channels"):
        words += [f"--{name.replace('_', '-')}", getattr(args, name)] if getattr(args, name) != "auto" else []
    words += [f"--{name.replace('_', '-')}" for name in ("tensorboard", "no_compile") if getattr(args, name)]
    return shlex.join(words)


def _has_compiler() -> bool:
    """Return whether there is a C++ compiler, which torch.compile needs."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++"))


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "train",
        command,
        "  canthus data prepare WFLW -o packs/wflw --recipe wflw-hrnet\n"
        "  canthus train packs/wflw --recipe wflw-hrnet --pretrained hrnet_w18.pth -o runs/first\n"
        "  canthus train packs/wflw -o runs/first --resume\n"
        "  canthus train packs/wflw --gpus 8 -o runs/many\n"
        "  canthus train packs/wflw --minutes 9 -o runs/pieces\n"
        "  canthus train packs/wflw --minutes 9 -o runs/pieces --resume\n"
        "  canthus train packs/wflw --recipe student --set batch=64 --set augmentation.blur_p=0\n"
        "  canthus train packs/wflw --recipe student --teacher runs/first/best.safetensors -o runs/small\n"
        "  torchrun --nproc-per-node 8 -m canthus.trainer.commands train packs/wflw\n"
        f"  sbatch {Path(__file__).parents[1] / 'slurm.sh'} train packs/wflw -o runs/first\n"
        "  canthus eval --model runs/first/best.safetensors --wflw WFLW\n",
    )
    add_options(parser, default_output="runs/PACK-RECIPE")
    parser.add_argument("--resume", action="store_true", help="continue the run in RUN, with its recipe")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in RUN")
    return parser
