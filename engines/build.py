"""ONNX -> TensorRT engine, in either flavour.

`tensorrt` builds for the GPU at hand. `tensorrt-rtx` needs no GPU to build and makes one engine for many:
kernels are compiled where it first runs.
"""

import dataclasses
import datetime
import re
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from tqdm import tqdm

from canthus.engines.graph import Precision, decode_maps, engine_graph
from canthus.runtime.backends.trt import (
    capability_name,
    flavour_for_here,
    flavour_version,
    last_words,
    load_flavour,
    quiet_log,
    rtx_targets,
)
from canthus.runtime.cuda.launch import find_gpu
from canthus.runtime.engine_files import (
    EngineManifest,
    EngineRecipe,
    Flavour,
    engine_path,
    keep_cache,
    read_engine_manifest,
    timings_path,
)
from canthus.runtime.errors import BackendError, EngineError, InputError
from canthus.runtime.models import Manifest, find_gpu_model, read_manifest, sha256, shipped_models

USUAL_BATCH = 4
"""Faces that an engine is tuned for, where it takes so many."""

DRAFTS = ".canthus-"
"""How the name of a folder begins that a build works in."""

GRAPH_SHIFT = 0.05
"""Crop pixels that the median point may move by what `engine_graph` does to the model."""


@dataclass(frozen=True)
class BuildOptions:
    """What engine is wanted."""

    model: str | None = None  # a shipped model's name or a path; None = the default
    flavour: Flavour | None = None  # None = what is installed and fits
    precision: Precision = "fp16"
    max_batch: int = 16
    targets: str | None = None  # "current" or "sm86,sm89"; None = all that the flavour can


def build(options: BuildOptions, output: Path | None = None, overwrite: bool = False, quiet: bool = False) -> Path:
    """Build an engine and its manifest; returns where it lies: `output`, or the user's cache folder.

    An engine that is in the cache already is built anew only with `overwrite`; else it takes over its model's
    calibration. A build that is interrupted leaves nothing behind.
    """
    model = find_gpu_model(options.model)
    manifest = read_manifest(model)
    recipe = engine_recipe(options, manifest)
    engine = output or engine_path(recipe)
    if engine.suffix != ".engine":
        raise InputError(f"{engine}: an engine's name ends in .engine")
    if output is not None and engine.with_suffix(".json").exists() and not engine.exists():
        raise InputError(f"{engine}: {engine.stem}.json beside it belongs to another file; choose another name")
    if engine.exists() and not overwrite:
        if output is None:
            update_calibration(engine, manifest)
            return engine
        raise InputError(f"{engine}: exists already; give --overwrite to replace it")
    if output is None:
        engine.parent.mkdir(parents=True, exist_ok=True)
    elif not engine.parent.is_dir():
        raise InputError(f"{engine.parent}: no such folder")
    _sweep(engine.parent)
    graph = engine_graph(model, options.precision)
    with tempfile.TemporaryDirectory(dir=engine.parent, prefix=DRAFTS) as folder:
        draft = Path(folder) / engine.name
        check = _check_graph(model, graph, options.precision, manifest, draft.with_suffix(".onnx"))
        data, bindings, layers = compile_network(graph, recipe, manifest, quiet)
        draft.write_bytes(data)
        made = EngineManifest(
            sha256=sha256(draft),
            recipe=recipe,
            model=model.stem if model in shipped_models().values() else str(model.resolve()),
            size=manifest.size,
            points=manifest.points,
            stride=manifest.stride,
            built=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            bindings=bindings,
            layers=layers,
            check=check,
            calibration=manifest.calibration,
        )
        made.write(draft)
        # The manifest first: an engine that has none is refused, one that stands for another engine too.
        draft.with_suffix(".json").replace(engine.with_suffix(".json"))
        draft.replace(engine)
        engine.with_suffix(".runtime").unlink(missing_ok=True)
    return engine


def update_calibration(engine: Path, model: Manifest) -> None:
    """Write its model's calibration into an engine's manifest: it may be newer, as it does not change the name."""
    former = read_engine_manifest(engine)
    if former.calibration != model.calibration:
        dataclasses.replace(former, calibration=model.calibration).write(engine)


def _sweep(folder: Path) -> None:
    """Delete what builds that were killed left behind, a day later: no build takes so long."""
    for draft in folder.glob(f"{DRAFTS}*"):
        if time.time() - draft.stat().st_mtime > 24 * 3600:
            shutil.rmtree(draft, ignore_errors=True)


def engine_recipe(options: BuildOptions, manifest: Manifest) -> EngineRecipe:
    """What options come to on this machine."""
    if not 1 <= options.max_batch <= 256:
        raise InputError(f"--max-batch {options.max_batch}: from 1 to 256")
    flavour = options.flavour or flavour_for_here()
    return EngineRecipe(
        model_sha256=manifest.sha256,
        flavour=flavour,
        version=flavour_version(flavour),
        gpu=_gpu_name(flavour),
        targets=_targets(flavour, options.targets),
        precision=options.precision,
        batch=(1, min(USUAL_BATCH, options.max_batch), options.max_batch),
    )


def _gpu_name(flavour: Flavour) -> str:
    if flavour == "tensorrt-rtx":
        return ""
    gpu = find_gpu()
    if gpu is None:
        raise BackendError(
            "tensorrt builds on the GPU that is to run the engine, and none is here; "
            "--flavour tensorrt-rtx builds anywhere"
        )
    return gpu.name


def _targets(flavour: Flavour, told: str | None) -> tuple[str, ...]:
    gpu = find_gpu()
    if flavour == "tensorrt" or told == "current":
        if gpu is None:
            raise BackendError("--target current: no NVIDIA GPU is here; name targets, as in --target sm86,sm89")
        here = capability_name(gpu)
        if told not in (None, "current", here):
            raise InputError(f"--target {told}: tensorrt builds for the GPU at hand, {here}")
        if flavour == "tensorrt":
            return (here,)
        told = here
    possible = rtx_targets()
    chosen = possible if told is None else tuple(re.split(r"[,\s]+", told.strip().lower()))
    strange = [name for name in chosen if name not in possible]
    if strange:
        raise InputError(f"--target {', '.join(strange)}: {flavour} builds for {', '.join(possible)}")
    return tuple(name for name in possible if name in chosen)


def _check_graph(model: Path, graph: bytes, precision: Precision, manifest: Manifest, draft: Path) -> dict[str, Any]:
    """Run the graph that TensorRT will get beside the model, on the CPU; EngineError when points move."""
    from canthus.engines.export import synthetic_crops
    from canthus.runtime.backends.cpu import run_exactly

    crops = synthetic_crops(4, manifest.size)
    draft.write_bytes(graph)
    (maps,) = run_exactly(draft, crops)
    points = decode_maps(maps, manifest)[0]
    whole = run_exactly(model, crops)
    wanted = whole[0] if len(whole) == 2 else decode_maps(whole[0], manifest)[0]
    shift = np.linalg.norm(points - wanted, axis=-1)
    if not np.median(shift) <= GRAPH_SHIFT:  # so that NaN is refused too
        raise EngineError(
            f"{model}: in {precision} its points move by {np.median(shift):.2g} crop pixels at the median, "
            f"{GRAPH_SHIFT:g} is allowed; build with another --precision"
        )
    return {"graph_median_shift": float(np.median(shift)), "graph_mean_shift": float(shift.mean())}


def compile_network(
    graph: bytes, recipe: EngineRecipe, manifest: Manifest, quiet: bool
) -> tuple[bytes, tuple[str, ...], dict[str, int]]:
    """A graph through TensorRT: the engine's bytes, its bindings in words, and the network's layers by kind."""
    trt = load_flavour(recipe.flavour)
    log = quiet_log(trt)
    try:
        builder = trt.Builder(log)
    except TypeError as refused:  # how TensorRT says that CUDA does not start
        raise BackendError(f"{recipe.flavour} does not start: {last_words(log)}") from refused
    # Strongly typed: what `engine_graph` settled stands. TensorRT 11 knows nothing else and has no flag for it.
    flags = trt.NetworkDefinitionCreationFlag.__members__
    network = builder.create_network(1 << int(flags["STRONGLY_TYPED"]) if "STRONGLY_TYPED" in flags else 0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(graph):
        words = "; ".join(parser.get_error(place).desc() for place in range(parser.num_errors))
        raise EngineError(f"{recipe.flavour} cannot read the model: {words}")
    settings = builder.create_builder_config()
    settings.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    profile = builder.create_optimization_profile()
    profile.set_shape("crops", *((faces, manifest.size, manifest.size, 3) for faces in recipe.batch))
    settings.add_optimization_profile(profile)
    timings: Path | None = None
    if recipe.flavour == "tensorrt-rtx":
        settings.num_compute_capabilities = len(recipe.targets)
        for place, target in enumerate(recipe.targets):
            settings.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), place)
    else:
        timings = timings_path(recipe.flavour, recipe.version, recipe.gpu)
        timings.parent.mkdir(parents=True, exist_ok=True)
        for known in (timings.read_bytes() if timings.is_file() else b"", b""):  # a damaged one is made anew
            cache = settings.create_timing_cache(known)
            if cache is not None and settings.set_timing_cache(cache, False):
                break
    monitor = _monitor(trt, quiet)
    settings.progress_monitor = monitor
    try:
        built = builder.build_serialized_network(network, settings)
    finally:
        monitor.bar.close()
    if monitor.stopped:
        raise KeyboardInterrupt
    if built is None:
        raise EngineError(f"{recipe.flavour} could not build the engine: {last_words(log)}")
    if timings is not None and (cache := settings.get_timing_cache()) is not None:
        keep_cache(timings, bytes(cache.serialize()))
    ends = [
        *(network.get_input(place) for place in range(network.num_inputs)),
        *(network.get_output(place) for place in range(network.num_outputs)),
    ]
    bindings = tuple(f"{end.name}: {_kind(end.dtype)} {_shape(end.shape)}" for end in ends)
    kinds = Counter(network.get_layer(place).type.name.lower() for place in range(network.num_layers))
    return bytes(built), bindings, dict(kinds.most_common())


def _kind(kind: Any) -> str:
    name = str(kind.name)
    return {"FLOAT": "float32", "HALF": "float16"}.get(name, name.lower())


def _shape(shape: Any) -> str:
    return "(" + ", ".join("N" if size < 0 else str(size) for size in shape) + ")"


def _monitor(trt: ModuleType, quiet: bool) -> Any:
    """TensorRT's progress as a bar, and Ctrl-C as its way to stop."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stopped = False
            self.bar = tqdm(total=0, desc="building", unit="step", disable=quiet or None, leave=False)

        def phase_start(self, name: str, _parent: str | None, steps: int) -> None:
            self.bar.total += steps
            self.bar.set_postfix_str(name.lower(), refresh=True)

        def phase_finish(self, _name: str) -> None:
            pass

        def step_complete(self, _name: str, _step: int) -> bool:
            try:
                self.bar.update()
            except KeyboardInterrupt:  # raised wherever Python runs; TensorRT wants to be told
                self.stopped = True
            return not self.stopped

    return Monitor()
