"""The options and help texts of `canthus engine`."""

import argparse
from pathlib import Path

from canthus.runtime.engine_files import FLAVOURS
from canthus.runtime.options import command_parser, positive_int

DESCRIPTION = """Build, list, inspect, verify, measure and remove TensorRT engines.

An engine is a model compiled for one kind of NVIDIA GPU and one version of
TensorRT. The other commands build the engine that they need in the background
when they first run on a GPU. Use this command to build it beforehand, for
another model or another GPU, and to check its accuracy and speed."""

EXAMPLES = """examples:
  canthus engine build            build the engine of the default model for GPUs
  canthus engine list             show the engines in the cache with their keys
  canthus engine verify KEY       compare an engine with its model
  canthus engine remove --stale   delete engines that cannot run here any more

`canthus engine ACTION --help` shows the options and examples of an action.
"""

ENGINE_HELP = "a .engine file, or the key of an engine in the cache; the first characters of the key are enough"
MODEL_HELP = "name of an included model, or an .onnx file (default: accurate)"

ACTIONS = {
    "build": (
        "build an engine from a model",
        """Build an engine from a model.

The engine is written to the user's cache folder, where the other commands find
it, or to the file of -o. A build takes from some seconds to some minutes. If
the GPU is present, the engine is then run and compared with the model.""",
        """examples:
  canthus engine build
  canthus engine build --model student.onnx --flavour tensorrt-rtx --target sm86,sm89
  canthus engine build --precision fp32 -o student.engine --model student.onnx
""",
    ),
    "list": (
        "list the engines in the cache folder",
        """List the engines in the cache folder, the newest first.

Each line shows the key, size, model, flavour and version of TensorRT,
precision, number of faces, GPU or targets, date and state. The state is one of:
  ready              fits this machine
  stale: REASON      built for another GPU or another version of TensorRT
  beyond tolerance   its points differ too much from those of its model
  damaged            the file has changed since it was built
  no manifest        the .json file beside the engine is missing
  ... not installed  the flavour of TensorRT that runs it is not installed""",
        """examples:
  canthus engine list
  canthus engine list --json
""",
    ),
    "inspect": (
        "show what an engine was built from, its inputs, outputs and layers",
        """Show what an engine was built from, its inputs, outputs and layers.

On a machine that can run the engine, they are read from the engine itself, and
otherwise from its manifest.""",
        """examples:
  canthus engine inspect KEY
  canthus engine inspect student.engine --json
""",
    ),
    "verify": (
        "compare the points of an engine with those of its model",
        """Compare the points of an engine with those of its model, on the same crops.

The table shows how far the points are from those of the reference, in crop
pixels (mean, 99th percentile, maximum): for the ONNX model, for the graph that
TensorRT gets, and for the engine. With labelled faces it shows the NME too.

The result is written into the manifest of the engine. An engine beyond the
tolerance is not used by the other commands, and the exit code is 1. It is also 1
if this machine cannot run the engine: then only its graph was compared.""",
        """examples:
  canthus engine verify KEY
  canthus engine verify KEY --checkpoint runs/student/best.safetensors --wflw WFLW
""",
    ),
    "bench": (
        "measure speed, memory and accuracy on this GPU and write a report",
        """Measure speed, memory and accuracy on this GPU and write a report.

Each installed flavour of TensorRT is measured, and PyTorch: as the backend runs
it where no TensorRT supports the GPU, eager and compiled. The folder gets
report.md for people and report.json for programs. Both are updated after each
measurement, so a crash loses only the current one.""",
        """examples:
  canthus engine bench -o report
  canthus engine bench -o report --checkpoint runs/student/best.safetensors --wflw WFLW
""",
    ),
    "remove": (
        "delete engines with their manifests and kernel caches",
        "Delete engines with their manifests and kernel caches.",
        """examples:
  canthus engine remove KEY
  canthus engine remove --stale
  canthus engine remove --all
""",
    ),
}
"""Name -> line in the list of actions, description, examples."""


def engine_parser() -> argparse.ArgumentParser:
    """Return the parser of `canthus engine` and its actions."""
    parser = command_parser("canthus engine", DESCRIPTION, EXAMPLES)
    actions = parser.add_subparsers(title="actions", dest="action", required=True, metavar="ACTION")
    parsers = {
        name: actions.add_parser(
            name,
            help=summary,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog=examples,
        )
        for name, (summary, description, examples) in ACTIONS.items()
    }
    _add_build_options(parsers["build"])
    parsers["list"].add_argument("--json", action="store_true", help="print JSON")
    inspect = parsers["inspect"]
    inspect.add_argument("engine", metavar="ENGINE", help=ENGINE_HELP)
    inspect.add_argument("--json", action="store_true", help="print JSON")
    inspect.add_argument(
        "--trust",
        action="store_true",
        help="load an engine that has no manifest. An engine is native code: use this only if you built it yourself",
    )
    verify = parsers["verify"]
    verify.add_argument("engine", metavar="ENGINE", help=ENGINE_HELP)
    verify.add_argument("--checkpoint", type=Path, metavar="C", help="compare with this checkpoint in PyTorch, float32")
    verify.add_argument("--wflw", type=Path, metavar="DIR", help="labelled faces (WFLW or a shard), to compute the NME")
    verify.add_argument(
        "--limit", type=positive_int, default=64, metavar="N", help="number of labelled faces (default: 64)"
    )
    bench = parsers["bench"]
    bench.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="folder for the report")
    bench.add_argument("--model", metavar="M", help=MODEL_HELP)
    bench.add_argument("--checkpoint", type=Path, metavar="C", help="checkpoint of the model, to compare with PyTorch")
    bench.add_argument("--wflw", type=Path, metavar="DIR", help="labelled faces (WFLW or a shard), to compute the NME")
    bench.add_argument(
        "--frames", type=positive_int, default=10_000, metavar="N", help="frames of the memory test (default: 10000)"
    )
    bench.add_argument(
        "--minutes",
        type=positive_int,
        default=6,
        metavar="N",
        help="leave out measurements that would not end within N minutes (default: 6)",
    )
    bench.add_argument("--overwrite", action="store_true", help="replace an existing report")
    remove = parsers["remove"]
    remove.add_argument("engines", nargs="*", metavar="ENGINE", help=ENGINE_HELP)
    remove.add_argument("--stale", action="store_true", help="delete all engines that cannot run on this machine")
    remove.add_argument("--all", action="store_true", help="delete everything in the cache folder of engines")
    return parser


def _add_build_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="M", help=MODEL_HELP)
    parser.add_argument(
        "--flavour",
        choices=["auto", *FLAVOURS],
        default="auto",
        help="tensorrt builds for the GPU of this machine; tensorrt-rtx builds without a GPU, for GeForce and RTX "
        "cards; auto (the default) takes an installed one that supports this GPU",
    )
    parser.add_argument(
        "--precision",
        choices=["fp16", "fp32", "int8"],
        help="type that the layers compute in; int8 needs the 8-bit version of the model (default: int8 for a file of "
        "an 8-bit version, else fp16)",
    )
    parser.add_argument(
        "--max-batch", type=positive_int, default=16, metavar="N", help="largest number of faces at once (default: 16)"
    )
    parser.add_argument(
        "--target",
        metavar="T",
        help="compute capabilities to build for, such as sm86,sm89, or `current` for this GPU "
        "(default: all that the flavour supports)",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help=".engine file to write (default: in the cache folder)"
    )
    parser.add_argument("--overwrite", action="store_true", help="build again if the engine exists")
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")
