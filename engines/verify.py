"""Parity: how far points move on the way from PyTorch to ONNX to engine, over the same crops."""

import dataclasses
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from canthus.engines.graph import PRECISIONS, decode_maps, engine_graph
from canthus.runtime.backends import open_backend
from canthus.runtime.backends.cpu import run_exactly
from canthus.runtime.backends.trt import TensorRTBackend, capability_name, flavour_version
from canthus.runtime.cuda.launch import find_gpu
from canthus.runtime.engine_files import EngineManifest, misfit, read_engine
from canthus.runtime.errors import EngineError, InputError, ModelError
from canthus.runtime.geometry import crop, invert, roi_from_points, to_frame, transform
from canthus.runtime.models import Manifest, find_model, read_manifest
from canthus.runtime.types import Roi

NME_TOLERANCE = 0.01
"""What an engine's NME (%) may differ from its reference's."""
SHIFT_TOLERANCE = 0.25 / 256
"""Of a crop's side: how far a point may move at most."""

PORTRAIT_FACE = Roi(225, 130, 120)
"""Where the face is in the sample clip's portrait, pixels."""
SAMPLES = 16  # crops of it, where no faces are given

Points = NDArray[np.float32]


@dataclass(frozen=True)
class Faces:
    """The crops that all are compared over."""

    crops: NDArray[np.uint8]  # (N, S, S, 3)
    true: Points | None  # (N, 98, 2) crop pixels; None where no labels are


@dataclass(frozen=True)
class Row:
    """One way to run the network beside the reference; distances in crop pixels, NME in %."""

    name: str
    mean: float
    most_99: float
    largest: float
    nme: float | None
    nme_change: float | None
    missing: str = ""  # why it could not run here

    def holds(self, size: int) -> bool:
        """Whether it lies within the tolerances; what did not run breaks none."""
        if self.missing:
            return True
        change = abs(self.nme_change) if self.nme_change is not None else 0.0
        return self.largest <= SHIFT_TOLERANCE * size and change <= NME_TOLERANCE


def verify(
    engine: Path,
    checkpoint: Path | None = None,
    wflw: Path | None = None,
    limit: int = 64,
) -> list[Row]:
    """Compare an engine with the model it was built from; the first row is the reference.

    checkpoint: compare with PyTorch in float32 instead of the model in float32. wflw: labelled faces for real
    crops and the NME, the first `limit` of them; without, crops of the sample's portrait.
    """
    _, manifest = read_engine(engine)
    assert manifest is not None
    faces = read_faces(wflw, manifest.size, limit) if wflw else sample_faces(manifest.size)
    runs = list(_runs(engine, manifest, checkpoint, faces.crops))
    return compare(faces, runs)


Run = tuple[str, Points | None, str]
"""What ran, its points (N, K, 2) in crop pixels, and why it gave none."""


def compare(faces: Faces, runs: list[Run]) -> list[Row]:
    """Each run beside the first."""
    name, reference, _ = runs[0]
    if reference is None:
        raise EngineError(f"{name}: gave no points to compare with")
    return [_row(name, points, why, reference, faces.true) for name, points, why in runs]


def _runs(engine: Path, manifest: EngineManifest, checkpoint: Path | None, crops: NDArray[np.uint8]) -> Iterator[Run]:
    model = find_model(manifest.model)
    told = read_manifest(model)
    if told.sha256 != manifest.recipe.model_sha256:
        raise EngineError(
            f"{engine}: model: built from another {model.name} than is here; rebuild it: {manifest.rebuild}"
        )
    if checkpoint is not None:
        yield "PyTorch, float32", pytorch(checkpoint, told, crops), ""
    exact = run_exactly(model, crops)
    yield "ONNX, float32", exact[0] if len(exact) == 2 else decode_maps(exact[0], told)[0], ""
    if len(exact) == 2:
        with open_backend(model) as backend:
            yield f"ONNX, {backend.name}", backend.predict(crops)[0], ""
    precision = next(known for known in PRECISIONS if known == manifest.recipe.precision)
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "graph.onnx"
        graph.write_bytes(engine_graph(model, precision))
        yield (
            f"the engine's graph, {precision} weights, on the CPU",
            decode_maps(run_exactly(graph, crops)[0], told)[0],
            "",
        )
    name = f"engine, {manifest.recipe.flavour}"
    why = cannot_run(manifest)
    if why:
        yield name, None, why
    else:
        with TensorRTBackend(engine) as backend:
            yield name, backend.predict(crops)[0], ""
            for faces in backend.runner.buckets:  # TensorRT-RTX compiles for each size, and keeps that for the viewer
                backend.predict(crops[:faces])


def cannot_run(manifest: EngineManifest) -> str:
    """Why an engine cannot run on this machine; empty when it can."""
    gpu = find_gpu()
    if gpu is None:
        return "no NVIDIA GPU on this machine"
    version = flavour_version(manifest.recipe.flavour)
    return misfit(manifest.recipe, version, gpu.name, capability_name(gpu)) or ""


def record(engine: Path, rows: list[Row]) -> None:
    """Write what an engine's own run gave into its manifest, as its self-check."""
    _, manifest = read_engine(engine)
    row = rows[-1]
    if manifest is None or row.missing:
        return
    found = {
        "beside": rows[0].name,
        **{key: value for key, value in dataclasses.asdict(row).items() if value not in (None, "")},
        "holds": row.holds(manifest.size),
    }
    dataclasses.replace(manifest, check={**manifest.check, "engine": found}).write(engine)


def pytorch(checkpoint: Path, told: Manifest, crops: NDArray[np.uint8]) -> Points:
    """What PyTorch gives in float32 on the CPU; ModelError when the model was exported from another checkpoint."""
    from canthus.engines.raw_maps import RawMapsBackend
    from canthus.trainer.networks.checkpoint import load_network
    from canthus.trainer.networks.network import normalise

    network, facts = load_network(checkpoint)
    other = [name for name, value in facts.items() if told.training.get(name, value) != value]
    if other or facts.get("size") != told.size:
        raise ModelError(
            f"{checkpoint}: not the checkpoint that the model was exported from: its {', '.join(other)} differ"
        )
    with RawMapsBackend(
        lambda images: network(normalise(images)), facts["size"], facts["points"], facts.get("stride", 4)
    ) as backend:
        return backend.predict(crops)[0]


def _row(name: str, points: Points | None, why: str, reference: Points, true: Points | None) -> Row:
    if points is None:
        return Row(name, math.nan, math.nan, math.nan, None, None, why)
    distance = np.linalg.norm(points - reference, axis=-1)
    error = change = None
    if true is not None:
        from canthus.trainer.evaluation.metrics import nme

        error = float(nme(points, true).mean())
        change = error - float(nme(reference, true).mean())
    return Row(
        name,
        float(distance.mean()),
        float(np.quantile(distance, 0.99)),
        float(distance.max()),
        error,
        change,
    )


def sample_faces(size: int) -> Faces:
    """Crops of the sample clip's face, each placed, turned and sized a little otherwise; always the same."""
    from canthus.runtime import sample
    from canthus.runtime.sources import VideoFile

    random, motion = np.random.default_rng(98), sample.motion()
    chosen = np.linspace(0, len(motion) - 1, SAMPLES).round().astype(int)
    crops = []
    with VideoFile(sample.CLIP) as clip:
        for frame in clip:
            if frame.index not in chosen:
                continue
            affine = motion[frame.index]
            side = PORTRAIT_FACE.side * float(np.hypot(*affine[:, 0]))
            x, y = affine @ (PORTRAIT_FACE.x, PORTRAIT_FACE.y, 1) + random.uniform(-0.05, 0.05, 2) * side
            turn = math.atan2(affine[1, 0], affine[0, 0]) + random.uniform(-0.3, 0.3)
            crops.append(crop(frame.image, Roi(x, y, side * random.uniform(0.9, 1.15), turn), size))
    return Faces(np.stack(crops), None)


def sample_scene() -> tuple[NDArray[np.uint8], list[Roi]]:
    """The sample clip's first frame (720, 1280, 3) and 16 regions about its face."""
    from canthus.runtime import sample
    from canthus.runtime.sources import VideoFile

    affine, random = sample.motion()[0], np.random.default_rng(98)
    side = PORTRAIT_FACE.side * float(np.hypot(*affine[:, 0]))
    places = affine @ (PORTRAIT_FACE.x, PORTRAIT_FACE.y, 1) + random.uniform(-0.1, 0.1, (16, 2)) * side
    with VideoFile(sample.CLIP) as clip:
        image = next(iter(clip)).image
    return image, [Roi(x, y, side * random.uniform(0.8, 1.3), random.uniform(-0.4, 0.4)) for x, y in places]


def read_faces(wflw: Path, size: int, limit: int) -> Faces:
    """The first labelled faces of a WFLW folder, shard folder or tar shard, cut out by their true points."""
    from canthus.trainer.faces.formats import open_set

    labelled = open_set(wflw)
    chosen = labelled.faces[:limit]
    if not chosen:
        raise InputError(f"{wflw}: holds no labelled face")
    crops, true = [], []
    for face in chosen:
        roi = roi_from_points(face.points)
        crops.append(crop(labelled.image(face.image), roi, size))
        true.append(transform(invert(to_frame(roi, size)), face.points))
    return Faces(np.stack(crops), np.stack(true))


def table(rows: list[Row], size: int) -> str:
    """The rows as text, for a terminal."""
    width = max(len(row.name) for row in rows)
    lines = [f"{'':<{width}}   mean px   99 % px    max px     NME %    change"]
    for place, row in enumerate(rows):
        if row.missing:
            lines.append(f"{row.name:<{width}}   not run: {row.missing}")
            continue
        error, change = (f"{value:10.3f}" if value is not None else f"{'-':>10}" for value in (row.nme, row.nme_change))
        verdict = "reference" if place == 0 else ""
        if place == len(rows) - 1:
            verdict = "holds" if row.holds(size) else "beyond tolerance"
        shifts = f"{row.mean:10.4f}{row.most_99:10.4f}{row.largest:10.4f}"
        lines.append(f"{row.name:<{width}}{shifts}{error}{change}  {verdict}".rstrip())
    return "\n".join(lines)
