"""From the peak of a point's score map to the chance that the point sits well, on its way out of a backend.

A network's peaks put points in the right order, but their height is not that chance: the middle boasts. A logistic
curve through the logit mends it, p = 1 / (1 + exp(-(a * logit(s) + b))), as Platt did for the margins of support vector
machines ("Probabilistic Outputs for Support Vector Machines", 1999). With a > 0 the order stays.
"""

import math

import numpy as np
from numpy.typing import NDArray

Calibration = tuple[float, float]
"""a and b of the curve."""

UNTOUCHED: Calibration = (1.0, 0.0)

EDGE = 0.02
"""Peaks nearer to 0 or 1 than this count as this: a logit has no end there, and above 0.98 a higher peak (many are
clipped to 1) is no better sign."""


def calibrated(scores: NDArray[np.float32], calibration: Calibration) -> NDArray[np.float32]:
    """Peaks in [0, 1], of any shape, as chances; NaN stays NaN.

    The backends of models, engines and checkpoints send theirs through here; `TorchBackend`, told no curve, does not.
    """
    if calibration == UNTOUCHED:
        return scores
    slope, shift = calibration
    with np.errstate(over="ignore"):  # where the chance is nothing
        return np.asarray(1 / (1 + np.exp(-(slope * logit(scores) + shift))), np.float32)


def logit(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Logarithm of the odds, log(s / (1 - s)), of scores in [0, 1], held `EDGE` away from both ends."""
    inside = np.clip(scores.astype(np.float64), EDGE, 1 - EDGE)
    odds: NDArray[np.float64] = np.log(inside / (1 - inside))
    return odds


def read_calibration(told: object) -> Calibration:
    """a and b as json told them; ValueError when they are none."""
    match told:
        case [int() | float() as slope, int() | float() as shift]:
            if slope > 0 and math.isfinite(slope) and math.isfinite(shift):
                return float(slope), float(shift)
    raise ValueError(f"calibration must be two finite numbers, the first above 0, got {told!r}")
