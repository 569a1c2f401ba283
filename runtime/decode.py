"""Points to score and offset maps and back: the "skps" head, as NumPy. Every other decode is tested against this one.

For each point the head gives a score map, a Gaussian around the point, and two offset maps that tell, at cell
c, how far the point lies from c: offset = point / stride - c, in cells. So one cell suffices to place the point, and
the published decode takes the one with the highest score. Here the cells around it have a say too, each by its score:
that averages their errors out (10 % less NME on held-out faces, see trainer/RESULTS.md) and the point no longer jumps
where two cells are nearly equal.
"""

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

REACH = 2
"""Cells to each side of the peak that help to place a point."""

LEAST = 1e-6
"""Weight that the peak has at any rate, so that a map without a positive score still gives its peak's answer."""


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


def decode(scores: Float32, offsets: Float32, stride: int, reach: int = REACH) -> tuple[Float32, Float32]:
    """Read points from maps: the mean of what the cells up to `reach` from the highest score tell, weighted by score.

    scores: (N, K, H, W). offsets: (N, 2, K, H, W) in cells. Ties go to the first cell in row order; a cell whose score
    is not positive has no say, unless none is. reach = 0 is the published decode.
    Returns points (N, K, 2) in crop pixels and their scores (N, K), the peaks clipped to [0, 1].
    """
    count, points, height, width = scores.shape
    flat = scores.reshape(count, points, height * width)
    peak = flat.argmax(-1)[..., None]  # (N, K, 1)
    score = np.take_along_axis(flat, peak, -1)[..., 0]

    steps = np.arange(-reach, reach + 1)
    down, right = (grid.ravel() for grid in np.meshgrid(steps, steps, indexing="ij"))  # (cells around,)
    x, y = peak % width + right, peak // width + down  # (N, K, cells around)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    near = np.where(inside, y * width + x, peak)
    says = np.take_along_axis(flat, near, -1)
    weight = np.where(inside & (says > 0), says, 0) + LEAST * ((right == 0) & (down == 0))

    told = np.take_along_axis(
        offsets.reshape(count, 2, points, height * width), np.repeat(near[:, None], 2, 1), -1
    )  # (N, 2, K, cells around)
    from_peak = told + np.stack([right, down])[:, None, :]
    moved = (weight[:, None] * from_peak).sum(-1) / weight.sum(-1)[:, None]  # (N, 2, K)
    place = (np.concatenate([peak % width, peak // width], -1).transpose(0, 2, 1) + moved) * stride
    return (
        np.ascontiguousarray(place.transpose(0, 2, 1), dtype=np.float32),
        np.clip(score, 0, 1).astype(np.float32),
    )
