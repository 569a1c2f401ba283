"""Parity: how far the points move from PyTorch to ONNX to the engine, on the same crops."""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from canthus.engines.graph import PRECISIONS, decode_maps, engine_graph
from canthus.engines.progress import show_steps
from canthus.runtime import sample
from canthus.runtime.backends import open_backend
from canthus.runtime.backends.trt import TensorRTBackend, capability_name, flavour_version
from canthus.runtime.cuda.launch import find_gpu
from canthus.runtime.engine_files import EngineManifest, find_mismatch, read_engine
from canthus.runtime.errors import EngineError, InputError, ModelError
from canthus.runtime.geometry import crop, invert, roi_from_points, to_frame, transform
from canthus.runtime.models import Manifest, find_model, find_precision, read_manifest
from canthus.runtime.schemes import WFLW, Scheme
from canthus.runtime.types import Roi

NME_TOLERANCE = 0.01
"""Largest allowed change of the NME, in percentage points."""
SHIFT_TOLERANCE = 0.25 / 256
"""Largest allowed shift of a point, as a fraction of the crop's side."""

INT8_NME_TOLERANCE = 0.05
INT8_MEAN_TOLERANCE = 0.5 / 256
"""The same for an engine in 8 bits, but for the mean shift: TensorRT has half as many levels for activations as the
model. On 380 faces that moves the points of `fast` by 0.08 of 128 pixels (mean, largest 1.1) and the NME by 0.003."""

PORTRAIT_FACE = Roi(225, 130, 120)
"""The face in the portrait that the sample clip is made of, pixels."""
SAMPLE_CROPS = 16
SEED = 98

Points = NDArray[np.float32]


@dataclass(frozen=True)
class ParityCrops:
    """The crops on which all backends are compared."""

    images: NDArray[np.uint8]  # (N, S, S, 3)
    labels: Points | None  # (N, K, 2) crop pixels; None if the crops have no labels
    scheme: Scheme = WFLW  # of the labels


class Prediction(NamedTuple):
    """The points of one backend."""

    name: str
    points: Points | None  # (N, K, 2) crop pixels; None if the backend did not run
    not_run: str = ""  # why it did not run


class SampleScene(NamedTuple):
    """A frame with regions to crop."""

    image: NDArray[np.uint8]  # (720, 1280, 3)
    rois: list[Roi]


@dataclass(frozen=True)
class ParityRow:
    """One backend compared with the reference. Distances are in crop pixels, NME is in %."""

    name: str
    mean: float
    p99: float
    largest: float
    nme: float | None  # None without labels
    nme_change: float | None
    not_run: str = ""  # why it did not run
    precision: str = ""  # "int8" if the tolerances of 8 bits apply

    def within_tolerance(self, size: int) -> bool:
        """Return whether shift and NME are within the tolerances for crops of `size` pixels. True if it did not run."""
        if self.not_run:
            return True
        change = abs(self.nme_change) if self.nme_change is not None else 0.0
        if self.precision == "int8":
            return self.mean <= INT8_MEAN_TOLERANCE * size and change <= INT8_NME_TOLERANCE
        return self.largest <= SHIFT_TOLERANCE * size and change <= NME_TOLERANCE


def verify(
    engine: Path,
    checkpoint: Path | None = None,
    wflw: Path | None = None,
    limit: int = 64,
) -> list[ParityRow]:
    """Compare an engine with the model that it was built from. The first row is the reference, the last the engine.

    checkpoint: use PyTorch in float32 as the reference, instead of the ONNX model in float32.
    wflw: a folder or shard of labelled faces. Its first `limit` faces are used and the NME is computed. Without it,
    crops of the sample clip are used.

    Raises EngineError if the engine is damaged or belongs to another model, ModelError for another checkpoint.
    """
    _, manifest = read_engine(engine)
    assert manifest is not None
    crops = labelled_crops(wflw, manifest.size, limit) if wflw else sample_crops(manifest.size)
    rows = compare(crops, list(_predictions(engine, manifest, checkpoint, crops.images)))
    if manifest.recipe.precision == "int8":
        return [dataclasses.replace(row, precision="int8") for row in rows]
    return rows


def compare(crops: ParityCrops, predictions: list[Prediction]) -> list[ParityRow]:
    """Compare each prediction with the first one."""
    reference = predictions[0]
    if reference.points is None:
        raise EngineError(f"{reference.name}: did not run, so there is nothing to compare with")
    if crops.labels is not None and crops.labels.shape[1:] != reference.points.shape[1:]:
        raise EngineError(
            f"{reference.name}: has {reference.points.shape[1]} points, the labelled faces have {crops.scheme.points}"
        )
    return [_row(prediction, reference.points, crops) for prediction in predictions]


def _predictions(
    engine: Path, manifest: EngineManifest, checkpoint: Path | None, images: NDArray[np.uint8]
) -> Iterator[Prediction]:
    """Run each stage from the checkpoint to the engine."""
    is_int8 = manifest.recipe.precision == "int8"
    model = find_precision(find_model(manifest.model), "int8") if is_int8 else find_model(manifest.model)
    model_manifest = read_manifest(model)
    if model_manifest.sha256 != manifest.recipe.model_sha256:
        raise EngineError(
            f"{engine}: built from another version of {model.name}; rebuild it: {manifest.rebuild_command}"
        )
    with show_steps("comparing", 4 if checkpoint is None else 5) as step:
        if checkpoint is not None:
            step("PyTorch")
            yield Prediction("PyTorch, float32", torch_points(checkpoint, model_manifest, images))
        from canthus.runtime.backends.cpu import run_exactly  # here: `engine bench` needs no OpenVINO

        step("ONNX in 8 bits" if is_int8 else "ONNX in float32")
        outputs = run_exactly(model, images)
        has_decode = len(outputs) == 2
        points = outputs[0] if has_decode else decode_maps(outputs[0], model_manifest)[0]
        yield Prediction("ONNX, 8 bits" if is_int8 else "ONNX, float32", points)
        step("ONNX")
        if has_decode:
            with open_backend(model) as backend:
                yield Prediction(f"ONNX, {backend.name}", backend.predict(images)[0])
        step("graph of the engine")
        precision = next(known for known in PRECISIONS if known == manifest.recipe.precision)
        with TemporaryDirectory() as folder:
            graph = Path(folder) / "graph.onnx"
            graph.write_bytes(engine_graph(model, precision))
            points = decode_maps(run_exactly(graph, images)[0], model_manifest)[0]
        yield Prediction(f"graph of the engine, {precision} weights, on the CPU", points)
        step("engine")
        yield _engine_prediction(engine, manifest, images)


def exact_prediction(model: Path, manifest: Manifest, images: NDArray[np.uint8]) -> Prediction:
    """Run a float model in float32 on the CPU, with OpenVINO, or with PyTorch where OpenVINO is not installed."""
    try:
        from canthus.runtime.backends.cpu import run_exactly
    except ImportError:
        import torch

        from canthus.runtime.backends.onnx_network import OnnxNetwork

        with torch.inference_mode():
            maps = OnnxNetwork(model)(torch.from_numpy(images)).numpy()
        return Prediction("ONNX, float32, with PyTorch on the CPU", decode_maps(maps, manifest)[0])
    return Prediction("ONNX, float32, on the CPU", run_exactly(model, images)[0])


def _engine_prediction(engine: Path, manifest: EngineManifest, images: NDArray[np.uint8]) -> Prediction:
    name = f"engine, {manifest.recipe.flavour}"
    reason = why_not_runnable(manifest)
    if reason:
        return Prediction(name, None, reason)
    with TensorRTBackend(engine) as backend:
        return Prediction(name, backend.predict(images)[0])


def why_not_runnable(manifest: EngineManifest) -> str:
    """Return why an engine cannot run on this machine; an empty string if it can."""
    gpu = find_gpu()
    if gpu is None:
        return "no NVIDIA GPU on this machine"
    version = flavour_version(manifest.recipe.flavour)
    return find_mismatch(manifest.recipe, version, gpu.name, capability_name(gpu)) or ""


def record_check(engine: Path, rows: list[ParityRow]) -> None:
    """Write the row of the engine itself (the last one) into its manifest. Does nothing if the engine did not run."""
    _, manifest = read_engine(engine)
    row = rows[-1]
    if manifest is None or row.not_run:
        return
    check = {
        "reference": rows[0].name,
        **{name: value for name, value in dataclasses.asdict(row).items() if value not in (None, "")},
        "within_tolerance": row.within_tolerance(manifest.size),
    }
    dataclasses.replace(manifest, check={**manifest.check, "engine": check}).write(engine)


def torch_points(checkpoint: Path, manifest: Manifest, images: NDArray[np.uint8]) -> Points:
    """Return the points of PyTorch in float32 on the CPU. ModelError if the model is from another checkpoint."""
    from canthus.engines.raw_maps import RawMapsBackend
    from canthus.trainer.networks.checkpoint import load_network
    from canthus.trainer.networks.network import normalize
    from canthus.trainer.renamed_keys import rename_keys

    network, metadata = load_network(checkpoint)
    exported = rename_keys(manifest.training)
    different = [name for name, value in metadata.items() if exported.get(name, value) != value]
    if different or metadata.get("size") != manifest.size:
        raise ModelError(
            f"{checkpoint}: the model was exported from another checkpoint ({', '.join(different) or 'size'} differ)"
        )
    with RawMapsBackend(
        lambda crops: network(normalize(crops)), metadata["size"], metadata["points"], metadata.get("stride", 4)
    ) as backend:
        return backend.predict(images)[0]


def _row(prediction: Prediction, reference: Points, crops: ParityCrops) -> ParityRow:
    if prediction.points is None:
        return ParityRow(prediction.name, math.nan, math.nan, math.nan, None, None, prediction.not_run)
    distance = np.linalg.norm(prediction.points - reference, axis=-1)
    error = change = None
    if crops.labels is not None:
        from canthus.trainer.evaluation.metrics import nme

        error, before = (
            float(nme(points, crops.labels, scheme=crops.scheme).mean()) for points in (prediction.points, reference)
        )
        change = error - before
    return ParityRow(
        prediction.name,
        mean=float(distance.mean()),
        p99=float(np.quantile(distance, 0.99)),
        largest=float(distance.max()),
        nme=error,
        nme_change=change,
    )


def sample_crops(size: int) -> ParityCrops:
    """Return crops of the face in the sample clip with random shift, rotation and scale. The same in every call."""
    random, motion = np.random.default_rng(SEED), sample.motion()
    frames = np.linspace(0, len(motion) - 1, SAMPLE_CROPS).round().astype(int)
    crops = []
    for index, image in enumerate(_sample_frames()):
        if index not in frames:
            continue
        affine = motion[index]
        side = PORTRAIT_FACE.side * float(np.hypot(*affine[:, 0]))
        x, y = affine @ (PORTRAIT_FACE.x, PORTRAIT_FACE.y, 1) + random.uniform(-0.05, 0.05, 2) * side
        angle = math.atan2(affine[1, 0], affine[0, 0]) + random.uniform(-0.3, 0.3)
        crops.append(crop(image, Roi(x, y, side * random.uniform(0.9, 1.15), angle), size))
    return ParityCrops(np.stack(crops), None)


def sample_scene() -> SampleScene:
    """Return the first frame of the sample clip and 16 regions around its face. The same in every call."""
    affine, random = sample.motion()[0], np.random.default_rng(SEED)
    side = PORTRAIT_FACE.side * float(np.hypot(*affine[:, 0]))
    centers = affine @ (PORTRAIT_FACE.x, PORTRAIT_FACE.y, 1) + random.uniform(-0.1, 0.1, (16, 2)) * side
    image = next(_sample_frames())
    rois = [Roi(x, y, side * random.uniform(0.8, 1.3), random.uniform(-0.4, 0.4)) for x, y in centers]
    return SampleScene(image, rois)


def _sample_frames() -> Iterator[NDArray[np.uint8]]:
    """Yield the frames (720, 1280, 3) of the sample clip. OpenCV reads them: `engine bench` needs no PyAV."""
    capture = cv2.VideoCapture(str(sample.CLIP))
    try:
        if not capture.isOpened():
            raise InputError(f"{sample.CLIP}: this OpenCV cannot read videos; install canthus's own dependencies")
        while True:
            complete, image = capture.read()
            if not complete:
                return
            yield np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
    finally:
        capture.release()


def labelled_crops(wflw: Path, size: int, limit: int) -> ParityCrops:
    """Return crops around the labels of the first faces of a WFLW folder, shard folder or tar shard."""
    from canthus.trainer.faces.formats import open_set

    labelled = open_set(wflw)
    faces = labelled.faces[:limit]
    if not faces:
        raise InputError(f"{wflw}: contains no labelled faces")
    crops, labels = [], []
    for face in faces:
        roi = roi_from_points(face.points)
        crops.append(crop(labelled.read_image(face.image), roi, size))
        labels.append(transform(invert(to_frame(roi, size)), face.points))
    return ParityCrops(np.stack(crops), np.stack(labels), labelled.scheme)


def format_table(rows: list[ParityRow], size: int) -> str:
    """Return the rows as a text table. `size` is the side of a crop, for the tolerance."""
    width = max(len(row.name) for row in rows)
    lines = [f"{'':<{width}}   mean px    p99 px    max px     NME %    change"]
    for index, row in enumerate(rows):
        if row.not_run:
            lines.append(f"{row.name:<{width}}   not run: {row.not_run}")
            continue
        error, change = (f"{value:10.3f}" if value is not None else f"{'-':>10}" for value in (row.nme, row.nme_change))
        verdict = "reference" if index == 0 else ""
        if index == len(rows) - 1:
            verdict = "within tolerance" if row.within_tolerance(size) else "beyond tolerance"
        shifts = f"{row.mean:10.4f}{row.p99:10.4f}{row.largest:10.4f}"
        lines.append(f"{row.name:<{width}}{shifts}{error}{change}  {verdict}".rstrip())
    return "\n".join(lines)
