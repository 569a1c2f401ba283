"""Decode the maps in OpenVINO in fewer passes than the exported decode, which other runtimes and engines use.

OpenVINO computes a convolution with the channels last. The exported decode makes it move them first, convert the maps
from bf16, and copy the offsets: as much time as a quarter of the network of `fast`. Here one convolution each makes the
scores, the x offsets and the y offsets, the channels stay last, and the exponents of the two windows are added first.
With flip test-time augmentation, one convolution over the features of the image and of its mirror image replaces the
average of the maps.

The points are those of runtime/decode.py: the same sums, in another order.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.backends.openvino_without_telemetry import openvino
from canthus.runtime.decode import CORE_THRESHOLD, MIN_WEIGHT, WINDOW_SIGMA
from canthus.runtime.models import Manifest

ops: Any = openvino.opset13

Node = Any
"""A node of OpenVINO's graph, or one of its outputs."""

LARGEST_OFFSET = 1e4
"""In cells. Offsets are limited to it, which changes none: after a limit, a convolution in bf16 returns float32."""

COLUMNS, ROWS, CELLS = ([3], [2], [2, 3])
"""Axes of (N, K, H, W) to sum over."""


class _Head(NamedTuple):
    """The last convolution: features (N, C, H, W) -> maps (N, 3K, H, W)."""

    features: Node
    weights: NDArray[np.float32]  # (3, K, C): of scores, x offsets, y offsets
    bias: NDArray[np.float32]  # (3, K)


def with_faster_decode(network: openvino.Model, manifest: Manifest) -> openvino.Model:
    """Return a network from crops (N, S, S, 3) to points (N, K, 2) and scores (N, K) with the decode of this file.

    The network itself is returned if it has another form than `canthus export` gives it, or another decode.
    """
    head = None if manifest.training.get("decode") == "peak" else _find_head(network, manifest)
    if head is None:
        return network
    scores, offset_x, offset_y = (_convolve(head, kind) for kind in range(3))
    limited = (ops.clamp(offset, -LARGEST_OFFSET, LARGEST_OFFSET) for offset in (offset_x, offset_y))
    outputs = _decode(ops.relu(scores), (*limited,), manifest.size // manifest.stride, manifest.stride)
    return openvino.Model([node.output(0) for node in outputs], network.get_parameters(), "decoded")


def _find_head(network: openvino.Model, manifest: Manifest) -> _Head | None:
    """Return the last convolution before the value `maps`, with the average over the mirror image in its weights."""
    nodes = network.get_ordered_ops()
    maps = next((node for node in nodes for output in node.outputs() if "maps" in output.get_names()), None)
    biases = [node for node in nodes if node.get_type_name() == "Add" and _producer(node, 0) == "Convolution"]
    if maps is None or not biases:
        return None
    convolution = biases[-1].input_value(0).get_node()
    weights, bias = _constant(convolution.input_value(1)), _constant(biases[-1].input_value(1))
    points, features = manifest.points, convolution.input_value(0)
    if weights is None or bias is None or weights.shape[0] != 3 * points or weights.shape[2:] != (1, 1):
        return None
    weights, bias = weights.reshape(3, points, -1), bias.reshape(3, points)
    if maps == biases[-1]:
        return _Head(features, weights, bias)
    if not manifest.training.get("flip_tta") or maps.get_type_name() != "Divide":
        return None
    halves = ops.split(features, np.int64(0), 2)
    mirrored = ops.slice(halves.output(1), *(np.array([value], np.int64) for value in (-1, -(2**31), -1, 3)))
    signs, order = np.array([1, -1, 1], np.float32)[:, None], np.array(manifest.scheme.mirror)
    half = np.float32(0.5)
    return _Head(
        ops.concat([halves.output(0), mirrored.output(0)], 1).output(0),
        np.concatenate([weights, weights[:, order] * signs[..., None]], 2) * half,
        (bias + bias[:, order] * signs) * half,
    )


def _producer(node: Node, index: int) -> str:
    """Return the type of the node that makes an input."""
    return str(node.input_value(index).get_node().get_type_name())


def _constant(value: Node) -> NDArray[np.float32] | None:
    """Return a constant as float32; None if it is none. Weights may be stored as fp16, biases in another shape."""
    node = value.get_node()
    while node.get_type_name() in ("Convert", "Reshape"):
        node = node.input_value(0).get_node()
    return np.array(node.data, np.float32) if node.get_type_name() == "Constant" else None


def _convolve(head: _Head, kind: int) -> Node:
    """Return the maps (N, K, H, W) of one kind: scores, x offsets or y offsets."""
    convolved = ops.convolution(head.features, head.weights[kind, :, :, None, None], [1, 1], [0, 0], [0, 0], [1, 1])
    return ops.add(convolved, head.bias[kind].reshape(1, -1, 1, 1))


def _decode(scores: Node, offsets: tuple[Node, ...], side: int, stride: int) -> tuple[Node, Node]:
    """Return points and scores as runtime/decode.py does, of scores >= 0 and offsets in x and y, (N, K, side, side)."""
    x = np.arange(side, dtype=np.float32).reshape(1, 1, 1, side)
    y = x.reshape(1, 1, side, 1)
    highest = ops.reduce_max(scores, np.array(CELLS), keep_dims=True)
    above = ops.relu(ops.subtract(scores, ops.multiply(highest, np.float32(CORE_THRESHOLD))))
    core = ops.add(above, np.float32(MIN_WEIGHT))
    by_column, by_row = _sum(core, ROWS), _sum(core, COLUMNS)
    total = _sum(by_row, ROWS)
    to_x = ops.subtract(x, ops.divide(_sum(ops.multiply(by_column, x), COLUMNS), total))
    to_y = ops.subtract(y, ops.divide(_sum(ops.multiply(by_row, y), ROWS), total))

    factor = np.float32(-0.5 / WINDOW_SIGMA**2)
    exponents = (ops.multiply(ops.multiply(distance, factor), distance) for distance in (to_x, to_y))
    weights = ops.multiply(ops.add(scores, np.float32(MIN_WEIGHT)), ops.exp(ops.add(*exponents)))
    weight = _sum(weights, CELLS)  # (N, K, 1, 1)
    means = [
        ops.divide(_sum(ops.multiply(weights, ops.add(offset, cell)), CELLS), weight)
        for offset, cell in zip(offsets, (x, y), strict=True)
    ]
    points = ops.multiply(ops.squeeze(ops.concat(means, 2), np.array([3])), np.float32(stride))
    return points, ops.minimum(ops.squeeze(highest, np.array(CELLS)), np.float32(1))


def _sum(value: Node, axes: list[int]) -> Node:
    return ops.reduce_sum(value, np.array(axes), keep_dims=True)
