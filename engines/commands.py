"""`canthus engine`: build engines, and say what there is and whether it holds."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from canthus.runtime.engine_files import (
    FLAVOURS,
    EngineManifest,
    engine_folder,
    engine_path,
    list_engines,
    misfit,
    read_engine,
    read_engine_manifest,
    remove_engines,
    remove_timings,
)
from canthus.runtime.errors import BackendError, EngineError, InputError
from canthus.runtime.models import find_gpu_model
from canthus.runtime.options import positive_int

EXAMPLES = """examples:
  canthus engine build                                  the default on a GPU
  canthus engine build --model student.onnx --flavour tensorrt-rtx --target sm86,sm89
  canthus engine list
  canthus engine verify KEY --checkpoint runs/student/best.safetensors --wflw WFLW
  canthus engine bench -o report --checkpoint runs/student/best.safetensors
  canthus engine remove --stale

ENGINE is a .engine file, or the key (or its beginning) that `canthus engine list` shows.
"""


def command(arguments: list[str]) -> int:
    """Build, list, inspect, verify, measure and remove TensorRT engines."""
    told = _parser().parse_args(arguments)
    match told.action:
        case "build":
            return _build(told)
        case "list":
            return _list(told)
        case "inspect":
            return _inspect(told)
        case "verify":
            return _verify(told)
        case "bench":
            return _bench(told)
        case _:
            return _remove(told)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="canthus engine",
        description=command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EXAMPLES,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, told: str) -> argparse.ArgumentParser:
        return actions.add_parser(
            name,
            help=told,
            description=f"{told[0].upper()}{told[1:]}.",
            formatter_class=parser.formatter_class,
            epilog=EXAMPLES,
        )

    build = action("build", "turn a model into an engine")
    build.add_argument("--model", metavar="M", help="a shipped model's name or a .onnx (default: the default on a GPU)")
    build.add_argument("--flavour", choices=["auto", *FLAVOURS], default="auto", help="default: what fits here")
    build.add_argument("--precision", choices=["fp16", "fp32"], default="fp16", help="of the network's body")
    build.add_argument("--max-batch", type=int, default=16, metavar="N", help="most faces at once (default 16)")
    build.add_argument(
        "--target",
        metavar="T",
        help="current, or compute capabilities: sm86,sm89 (default: all that the flavour can)",
    )
    build.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: the user's cache folder")
    build.add_argument("--overwrite", action="store_true", help="build anew what is there already")
    build.add_argument("--quiet", action="store_true", help="no progress bar")
    listing = action("list", "the engines in the cache folder")
    listing.add_argument("--json", action="store_true", help="for machines")
    inspect = action("inspect", "what an engine is: origin, bindings, profile, layers")
    inspect.add_argument("engine", metavar="ENGINE")
    inspect.add_argument("--json", action="store_true", help="for machines")
    inspect.add_argument(
        "--trust",
        action="store_true",
        help="take an engine without a manifest: it is native code, so only one that you built yourself",
    )
    verify = action("verify", "compare an engine's points with its model's")
    verify.add_argument("engine", metavar="ENGINE")
    verify.add_argument("--checkpoint", type=Path, metavar="C", help="compare with PyTorch in float32")
    verify.add_argument("--wflw", type=Path, metavar="DIR", help="labelled faces, for real crops and the NME")
    verify.add_argument("--limit", type=positive_int, default=64, metavar="N", help="faces of these (default 64)")
    bench = action("bench", "measure everything on the GPU at hand and write a report")
    bench.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="gets report.md and .json")
    bench.add_argument("--model", metavar="M", help="a shipped model's name or a .onnx (default: the default on a GPU)")
    bench.add_argument("--checkpoint", type=Path, metavar="C", help="the model's checkpoint, to compare with PyTorch")
    bench.add_argument("--wflw", type=Path, metavar="DIR", help="labelled faces, for the NME")
    bench.add_argument(
        "--frames", type=positive_int, default=10_000, metavar="N", help="of the long run (default 10000)"
    )
    bench.add_argument("--overwrite", action="store_true", help="replace a report that is there already")
    remove = action("remove", "delete engines and what lies beside them")
    remove.add_argument("engines", nargs="*", metavar="ENGINE")
    remove.add_argument("--stale", action="store_true", help="all that cannot run here any more")
    remove.add_argument("--all", action="store_true", help="all in the cache folder")
    return parser


def _build(told: argparse.Namespace) -> int:
    from canthus.engines.build import BuildOptions, build, engine_recipe, update_calibration
    from canthus.engines.verify import cannot_run, record, table, verify
    from canthus.runtime.models import read_manifest

    options = BuildOptions(
        model=told.model,
        flavour=None if told.flavour == "auto" else told.flavour,
        precision=told.precision,
        max_batch=told.max_batch,
        targets=told.target,
    )
    if told.output is None and not told.overwrite:
        model = read_manifest(find_gpu_model(options.model))
        kept = engine_path(engine_recipe(options, model))
        if kept.exists() and _state(kept) == "ready":
            update_calibration(kept, model)
            print(f"{kept}: built already")
            return 0
    engine = build(options, told.output, overwrite=told.overwrite or told.output is None, quiet=told.quiet)
    manifest = read_engine_manifest(engine)
    recipe = manifest.recipe
    print(
        f"{engine}: {Path(manifest.model).stem}, {recipe.flavour} {recipe.version}, {recipe.precision}, "
        f"up to {recipe.batch[2]} faces, for {recipe.gpu or ', '.join(recipe.targets)}, "
        f"{engine.stat().st_size / 1e6:.1f} MB"
    )
    why = cannot_run(manifest)
    if why:
        print(f"built, not run: {why}")
        return 0
    rows = verify(engine)
    record(engine, rows)
    print(table(rows, manifest.size))
    return 0 if all(row.holds(manifest.size) for row in rows[-1:]) else 1


def _state(engine: Path) -> str:
    """Whether an engine can run here: "ready", or what keeps it from that."""
    from canthus.runtime.backends.trt import capability_name, flavour_version
    from canthus.runtime.cuda.launch import find_gpu

    if not engine.with_suffix(".json").exists():
        return "no manifest"
    try:
        read_engine(engine)
        manifest = read_engine_manifest(engine)
        recipe = manifest.recipe
    except EngineError:
        return "damaged"
    if not manifest.holds:
        return "beyond tolerance"
    try:
        version = flavour_version(recipe.flavour)
    except BackendError:
        return f"{recipe.flavour} is not installed"
    gpu = find_gpu()
    why = misfit(recipe, version, gpu.name if gpu else "", capability_name(gpu) if gpu else "")
    return f"stale: {why}" if why else "ready"


def _list(told: argparse.Namespace) -> int:
    found = []
    for engine in list_engines():
        try:
            manifest: EngineManifest | None = read_engine_manifest(engine)
        except EngineError:
            manifest = None
        found.append((engine, manifest, _state(engine)))
    if told.json:
        facts = [
            {"path": str(engine), "state": state, "manifest": manifest and dataclasses.asdict(manifest)}
            for engine, manifest, state in found
        ]
        print(json.dumps(facts, indent=2))
        return 0
    if not found:
        print(f"no engines in {engine_folder()}; `canthus engine build` makes one")
    for engine, manifest, state in found:
        what = "?"
        if manifest is not None:
            recipe = manifest.recipe
            what = (
                f"{Path(manifest.model).stem}, {recipe.flavour} {recipe.version}, {recipe.precision}, "
                f"1-{recipe.batch[2]} faces, {recipe.gpu or ' '.join(recipe.targets)}, {manifest.built[:10]}"
            )
        print(f"{engine.stem}  {engine.stat().st_size / 1e6:5.1f} MB  {what}  [{state}]")
    return 0


def _inspect(told: argparse.Namespace) -> int:
    engine = _find(told.engine)
    data, manifest = read_engine(engine, told.trust)
    facts: dict[str, Any] = {"path": str(engine), "bytes": len(data), "state": _state(engine)}
    if manifest is not None:
        facts |= dataclasses.asdict(manifest)
    facts |= _read_back(engine, manifest, told.trust)
    if told.json:
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
    """What TensorRT itself reads in the engine, where a GPU lets it; else why not."""
    from canthus.engines.verify import cannot_run
    from canthus.runtime.backends.trt import Engine
    from canthus.runtime.cuda.launch import Cuda, find_gpu

    why = cannot_run(manifest) if manifest else "" if find_gpu() else "no NVIDIA GPU on this machine"
    if why:
        from_manifest = "; bindings and layers are those that it was built from" if manifest else ""
        return {"read_back": f"no: {why}{from_manifest}"}
    cuda = Cuda()
    try:
        opened = Engine(engine, cuda.gpu, trust)
        layers = json.loads(opened.describe_layers()).get("Layers", [])
        return {
            "read_back": f"crops {opened.size} px, {opened.points} points, 1 to {opened.most} faces",
            "engine_layers": [layer if isinstance(layer, str) else layer.get("Name", "?") for layer in layers],
        }
    finally:
        cuda.close()


def _verify(told: argparse.Namespace) -> int:
    from canthus.engines.verify import record, table, verify

    engine = _find(told.engine)
    rows = verify(engine, told.checkpoint, told.wflw, told.limit)
    record(engine, rows)
    size = read_engine_manifest(engine).size
    print(table(rows, size))
    if told.wflw is None:
        print("over crops of the sample portrait; --wflw DIR compares over labelled faces and tells the NME")
    return 0 if rows[-1].holds(size) else 1


def _bench(told: argparse.Namespace) -> int:
    from canthus.engines.gpu_bench import BenchOptions, bench

    print(bench(BenchOptions(told.model, told.checkpoint, told.wflw, told.frames), told.output, told.overwrite))
    return 0


def _remove(told: argparse.Namespace) -> int:
    if not (told.engines or told.stale or told.all):
        raise InputError("name engines to remove, or give --stale or --all")
    chosen = [_find(name) for name in told.engines]
    if told.all:
        chosen += list_engines()
    elif told.stale:
        chosen += [engine for engine in list_engines() if _state(engine) != "ready"]
    chosen = list(dict.fromkeys(chosen))
    remove_engines(chosen)
    if told.all:
        remove_timings()
    print(f"removed {len(chosen)} engine{'' if len(chosen) == 1 else 's'}")
    return 0


def _find(name: str) -> Path:
    """An engine by file or by the beginning of its key."""
    if name.endswith(".engine"):
        if not Path(name).is_file():
            raise EngineError(f"{name}: no such engine; `canthus engine list` shows which there are")
        return Path(name)
    found = [engine for engine in list_engines() if engine.stem.startswith(name)]
    if len(found) != 1:
        raise EngineError(
            f"{name}: {'no engine has' if not found else 'several engines have'} a key that begins so; "
            "`canthus engine list` shows them"
        )
    return found[0]
