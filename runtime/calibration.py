"""Calibration: turn the peak of a point's score map into the probability that the point is accurate.

The peaks of a network rank the points well, but they are not probabilities: medium peaks are overconfident. Every
backend corrects them with a logistic curve in the logit, p = 1 / (1 + exp(-(a * logit(s) + b))). This is Platt scaling
("Probabilistic Outputs for Support Vector Machines", 1999). With a > 0 the ranking stays the same.
"""

import contextlib
import math

import numpy as np
from numpy.typing import NDArray

Calibration = tuple[float, float]
"""The slope a and the intercept b of the curve."""

IDENTITY: Calibration = (1.0, 0.0)
"""The calibration that leaves scores unchanged."""

EDGE = 0.02
"""Scores are clipped to [EDGE, 1 - EDGE] before the logit, which is infinite at 0 and 1. Many peaks are clipped to 1,
so above 0.98 a higher peak does not mean a more accurate point."""


def apply_calibration(scores: NDArray[np.float32], calibration: Calibration) -> NDArray[np.float32]:
    """Return the calibrated scores of map peaks in [0, 1]. Any shape; NaN stays NaN."""
    if calibration == IDENTITY:
        return scores
    slope, intercept = calibration
    with np.errstate(over="ignore"):  # exp overflows where the probability is 0
        return np.asarray(1 / (1 + np.exp(-(slope * logit(scores) + intercept))), np.float32)


def logit(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return log(s / (1 - s)) of scores in [0, 1], after clipping them to [EDGE, 1 - EDGE]."""
    clipped = np.clip(scores.astype(np.float64), EDGE, 1 - EDGE)
    log_odds: NDArray[np.float64] = np.log(clipped / (1 - clipped))
    return log_odds


def read_calibration(value: object) -> Calibration:
    """Return a and b from a parsed JSON value. Raises ValueError if they do not define a rising curve."""
    match value:
        case [int() | float() as slope, int() | float() as intercept]:
            with contextlib.suppress(OverflowError):  # an int may be too large for a float
                if slope > 0 and math.isfinite(slope) and math.isfinite(intercept):
                    return float(slope), float(intercept)
    raise ValueError(f"expected two finite numbers, the first above 0, got {value!r}")
