"""Measures of how points change over time."""

import numpy as np
from numpy.typing import NDArray

DELAYS = np.arange(-1.0, 4.0, 0.05)
"""Delays that are tried, in frames."""

EDGE = 5
"""Frames at each end that are left out: there the delayed path would be extrapolated."""


def lag_in_frames(points: NDArray[np.floating], true: NDArray[np.floating]) -> float:
    """Return how many frames `points` lag behind `true`, both (frames, K, 2).

    The lag is the delay of the true path that minimizes its squared distance to the measured path. The path is the
    mean of the K points. The result is negative if the points lead.
    """
    measured, path = points.mean(1), true.mean(1)
    times = np.arange(len(path))
    errors = []
    for delay in DELAYS:
        delayed = np.stack([np.interp(times - delay, times, path[:, axis]) for axis in (0, 1)], axis=1)
        errors.append(np.square(delayed - measured)[EDGE:-EDGE].mean())
    return round(float(DELAYS[int(np.argmin(errors))]), 2)
