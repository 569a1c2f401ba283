"""Encode points as score and offset maps, and decode them: the "skps" head in NumPy, the reference for all others.

For each point, the head predicts a score map, a Gaussian around the point, and two offset maps with the distance from
each cell to the point in x and y: offset = point / stride - cell, in cells. So each cell has an estimate of the point,
and the published decoder uses that of the cell with the highest score.

`decode` instead averages the estimates of all cells near the point, weighted by their scores. The NME on validation
faces is 10 % lower (see trainer/RESULTS.md). It also avoids jumps between two cells with nearly equal scores, as a
small change of the maps changes the average only a little.
"""

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

CORE_THRESHOLD = 0.5
"""Cells with a score above this share of the highest one are the core; its center is a first estimate of the point."""

WINDOW_SIGMA = 3.0
"""Sigma, in cells, of the Gaussian window around the center of the core. Cells far from it hardly count."""

MIN_WEIGHT = 1e-6
"""Added to the weight of every cell, so that the point is finite if no score is positive. OpenVINO would drop a much
smaller number."""


def encode(points: Float32, size: int, stride: int, sigma: float) -> tuple[Float32, Float32]:
    """Return the maps of points.

    points: (N, K, 2) crop pixels.
    size: number of cells along one edge.
    stride: crop pixels per cell.
    sigma: of the Gaussian, in cells.

    Returns scores (N, K, size, size) in [0, 1] and offsets (N, 2, K, size, size) in cells, x before y.
    """
    cells = np.arange(size, dtype=np.float32)
    to_x = points[..., 0, None] / stride - cells  # (N, K, size)
    to_y = points[..., 1, None] / stride - cells
    gaussian_x = np.exp(-(to_x**2) / (2 * sigma**2))
    gaussian_y = np.exp(-(to_y**2) / (2 * sigma**2))
    scores = gaussian_y[..., :, None] * gaussian_x[..., None, :]
    offsets = np.stack(
        [
            np.broadcast_to(to_x[..., None, :], scores.shape),
            np.broadcast_to(to_y[..., :, None], scores.shape),
        ],
        axis=1,
    )
    return scores.astype(np.float32), offsets.astype(np.float32)


def decode(
    scores: Float32, offsets: Float32, stride: int, window_sigma: float = WINDOW_SIGMA
) -> tuple[Float32, Float32]:
    """Return the points of maps: the mean of cell plus offset over all cells, weighted by score and a Gaussian window.

    The window is around the center of the core: the mean of the cells with a score above `CORE_THRESHOLD` of the
    highest one, each weighted by the difference. All steps are continuous in the maps. Negative scores count as 0. NaN
    in a map gives a NaN point.

    scores: (N, K, H, W).
    offsets: (N, 2, K, H, W) in cells.
    stride: crop pixels per cell.
    window_sigma: in cells; 0 selects the published decoder: the cell with the highest score, the first if several are
        equal.

    Returns points (N, K, 2) in crop pixels and scores (N, K), the highest score of each map clipped to [0, 1].
    """
    height, width = scores.shape[2:]
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    highest = scores.max((2, 3))  # (N, K)
    if window_sigma == 0:
        return _decode_argmax(scores, offsets, stride), np.clip(highest, 0, 1).astype(np.float32)

    threshold = CORE_THRESHOLD * np.maximum(highest, 0)[..., None, None]
    core = np.maximum(scores - threshold, 0) + MIN_WEIGHT  # (N, K, H, W)
    total = core.sum((2, 3))[..., None]
    to_x = x - (core.sum(2) * x).sum(-1, keepdims=True) / total  # (N, K, W) from the center of the core
    to_y = y - (core.sum(3) * y).sum(-1, keepdims=True) / total  # (N, K, H)

    window_x, window_y = np.exp(-(to_x**2) / (2 * window_sigma**2)), np.exp(-(to_y**2) / (2 * window_sigma**2))
    weights = (np.maximum(scores, 0) + MIN_WEIGHT) * window_x[..., None, :] * window_y[..., :, None]
    sum_offset = (weights[:, None] * offsets).sum((3, 4))  # (N, 2, K)
    sum_cell = np.stack([(weights.sum(2) * x).sum(-1), (weights.sum(3) * y).sum(-1)], 1)
    points = (sum_cell + sum_offset) / weights.sum((2, 3))[:, None] * stride
    return (
        np.ascontiguousarray(points.transpose(0, 2, 1), dtype=np.float32),
        np.clip(highest, 0, 1).astype(np.float32),
    )


def _decode_argmax(scores: Float32, offsets: Float32, stride: int) -> Float32:
    """Return the points (N, K, 2) of the cells with the highest scores."""
    count, points, height, width = scores.shape
    cell = scores.reshape(count, points, height * width).argmax(-1)[:, None, :, None]  # (N, 1, K, 1)
    flat = offsets.reshape(count, 2, points, height * width)
    offset = np.take_along_axis(flat, np.repeat(cell, 2, 1), -1)[..., 0]  # (N, 2, K)
    xy = np.concatenate([cell % width, cell // width], 1)[..., 0]  # (N, 2, K)
    return np.ascontiguousarray((xy + offset).transpose(0, 2, 1) * stride, dtype=np.float32)
