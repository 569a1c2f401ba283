"""`canthus engine bench`: everything there is to know about engines on the GPU at hand, measured and written down.

Each part is written as soon as it is measured, so that what ends the run loses nothing before it.
"""

import dataclasses
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from canthus.engines.build import BuildOptions, build, compile_network, engine_recipe
from canthus.engines.gpu_measure import DecodingEngine, beside, measure
from canthus.engines.gpu_report import BESIDES, Report
from canthus.engines.graph import engine_graph
from canthus.engines.verify import Row, Run, compare, pytorch, read_faces, sample_faces, verify
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
from canthus.runtime.models import Manifest, find_gpu_model, read_manifest

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["recorded", "eager", "compiled"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""PyTorch replayed as a CUDA graph, as it is, and through torch.compile, which takes longest to begin."""

REFUSALS = (CanthusError, RuntimeError, ImportError, TypeError, ValueError, AttributeError, OSError)
"""How one way of many may fail: torch's own errors are RuntimeErrors, the bindings' of TensorRT all kinds."""

OTHER_FRAMES = 100
"""Of the long run of PyTorch's other ways, which are here for their times, a tenth as many."""


@dataclass(frozen=True)
class BenchOptions:
    """What is measured."""

    model: str | None = None
    checkpoint: Path | None = None  # without: parity beside the model in float32, and PyTorch's times by chance weights
    wflw: Path | None = None
    frames: int = 10_000
    times: int = 200  # behind each median and p99


def bench(options: BenchOptions, folder: Path, overwrite: bool = False) -> Path:
    """Measure everything on the GPU at hand; returns the report.

    BackendError where there is no GPU, InputError where a report is there already and `overwrite` is not given.
    """
    gpu = find_gpu()
    if gpu is None:
        raise BackendError("no NVIDIA GPU on this machine, or no cuda-bindings to reach it: nothing to measure")
    model = find_gpu_model(options.model)
    manifest = read_manifest(model)
    _prepare(folder, overwrite)
    written = Report(folder)
    written.add("machine", machine(gpu, model, manifest))
    found: dict[str, Any] = {}
    for name, measured in _ways(gpu, options, model, manifest).items():
        _say(name)
        found[name] = attempt(measured)
        written.add("ways", found)
    return folder / "report.md"


def _ways(gpu: Gpu, options: BenchOptions, model: Path, manifest: Manifest) -> dict[str, Callable[[], dict[str, Any]]]:
    """What is measured, by name and in order. What does not serve this GPU is asked last: it may end the process."""
    served: dict[str, Callable[[], dict[str, Any]]] = {}
    others: dict[str, Callable[[], dict[str, Any]]] = {}
    for flavour in installed_flavours():
        try:
            name = f"{flavour} {flavour_version(flavour)}, fp16"
            serves = flavour == "tensorrt" or capability_name(gpu) in rtx_targets()
        except BackendError:  # found, but does not load: its own way tells why
            name, serves = f"{flavour}, fp16", False
        (served if serves else others)[name] = partial(tensorrt, flavour, serves, options, model, manifest)
    by_kind = {f"PyTorch, fp16, {kind}": partial(by_torch, kind, options, manifest) for kind in KINDS}
    return {**served, **by_kind, **others}


def attempt(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was measured, or in `why` why it could not be: the rest of the report goes on."""
    try:
        return measure()
    except REFUSALS as refused:
        kind = "" if isinstance(refused, CanthusError) else f"{type(refused).__name__}: "
        return {"why": kind + " ".join(str(refused).split())[:600]}


def _prepare(folder: Path, overwrite: bool) -> None:
    """Make the folder; InputError where that cannot be, or a report lies in it that is not to be replaced."""
    if (folder / "report.json").exists() and not overwrite:
        raise InputError(f"{folder}: holds a report already; give --overwrite to replace it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as refused:
        raise InputError(f"{folder}: cannot be made a folder: {refused.strerror}") from refused


def _say(way: str) -> None:
    print(f"canthus engine bench: {way}", file=sys.stderr, flush=True)


def machine(gpu: Gpu, model: Path, manifest: Manifest) -> dict[str, Any]:
    """Where and what was measured."""
    return {
        "gpu": f"{gpu.name} ({capability_name(gpu)})",
        "system": platform.platform(),
        "tensorrt": installed_flavours(),
        "model": f"{model.stem}: {manifest.network}, {manifest.size} px, SHA-256 {manifest.sha256[:16]}",
        "besides": BESIDES,
    }


def tensorrt(flavour: Flavour, serves: bool, options: BenchOptions, model: Path, manifest: Manifest) -> dict[str, Any]:
    """One flavour: its engine built, timed and compared; CanthusError with TensorRT's words where it does not run."""
    # Where it does not serve this GPU, TensorRT-RTX itself says so.
    build_options = BuildOptions(str(model), flavour, targets="current" if serves else None)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        engine = build(build_options, Path(folder) / "bench.engine", quiet=True)
        facts: dict[str, Any] = {"build seconds": round(time.perf_counter() - began, 1)}
        with TensorRTBackend(engine, anyway=True) as backend:  # so that TensorRT itself says what it cannot do
            facts |= measure(backend.runner, options.times, options.frames)

            def decoding() -> dict[str, Any]:
                graph = engine_graph(model, "fp16", decoding=True)
                data, _, _ = compile_network(graph, engine_recipe(build_options, manifest), manifest, quiet=True)
                return beside(backend.runner, DecodingEngine(backend.runner, flavour, data), options.times)

            facts["decode"] = attempt(decoding)
        facts["parity"] = attempt(lambda: rows_of(verify(engine, options.checkpoint, options.wflw), manifest))
    return facts


def rows_of(rows: list[Row], manifest: Manifest) -> dict[str, Any]:
    """`rows`: as json has them, which knows no NaN, and whether each holds."""
    told = [
        {name: None if value != value else value for name, value in dataclasses.asdict(row).items()}
        | {"holds": row.holds(manifest.size)}
        for row in rows
    ]
    return {"rows": told}


def by_torch(kind: Kind, options: BenchOptions, manifest: Manifest) -> dict[str, Any]:
    """PyTorch between the same two kernels, in fp16; parity only with a checkpoint."""
    from canthus.engines.raw_maps import RawMapsBackend
    from canthus.trainer.networks.head import decode

    network = half_network(options.checkpoint, manifest, compiled=kind == "compiled")
    maps = recorded(network) if kind == "recorded" else network
    with RawMapsBackend(maps, manifest.size, manifest.points, manifest.stride, "cuda") as backend:
        if kind == "recorded":
            points = recorded(lambda crops: decode(network(crops), manifest.stride))
            facts = measure(backend.runner, options.times, options.frames)
            facts["decode"] = attempt(
                lambda: beside(backend.runner, lambda faces: backend.on_crops(points, faces), options.times)
            )
        else:
            facts = measure(backend.runner, max(options.times // 10, 1), min(options.frames, OTHER_FRAMES))
        if (checkpoint := options.checkpoint) is not None:

            def parity() -> dict[str, Any]:
                faces = read_faces(options.wflw, manifest.size, 64) if options.wflw else sample_faces(manifest.size)
                runs: list[Run] = [
                    ("PyTorch, float32", pytorch(checkpoint, manifest, faces.crops), ""),
                    (f"PyTorch, fp16, {kind}", backend.predict(faces.crops)[0], ""),
                ]
                return rows_of(compare(faces, runs), manifest)

            facts["parity"] = attempt(parity)
    return facts


def half_network(checkpoint: Path | None, manifest: Manifest, compiled: bool) -> "Callable[[Tensor], Tensor]":
    """Crops on the GPU -> maps in float32, the network in fp16 and channels last; by chance weights if need be."""
    import torch

    from canthus.trainer.networks.checkpoint import load_network
    from canthus.trainer.networks.network import MEAN, STD, as_used
    from canthus.trainer.networks.network import build as build_network
    from canthus.trainer.train import compile_network as compile_parts

    if not torch.cuda.is_available():
        raise BackendError("this PyTorch finds no NVIDIA GPU")
    if checkpoint:
        network, _ = load_network(checkpoint)
    else:
        network = as_used(build_network(manifest.network, manifest.points), manifest.training)
    network = network.eval().cuda().half()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    ready = compile_parts(network) if compiled else network
    # Here once and not in `normalise`: a copy from the host must not fall into a recording.
    mean, std = (torch.tensor(values, device="cuda").view(1, 3, 1, 1) * 255 for values in (MEAN, STD))

    def run(crops: "Tensor") -> "Tensor":
        images = (crops.permute(0, 3, 1, 2).float() - mean) / std
        maps: Tensor = ready(images.half().contiguous(memory_format=torch.channels_last))
        return maps.float()

    return run


def recorded(function: "Callable[[Tensor], Any]") -> "Callable[[Tensor], Any]":
    """A function of crops that lie at one place for good, as a CUDA graph for each number of them."""
    import torch

    recordings: dict[int, tuple[torch.cuda.CUDAGraph, Any]] = {}

    def replay(crops: "Tensor") -> Any:
        if len(crops) not in recordings:
            for _ in range(3):  # what is made at first use must not fall into the recording
                function(crops)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
                result = function(crops)
            recordings[len(crops)] = graph, result
        graph, result = recordings[len(crops)]
        graph.replay()
        return result

    return replay
