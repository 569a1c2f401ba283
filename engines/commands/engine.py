"""`canthus engine`: build, list, inspect, verify, measure and remove TensorRT engines."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

from canthus.engines.commands.engine_options import engine_parser
from canthus.runtime.engine_files import (
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
from canthus.runtime.errors import BackendError, EngineError, UsageError


def command(arguments: list[str]) -> int:
    """Build, list, inspect, verify, measure and remove TensorRT engines."""
    args = engine_parser().parse_args(arguments)
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


def _build(args: argparse.Namespace) -> int:
    from canthus.engines.build import (
        BuildOptions,
        build,
        default_precision,
        engine_recipe,
        find_engine_model,
        update_calibration,
    )
    from canthus.engines.verify import format_table, record_check, verify, why_not_runnable
    from canthus.runtime.models import read_manifest

    options = BuildOptions(
        model=args.model,
        flavour=None if args.flavour == "auto" else args.flavour,
        precision=args.precision or default_precision(args.model),
        max_batch=args.max_batch,
        targets=args.target,
    )
    if args.output is None and not args.overwrite:
        model = read_manifest(find_engine_model(options.model, options.precision))
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
    fields: dict[str, Any] = {"path": str(engine), "bytes": len(data), "state": _state(engine)}
    if manifest is not None:
        fields |= dataclasses.asdict(manifest)
    fields |= _read_back(engine, manifest, args.trust)
    if args.json:
        print(json.dumps(fields, indent=2))
        return 0
    recipe = fields.pop("recipe", {})
    for name, value in {**fields, **recipe}.items():
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
        with cuda.active():
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
    if rows[-1].not_run:
        raise BackendError(f"{engine}: not verified, because it did not run: {rows[-1].not_run}")
    if args.wflw is None:
        print("compared on crops of the sample clip; --wflw DIR compares on labelled faces and computes the NME")
    return 0 if rows[-1].within_tolerance(size) else 1


def _bench(args: argparse.Namespace) -> int:
    from canthus.engines.gpu_bench import BenchOptions, bench

    options = BenchOptions(args.model, args.checkpoint, args.wflw, args.frames, minutes=args.minutes)
    print(bench(options, args.output, args.overwrite))
    return 0


def _remove(args: argparse.Namespace) -> int:
    if not (args.engines or args.stale or args.all):
        raise UsageError("no engines given; name engines, or use --stale or --all")
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
