"""The options of a training, which `canthus train` and `canthus train-session` share."""

import argparse
import json
from pathlib import Path
from typing import Any

from canthus.runtime.options import positive_int, positive_number


def add_options(parser: argparse.ArgumentParser, default_output: str | None = None) -> None:
    """Add the options of a training, without those that decide about an existing run.

    default_output: the folder of the run if -o is not given, for the help; None = -o must be given.
    """
    parser.add_argument("pack", type=Path, metavar="PACK", help="a folder that `canthus data prepare` wrote")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="RUN",
        required=default_output is None,
        help="the folder for recipe.json, log.csv and the checkpoints best and last"
        + (f" (default: {default_output})" if default_output else ""),
    )
    _add_what(parser)
    _add_how(parser)


def _add_what(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the recipe, and the weights and faces it starts from."""
    what = parser.add_argument_group("what to train")
    what.add_argument(
        "--recipe",
        metavar="NAME|FILE",
        help="cofw-hrnet, cofw-published, student, student-again, student-finish, wflw-hrnet, wflw-published, or a "
        ".toml or .json file, such as recipe.json of another run (default: the HRNet recipe for the number of points "
        "if there is a CUDA GPU, else student)",
    )
    what.add_argument(
        "--network",
        choices=("student", "student_stride8", "student_lean", "hrnet_w18"),
        help="train this network with its default recipe: that of fast in version 0.2.0, of fast and "
        "accurate, or of tiny, or HRNetV2-w18",
    )
    what.add_argument(
        "--set",
        action="append",
        default=[],
        type=_setting,
        metavar="NAME=VALUE",
        dest="settings",
        help="change one value of the recipe; recipe.json of any run lists the names; can be given several times",
    )
    what.add_argument(
        "--teacher",
        type=Path,
        metavar="CHECKPOINT",
        help="learn from the predictions of this network too (distillation), not only from the labels",
    )
    what.add_argument(
        "--pretrained",
        type=Path,
        metavar="FILE",
        help="start from these weights: an included model (tiny, fast, accurate), an exported model (.onnx), a "
        ".safetensors, or a .pth with weights only, such as HRNet-W18-C trained on ImageNet (of its authors or of "
        "timm). The model may have other points, and one student may start from another",
    )
    what.add_argument(
        "--choose-on",
        type=Path,
        metavar="PACK",
        help="choose the best checkpoint on the faces of this pack, and train on all faces of the first; recipe.json "
        "keeps it for --resume. If it is a test set, results on that test set are too optimistic",
    )


def _add_how(parser: argparse.ArgumentParser) -> None:
    """Add the options that change how a run is carried out, not what is trained."""
    how = parser.add_argument_group("how to train")
    how.add_argument(
        "--minutes",
        type=positive_number,
        metavar="N",
        help="end within N minutes instead of after the epochs of the recipe; the learning rate goes through its whole "
        "schedule in this time. --resume, on any machine, goes on for as long again",
    )
    how.add_argument(
        "--gpus",
        type=positive_int,
        metavar="N",
        help="split each batch over N GPUs of this machine; with many of them use a larger batch and learning_rate "
        "(--set)",
    )
    how.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="worker processes that make batches, per GPU; 0 = a thread (default: the share of each GPU in the CPU "
        "cores less one, at most 16; without a GPU 0)",
    )
    how.add_argument(
        "--augment-on",
        choices=("auto", "cpu", "device"),
        default="auto",
        help="augment faces in the workers (cpu) or in batches on the device that trains (default: on the device if "
        "it is a GPU)",
    )
    how.add_argument(
        "--pad-channels",
        choices=("auto", "on", "off"),
        default="auto",
        help="train HRNet with widths padded to multiples of eight, which GPUs compute faster; checkpoints do not "
        "change (default: on a GPU with precision=bf16)",
    )
    how.add_argument(
        "--no-compile",
        action="store_true",
        help="do not use torch.compile (on a CPU it compiles the loss only): starts faster, trains slower",
    )
    how.add_argument("--tensorboard", action="store_true", help="write TensorBoard events into RUN too")


def _setting(text: str) -> tuple[str, Any]:
    """Parse NAME=VALUE; the value is JSON, or else a string."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
