"""`canthus engine bench`: measure all backends on the GPU of this machine and write a report.

The report is written after each measurement, so that a crash loses only the last one.
"""

import dataclasses
import logging
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from canthus.engines.build import BuildOptions, build, compile_engine, engine_recipe
from canthus.engines.gpu_measure import DecodingEngine, compare_decodes, measure
from canthus.engines.gpu_report import SOURCE_CHECKS, Report
from canthus.engines.graph import engine_graph
from canthus.engines.verify import (
    ParityRow,
    Prediction,
    compare,
    exact_prediction,
    labelled_crops,
    sample_crops,
    torch_points,
    verify,
)
from canthus.runtime.backends.trt import (
    TensorRTBackend,
    capability_name,
    flavour_version,
    installed_flavours,
    rtx_targets,
)
from canthus.runtime.cuda.launch import Gpu, find_gpu
from canthus.runtime.engine_files import Flavour
from canthus.runtime.errors import BackendError, CanthusError, InputError
from canthus.runtime.models import Manifest, find_gpu_model, read_manifest, read_model

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)

TorchMode = Literal["eager", "compiled"]
TORCH_MODES: tuple[TorchMode, ...] = get_args(TorchMode)
"""How PyTorch runs beside the backend, which captures it in a CUDA graph: as usual, or with torch.compile."""

LONGEST_MEASUREMENT = 150.0
"""Seconds that one measurement may take: torch.compile on a few CPU cores. None begins with less time left."""

MEASUREMENT_ERRORS = (CanthusError, RuntimeError, ImportError, TypeError, ValueError, AttributeError, OSError)
"""What a single measurement may raise: torch raises RuntimeErrors, the bindings of TensorRT any of the others."""

EAGER_FRAMES = 100
"""Length of the long run of PyTorch without a CUDA graph, which is measured only for comparison."""


@dataclass(frozen=True)
class BenchOptions:
    """What to measure."""

    model: str | None = None  # name of an included model or a path; None = the default model for GPUs
    # The reference of the comparison. None = the ONNX model in float32; PyTorch is then timed with random weights.
    checkpoint: Path | None = None
    wflw: Path | None = None  # labelled faces for the NME
    frames: int = 10_000  # of the long run
    repeats: int = 200  # measurements behind each median and p99
    minutes: int = 6  # measurements that would not end in this time are left out


def bench(options: BenchOptions, folder: Path, overwrite: bool = False) -> Path:
    """Measure everything on the GPU of this machine and return the path of the report.

    Raises BackendError if there is no GPU, InputError if a report exists and `overwrite` is false.
    """
    gpu = find_gpu()
    if gpu is None:
        raise BackendError("nothing to measure: no NVIDIA GPU on this machine, or cuda-bindings is not installed")
    model = find_gpu_model(options.model)
    manifest = read_manifest(model)
    _prepare_folder(folder, overwrite)
    report = Report(folder)
    report.add("machine", machine(gpu, model, manifest))
    results: dict[str, Any] = {}
    end = time.monotonic() + 60 * options.minutes
    for number, (name, run) in enumerate(_measurements(gpu, options, model, manifest).items()):
        if number and time.monotonic() > end - LONGEST_MEASUREMENT:
            results[name] = {"error": f"left out, because the time was short: --minutes {options.minutes}"}
        else:
            _log.info("measuring %s", name)
            results[name] = attempt(run)
        report.add("backends", results)
    return folder / "report.md"


def _measurements(
    gpu: Gpu, options: BenchOptions, model: Path, manifest: Manifest
) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return the measurements by name, in order. TensorRT without support for this GPU is last: it may crash."""
    supported: dict[str, Callable[[], dict[str, Any]]] = {}
    unsupported: dict[str, Callable[[], dict[str, Any]]] = {}
    for flavour in installed_flavours():
        try:
            name = f"{flavour} {flavour_version(flavour)}, fp16"
            supports_gpu = flavour == "tensorrt" or capability_name(gpu) in rtx_targets()
        except BackendError:  # installed but cannot be loaded; its measurement reports why
            name, supports_gpu = f"{flavour}, fp16", False
        group = supported if supports_gpu else unsupported
        group[name] = partial(measure_tensorrt, flavour, supports_gpu, options, model, manifest)
    backend = {"PyTorch, fp16, in one CUDA graph with our kernels": partial(measure_torch_backend, options, model)}
    torch = {f"PyTorch, fp16, {mode}": partial(measure_torch, mode, options, manifest) for mode in TORCH_MODES}
    return {**supported, **backend, **torch, **unsupported}


def attempt(measurement: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the result of a measurement, or {"error": ...} if it fails, so that the others can go on."""
    try:
        return measurement()
    except MEASUREMENT_ERRORS as error:
        kind = "" if isinstance(error, CanthusError) else f"{type(error).__name__}: "
        return {"error": kind + " ".join(str(error).split())[:600]}


def _prepare_folder(folder: Path, overwrite: bool) -> None:
    if (folder / "report.json").exists() and not overwrite:
        raise InputError(f"{folder}: contains a report already; use --overwrite to replace it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as refused:
        raise InputError(f"{folder}: cannot be created: {refused.strerror}") from refused


def machine(gpu: Gpu, model: Path, manifest: Manifest) -> dict[str, Any]:
    """Return what is measured and on which machine."""
    return {
        "gpu": f"{gpu.name} ({capability_name(gpu)})",
        "system": platform.platform(),
        "tensorrt": installed_flavours(),
        "model": f"{model.stem}: {manifest.network}, {manifest.size} px, SHA-256 {manifest.sha256[:16]}",
        "source checks": SOURCE_CHECKS,
    }


def measure_tensorrt(
    flavour: Flavour, supports_gpu: bool, options: BenchOptions, model: Path, manifest: Manifest
) -> dict[str, Any]:
    """Build, time and compare the engine of one flavour. CanthusError with TensorRT's message if it does not run."""
    # If the flavour does not support this GPU, build for all targets. TensorRT then reports the reason itself.
    build_options = BuildOptions(str(model), flavour, targets="current" if supports_gpu else None)
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        engine = build(build_options, Path(folder) / "bench.engine", quiet=True)
        results: dict[str, Any] = {"build seconds": round(time.perf_counter() - begin, 1)}
        with TensorRTBackend(engine, skip_check=True) as backend:  # skip our own check, for the reason above
            results |= measure(backend.runner, options.repeats, options.frames)

            def decodes() -> dict[str, Any]:
                graph = engine_graph(model, "fp16", with_decode=True)
                recipe = engine_recipe(build_options, manifest)
                compiled = compile_engine(graph, recipe, manifest, quiet=True)
                with backend.runner.cuda.active():
                    network = DecodingEngine(backend.runner, flavour, compiled.data)
                    return compare_decodes(backend.runner, network, options.repeats)

            results["decode"] = attempt(decodes)
        results["parity"] = attempt(lambda: rows_as_json(verify(engine, options.checkpoint, options.wflw), manifest))
    return results


def rows_as_json(rows: list[ParityRow], manifest: Manifest) -> dict[str, Any]:
    """Return {"rows": [...]} for the report. NaN becomes null, because JSON has no NaN."""
    return {
        "rows": [
            {name: None if value != value else value for name, value in dataclasses.asdict(row).items()}
            | {"within tolerance": row.within_tolerance(manifest.size)}
            for row in rows
        ]
    }


def measure_torch_backend(options: BenchOptions, model: Path) -> dict[str, Any]:
    """Measure the backend that runs where no TensorRT supports the GPU, with the weights of the model."""
    from canthus.runtime.backends.torch_gpu import TorchGpuBackend

    opened = read_model(model)
    begin = time.perf_counter()
    with TorchGpuBackend(opened) as backend:
        results: dict[str, Any] = {"open seconds": round(time.perf_counter() - begin, 1)}
        results |= measure(backend.runner, options.repeats, options.frames)

        def parity() -> dict[str, Any]:
            size = opened.manifest.size
            crops = labelled_crops(options.wflw, size, 64) if options.wflw else sample_crops(size)
            predictions = [
                exact_prediction(model, opened.manifest, crops.images),
                Prediction(backend.name, backend.predict(crops.images)[0]),
            ]
            return rows_as_json(compare(crops, predictions), opened.manifest)

        results["parity"] = attempt(parity)
    return results


def measure_torch(mode: TorchMode, options: BenchOptions, manifest: Manifest) -> dict[str, Any]:
    """Time PyTorch in fp16 between the same two CUDA kernels. The points are compared only with a checkpoint."""
    from canthus.engines.raw_maps import RawMapsBackend

    maps = fp16_network(options.checkpoint, manifest, compiled=mode == "compiled")
    with RawMapsBackend(maps, manifest.size, manifest.points, manifest.stride, "cuda") as backend:
        results = measure(backend.runner, max(options.repeats // 10, 1), min(options.frames, EAGER_FRAMES))
        if (checkpoint := options.checkpoint) is not None:

            def parity() -> dict[str, Any]:
                size = manifest.size
                crops = labelled_crops(options.wflw, size, 64) if options.wflw else sample_crops(size)
                predictions = [
                    Prediction("PyTorch, float32", torch_points(checkpoint, manifest, crops.images)),
                    Prediction(f"PyTorch, fp16, {mode}", backend.predict(crops.images)[0]),
                ]
                return rows_as_json(compare(crops, predictions), manifest)

            results["parity"] = attempt(parity)
    return results


def fp16_network(checkpoint: Path | None, manifest: Manifest, compiled: bool) -> "Callable[[Tensor], Tensor]":
    """Return a function from crops on the GPU to float32 maps. The network runs in fp16 and channels last.

    Without a checkpoint the weights are random.
    """
    import torch

    from canthus.trainer.networks.checkpoint import load_network
    from canthus.trainer.networks.network import MEAN, STD, with_flip_tta
    from canthus.trainer.networks.network import build as build_network
    from canthus.trainer.renamed_keys import rename_keys
    from canthus.trainer.run import compile_network

    if not torch.cuda.is_available():
        raise BackendError("this PyTorch finds no NVIDIA GPU")
    if checkpoint:
        network, _ = load_network(checkpoint)
    else:
        network = with_flip_tta(build_network(manifest.network, manifest.points), rename_keys(manifest.training))
    network = network.eval().cuda().half()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    ready = compile_network(network) if compiled else network
    torch.cuda.synchronize()  # the weights are converted on another stream than the one that reads them
    mean, std = (torch.tensor(values, device="cuda").view(1, 3, 1, 1) * 255 for values in (MEAN, STD))

    def run(crops: "Tensor") -> "Tensor":
        images = (crops.permute(0, 3, 1, 2).float() - mean) / std
        maps: Tensor = ready(images.half().contiguous(memory_format=torch.channels_last))
        return maps.float()

    return run
