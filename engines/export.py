"""Checkpoint -> ONNX: uint8 crops in, normalisation inside; points and scores out, or maps for a CUDA decode.

The value `maps`, raw (B, 3K, H, W), keeps its name in a model that decodes: there `engine build` cuts.
"""

import argparse
import dataclasses
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.backends import open_backend
from canthus.runtime.calibration import IDENTITY, Calibration
from canthus.runtime.errors import BackendError, InputError, ModelError
from canthus.runtime.extras import install_command
from canthus.runtime.models import Manifest, sha256

if TYPE_CHECKING:
    import onnx_ir
    from torch import nn

OPSET = 20
MAX_FACES = 4096
"""Of one batch; a bound that the tracer wants and nobody meets."""

EXACT = 1e-3
"""Crop pixels (or map units) that a model may differ from PyTorch, both computing in float32."""
HALF = 0.25
"""The same where the weights are stored as fp16: faces' points move by a hundredth."""
AGREEING = 0.98
"""Share of the values that must lie within: where a crop shows no face, less than rounding decides faint maps."""


def export(
    checkpoint: Path, model: Path, *, maps: bool = False, half: bool = False, overwrite: bool = False
) -> Manifest:
    """Write `model` (.onnx) and its manifest from a trainer's checkpoint.

    maps: leave the decode out and give the maps (B, 3K, H, W). half: store the weights as fp16, in half the
    file. The file is run at once beside PyTorch; ModelError when they differ beyond `EXACT` or `HALF`, and
    nothing is written then.
    """
    if model.suffix != ".onnx":
        raise InputError(f"{model}: a model's name ends in .onnx")
    if model.exists() and not overwrite:
        raise InputError(f"{model}: exists already; give --overwrite to replace it")
    if not model.parent.is_dir():
        raise InputError(f"{model.parent}: no such folder")
    network, facts, calibration = _load(checkpoint)
    size, points, stride = facts["size"], facts["points"], facts.get("stride", 4)
    graph = _trace(network, size, stride, maps)
    if half:
        _store_as_half(graph)
    with tempfile.TemporaryDirectory(dir=model.parent, prefix=".canthus-") as folder:
        draft = Path(folder) / model.name
        _save(graph, draft)
        manifest = Manifest(
            sha256=sha256(draft),
            network=facts["network"],
            size=size,
            points=points,
            stride=stride,
            calibration=calibration,
            training=facts,
        )
        manifest.write(draft)
        shift = _check(network, draft, manifest, maps, HALF if half else EXACT)
        manifest = dataclasses.replace(manifest, figures={"export": shift})
        manifest.write(draft)
        draft.replace(model)
        draft.with_suffix(".json").replace(model.with_suffix(".json"))
    return manifest


def _load(checkpoint: Path) -> "tuple[nn.Module, dict[str, Any], Calibration]":
    """The network, its facts, and apart from them how its scores are calibrated."""
    try:
        from canthus.trainer.networks.checkpoint import calibration_of, load_network
    except ImportError as missing:
        raise BackendError(
            f"exporting needs {missing.name}, which is not installed: {install_command('train')}"
        ) from missing
    network, facts = load_network(checkpoint)
    lacking = [name for name in ("network", "size", "points") if name not in facts]
    if lacking:
        raise ModelError(f"{checkpoint}: the checkpoint's json lacks {', '.join(lacking)}")
    calibration = calibration_of(facts, checkpoint)
    return network, {name: value for name, value in facts.items() if name != "calibration"}, calibration


def _trace(network: "nn.Module", size: int, stride: int, maps: bool) -> "onnx_ir.Model":
    import torch
    from torch import Tensor

    from canthus.trainer.networks.head import decode
    from canthus.trainer.networks.network import normalise

    class Traced(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, crops: Tensor) -> tuple[Tensor, ...]:
            raw = self.network(normalise(crops)).float()
            return (raw,) if maps else (*decode(raw, stride), raw)

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
            dynamic_shapes={"crops": {0: torch.export.Dim("faces", min=1, max=MAX_FACES)}},
        )
    assert program is not None
    model = program.model
    if not maps:
        model.graph.outputs.pop()  # the value stays in the graph, with its name
    _forget_where_traced(model)
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own remarks: torchvision's absence, and a deprecated call inside torch."""
    remarks = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = remarks.level
    remarks.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            yield
    finally:
        remarks.setLevel(level)


def _forget_where_traced(model: "onnx_ir.Model") -> None:
    """Take out the tracer's notes: they name the files of the machine that exported."""
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


def _store_as_half(model: "onnx_ir.Model") -> None:
    """Store the convolutions' weights as fp16, each behind a Cast; biases and the decode stay exact."""
    import onnx_ir as ir

    graph = model.graph
    for name, value in list(graph.initializers.items()):
        if value.dtype != ir.DataType.FLOAT or len(value.shape or ()) != 4 or value.const_value is None:
            continue
        whole = value.const_value.numpy()
        if np.abs(whole).max() > np.finfo(np.float16).max:
            raise ModelError(f"the weights {name} do not fit fp16; export without --half")
        users = list(value.uses())
        stored = ir.Value(
            name=f"{name}.half",
            const_value=ir.Tensor(whole.astype(np.float16), name=f"{name}.half"),
            shape=value.shape,
            type=ir.TensorType(ir.DataType.FLOAT16),
        )
        if all(node.op_type != "Conv" for node, _ in users):
            continue
        cast = ir.Node("", "Cast", [stored], [ir.AttrInt64("to", int(ir.DataType.FLOAT))], name=f"{name}.cast")
        cast.outputs[0].name = f"{name}.whole"
        cast.outputs[0].dtype, cast.outputs[0].shape = ir.DataType.FLOAT, value.shape
        graph.insert_before(graph[0], cast)
        for node, place in users:
            node.replace_input_with(place, cast.outputs[0])
        graph.initializers.pop(name)
        graph.initializers.add(stored)


def _save(model: "onnx_ir.Model", path: Path) -> None:
    import onnx
    import onnx_ir as ir

    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())


def _check(network: "nn.Module", model: Path, manifest: Manifest, maps: bool, tolerance: float) -> dict[str, float]:
    """Run the file beside PyTorch, one crop and five at once; ModelError when they disagree."""
    import torch

    from canthus.engines.verify import sample_scene
    from canthus.runtime.backends.cpu import run_exactly
    from canthus.runtime.geometry import crop_all
    from canthus.trainer.networks.network import Deployed, normalise

    image, rois = sample_scene()
    crops = np.concatenate([crop_all(image, rois[:4], manifest.size).images, synthetic_crops(1, manifest.size)])
    with torch.inference_mode():
        images = torch.from_numpy(crops)
        wanted = (
            network(normalise(images)).float() if maps else Deployed(network, manifest.stride).eval()(images)[0]
        ).numpy()
    differences = []
    for batch in (slice(0, 1), slice(0, 5)):
        got = run_exactly(model, crops[batch])[0]
        if got.shape != wanted[batch].shape:
            raise ModelError(f"the exported model gives {got.shape} where PyTorch gives {wanted[batch].shape}")
        differences.append(np.abs(got - wanted[batch]).ravel())
    difference = np.concatenate(differences)
    agreeing = float((difference <= tolerance).mean())
    if not agreeing >= AGREEING:  # so that NaN is refused too
        raise ModelError(
            f"the exported model differs from PyTorch: {agreeing:.1%} of its values lie within "
            f"{tolerance:g}, {AGREEING:.0%} should; nothing was written"
        )
    if not maps:
        with open_backend(model) as backend:
            backend.predict(crops[:1])
    return {
        "tolerance": tolerance,
        "agreeing": agreeing,
        "median": float(np.median(difference)),
        "largest": float(difference.max()),
    }


def synthetic_crops(count: int, size: int) -> NDArray[np.uint8]:
    """(count, size, size, 3) made-up crops, always the same: soft patches of colour under a little noise."""
    random = np.random.default_rng(98)
    coarse = random.integers(0, 256, (count, 8, 8, 3)).repeat(size // 8 + 1, 1).repeat(size // 8 + 1, 2)
    noise = random.normal(0, 12, (count, size, size, 3))
    return (coarse[:, :size, :size] + noise).clip(0, 255).astype(np.uint8)


def command(arguments: list[str]) -> int:
    """Turn a trained checkpoint into a model (ONNX) that every command runs."""
    parser = argparse.ArgumentParser(
        prog="canthus export",
        description=command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  canthus export runs/student/best.safetensors -o student.onnx --half\n"
        "  canthus video clip.mp4 -o out.mp4 --model student.onnx\n",
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a trainer's .safetensors")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="MODEL.onnx")
    parser.add_argument("--maps", action="store_true", help="leave the decode out: for a decode of one's own")
    parser.add_argument("--half", action="store_true", help="store the weights as fp16: half the file")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing model")
    told = parser.parse_args(arguments)
    manifest = export(told.checkpoint, told.output, maps=told.maps, half=told.half, overwrite=told.overwrite)
    shift = manifest.figures["export"]
    unit = "map units" if told.maps else "crop pixels"
    print(
        f"{told.output}: {manifest.network}, {manifest.size} px, {manifest.points} points, "
        f"{told.output.stat().st_size / 1e6:.1f} MB\n"
        f"beside PyTorch: {shift['median']:.1g} {unit} apart at the median, "
        f"{shift['agreeing']:.1%} within {shift['tolerance']:g}"
    )
    if manifest.calibration == IDENTITY:
        print(
            "its scores are peaks, not chances, as the checkpoint has no curve for them; before exporting anew: "
            f"canthus data calibrate {told.checkpoint} PACK"
        )
    return 0
