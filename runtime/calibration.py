"""Calibration: turn the peak of a point's score map into the probability that the point is accurate.

The peaks of a network rank the points well, but they are not probabilities: medium peaks are overconfident, and at the
same peak a point of the contour is less often accurate than a corner of an eye. Every backend corrects them with a
logistic curve, with s the peak of point k, x = logit(s), and m the mean of x over the points of the face:

    p = 1 / (1 + exp(-(a * x + b + c * m + d[k])))

With c = 0 and d = 0 this is Platt scaling ("Probabilistic Outputs for Support Vector Machines", 1999). As a > 0 and
c >= 0, a higher peak never means a lower probability.
"""

import contextlib
import functools
import math

import numpy as np
from numpy.typing import NDArray

Calibration = tuple[float, ...]
"""a and b; or a, b, c and then d[k] of each point, so that there are 3 numbers more than points."""

IDENTITY: Calibration = (1.0, 0.0)
"""The calibration that leaves scores unchanged."""

EDGE = 0.02
"""Scores are clipped to [EDGE, 1 - EDGE] before the logit, which is infinite at 0 and 1. Many peaks are clipped to 1,
so above 0.98 a higher peak does not mean a more accurate point."""


def apply_calibration(scores: NDArray[np.float32], calibration: Calibration) -> NDArray[np.float32]:
    """Return the calibrated scores of map peaks in [0, 1]; NaN stays NaN.

    scores: (..., K) peaks of the points of a face. With a and b only, any shape.
    """
    if calibration == IDENTITY:
        return scores
    slope, intercept, *more = calibration
    x = logit(scores)
    value = slope * x + intercept
    if more and scores.size:
        mean = x.sum(-1, keepdims=True) / x.shape[-1]  # x.mean takes twice as long
        value += more[0] * mean + _of_points(calibration)
    with np.errstate(over="ignore"):  # exp overflows where the probability is 0
        return np.asarray(1 / (1 + np.exp(-value)), np.float32)


@functools.cache
def _of_points(calibration: Calibration) -> NDArray[np.float64]:
    """Return d, (K,)."""
    return np.array(calibration[3:])


def logit(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return log(s / (1 - s)) of scores in [0, 1], after clipping them to [EDGE, 1 - EDGE]."""
    clipped = np.minimum(np.maximum(scores.astype(np.float64), EDGE), 1 - EDGE)  # np.clip takes twice as long
    log_odds: NDArray[np.float64] = np.log(clipped / (1 - clipped))
    return log_odds


def read_calibration(value: object) -> Calibration:
    """Return the calibration of a parsed JSON value. Raises ValueError if it does not define a rising curve."""
    if isinstance(value, list | tuple) and all(map(_is_finite_number, value)):
        slopes = value[0:3:2]  # a, and c if it is there
        if (len(value) == 2 or len(value) > 3) and slopes[0] > 0 and min(slopes) >= 0:
            return tuple(float(one) for one in value)
    raise ValueError(
        "expected two finite numbers, the first above 0, or 3 numbers and one for each point, the third at least 0, "
        f"got {value!r:.80}"
    )


def _is_finite_number(value: object) -> bool:
    with contextlib.suppress(OverflowError):  # an int may be too large for a float
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return False


def fits_points(calibration: Calibration, points: int) -> bool:
    """Return whether a calibration is for this number of points per face."""
    return len(calibration) in (2, 3 + points)
