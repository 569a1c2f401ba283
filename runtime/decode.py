"""Points to score and offset maps and back: the "skps" head, as NumPy. Every other decode is tested against this one.

For each point the head gives a score map, a Gaussian around the point, and two offset maps that tell, at cell
c, how far the point lies from c: offset = point / stride - c, in cells. So one cell suffices to place the point, and
the published decode takes the one with the highest score. Here all cells around have a say, each by its score: that
averages their errors out (10 % less NME on held-out faces, see trainer/RESULTS.md). And no cell is chosen, so the point
moves little where the maps change little: it does not hop where two cells are nearly equal.
"""

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

CORE = 0.5
"""Share of the peak's score: the cells above it tell where about the point lies."""

REACH = 3.0
"""Cells from there at which a cell's say has fallen as a bell does at its deviation."""

LEAST = 1e-6
"""Weight that every cell has at any rate, so that a map without a positive score still gives a point. OpenVINO leaves a
much smaller one out."""


def encode(points: Float32, size: int, stride: int, sigma: float) -> tuple[Float32, Float32]:
    """Draw points as maps.

    points: (N, K, 2) crop pixels. size: cells along one edge. sigma: of the Gaussian, in cells.
    Returns scores (N, K, size, size) in [0, 1] and offsets (N, 2, K, size, size) in cells, x then y.
    """
    cells = np.arange(size, dtype=np.float32)
    to_x = points[..., 0, None] / stride - cells  # (N, K, size)
    to_y = points[..., 1, None] / stride - cells
    bell_x = np.exp(-(to_x**2) / (2 * sigma**2))
    bell_y = np.exp(-(to_y**2) / (2 * sigma**2))
    scores = bell_y[..., :, None] * bell_x[..., None, :]
    offsets = np.stack(
        [
            np.broadcast_to(to_x[..., None, :], scores.shape),
            np.broadcast_to(to_y[..., :, None], scores.shape),
        ],
        axis=1,
    )
    return scores.astype(np.float32), offsets.astype(np.float32)


def decode(scores: Float32, offsets: Float32, stride: int, reach: float = REACH) -> tuple[Float32, Float32]:
    """Read points from maps: the mean of what the cells tell, weighted by score and by a bell around the centre.

    The centre is that of the cells whose score is above `CORE` of the highest, each weighted by what it has above.
    So every step is continuous in the maps, wherever the highest cell lies. A negative score counts as none, NaN makes
    its point NaN. reach = 0 is the published decode: what the cell with the highest score tells, the first of equals.
    scores: (N, K, H, W). offsets: (N, 2, K, H, W) in cells.
    Returns points (N, K, 2) in crop pixels and their scores (N, K), the peaks clipped to [0, 1].
    """
    height, width = scores.shape[2:]
    across, along = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    top = scores.max((2, 3))  # (N, K)
    if reach == 0:
        return _published(scores, offsets, stride), np.clip(top, 0, 1).astype(np.float32)

    core = np.maximum(scores - CORE * np.maximum(top, 0)[..., None, None], 0) + LEAST  # (N, K, H, W)
    whole = core.sum((2, 3))[..., None]
    to_x = across - (core.sum(2) * across).sum(-1, keepdims=True) / whole  # (N, K, W)
    to_y = along - (core.sum(3) * along).sum(-1, keepdims=True) / whole  # (N, K, H)

    bell_x, bell_y = np.exp(-(to_x**2) / (2 * reach**2)), np.exp(-(to_y**2) / (2 * reach**2))
    weight = (np.maximum(scores, 0) + LEAST) * bell_x[..., None, :] * bell_y[..., :, None]
    told = (weight[:, None] * offsets).sum((3, 4))  # (N, 2, K)
    cells = np.stack([(weight.sum(2) * across).sum(-1), (weight.sum(3) * along).sum(-1)], 1)
    place = (cells + told) / weight.sum((2, 3))[:, None] * stride
    return (
        np.ascontiguousarray(place.transpose(0, 2, 1), dtype=np.float32),
        np.clip(top, 0, 1).astype(np.float32),
    )


def _published(scores: Float32, offsets: Float32, stride: int) -> Float32:
    """Points (N, K, 2) as the cell with the highest score alone tells them."""
    count, points, height, width = scores.shape
    peak = scores.reshape(count, points, height * width).argmax(-1)[:, None, :, None]  # (N, 1, K, 1)
    told = np.take_along_axis(offsets.reshape(count, 2, points, height * width), np.repeat(peak, 2, 1), -1)[..., 0]
    cells = np.concatenate([peak % width, peak // width], 1)[..., 0]  # (N, 2, K)
    return np.ascontiguousarray((cells + told).transpose(0, 2, 1) * stride, dtype=np.float32)
