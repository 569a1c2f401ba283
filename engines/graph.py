"""Prepare the ONNX graph that an engine is built from: crops to raw maps, optionally in fp16.

Engines are built strongly typed: TensorRT computes each layer in the type that the graph has. So the types are set
here. The normalization is float32; the layers after it and the maps are float32 or fp16, which decode.cu reads both. A
convolution whose inputs come from DequantizeLinear is computed in 8 bits.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from canthus.runtime.decode import decode
from canthus.runtime.engine_files import EngineManifest
from canthus.runtime.errors import BackendError, ModelError
from canthus.runtime.extras import install_command
from canthus.runtime.models import Manifest

if TYPE_CHECKING:
    import onnx_ir as ir

Precision = Literal["fp16", "fp32", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

FIRST_FLOAT32_INPUT = {"Resize": 1}
"""Inputs of an operator from this index on must stay float32 in a fp16 graph: the scales of a Resize."""


def engine_graph(model: Path, precision: Precision, with_decode: bool = False) -> bytes:
    """Return the serialized ONNX graph from `crops` (N, S, S, 3) uint8 to `maps` (N, 3K, S/4, S/4).

    precision: of the layers after the normalization; the maps are fp16 with "fp16", else float32. "int8" needs a model
        with QuantizeLinear and DequantizeLinear; its other layers stay float32.
    with_decode: output `points` and `scores`, decoded in float32, instead of the maps. Used to compare the speed of
        this decode with that of decode.cu.

    Raises ModelError if the model has no such values or its weights do not fit fp16.
    """
    try:
        import onnx
        import onnx_ir as ir
    except ImportError as missing:
        raise BackendError(
            f"building an engine needs {missing.name}, which is not installed: {install_command('rtx')}"
        ) from missing
    proto = onnx.load(model)
    if precision == "int8":
        proto = onnx.shape_inference.infer_shapes(proto)
    graph = ir.from_proto(proto)
    _extract(graph, model, ("points", "scores") if with_decode else ("maps",))
    restore_float32_weights(graph)
    _cast_crops_first(graph)
    if precision == "fp16":
        _convert_to_fp16(graph, float32_maps=with_decode)
    elif precision == "int8":
        _make_symmetric(graph)
    proto = ir.to_proto(graph)
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString())


def decode_maps(maps: np.ndarray, manifest: Manifest | EngineManifest) -> tuple[np.ndarray, np.ndarray]:
    """Decode raw maps (N, 3K, H, W) with NumPy: points (N, K, 2) in crop pixels and uncalibrated scores (N, K)."""
    parts = maps.astype(np.float32, copy=False).reshape(len(maps), 3, manifest.points, *maps.shape[2:])
    return decode(parts[:, 0], parts[:, 1:], manifest.stride)


def _extract(model: "ir.Model", path: Path, outputs: tuple[str, ...]) -> None:
    """Make the values named `outputs` the outputs, and remove the nodes and weights that they do not need."""
    graph = model.graph
    named = {value.name: value for node in graph for value in node.outputs}
    if [value.name for value in graph.inputs] != ["crops"] or not named.keys() >= {"maps", *outputs}:
        raise ModelError(
            f"{path}: no values `crops` and {' and '.join(outputs)} in it; export it with `canthus export`"
        )
    graph.outputs.clear()
    graph.outputs.extend(named[name] for name in outputs)
    for node in reversed(list(graph)):
        if not any(value.uses() or value in graph.outputs for value in node.outputs):
            graph.remove(node, safe=True)
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        graph.initializers.pop(name)


def restore_float32_weights(model: "ir.Model") -> None:
    """Replace each fp16 weight that is followed by a Cast with a float32 weight."""
    graph = model.graph
    for node in list(graph):
        stored = node.inputs[0] if node.op_type == "Cast" else None
        if stored is None or not stored.is_initializer() or stored.const_value is None:
            continue
        _replace(graph, node, _constant(graph, f"{stored.name}.f32", stored.const_value.numpy(), np.float32))
        if not stored.uses():
            graph.initializers.pop(str(stored.name))


def _cast_crops_first(model: "ir.Model") -> None:
    """Move the Cast of the crops to float32 to the front: in TensorRT only a Cast can read uint8."""
    import onnx_ir as ir

    graph = model.graph
    crops = graph.inputs[0]
    ((first, _),) = crops.uses()
    if first.op_type == "Cast":
        return
    ((cast, _),) = first.outputs[0].uses()
    assert (first.op_type, cast.op_type) == ("Transpose", "Cast"), "the exporter has changed its first nodes"
    _replace(graph, cast, first.outputs[0])
    early = _cast(crops, ir.DataType.FLOAT, "crops.f32")
    graph.insert_before(first, early)
    first.replace_input_with(0, early.outputs[0])
    first.outputs[0].dtype = ir.DataType.FLOAT


def _make_symmetric(model: "ir.Model") -> None:
    """Replace uint8 and zero points of the activations by int8 without zero point: TensorRT has only these.

    The new range contains the old one: [-m, m] for values up to m. The weights are symmetric already.
    """
    import onnx_ir as ir

    graph = model.graph
    for node in list(graph):
        if node.op_type != "QuantizeLinear":
            continue
        scale, zero = (value.const_value for value in node.inputs[1:3] if value is not None)
        assert scale is not None
        assert zero is not None
        levels, offset = np.iinfo(zero.numpy().dtype), int(zero.numpy())
        largest = max(levels.max - offset, offset - (levels.min + int(levels.min < 0)))  # int8: -127 to 127
        symmetric = _constant(graph, f"{node.name}.scale", largest / 127 * scale.numpy(), np.float32)
        none = _constant(graph, f"{node.name}.zero", np.array(0), np.int8)
        node.outputs[0].dtype = ir.DataType.INT8
        for user in (node, *(user for user, _ in list(node.outputs[0].uses()))):
            user.replace_input_with(1, symmetric)
            user.replace_input_with(2, none)
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        graph.initializers.pop(name)


def _convert_to_fp16(model: "ir.Model", float32_maps: bool) -> None:
    """Convert the graph to fp16 from the first convolution to the maps.

    float32_maps: cast the maps back to float32, for the nodes after them.
    """
    import onnx_ir as ir

    graph = model.graph
    (maps,) = (value for node in graph for value in node.outputs if value.name == "maps")
    fp16_values: set[ir.Value] = set()
    casts: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        if node.op_type != "Conv" and not any(value in fp16_values for value in node.inputs):
            continue
        for index, value in enumerate(node.inputs[: FIRST_FLOAT32_INPUT.get(node.op_type)]):
            if value is None or value in fp16_values or value.dtype != ir.DataType.FLOAT:
                continue
            if value not in casts:
                casts[value] = _as_fp16(graph, node, value)
            node.replace_input_with(index, casts[value])
        for value in node.outputs:
            if value.dtype != ir.DataType.FLOAT:  # the output of a Shape is int64
                continue
            value.dtype = ir.DataType.FLOAT16
            if value is not maps:  # the nodes after the maps compute in float32
                fp16_values.add(value)
    for value in casts:
        if value.is_initializer() and not value.uses():
            graph.initializers.pop(str(value.name))
    if not float32_maps:
        return
    users = list(maps.uses())
    maps.name = "maps.f16"
    to_float32 = _cast(maps, ir.DataType.FLOAT, "maps")
    producer = maps.producer()
    assert producer is not None
    graph.insert_after(producer, to_float32)
    for user, index in users:
        user.replace_input_with(index, to_float32.outputs[0])
    for index, value in enumerate(graph.outputs):
        if value is maps:
            graph.outputs[index] = to_float32.outputs[0]


def _as_fp16(graph: "ir.Graph", before: "ir.Node", value: "ir.Value") -> "ir.Value":
    """Return a value as fp16: converted weights, or a Cast that is inserted before the given node."""
    import onnx_ir as ir

    if value.const_value is None:
        cast = _cast(value, ir.DataType.FLOAT16, f"{value.name}.f16")
        graph.insert_before(before, cast)
        return cast.outputs[0]
    weights = value.const_value.numpy()
    if np.abs(weights).max(initial=0) > np.finfo(np.float16).max:
        raise ModelError(f"the weights {value.name} are too large for fp16; build with --precision fp32")
    return _constant(graph, f"{value.name}.f16", weights, np.float16)


def _constant(graph: "ir.Graph", name: str, array: np.ndarray, kind: type) -> "ir.Value":
    import onnx_ir as ir

    tensor: ir.TensorProtocol = ir.Tensor(array.astype(kind), name=name)
    value = ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
    graph.initializers.add(value)
    return value


def _cast(value: "ir.Value", kind: "ir.DataType", name: str) -> "ir.Node":
    import onnx_ir as ir

    node = ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(kind))], name=f"{name}.cast")
    output = node.outputs[0]
    output.name, output.dtype, output.shape = name, kind, value.shape
    return node


def _replace(graph: "ir.Graph", node: "ir.Node", value: "ir.Value") -> None:
    """Remove a node that has one output, and make all users of the output use `value`."""
    for user, index in list(node.outputs[0].uses()):
        user.replace_input_with(index, value)
    graph.remove(node, safe=True)
