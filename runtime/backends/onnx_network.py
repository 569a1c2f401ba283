"""Run an exported model with PyTorch, up to its maps: for GPUs that no installed TensorRT supports.

Only the operations that `canthus export` writes are known. Shapes are computed on the CPU, so that a CUDA graph can
capture the rest.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from canthus.runtime.errors import BackendError, ModelError
from canthus.runtime.extras import install_command


class _Step(NamedTuple):
    operation: Callable[..., Tensor]
    inputs: tuple[str, ...]
    output: str
    finished: tuple[str, ...]  # values that no later step needs


class OnnxNetwork(nn.Module):
    """An exported model from crops (N, S, S, 3) uint8 to raw maps (N, 3K, S/stride, S/stride).

    half: compute in fp16 from the first convolution on; the maps are fp16 too. The normalization is float32.

    Raises ModelError if the model has an operation that is not known, BackendError if onnx is not installed.
    """

    def __init__(self, model: Path, half: bool = False) -> None:
        super().__init__()
        try:
            import onnx
            from onnx import numpy_helper
        except ImportError as missing:
            raise BackendError(f"running a model with PyTorch needs onnx: {install_command('rtx')}") from missing
        graph = onnx.load(model).graph
        arrays = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
        nodes = _needed_nodes(graph, model)
        self._constants: dict[str, str] = {}  # name in the model -> name of the buffer
        self._shapes: dict[str, Tensor] = {}  # indices and sizes, which stay on the CPU
        used = {name for node in nodes for name in node.input}
        convolved = {name for node in nodes if node.op_type == "Conv" for name in node.input[1:]}
        casts = {node.output[0]: node.input[0] for node in nodes if node.op_type == "Cast" and node.input[0] in arrays}
        arrays |= {output: arrays[source].astype(np.float32) for output, source in casts.items()}
        sizes = {name for node in nodes if node.op_type == "Resize" for name in node.input[1:]}
        for name in (used | set(casts)) & arrays.keys():
            tensor = torch.from_numpy(np.array(arrays[name]))
            if name in sizes or not tensor.is_floating_point():
                self._shapes[name] = tensor
            else:
                self._constants[name] = f"constant{len(self._constants)}"
                self.register_buffer(self._constants[name], tensor.half() if half and name in convolved else tensor)
        nodes = [node for node in nodes if node.output[0] not in casts]
        last_use = {name: index for index, node in enumerate(nodes) for name in node.input}
        self._steps = [
            _Step(
                _operation(node, model),
                tuple(node.input),
                node.output[0],
                tuple(name for name in dict.fromkeys(node.input) if last_use[name] == index and name not in arrays),
            )
            for index, node in enumerate(nodes)
        ]

    def forward(self, crops: Tensor) -> Tensor:
        values: dict[str, Any] = {"crops": crops, "": None}
        for operation, inputs, output, finished in self._steps:
            values[output] = operation(*(self._value(values, name) for name in inputs))
            for name in finished:
                values.pop(name, None)
        maps: Tensor = values["maps"]
        return maps

    def _value(self, values: dict[str, Any], name: str) -> Any:
        if name in values or not name:
            return values.get(name)
        return self._shapes[name] if name in self._shapes else getattr(self, self._constants[name])


def _needed_nodes(graph: Any, model: Path) -> list[Any]:
    """Return the nodes that the maps depend on, in order."""
    producers = {output: node for node in graph.node for output in node.output}
    if "maps" not in producers:
        raise ModelError(f"{model}: has no value `maps`; export it with `canthus export`")
    needed, todo = set[str](), ["maps"]
    while todo:
        name = todo.pop()
        if name in producers and name not in needed:
            needed.add(name)
            todo += producers[name].input
    return [node for node in graph.node if node.output[0] in needed]


def _operation(node: Any, model: Path) -> Callable[..., Tensor]:
    """Return a function of the inputs of a node."""
    from onnx.helper import get_attribute_value

    a: dict[str, Any] = {one.name: get_attribute_value(one) for one in node.attribute}
    match node.op_type:
        case "Conv":
            return _convolution(a)
        case "Relu":
            return F.relu
        case "Add":
            return lambda one, other: torch.add(*_same_type(one, other))
        case "Sub":
            return lambda one, other: torch.sub(*_same_type(one, other))
        case "Mul":
            return lambda one, other: torch.mul(*_same_type(one, other))
        case "Div":
            return lambda one, other: torch.div(*_same_type(one, other))
        case "Cast":
            return lambda value: value.float() if a["to"] in (1, 10) else value
        case "Transpose":
            return lambda value: value.permute(*a["perm"])
        case "Concat":
            return lambda *parts: torch.cat(parts, a["axis"])
        case "Shape":
            return lambda value: torch.tensor(value.shape[a.get("start", 0) : a.get("end")])
        case "Reshape":
            return lambda value, shape: value.reshape(shape.tolist())
        case "Squeeze":
            return lambda value, axes: value.squeeze(axes.tolist())
        case "Slice":
            return _slice
        case "GatherND":
            return _gather_rows()
        case "Resize":
            return _resize(a, model)
    raise ModelError(f"{model}: its operation {node.op_type} cannot be run with PyTorch; use OpenVINO, on the CPU")


def _convolution(a: dict[str, Any]) -> Callable[..., Tensor]:
    top, left, bottom, right = a.get("pads", (0, 0, 0, 0))
    strides, groups, dilations = a.get("strides", (1, 1)), a.get("group", 1), a.get("dilations", (1, 1))

    def convolve(value: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        value = value.to(weight.dtype).contiguous(memory_format=torch.channels_last)
        if (top, left) != (bottom, right):
            value = F.pad(value, (left, right, top, bottom))
            return F.conv2d(value, weight, bias, strides, 0, dilations, groups)
        return F.conv2d(value, weight, bias, strides, (top, left), dilations, groups)

    return convolve


def _same_type(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Return both values as fp16 if one is: constants are float32."""
    if one.dtype == other.dtype or not (one.is_floating_point() and other.is_floating_point()):
        return one, other
    return one.half(), other.half()


def _slice(value: Tensor, starts: Tensor, ends: Tensor, axes: Tensor) -> Tensor:
    for start, end, axis in zip(starts.tolist(), ends.tolist(), axes.tolist(), strict=True):
        value = value[(slice(None),) * axis + (slice(start, end),)]
    return value


def _gather_rows() -> Callable[..., Tensor]:
    """Return GatherND for indices (n, 1) of the first axis. The indices are copied to the device once."""
    copied: list[Tensor] = []

    def gather(value: Tensor, indices: Tensor) -> Tensor:
        if not copied or copied[0].device != value.device:
            copied[:] = [indices[:, 0].to(value.device)]
        return value.index_select(0, copied[0])

    return gather


def _resize(a: dict[str, Any], model: Path) -> Callable[..., Tensor]:
    mode, places = a.get("mode", b"nearest").decode(), a["coordinate_transformation_mode"].decode()
    known = {("nearest", "asymmetric"): "nearest", ("linear", "half_pixel"): "bilinear"}
    if (mode, places) not in known and (mode, places) != ("linear", "pytorch_half_pixel"):
        raise ModelError(f"{model}: its Resize ({mode}, {places}) cannot be run with PyTorch; use OpenVINO, on the CPU")
    method = known.get((mode, places), "bilinear")

    def resize(value: Tensor, _: Any, scales: Tensor | None = None, sizes: Tensor | None = None) -> Tensor:
        side: Sequence[int] = sizes.tolist()[2:] if sizes is not None else _scaled(value, scales)
        return F.interpolate(value, tuple(side), mode=method)

    return resize


def _scaled(value: Tensor, scales: Tensor | None) -> list[int]:
    assert scales is not None
    return [round(side * float(scale)) for side, scale in zip(value.shape[2:], scales.tolist()[2:], strict=True)]
