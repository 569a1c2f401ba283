"""The options that every command with a landmarker shares."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from canthus.runtime.pipeline import Settings


def add_landmarking(parser: argparse.ArgumentParser, max_faces: int = 8, moving: bool = True) -> None:
    """Add --model, --cpu, --detector-model, --max-faces and, where faces move, --no-smoothing."""
    parser.add_argument("--model", help="a shipped model's name (see `canthus doctor`) or a file")
    parser.add_argument("--cpu", action="store_true", help="leave an NVIDIA GPU to others")
    parser.add_argument("--detector-model", type=Path, metavar="PATH", help="a face detector of your own (.tflite)")
    parser.add_argument(
        "--max-faces",
        type=positive,
        default=max_faces,
        metavar="N",
        help="how many faces (default: %(default)s)",
    )
    parser.set_defaults(no_smoothing=not moving)
    if moving:
        parser.add_argument("--no-smoothing", action="store_true", help="give points as measured, frame by frame")


def settings_from_args(chosen: argparse.Namespace) -> "Settings":
    """The settings that the parsed options ask for."""
    from canthus.runtime.pipeline import Settings

    return Settings(
        model=chosen.model,
        detector_model=chosen.detector_model,
        max_faces=chosen.max_faces,
        smoothing=not chosen.no_smoothing,
        gpu=not chosen.cpu,
    )


def positive(text: str) -> int:
    """An option's number, which is at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)
