"""`canthus engine bench`: everything there is to know about engines on the GPU at hand, measured and written down.

Each part is written as soon as it is measured, so that what ends the run loses nothing before it.
"""

import dataclasses
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from canthus.engines.build import Wish, build, compile_network, recipe_of
from canthus.engines.gpu_measure import DecodingEngine, beside, measure
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

GROWTH = 4 * 2**20
"""Bytes that the host may take more over the long run. The device's free memory is everybody's: only what grows in
both halves of the run counts."""
OTHER_FRAMES = 100
"""Of the long run of PyTorch's other ways, which are here for their times, a tenth as many."""
ONE_FACE, SIXTEEN = 0.8, 4.0
"""Goals on an H100-class card: ms for one face, and how many times that for 16."""
OWN_SHARE = 0.1
"""Goal: crop and decode take at most this part of what the network takes."""

BESIDES = tuple(
    f"CANTHUS_REQUIRE_CUDA=1 {words}"
    for words in (
        "pytest -m cuda",
        "compute-sanitizer --error-exitcode 1 pytest tests/test_cuda_kernels.py -k on_a_gpu_crop",
        "compute-sanitizer --tool racecheck --error-exitcode 1 pytest tests/test_cuda_kernels.py -k on_a_gpu_crop",
    )
)


@dataclass(frozen=True)
class Asked:
    """What is measured."""

    model: str | None = None
    checkpoint: Path | None = None  # without: parity beside the model in float32, and PyTorch's times by chance weights
    wflw: Path | None = None
    frames: int = 10_000
    times: int = 200  # behind each median and p99


@dataclass
class Report:
    """What was found so far, and the folder that it is written to."""

    folder: Path
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, part: str, facts: Any) -> None:
        """Add a part and write everything anew."""
        self.facts[part] = facts
        (self.folder / "report.json").write_text(json.dumps(self.facts, indent=2) + "\n")
        (self.folder / "report.md").write_text(markdown(self.facts))


def report(asked: Asked, folder: Path, overwrite: bool = False) -> Path:
    """Measure everything on the GPU at hand; returns the report.

    BackendError where there is no GPU, InputError where a report is there already and `overwrite` is not given.
    """
    gpu = find_gpu()
    if gpu is None:
        raise BackendError("no NVIDIA GPU on this machine, or no cuda-bindings to reach it: nothing to measure")
    model = find_gpu_model(asked.model)
    manifest = read_manifest(model)
    _prepare(folder, overwrite)
    written = Report(folder)
    written.add("machine", machine(gpu, model, manifest))
    found: dict[str, Any] = {}
    for name, measured in _ways(gpu, asked, model, manifest).items():
        _say(name)
        found[name] = attempt(measured)
        written.add("ways", found)
    return folder / "report.md"


def _ways(gpu: Gpu, asked: Asked, model: Path, manifest: Manifest) -> dict[str, Callable[[], dict[str, Any]]]:
    """What is measured, by name and in order. What does not serve this GPU is asked last: it may end the process."""
    served: dict[str, Callable[[], dict[str, Any]]] = {}
    others: dict[str, Callable[[], dict[str, Any]]] = {}
    for flavour in installed_flavours():
        serves = flavour == "tensorrt" or capability_name(gpu) in rtx_targets()
        way = partial(tensorrt, flavour, serves, asked, model, manifest)
        (served if serves else others)[f"{flavour} {flavour_version(flavour)}, fp16"] = way
    by_kind = {f"PyTorch, fp16, {kind}": partial(by_torch, kind, asked, manifest) for kind in KINDS}
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
        "tensorrt": {flavour: flavour_version(flavour) for flavour in installed_flavours()},
        "model": f"{model.stem}: {manifest.network}, {manifest.size} px, SHA-256 {manifest.sha256[:16]}",
        "besides": BESIDES,
    }


def tensorrt(flavour: Flavour, serves: bool, asked: Asked, model: Path, manifest: Manifest) -> dict[str, Any]:
    """One flavour: its engine built, timed and compared; CanthusError with TensorRT's words where it does not run."""
    # Where it does not serve this GPU, TensorRT-RTX itself says so.
    wish = Wish(str(model), flavour, targets="current" if serves else None)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        engine = build(wish, Path(folder) / "bench.engine", quiet=True)
        facts: dict[str, Any] = {"build seconds": round(time.perf_counter() - began, 1)}
        with TensorRTBackend(engine, anyway=True) as backend:  # so that TensorRT itself says what it cannot do
            facts |= measure(backend.runner, asked.times, asked.frames)

            def decoding() -> dict[str, Any]:
                graph = engine_graph(model, "fp16", decoding=True)
                data, _, _ = compile_network(graph, recipe_of(wish, manifest), manifest, quiet=True)
                return beside(backend.runner, DecodingEngine(backend.runner, flavour, data), asked.times)

            facts["decode"] = attempt(decoding)
        facts["parity"] = attempt(lambda: rows_of(verify(engine, asked.checkpoint, asked.wflw), manifest))
    return facts


def rows_of(rows: list[Row], manifest: Manifest) -> dict[str, Any]:
    """`rows`: as json has them, which knows no NaN, and whether each holds."""
    told = [
        {name: None if value != value else value for name, value in dataclasses.asdict(row).items()}
        | {"holds": row.holds(manifest.size)}
        for row in rows
    ]
    return {"rows": told}


def by_torch(kind: Kind, asked: Asked, manifest: Manifest) -> dict[str, Any]:
    """PyTorch between the same two kernels, in fp16; parity only with a checkpoint."""
    from canthus.runtime.backends.reference import TorchBackend
    from canthus.trainer.networks.head import decode

    network = half_network(asked.checkpoint, manifest, compiled=kind == "compiled")
    maps = recorded(network) if kind == "recorded" else network
    with TorchBackend(maps, manifest.size, manifest.points, manifest.stride, "cuda") as backend:
        if kind == "recorded":
            points = recorded(lambda crops: decode(network(crops), manifest.stride))
            facts = measure(backend.runner, asked.times, asked.frames)
            facts["decode"] = attempt(
                lambda: beside(backend.runner, lambda faces: backend.on_crops(points, faces), asked.times)
            )
        else:
            facts = measure(backend.runner, max(asked.times // 10, 1), min(asked.frames, OTHER_FRAMES))
        if (checkpoint := asked.checkpoint) is not None:

            def parity() -> dict[str, Any]:
                faces = read_faces(asked.wflw, manifest.size, 64) if asked.wflw else sample_faces(manifest.size)
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


def goals(way: dict[str, Any]) -> dict[str, bool]:
    """Which of the goals a measured way meets."""
    met = {}
    faces = way["faces"]
    best = {
        count: (told["whole"]["recorded"] or told["whole"]["plain"])["clock_median"] for count, told in faces.items()
    }
    if "1" in best:
        met[f"one face in {ONE_FACE} ms, frame on the device to points on the host"] = best["1"] <= ONE_FACE
    if {"1", "16"} <= best.keys():
        met[f"16 faces in {SIXTEEN:g} times one"] = best["16"] <= SIXTEEN * best["1"]
    for count, told in faces.items():
        crop, network, decode = (_step(told["steps"][name]) for name in ("crop", "network", "decode"))
        met[f"crop and decode within {OWN_SHARE:.0%} of the network, {count} faces"] = (
            crop + decode <= OWN_SHARE * network
        )
    run = way["long run"]
    met["memory does not grow"] = min(run["device growth"]) <= 0 and (run["host growth"] or 0) <= GROWTH
    met["the same results to the end"] = run["same results"]
    if way["recording equals plain launches"] is not None:
        met["the recording equals plain launches bit for bit"] = way["recording equals plain launches"]
    ran = [row for row in way.get("parity", {}).get("rows", ())[1:] if not row["missing"]]
    if ran:  # the last is the way itself
        met["points and NME within the tolerances of float32"] = ran[-1]["holds"]
    return met


def _step(told: dict[str, Any]) -> float:
    return float(told["recorded_ms"] if told["recorded_ms"] is not None else told["plain"]["device_median"])


def markdown(facts: dict[str, Any]) -> str:
    """The report for people."""
    about = facts["machine"]
    lines = [f"# Engines on {about['gpu']}", "", f"{about['model']}; {about['system']}.", ""]
    lines += ["ms, median and (p99). Whole: from a frame on the device to points on the host. A step's device time is"]
    lines += ["of one in a recording of many where it can be recorded, else of one plain launch.", ""]
    for name, way in facts.get("ways", {}).items():
        lines += [f"## {name}", ""]
        if "why" in way:
            lines += [f"Not measured. It answered: {way['why']}", ""]
            continue
        lines += _times(way["faces"]) + _decode(way.get("decode", {})) + _parity(way.get("parity", {}))
        run = way["long run"]
        lines += [
            f"{run['frames']} frames in {run['seconds']} s: device memory grew by {run['device growth'][0]} and "
            f"{run['device growth'][1]} bytes in its halves, the host's by {run['host growth']}.",
            "",
            *(f"- {goal}: {'yes' if met else '**no**'}" for goal, met in goals(way).items()),
            "",
        ]
    if not about["tensorrt"]:
        lines += ["No TensorRT is installed: pip install 'canthus[rtx]', or 'canthus[tensorrt]'.", ""]
    lines += ["## What a clone of the source runs besides", ""]
    lines += [f"    {line}" for line in about["besides"]]
    return "\n".join(lines) + "\n"


def _times(faces: dict[str, Any]) -> list[str]:
    steps = list(next(iter(faces.values()))["steps"])
    lines = ["| faces | whole, clock | plain, clock | whole, device | plain, device | " + " | ".join(steps) + " |"]
    lines += ["|" + "---|" * (5 + len(steps))]
    for count, told in faces.items():
        ways = (told["whole"]["recorded"], told["whole"]["plain"])
        cells = [
            f"{way[f'{clock}_median']:.3f} ({way[f'{clock}_p99']:.3f})" if way else "-"
            for clock in ("clock", "device")
            for way in ways
        ]
        cells += [f"{_step(step):.4f}" for step in told["steps"].values()]
        lines.append(f"| {count} | " + " | ".join(cells) + " |")
    return [*lines, "", "Whole: recorded as a CUDA graph; plain: launched one by one.", ""]


def _decode(told: dict[str, Any]) -> list[str]:
    if not told:
        return []
    if "why" in told:
        return [f"Decode in the graph: not measured: {told['why']}", ""]
    lines = ["| faces | network and decode.cu | network that decodes |", "|---|---|---|"]
    lines += [
        f"| {count} | {one['network and decode.cu']:.4f} | {one['network that decodes']:.4f} |"
        for count, one in told.items()
    ]
    return [*lines, ""]


def _parity(told: dict[str, Any]) -> list[str]:
    if not told:
        return ["Parity: give --checkpoint to compare with PyTorch in float32.", ""]
    if "why" in told:
        return [f"Parity: not compared: {told['why']}", ""]
    lines = ["| points beside the first row, crop pixels | mean | 99 % | max | NME | change |"]
    lines += ["|---|---|---|---|---|---|"]
    for row in told["rows"]:
        if row["missing"]:
            lines.append(f"| {row['name']} | not run: {row['missing']} | | | | |")
            continue
        shifts = " | ".join(f"{row[name]:.4f}" for name in ("mean", "most_99", "largest"))
        nme = " | ".join("-" if row[name] is None else f"{row[name]:.3f}" for name in ("nme", "nme_change"))
        lines.append(f"| {row['name']} | {shifts} | {nme} |")
    return [*lines, ""]
