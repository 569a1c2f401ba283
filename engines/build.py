"""Build a TensorRT engine from an ONNX model, with one of the two flavours of TensorRT.

`tensorrt` builds for the GPU of this machine. `tensorrt-rtx` needs no GPU to build. Its engine runs on many GPUs: the
kernels are compiled on the GPU where the engine runs first.
"""

import dataclasses
import datetime
import re
import shutil
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from canthus.engines.graph import Precision, decode_maps, engine_graph
from canthus.engines.progress import show_steps
from canthus.runtime.backends.trt import (
    capability_name,
    flavour_version,
    last_error,
    load_flavour,
    make_logger,
    rtx_targets,
    select_flavour,
)
from canthus.runtime.cuda.launch import find_gpu
from canthus.runtime.engine_files import (
    EngineManifest,
    EngineRecipe,
    Flavour,
    engine_path,
    read_engine_manifest,
    timings_path,
    write_cache,
)
from canthus.runtime.errors import BackendError, EngineError, InputError, ModelError, UsageError
from canthus.runtime.files import DRAFT_PREFIX, Draft
from canthus.runtime.models import (
    Manifest,
    find_gpu_model,
    find_precision,
    included_models,
    int8_path,
    parse_manifest,
    read_manifest,
    sha256,
)

OPTIMAL_BATCH = 4
"""Number of faces that TensorRT optimizes the kernels for, if the engine accepts so many."""

MAX_BATCH = 256

ABANDONED_SECONDS = 24 * 3600
"""A temporary folder of this age belongs to a build that was killed: no build takes so long."""

GRAPH_SHIFT = 0.05
"""Largest allowed median shift of the points by `engine_graph`, crop pixels, on crops of the sample clip."""
INT8_GRAPH_SHIFT = 0.25
"""The same in 8 bits. The points of `fast` moved by 0.05 pixels."""


@dataclass(frozen=True)
class BuildOptions:
    """Which engine to build."""

    model: str | None = None  # name of an included model or a path; None = the default model for GPUs
    flavour: Flavour | None = None  # None = an installed flavour that supports this GPU
    precision: Precision = "fp16"
    max_batch: int = 16  # faces
    targets: str | None = None  # "current" or "sm86,sm89"; None = all that the flavour supports


class CompiledEngine(NamedTuple):
    """The result of TensorRT's builder."""

    data: bytes
    bindings: tuple[str, ...]  # "crops: uint8 (N, 128, 128, 3)"
    layers: dict[str, int]  # how often each type of layer occurs


def build(options: BuildOptions, output: Path | None = None, overwrite: bool = False, quiet: bool = False) -> Path:
    """Build an engine with its manifest and return its path.

    output: the .engine file; None = the user's cache folder. An engine that is in the cache already is returned
    without a build, after its calibration is updated from the model's.
    overwrite: build again and replace the engine.
    quiet: show no progress bar.

    Raises InputError for options that cannot be satisfied, BackendError if TensorRT or a GPU is missing, EngineError if
    TensorRT refuses the model. An interrupted build leaves no files behind.
    """
    model = find_engine_model(options.model, options.precision)
    manifest = read_manifest(model)
    _check_decode(model, manifest)
    recipe = engine_recipe(options, manifest)
    engine = output or engine_path(recipe)
    if output is not None:
        _check_output(output, overwrite)
    elif engine.exists() and not overwrite:
        update_calibration(engine, manifest)
        return engine
    else:
        engine.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned_builds(engine.parent)
    # The manifest is committed first. An engine with a missing or another engine's manifest would be refused.
    with Draft(engine) as draft, Draft(engine.with_suffix(".json")) as manifest_draft:
        graph, check = _convert_graph(model, options.precision, manifest, draft.folder / "graph.onnx", quiet)
        compiled = compile_engine(graph, recipe, manifest, quiet)
        draft.file.write_bytes(compiled.data)
        EngineManifest(
            sha256=sha256(draft.file),
            recipe=recipe,
            model=_model_name(model),
            size=manifest.size,
            points=manifest.points,
            stride=manifest.stride,
            built=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            bindings=compiled.bindings,
            layers=compiled.layers,
            check=check,
            calibration=manifest.calibration,
            scheme=manifest.scheme,
        ).write(manifest_draft.file)
    engine.with_suffix(".runtime").unlink(missing_ok=True)
    return engine


def find_engine_model(name: str | None, precision: Precision) -> Path:
    """Return the model that an engine is built from: for int8 the 8-bit version of a model, else the float one.

    Raises ModelError if the model has no such version.
    """
    return find_precision(find_gpu_model(name), "int8" if precision == "int8" else "float")


def default_precision(name: str | None) -> Precision:
    """Return the precision of a model's engine if the user names none: int8 for an 8-bit version, else fp16."""
    return "int8" if parse_manifest(find_gpu_model(name)).precision == "int8" else "fp16"


def _model_name(model: Path) -> str:
    """Return the name of an included model, also for its 8-bit version; else the path."""
    names = {file: name for name, path in included_models().items() for file in (path, int8_path(path))}
    return names.get(model, str(model.resolve()))


def _check_decode(model: Path, manifest: Manifest) -> None:
    if manifest.training.get("decode", "window") != "window":
        raise ModelError(
            f'{model}: decodes its points from the peak cell alone (expected decode = "window", which engines use); '
            'run it on the CPU, or export a checkpoint that was trained with decode = "window"'
        )


def _check_output(engine: Path, overwrite: bool) -> None:
    if engine.suffix != ".engine":
        raise UsageError(f"{engine}: expected a file name that ends in .engine")
    if engine.exists() and not overwrite:
        raise InputError(f"{engine}: exists already; use --overwrite to replace it")
    if engine.with_suffix(".json").exists() and not engine.exists():
        raise InputError(f"{engine}: {engine.stem}.json in that folder belongs to another file; choose another name")
    if not engine.parent.is_dir():
        raise InputError(f"{engine.parent}: no such folder")


def update_calibration(engine: Path, model: Manifest) -> None:
    """Copy the model's calibration into the manifest of an engine. It may have changed: it is not part of the key."""
    manifest = read_engine_manifest(engine)
    if manifest.calibration != model.calibration:
        dataclasses.replace(manifest, calibration=model.calibration).write(engine)


def _remove_abandoned_builds(folder: Path) -> None:
    for path in folder.glob(f"{DRAFT_PREFIX}*"):
        if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
            shutil.rmtree(path, ignore_errors=True)


def engine_recipe(options: BuildOptions, manifest: Manifest) -> EngineRecipe:
    """Return everything that decides the engine's bytes, for these options on this machine."""
    if not 1 <= options.max_batch <= MAX_BATCH:
        raise UsageError(f"--max-batch {options.max_batch}: expected a number from 1 to {MAX_BATCH}")
    flavour = options.flavour or select_flavour()
    return EngineRecipe(
        model_sha256=manifest.sha256,
        flavour=flavour,
        version=flavour_version(flavour),
        gpu=_gpu_name(flavour),
        targets=_targets(flavour, options.targets),
        precision=options.precision,
        batch=(1, min(OPTIMAL_BATCH, options.max_batch), options.max_batch),
    )


def _gpu_name(flavour: Flavour) -> str:
    """Return the GPU that the engine is tied to; an empty string if it runs on all GPUs of its targets."""
    if flavour == "tensorrt-rtx":
        return ""
    gpu = find_gpu()
    if gpu is None:
        raise BackendError(
            "tensorrt builds on the GPU that runs the engine, and this machine has none; "
            "use --flavour tensorrt-rtx to build without a GPU"
        )
    return gpu.name


def _targets(flavour: Flavour, targets: str | None) -> tuple[str, ...]:
    """Return the compute capabilities to build for, in the order of TensorRT."""
    gpu = find_gpu()
    if flavour == "tensorrt" or targets == "current":
        if gpu is None:
            raise BackendError("--target current: no NVIDIA GPU on this machine; name the targets: --target sm86,sm89")
        current = capability_name(gpu)
        if targets not in (None, "current", current):
            raise UsageError(f"--target {targets}: tensorrt builds only for the GPU of this machine, {current}")
        if flavour == "tensorrt":
            return (current,)
        targets = current
    supported = rtx_targets()
    requested = supported if targets is None else tuple(re.split(r"[,\s]+", targets.strip().lower()))
    unknown = [name for name in requested if name not in supported]
    if unknown:
        raise UsageError(f"--target {', '.join(unknown)}: {flavour} builds for {', '.join(supported)}")
    return tuple(name for name in supported if name in requested)


def _convert_graph(
    model: Path, precision: Precision, manifest: Manifest, file: Path, quiet: bool
) -> tuple[bytes, dict[str, Any]]:
    """Return the graph for TensorRT, and how far it moves the points. It is also written to `file`."""
    with show_steps("preparing", 2, quiet) as step:
        step("convert the graph")
        graph = engine_graph(model, precision)
        step("compare it with the model")
        return graph, _check_graph(model, graph, precision, manifest, file)


def _check_graph(model: Path, graph: bytes, precision: Precision, manifest: Manifest, file: Path) -> dict[str, Any]:
    """Compare the graph for TensorRT with the model, on the CPU. EngineError if the points move too far.

    The graph is written to `file`.
    """
    from canthus.engines.verify import sample_crops
    from canthus.runtime.backends.cpu import run_exactly

    # Faces: without one the maps are flat, and rounding moves the points of a network from a small set by 0.05 pixels.
    crops = sample_crops(manifest.size).images[:4]
    allowed = INT8_GRAPH_SHIFT if precision == "int8" else GRAPH_SHIFT
    file.write_bytes(graph)
    (maps,) = run_exactly(file, crops)
    points = decode_maps(maps, manifest)[0]
    outputs = run_exactly(model, crops)
    expected = outputs[0] if len(outputs) == 2 else decode_maps(outputs[0], manifest)[0]
    shift = np.linalg.norm(points - expected, axis=-1)
    if not np.median(shift) <= allowed:  # also true for NaN
        raise EngineError(
            f"{model}: {precision} moves its points by {np.median(shift):.2g} crop pixels at the median "
            f"(allowed: {allowed:g}); build with another --precision"
        )
    return {"graph_median_shift": float(np.median(shift)), "graph_mean_shift": float(shift.mean())}


def compile_engine(graph: bytes, recipe: EngineRecipe, manifest: Manifest, quiet: bool) -> CompiledEngine:
    """Compile a serialized ONNX graph with TensorRT."""
    trt = load_flavour(recipe.flavour)
    log = make_logger(trt)
    try:
        builder = trt.Builder(log)
    except TypeError as refused:  # TensorRT raises it if CUDA cannot be initialized
        raise BackendError(f"{recipe.flavour} does not start: {last_error(log)}") from refused
    # Strongly typed: layers compute in the types of the graph. TensorRT 11 has only this mode and has no flag for it.
    flags = trt.NetworkDefinitionCreationFlag.__members__
    network = builder.create_network(1 << int(flags["STRONGLY_TYPED"]) if "STRONGLY_TYPED" in flags else 0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(graph):
        errors = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise EngineError(f"{recipe.flavour} cannot read the model: {errors}")
    config = _builder_config(trt, builder, recipe, manifest)
    monitor = _progress_monitor(trt, quiet)
    config.progress_monitor = monitor
    try:
        data = builder.build_serialized_network(network, config)
    finally:
        monitor.bar.close()
    if monitor.interrupted:
        raise KeyboardInterrupt
    if data is None:
        raise EngineError(f"{recipe.flavour} could not build the engine: {last_error(log)}")
    if recipe.flavour == "tensorrt" and (cache := config.get_timing_cache()) is not None:
        write_cache(timings_path(recipe.flavour, recipe.version, recipe.gpu), bytes(cache.serialize()))
    tensors = [
        *(network.get_input(index) for index in range(network.num_inputs)),
        *(network.get_output(index) for index in range(network.num_outputs)),
    ]
    bindings = tuple(f"{tensor.name}: {_dtype_name(tensor.dtype)} {_shape(tensor.shape)}" for tensor in tensors)
    layers = Counter(network.get_layer(index).type.name.lower() for index in range(network.num_layers))
    return CompiledEngine(bytes(data), bindings, dict(layers.most_common()))


def _builder_config(trt: ModuleType, builder: Any, recipe: EngineRecipe, manifest: Manifest) -> Any:
    """Return TensorRT's builder configuration: batch sizes, targets and, for `tensorrt`, the timing cache."""
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if "TF32" in trt.BuilderFlag.__members__:  # fp32 means fp32: TensorRT would round the factors of products to TF32
        config.clear_flag(trt.BuilderFlag.TF32)
    profile = builder.create_optimization_profile()
    profile.set_shape("crops", *((faces, manifest.size, manifest.size, 3) for faces in recipe.batch))
    config.add_optimization_profile(profile)
    if recipe.flavour == "tensorrt-rtx":
        config.num_compute_capabilities = len(recipe.targets)
        for index, target in enumerate(recipe.targets):
            config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), index)
        return config
    timings = timings_path(recipe.flavour, recipe.version, recipe.gpu)
    timings.parent.mkdir(parents=True, exist_ok=True)
    for data in (timings.read_bytes() if timings.is_file() else b"", b""):  # start empty if the file is damaged
        cache = config.create_timing_cache(data)
        if cache is not None and config.set_timing_cache(cache, False):
            break
    return config


def _dtype_name(dtype: Any) -> str:
    name = str(dtype.name)
    return {"FLOAT": "float32", "HALF": "float16"}.get(name, name.lower())


def _shape(shape: Any) -> str:
    return "(" + ", ".join("N" if size < 0 else str(size) for size in shape) + ")"


def _progress_monitor(trt: ModuleType, quiet: bool) -> Any:
    """Return a monitor that shows TensorRT's progress as a bar and stops the build on Ctrl-C."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.interrupted = False
            self.bar = tqdm(total=0, desc="building", unit="step", disable=quiet or None, leave=False)

        def phase_start(self, name: str, _parent: str | None, steps: int) -> None:
            self.bar.total += steps
            self.bar.set_postfix_str(name.lower(), refresh=True)

        def phase_finish(self, _name: str) -> None:
            pass

        def step_complete(self, _name: str, _step: int) -> bool:
            try:
                self.bar.update()
            except KeyboardInterrupt:  # cannot be raised through TensorRT; returning False stops the build
                self.interrupted = True
            return not self.interrupted

    return Monitor()
