"""`canthus train`, and what the trainer's commands share. Each imports what it needs when it runs."""

import argparse
import json
import os
import shlex
import shutil
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from canthus.runtime.errors import BackendError, InputError
from canthus.runtime.extras import install_command
from canthus.trainer.commands.shared import make_parser, refuse_existing, report_errors_once, start_processes

if TYPE_CHECKING:
    from canthus.trainer.packs.pack import Pack
    from canthus.trainer.recipe import Recipe

SAVED = ("log.csv", "best.safetensors", "last.safetensors")
"""What a run has as soon as it has something to lose."""


@report_errors_once()
def command(arguments: list[str]) -> int:
    """Train a network on a pack of faces; Ctrl-C saves, --resume goes on."""
    parser = _train_parser()
    args = parser.parse_args(arguments)
    if args.network and args.recipe:
        parser.error("--recipe tells the network; change it with --set network=...")
    if args.resume and (
        args.network or args.recipe or args.settings or args.teacher or args.pretrained or args.overwrite
    ):
        parser.error("--resume goes on with the run's own recipe; it takes no other")
    if (args.gpus is not None and args.gpus < 1) or (args.workers is not None and args.workers < 0):
        parser.error("--gpus must be at least 1, --workers at least 0")

    from canthus.trainer.packs.pack import open_pack
    from canthus.trainer.recipe import change, default_name, find_recipe

    faces = open_pack(args.pack)
    judged = open_pack(args.choose_on) if args.choose_on else None
    try:
        import torch

        from canthus.trainer.train import train as run
    except ImportError as missing:
        raise BackendError(
            f"training needs {missing.name}, which is not installed: {install_command('train')}"
        ) from missing
    launched = torch.distributed.is_torchelastic_launched()
    first = not launched or os.environ["RANK"] == "0"  # the others train along and say nothing
    network = args.network or ("hrnet_w18" if torch.cuda.is_available() or args.gpus else "student")
    name = args.recipe or default_name(network, faces.points.shape[1])
    folder = args.output or Path("runs", f"{args.pack.resolve().name}-{Path(name).stem}")
    name = str(folder / "recipe.json") if args.resume else name
    settings = dict(args.settings) | ({"teacher": str(args.teacher.resolve())} if args.teacher else {})
    recipe = change(find_recipe(name), settings)
    compiled = not args.no_compile and _has_compiler()
    if first and not args.resume:
        refuse_existing(folder, SAVED, "--resume goes on with it, --overwrite replaces it", args.overwrite)
    if args.gpus and recipe.batch % args.gpus:
        raise InputError(f"a batch of {recipe.batch} cannot be split over {args.gpus} processes; change batch")
    if args.gpus and not launched:
        start_processes(["train", *arguments], args.gpus, torch.cuda.device_count())
    if first:
        print(f"{folder}: {recipe.network}, recipe {name}, {len(faces)} faces")
        if lacking := _lacking(faces, recipe):
            print(f"{lacking}; crops for it: canthus data prepare SET... -o PACK --recipe {name}")
        if not (compiled or args.no_compile):
            print("slower without torch.compile, which needs a C++ compiler (g++ or clang++, or name it in CXX)")
    try:
        best = run(
            faces, recipe, folder, args.resume, args.overwrite,
            compiled=compiled, pretrained=args.pretrained, judged=judged, workers=args.workers,
            augment_on=args.augment_on, tensorboard=args.tensorboard,
        )  # fmt: skip
    except KeyboardInterrupt:
        saved = (folder / "last.safetensors").is_file()
        again = f"; go on with: canthus train {_going_on(args, folder)}" if saved else ", nothing was saved"
        if first:
            print(f"\ncanthus train: stopped{again}", file=sys.stderr)
        return 130
    if first:
        weights = best.with_suffix(".safetensors")
        measure = shlex.join(["canthus", "eval", "--model", str(weights), "--wflw", "WFLW"])
        print(f"the best checkpoint: {weights}; measure it: {measure}")
    return 0


def _lacking(faces: "Pack", recipe: "Recipe") -> str:
    """What the crops of a pack that was cut for another recipe lack; nothing where they do."""
    from canthus.trainer.packs.pack import PACK_MARGIN, packed_region

    side = faces.crops.shape[1]
    if side / PACK_MARGIN < recipe.size:
        return f"faces in its crops of {side} px are enlarged to the recipe's {recipe.size}"
    some = faces.points[:: max(len(faces) // 100, 1)]
    if statistics.median(packed_region(points, recipe.augmentation).side for points in some) > 1.1 * side:
        return "its crops end nearer to the faces than the recipe turns, scales and shifts them"
    return ""


def _going_on(args: argparse.Namespace, folder: Path) -> str:
    """The arguments that resume a run, as a shell takes them: those that its recipe does not hold were given before."""
    words = [str(args.pack), "-o", str(folder), "--resume"]
    for name in ("choose_on", "gpus", "workers"):
        if (value := getattr(args, name)) is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    words += ["--augment-on", args.augment_on] if args.augment_on != "auto" else []
    words += [f"--{name.replace('_', '-')}" for name in ("tensorboard", "no_compile") if getattr(args, name)]
    return shlex.join(words)


def _train_parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "train",
        command,
        "  canthus data prepare WFLW -o wflw --recipe wflw-hrnet\n"
        "  canthus train wflw --recipe wflw-hrnet --pretrained hrnet_w18.pth\n"
        "  canthus train wflw --gpus 8 -o runs/first\n"
        "  canthus train wflw -o runs/first --resume\n"
        "  canthus train wflw --recipe student --set batch=64 --set augmentation.blur_p=0\n"
        "  canthus train wflw --recipe student --teacher runs/first/best.safetensors -o runs/small\n"
        "  torchrun --nproc-per-node 8 -m canthus.trainer.commands train wflw\n"
        f"  sbatch {Path(__file__).parents[1] / 'slurm.sh'} train wflw -o runs/first\n"
        "  canthus eval --model runs/first/best.safetensors --wflw WFLW\n",
    )
    parser.add_argument("pack", type=Path, metavar="PACK", help="a folder that `canthus data prepare` wrote")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="RUN",
        help="gets recipe.json, log.csv, and the checkpoints best and last (default: runs/PACK-RECIPE)",
    )
    parser.add_argument(
        "--recipe",
        metavar="NAME|FILE",
        help="student, wflw-hrnet, wflw-published, cofw-hrnet, or a .toml or .json file, such as another run's "
        "(default: the HRNet recipe of the pack's points where there is a CUDA GPU, else student)",
    )
    parser.add_argument("--network", choices=("student", "hrnet_w18"), help="the network, with its default recipe")
    parser.add_argument(
        "--teacher", type=Path, metavar="CHECKPOINT", help="learn from this network's maps too, not from labels alone"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=_setting,
        metavar="NAME=VALUE",
        dest="settings",
        help="change one value of the recipe (RUN/recipe.json holds all names); may be given again",
    )
    parser.add_argument(
        "--pretrained",
        type=Path,
        metavar="FILE",
        help="start from these weights, such as ImageNet's HRNet-W18-C of its authors or of timm: .safetensors, or a "
        ".pth that holds weights alone",
    )
    parser.add_argument(
        "--choose-on",
        type=Path,
        metavar="PACK",
        help="choose the best checkpoint on this pack's faces, not on held-out ones; on a test set its figures flatter",
    )
    parser.add_argument(
        "--gpus",
        type=int,
        metavar="N",
        help="share each batch between N GPUs of this machine; with many of them raise batch and learning_rate (--set)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that make batches for each GPU (default: its share of the cores but one, at most 16; 0 = a "
        "thread, as on the CPU)",
    )
    parser.add_argument(
        "--augment-on",
        choices=("auto", "cpu", "device"),
        default="auto",
        help="where faces are changed at random: by those processes, or in batches on the device that trains "
        "(default: on the device where it is a GPU)",
    )
    parser.add_argument(
        "--no-compile", action="store_true", help="do without torch.compile: slower, but begins at once, everywhere"
    )
    parser.add_argument("--tensorboard", action="store_true", help="write events for TensorBoard into RUN too")
    parser.add_argument("--resume", action="store_true", help="go on where RUN was stopped, with its recipe")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing run")
    return parser


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _has_compiler() -> bool:
    """Can torch.compile build its kernels? Without a C++ compiler training is slower, and as right."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++"))
