"""A synthetic face of 98 points."""

import numpy as np


def _arc(count: int, x: float, y: float, wide: float, high: float, start: float, turn: float) -> np.ndarray:
    angles = np.radians(start + turn * np.linspace(0, 1, count))
    return np.stack([x + wide * np.cos(angles), y + high * np.sin(angles)], 1)


SHAPE = np.concatenate(
    [
        _arc(33, 0.5, 0.3, 0.5, 0.7, 180, -180),
        _arc(9, 0.27, 0.12, 0.15, 0.06, 180, 320),
        _arc(9, 0.73, 0.12, 0.15, 0.06, 180, 320),
        np.stack([np.full(4, 0.5), np.linspace(0.3, 0.52, 4)], 1),
        _arc(5, 0.5, 0.56, 0.1, 0.04, 180, -180),
        _arc(8, 0.28, 0.3, 0.1, 0.04, 180, 315),
        _arc(8, 0.72, 0.3, 0.1, 0.04, 180, 315),
        _arc(12, 0.5, 0.78, 0.18, 0.08, 180, 330),
        _arc(8, 0.5, 0.78, 0.12, 0.03, 180, 315),
        [[0.28, 0.3], [0.72, 0.3]],
    ]
).astype(np.float32)
"""Points (98, 2) of a simple upright face in the unit square, in the order of WFLW."""
