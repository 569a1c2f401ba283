"""Points to score and offset maps and back: the "skps" head, as NumPy. Every other decode is tested against this one.

For each point the head gives a score map, a Gaussian around the point, and two offset maps that tell, at cell
c, how far the point lies from c: offset = point / stride - c, in cells. So one cell suffices to place the point.
"""

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]


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


def decode(scores: Float32, offsets: Float32, stride: int) -> tuple[Float32, Float32]:
    """Read points from maps: the cell with the highest score, plus the offsets read there, times the stride.

    scores: (N, K, H, W). offsets: (N, 2, K, H, W) in cells. Ties go to the first cell in row order.
    Returns points (N, K, 2) in crop pixels and their scores (N, K), the peaks clipped to [0, 1].
    """
    count, points, height, width = scores.shape
    flat = scores.reshape(count, points, height * width)
    peak = flat.argmax(-1)  # (N, K)
    score = np.take_along_axis(flat, peak[..., None], -1)[..., 0]
    read = np.take_along_axis(offsets.reshape(count, 2, points, height * width), peak[:, None, :, None], -1)[
        ..., 0
    ]  # (N, 2, K)
    cells = np.stack([peak % width, peak // width], axis=1)  # (N, 2, K)
    place = (cells + read) * stride
    return (
        np.ascontiguousarray(place.transpose(0, 2, 1), dtype=np.float32),
        np.clip(score, 0, 1).astype(np.float32),
    )
