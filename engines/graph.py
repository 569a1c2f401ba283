"""What a TensorRT engine is built from: the graph from crops to maps, its body in fp16 if so asked.

TensorRT takes the types of a graph as they stand (strongly typed), so they are settled here, in the open: the
normalisation and the maps that leave are float32, and only what lies between may be fp16.
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

Precision = Literal["fp16", "fp32"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

EXACT_INPUTS = {"Resize": 1}
"""Operators that want float32 from this input on (a Resize's scales), whatever they compute in."""


def engine_graph(model: Path, precision: Precision, decoding: bool = False) -> bytes:
    """The serialised ONNX from `crops` (N, S, S, 3) uint8 to `maps` (N, 3K, S/4, S/4) float32.

    decoding: to `points` and `scores` instead, the decode in float32; to be measured beside decode.cu.
    """
    try:
        import onnx
        import onnx_ir as ir
    except ImportError as missing:
        raise BackendError(
            f"building an engine needs {missing.name}, which is not installed: {install_command('rtx')}"
        ) from missing
    graph = ir.from_proto(onnx.load(model))
    _cut(graph, model, ("points", "scores") if decoding else ("maps",))
    _unpack(graph)
    _convert_first(graph)
    if precision == "fp16":
        _halve(graph)
    proto = ir.to_proto(graph)
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString())


def decode_maps(maps: np.ndarray, manifest: Manifest | EngineManifest) -> tuple[np.ndarray, np.ndarray]:
    """Raw maps (N, 3K, H, W) -> points (N, K, 2) in crop pixels and scores (N, K), by the NumPy reference."""
    parts = maps.reshape(len(maps), 3, manifest.points, *maps.shape[2:])
    return decode(parts[:, 0], parts[:, 1:], manifest.stride)


def _cut(model: "ir.Model", path: Path, ends: tuple[str, ...]) -> None:
    """Leave only what leads to the values named `ends`."""
    graph = model.graph
    named = {value.name: value for node in graph for value in node.outputs}
    if [value.name for value in graph.inputs] != ["crops"] or not named.keys() >= {"maps", *ends}:
        raise ModelError(f"{path}: no graph from `crops` to {' and '.join(ends)}; export it with `canthus export`")
    graph.outputs.clear()
    graph.outputs.extend(named[end] for end in ends)
    for node in reversed(list(graph)):
        if not any(value.uses() or value in graph.outputs for value in node.outputs):
            graph.remove(node, safe=True)
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        graph.initializers.pop(name)


def _unpack(model: "ir.Model") -> None:
    """Turn weights stored as fp16 behind a Cast into float32 weights."""
    graph = model.graph
    for node in list(graph):
        stored = node.inputs[0] if node.op_type == "Cast" else None
        if stored is None or not stored.is_initializer() or stored.const_value is None:
            continue
        _replace(graph, node, _constant(graph, f"{stored.name}.f32", stored.const_value.numpy(), np.float32))
        if not stored.uses():
            graph.initializers.pop(str(stored.name))


def _convert_first(model: "ir.Model") -> None:
    """Turn uint8 into float before anything else: TensorRT takes uint8 only as what a Cast reads."""
    import onnx_ir as ir

    graph = model.graph
    crops = graph.inputs[0]
    ((first, _),) = crops.uses()
    if first.op_type == "Cast":
        return
    ((cast, _),) = first.outputs[0].uses()
    assert (first.op_type, cast.op_type) == ("Transpose", "Cast"), "the exporter's order changed"
    _replace(graph, cast, first.outputs[0])
    early = _cast(crops, ir.DataType.FLOAT, "crops.f32")
    graph.insert_before(first, early)
    first.replace_input_with(0, early.outputs[0])
    first.outputs[0].dtype = ir.DataType.FLOAT


def _halve(model: "ir.Model") -> None:
    """Compute in fp16 from the first convolution to the last; the maps come out as float32."""
    import onnx_ir as ir

    graph = model.graph
    (maps,) = (value for node in graph for value in node.outputs if value.name == "maps")
    halved: set[ir.Value] = set()
    entered: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        if node.op_type != "Conv" and not any(value in halved for value in node.inputs):
            continue
        for place, value in enumerate(node.inputs[: EXACT_INPUTS.get(node.op_type)]):
            if value is None or value in halved or value.dtype != ir.DataType.FLOAT:
                continue
            if value not in entered:
                entered[value] = _as_half(graph, node, value)
            node.replace_input_with(place, entered[value])
        for value in node.outputs:
            if value.dtype != ir.DataType.FLOAT:  # a Shape's numbers stay whole
                continue
            value.dtype = ir.DataType.FLOAT16
            if value is not maps:  # what reads the maps reads them as float32
                halved.add(value)
    for value in entered:
        if value.is_initializer() and not value.uses():
            graph.initializers.pop(str(value.name))
    users = list(maps.uses())
    maps.name = "maps.f16"
    whole = _cast(maps, ir.DataType.FLOAT, "maps")
    producer = maps.producer()
    assert producer is not None
    graph.insert_after(producer, whole)
    for user, place in users:
        user.replace_input_with(place, whole.outputs[0])
    for place, value in enumerate(graph.outputs):
        if value is maps:
            graph.outputs[place] = whole.outputs[0]


def _as_half(graph: "ir.Graph", before: "ir.Node", value: "ir.Value") -> "ir.Value":
    import onnx_ir as ir

    if value.const_value is None:
        cast = _cast(value, ir.DataType.FLOAT16, f"{value.name}.f16")
        graph.insert_before(before, cast)
        return cast.outputs[0]
    whole = value.const_value.numpy()
    if np.abs(whole).max(initial=0) > np.finfo(np.float16).max:
        raise ModelError(f"the weights {value.name} do not fit fp16; build with --precision fp32")
    return _constant(graph, f"{value.name}.f16", whole, np.float16)


def _constant(graph: "ir.Graph", name: str, array: np.ndarray, kind: type) -> "ir.Value":
    import onnx_ir as ir

    tensor: ir.TensorProtocol = ir.Tensor(array.astype(kind), name=name)
    value = ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
    graph.initializers.add(value)
    return value


def _cast(value: "ir.Value", kind: "ir.DataType", name: str) -> "ir.Node":
    import onnx_ir as ir

    node = ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(kind))], name=f"{name}.cast")
    made = node.outputs[0]
    made.name, made.dtype, made.shape = name, kind, value.shape
    return node


def _replace(graph: "ir.Graph", node: "ir.Node", value: "ir.Value") -> None:
    """Let everything read `value` instead of a node's one output, and take the node out."""
    for user, place in list(node.outputs[0].uses()):
        user.replace_input_with(place, value)
    graph.remove(node, safe=True)
