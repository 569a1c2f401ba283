"""`canthus export`: export a checkpoint to ONNX, in float or in 8 bits."""

import argparse
from pathlib import Path

from canthus.engines.export import export
from canthus.runtime.calibration import IDENTITY
from canthus.runtime.models import PRECISIONS, Manifest
from canthus.runtime.options import command_parser, positive_int

DESCRIPTION = """Export a trained checkpoint to an ONNX model that every command can run, in float or in 8 bits.

The exported model is compared with PyTorch before it is written.

With --precision int8, an 8-bit version NAME.int8.onnx is written beside the
model NAME.onnx. On most CPUs it takes about half the time, and the other
commands use it there. It is refused if it is less accurate on faces of the
pack that are held out."""

EXAMPLES = """examples:
  canthus export runs/student/best.safetensors -o student.onnx --half
  canthus export student.onnx --precision int8 --calibrate packs/wflw      write student.int8.onnx
  canthus video clip.mp4 -o out.mp4 --model student.onnx
"""


def command(arguments: list[str]) -> int:
    """Export a trained checkpoint to an ONNX model that every command can run, in float or in 8 bits."""
    parser = _parser()
    args = parser.parse_args(arguments)
    _check_args(parser, args)
    model: Path = args.output or args.input
    if args.output:
        _print_export(args, export(args.input, model, maps=args.maps, half=args.half, overwrite=args.overwrite))
    if args.precision == "int8":
        from canthus.engines.quantize import QuantizeOptions, quantize

        options = QuantizeOptions(args.calibrate, args.crops, args.held_out, args.force)
        print(quantize(model, options, args.overwrite))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("canthus export", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "input", type=Path, metavar="CHECKPOINT",
        help="checkpoint of a run (.safetensors), or for --precision int8 also an exported model (.onnx)",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", type=Path, metavar="MODEL.onnx",
        help="model to write, if CHECKPOINT is no model; its manifest MODEL.json is written beside it",
    )  # fmt: skip
    parser.add_argument("--maps", action="store_true", help="leave out the decode and output the raw maps")
    parser.add_argument("--half", action="store_true", help="store the weights as fp16: half the file size")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing model and its manifest")
    int8 = parser.add_argument_group("8 bits")
    int8.add_argument(
        "--precision", choices=PRECISIONS, default="float", help="int8: write an 8-bit version too (default: float)"
    )
    int8.add_argument(
        "--calibrate", type=Path, metavar="PACK", help="pack of training faces, from `canthus data prepare`"
    )
    int8.add_argument(
        "--crops", type=positive_int, default=300, metavar="N", help="training faces to calibrate on (default: 300)"
    )
    int8.add_argument(
        "--held-out", type=positive_int, metavar="N",
        help="the recipe's held_out: one face in N is measured, not calibrated on (default: as in the recipe, or 32)",
    )  # fmt: skip
    int8.add_argument(
        "--force",
        action="store_true",
        help="write the 8-bit version even if its NME rises by more than 0.5 %% of itself",
    )
    return parser


def _check_args(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with an error message if options do not fit together."""
    if args.precision == "int8":
        if args.calibrate is None:
            parser.error("--precision int8 needs faces to calibrate on: --calibrate PACK")
        if args.maps:
            parser.error("--maps: a model without a decode cannot be compared on faces; leave out --maps")
    elif args.calibrate or args.held_out or args.force:
        parser.error("--calibrate, --held-out and --force are for --precision int8")
    if args.input.suffix == ".onnx":
        if args.precision != "int8":
            parser.error(f"{args.input}: is exported already; --precision int8 makes its 8-bit version")
        if args.output or args.half:
            parser.error(f"-o and --half are for checkpoints; the 8-bit version is written beside {args.input}")
    elif args.output is None:
        parser.error("the following arguments are required: -o/--output")


def _print_export(args: argparse.Namespace, manifest: Manifest) -> None:
    figures = manifest.figures["export"]
    unit = "map units" if args.maps else "crop pixels"
    print(
        f"{args.output}: {manifest.network}, {manifest.size} px, {manifest.points} points, "
        f"{args.output.stat().st_size / 1e6:.1f} MB\n"
        f"difference to PyTorch: median {figures['median']:.1g} {unit}, "
        f"{figures['agreeing']:.1%} within {figures['tolerance']:g}"
    )
    if manifest.calibration == IDENTITY:
        print(
            "the scores are not calibrated: the checkpoint has no calibration. To add one, run this and export again: "
            f"canthus data calibrate {args.input} PACK"
        )
