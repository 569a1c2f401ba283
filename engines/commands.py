"""`canthus engine`: build, list, inspect, verify, measure and remove TensorRT engines."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

from canthus.runtime.engine_files import (
    FLAVOURS,
    EngineManifest,
    engine_folder,
    engine_path,
    find_mismatch,
    list_engines,
    read_engine,
    read_engine_manifest,
    remove_engines,
    remove_timings,
)
from canthus.runtime.errors import BackendError, EngineError, InputError
from canthus.runtime.models import find_gpu_model
from canthus.runtime.options import positive_int

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
MODEL_HELP = "name of an included model, or an .onnx file (default: the default model for GPUs)"

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
tolerance is not used by the other commands, and the exit code is 1.""",
        """examples:
  canthus engine verify KEY
  canthus engine verify KEY --checkpoint runs/student/best.safetensors --wflw WFLW
""",
    ),
    "bench": (
        "measure speed, memory and accuracy on this GPU and write a report",
        """Measure speed, memory and accuracy on this GPU and write a report.

Each installed flavour of TensorRT is measured, and PyTorch. The folder gets
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


def command(arguments: list[str]) -> int:
    """Build, list, inspect, verify, measure and remove TensorRT engines."""
    args = _parser().parse_args(arguments)
    match args.action:
        case "build":
            return _build(args)
        case "list":
            return _list(args)
        case "inspect":
            return _inspect(args)
        case "verify":
            return _verify(args)
        case "bench":
            return _bench(args)
        case _:
            return _remove(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="canthus engine",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EXAMPLES,
    )
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
        "--precision", choices=["fp16", "fp32"], default="fp16", help="type that the layers compute in (default: fp16)"
    )
    parser.add_argument(
        "--max-batch", type=int, default=16, metavar="N", help="largest number of faces at once (default: 16)"
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


def _build(args: argparse.Namespace) -> int:
    from canthus.engines.build import BuildOptions, build, engine_recipe, update_calibration
    from canthus.engines.verify import format_table, record_check, verify, why_not_runnable
    from canthus.runtime.models import read_manifest

    options = BuildOptions(
        model=args.model,
        flavour=None if args.flavour == "auto" else args.flavour,
        precision=args.precision,
        max_batch=args.max_batch,
        targets=args.target,
    )
    if args.output is None and not args.overwrite:
        model = read_manifest(find_gpu_model(options.model))
        cached = engine_path(engine_recipe(options, model))
        if cached.exists() and _state(cached) == "ready":
            update_calibration(cached, model)
            print(f"{cached}: built already; --overwrite builds it again")
            return 0
    engine = build(options, args.output, overwrite=args.overwrite or args.output is None, quiet=args.quiet)
    manifest = read_engine_manifest(engine)
    recipe = manifest.recipe
    print(
        f"{engine}: {Path(manifest.model).stem}, {recipe.flavour} {recipe.version}, {recipe.precision}, "
        f"up to {recipe.batch[2]} faces, for {recipe.gpu or ', '.join(recipe.targets)}, "
        f"{engine.stat().st_size / 1e6:.1f} MB"
    )
    reason = why_not_runnable(manifest)
    if reason:
        print(f"built but not run: {reason}")
        return 0
    rows = verify(engine)
    record_check(engine, rows)
    print(format_table(rows, manifest.size))
    return 0 if rows[-1].within_tolerance(manifest.size) else 1


def _state(engine: Path) -> str:
    """Return "ready" if the engine can run on this machine, else the reason why it cannot."""
    from canthus.runtime.backends.trt import capability_name, flavour_version
    from canthus.runtime.cuda.launch import find_gpu

    if not engine.with_suffix(".json").exists():
        return "no manifest"
    try:
        read_engine(engine)
        manifest = read_engine_manifest(engine)
    except EngineError:
        return "damaged"
    if not manifest.passed_check:
        return "beyond tolerance"
    recipe = manifest.recipe
    try:
        version = flavour_version(recipe.flavour)
    except BackendError:
        return f"{recipe.flavour} is not installed"
    gpu = find_gpu()
    reason = find_mismatch(recipe, version, gpu.name if gpu else "", capability_name(gpu) if gpu else "")
    return f"stale: {reason}" if reason else "ready"


class ListedEngine(NamedTuple):
    """An engine in the cache folder."""

    path: Path
    manifest: EngineManifest | None  # None if it is missing or damaged
    state: str


def _listed(engine: Path) -> ListedEngine:
    try:
        manifest: EngineManifest | None = read_engine_manifest(engine)
    except EngineError:
        manifest = None
    return ListedEngine(engine, manifest, _state(engine))


def _list(args: argparse.Namespace) -> int:
    found = [_listed(engine) for engine in list_engines()]
    if args.json:
        entries = [
            {"path": str(path), "state": state, "manifest": manifest and dataclasses.asdict(manifest)}
            for path, manifest, state in found
        ]
        print(json.dumps(entries, indent=2))
        return 0
    if not found:
        print(f"no engines in {engine_folder()}; `canthus engine build` builds one")
    for path, manifest, state in found:
        description = "?"
        if manifest is not None:
            recipe = manifest.recipe
            description = (
                f"{Path(manifest.model).stem}, {recipe.flavour} {recipe.version}, {recipe.precision}, "
                f"1-{recipe.batch[2]} faces, {recipe.gpu or ' '.join(recipe.targets)}, {manifest.built[:10]}"
            )
        print(f"{path.stem}  {path.stat().st_size / 1e6:5.1f} MB  {description}  [{state}]")
    return 0


def _inspect(args: argparse.Namespace) -> int:
    engine = _find(args.engine)
    data, manifest = read_engine(engine, args.trust)
    facts: dict[str, Any] = {"path": str(engine), "bytes": len(data), "state": _state(engine)}
    if manifest is not None:
        facts |= dataclasses.asdict(manifest)
    facts |= _read_back(engine, manifest, args.trust)
    if args.json:
        print(json.dumps(facts, indent=2))
        return 0
    recipe = facts.pop("recipe", {})
    for name, value in {**facts, **recipe}.items():
        match value:
            case dict():
                text = ", ".join(f"{key} {number}" for key, number in value.items())
            case list() | tuple():
                text = ", ".join(str(part) for part in value)
            case _:
                text = str(value)
        print(f"{name:<14} {text}")
    return 0


def _read_back(engine: Path, manifest: EngineManifest | None, trust: bool) -> dict[str, Any]:
    """Return what TensorRT reads in the engine file itself, or why it cannot be loaded here."""
    from canthus.engines.verify import why_not_runnable
    from canthus.runtime.backends.trt import Engine
    from canthus.runtime.cuda.launch import Cuda, find_gpu

    reason = why_not_runnable(manifest) if manifest else "" if find_gpu() else "no NVIDIA GPU on this machine"
    if reason:
        source = "; bindings and layers are from the manifest" if manifest else ""
        return {"read_back": f"no: {reason}{source}"}
    cuda = Cuda()
    try:
        opened = Engine(engine, cuda.gpu, trust)
        layers = json.loads(opened.describe_layers()).get("Layers", [])
        return {
            "read_back": f"crops {opened.size} px, {opened.points} points, 1 to {opened.max_batch} faces",
            "engine_layers": [layer if isinstance(layer, str) else layer.get("Name", "?") for layer in layers],
        }
    finally:
        cuda.close()


def _verify(args: argparse.Namespace) -> int:
    from canthus.engines.verify import format_table, record_check, verify

    engine = _find(args.engine)
    rows = verify(engine, args.checkpoint, args.wflw, args.limit)
    record_check(engine, rows)
    size = read_engine_manifest(engine).size
    print(format_table(rows, size))
    if args.wflw is None:
        print("compared on crops of the sample clip; --wflw DIR compares on labelled faces and computes the NME")
    return 0 if rows[-1].within_tolerance(size) else 1


def _bench(args: argparse.Namespace) -> int:
    from canthus.engines.gpu_bench import BenchOptions, bench

    options = BenchOptions(args.model, args.checkpoint, args.wflw, args.frames)
    print(bench(options, args.output, args.overwrite))
    return 0


def _remove(args: argparse.Namespace) -> int:
    if not (args.engines or args.stale or args.all):
        raise InputError("no engines given; name engines, or use --stale or --all")
    engines = [_find(name) for name in args.engines]
    if args.all:
        engines += list_engines()
    elif args.stale:
        engines += [engine for engine in list_engines() if _state(engine) != "ready"]
    engines = list(dict.fromkeys(engines))
    remove_engines(engines)
    if args.all:
        remove_timings()
    print(f"removed {len(engines)} engine{'' if len(engines) == 1 else 's'}")
    return 0


def _find(name: str) -> Path:
    """Return the engine with this file name, or whose key begins with `name`."""
    if name.endswith(".engine"):
        if not Path(name).is_file():
            raise EngineError(f"{name}: no such engine; `canthus engine list` shows the engines")
        return Path(name)
    found = [engine for engine in list_engines() if engine.stem.startswith(name)]
    if len(found) != 1:
        count = "no engine has" if not found else "several engines have"
        raise EngineError(f"{name}: {count} a key that begins with it; `canthus engine list` shows the keys")
    return found[0]
