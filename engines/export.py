"""Export a checkpoint to ONNX: uint8 crops in, points and scores out, or raw maps for a CUDA decode.

The normalization is inside the model. A model with a decode still contains the raw maps (B, 3K, H, W) as the value
`maps`: `canthus engine build` cuts the graph there.
"""

import dataclasses
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from canthus.engines.progress import show_steps
from canthus.runtime.backends import open_backend
from canthus.runtime.calibration import Calibration
from canthus.runtime.errors import BackendError, InputError, ModelError, UsageError
from canthus.runtime.extras import install_command
from canthus.runtime.files import Draft
from canthus.runtime.models import Manifest, check_model_free, sha256
from canthus.runtime.schemes import Scheme

if TYPE_CHECKING:
    import onnx_ir
    from torch import nn

OPSET = 20
MAX_BATCH = 4096
"""The exporter needs an upper bound for the number of crops. No caller reaches it."""

FLOAT32_TOLERANCE = 1e-3
"""Largest difference to PyTorch, both in float32: crop pixels, or map units for `maps`."""
FP16_TOLERANCE = 0.25
"""The same if the weights are stored as fp16. Points of faces move by about 0.01 pixels."""
MIN_AGREEMENT = 0.98
"""Fraction of the values that must be within the tolerance. Not all can: in a crop without a face the maps are nearly
flat, and rounding decides where the peak is."""


class LoadedCheckpoint(NamedTuple):
    """What the export needs of a checkpoint."""

    network: "nn.Module"
    metadata: dict[str, Any]  # without the calibration and the scheme
    calibration: Calibration
    scheme: Scheme


def export(
    checkpoint: Path, model: Path, *, maps: bool = False, half: bool = False, overwrite: bool = False
) -> Manifest:
    """Export a checkpoint to `model` (.onnx) with its manifest (.json) beside it, and compare it with PyTorch.

    maps: leave out the decode and output the raw maps (B, 3K, H, W).
    half: store the weights as fp16, which halves the file. Computation stays in float32.
    overwrite: replace the two files if they exist.

    Raises InputError if a file exists or cannot be written, ModelError if the checkpoint cannot be read or the model
    differs from PyTorch by more than the tolerance. No file is changed in these cases.
    """
    if model.suffix != ".onnx":
        raise UsageError(f"{model}: expected a file name that ends in .onnx")
    check_model_free(model, overwrite)
    if not model.parent.is_dir():
        raise InputError(f"{model.parent}: no such folder")
    with show_steps("exporting", 3) as step:
        step("load the checkpoint")
        network, metadata, calibration, scheme = _load(checkpoint)
        size, points, stride = metadata["size"], metadata["points"], metadata.get("stride", 4)
        step("trace the network")
        graph = _trace(network, metadata, maps)
        if half:
            _store_weights_as_fp16(graph)
        step("compare with PyTorch")
        with Draft(model.with_suffix(".json")) as manifest_draft, Draft(model) as draft:
            _save(graph, draft.file)
            manifest = Manifest(
                sha256=sha256(draft.file),
                network=metadata["network"],
                size=size,
                points=points,
                stride=stride,
                calibration=calibration,
                training=metadata,
                scheme=scheme,
            )
            manifest.write(draft.file)
            figures = _compare(network, draft.file, manifest, maps, FP16_TOLERANCE if half else FLOAT32_TOLERANCE)
            manifest = dataclasses.replace(manifest, figures={"export": figures})
            manifest.write(manifest_draft.file)
    return manifest


def _load(checkpoint: Path) -> LoadedCheckpoint:
    try:
        from canthus.trainer.networks.checkpoint import calibration_from_metadata, load_network
        from canthus.trainer.networks.network import scheme_from_metadata
    except ImportError as missing:
        raise BackendError(
            f"exporting needs {missing.name}, which is not installed: {install_command('train')}"
        ) from missing
    network, metadata = load_network(checkpoint)
    missing_fields = [name for name in ("network", "size", "points") if name not in metadata]
    if missing_fields:
        raise ModelError(f"{checkpoint}: its metadata lacks {', '.join(missing_fields)}")
    calibration = calibration_from_metadata(metadata, checkpoint)
    scheme = scheme_from_metadata(metadata)
    metadata = {name: value for name, value in metadata.items() if name not in ("calibration", "scheme")}
    return LoadedCheckpoint(network, metadata, calibration, scheme)


def _trace(network: "nn.Module", metadata: Mapping[str, Any], maps: bool) -> "onnx_ir.Model":
    import torch
    from torch import Tensor

    from canthus.trainer.networks.head import decode
    from canthus.trainer.networks.network import normalize, window_sigma

    size, stride, sigma = metadata["size"], metadata.get("stride", 4), window_sigma(metadata)

    class Traced(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, crops: Tensor) -> tuple[Tensor, ...]:
            raw = self.network(normalize(crops)).float()
            return (raw,) if maps else (*decode(raw, stride, sigma), raw)

    crops = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    with _quiet():
        program = torch.onnx.export(
            Traced().eval(),
            (crops,),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["crops"],
            output_names=["maps"] if maps else ["points", "scores", "maps"],
            dynamic_shapes={"crops": {0: torch.export.Dim("faces", min=1, max=MAX_BATCH)}},
        )
    assert program is not None
    model = program.model
    if not maps:
        model.graph.outputs.pop()  # the value `maps` stays in the graph
    _remove_trace_metadata(model)
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter: a log line about missing torchvision, and a warning about torch's own code."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            yield
    finally:
        logger.setLevel(level)


def _remove_trace_metadata(model: "onnx_ir.Model") -> None:
    """Remove the tracer's metadata: it contains file paths of this machine."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.graph.doc_string = None
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()


def _store_weights_as_fp16(model: "onnx_ir.Model") -> None:
    """Store the weights of convolutions as fp16, followed by a Cast to float32. Biases and the decode stay float32."""
    import onnx_ir as ir

    graph = model.graph
    for name, value in list(graph.initializers.items()):
        if value.dtype != ir.DataType.FLOAT or len(value.shape or ()) != 4 or value.const_value is None:
            continue
        weights = value.const_value.numpy()
        if np.abs(weights).max() > np.finfo(np.float16).max:
            raise ModelError(f"the weights {name} are too large for fp16; export without --half")
        users = list(value.uses())
        stored = ir.Value(
            name=f"{name}.half",
            const_value=ir.Tensor(weights.astype(np.float16), name=f"{name}.half"),
            shape=value.shape,
            type=ir.TensorType(ir.DataType.FLOAT16),
        )
        if all(node.op_type != "Conv" for node, _ in users):
            continue
        cast = ir.Node("", "Cast", [stored], [ir.AttrInt64("to", int(ir.DataType.FLOAT))], name=f"{name}.cast")
        cast.outputs[0].name = f"{name}.whole"
        cast.outputs[0].dtype, cast.outputs[0].shape = ir.DataType.FLOAT, value.shape
        graph.insert_before(graph[0], cast)
        for node, index in users:
            node.replace_input_with(index, cast.outputs[0])
        graph.initializers.pop(name)
        graph.initializers.add(stored)


def _save(model: "onnx_ir.Model", path: Path) -> None:
    import onnx
    import onnx_ir as ir

    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())


def _compare(network: "nn.Module", model: Path, manifest: Manifest, maps: bool, tolerance: float) -> dict[str, float]:
    """Compare the file with PyTorch for one crop and for five; ModelError if they differ. Returns the differences."""
    import torch

    from canthus.engines.verify import sample_scene
    from canthus.runtime.backends.cpu import run_exactly
    from canthus.runtime.geometry import crop_all
    from canthus.trainer.networks.network import DecodingNetwork, normalize, window_sigma

    image, rois = sample_scene()
    crops = np.concatenate([crop_all(image, rois[:4], manifest.size).images, synthetic_crops(1, manifest.size)])
    with torch.inference_mode():
        images = torch.from_numpy(crops)
        if maps:
            expected = network(normalize(images)).float().numpy()
        else:
            decoding = DecodingNetwork(network, manifest.stride, window_sigma(manifest.training)).eval()
            expected = decoding(images)[0].numpy()
    differences = []
    for batch in (slice(0, 1), slice(0, 5)):
        output = run_exactly(model, crops[batch])[0]
        if output.shape != expected[batch].shape:
            raise ModelError(f"the exported model returns {output.shape}, PyTorch returns {expected[batch].shape}")
        differences.append(np.abs(output - expected[batch]).ravel())
    difference = np.concatenate(differences)
    agreement = float((difference <= tolerance).mean())
    if not agreement >= MIN_AGREEMENT:  # also true for NaN
        raise ModelError(
            f"the exported model differs from PyTorch: {agreement:.1%} of its values are within {tolerance:g} "
            f"(expected {MIN_AGREEMENT:.0%}); nothing was written"
        )
    if not maps:
        with open_backend(model) as backend:
            backend.predict(crops[:1])
    return {
        "tolerance": tolerance,
        "agreeing": agreement,
        "median": float(np.median(difference)),
        "largest": float(difference.max()),
    }


def synthetic_crops(count: int, size: int) -> NDArray[np.uint8]:
    """Return crops (count, size, size, 3) of smooth color patches with noise. They are the same in every call."""
    random = np.random.default_rng(98)
    patches = random.integers(0, 256, (count, 8, 8, 3)).repeat(size // 8 + 1, 1).repeat(size // 8 + 1, 2)
    noise = random.normal(0, 12, (count, size, size, 3))
    return (patches[:, :size, :size] + noise).clip(0, 255).astype(np.uint8)
