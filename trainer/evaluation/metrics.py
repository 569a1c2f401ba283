"""Errors of predicted points and calibration of their scores, as the literature defines them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from canthus.trainer.faces.lengths import box_root
from canthus.trainer.faces.schemes import Scheme, scheme_of

FAILURE_THRESHOLD = 10.0
"""A face with a larger NME (%) is a failure: FR@10 and AUC@10."""

ACCURATE_THRESHOLD = 5.0
"""A point is accurate up to this error (% of `face_length`). A calibrated score is the probability of that."""

BINS = 20
"""Number of equal intervals of the scores, from 0 to 1, for the reliability diagram."""

Floats = NDArray[np.floating]
Marks = NDArray[np.bool_]


def nme(predicted: Floats, true: Floats, evaluated: Marks | None = None, scheme: Scheme | None = None) -> Floats:
    """Return the normalized mean error (N,) in %: the mean distance of the points over the scheme's normalizer.

    predicted, true: (N, K, 2) in the same pixels. The normalizer of WFLW is the inter-ocular distance, between the
    outer eye corners.
    evaluated: (N, K) which points to measure; None = all. A face without such a point has the error NaN.
    scheme: of the points; None = the included one with K points.
    """
    return mean_of_points(point_errors(predicted, true, true, scheme), evaluated)


def box_nme(predicted: Floats, true: Floats, evaluated: Marks) -> Floats:
    """Return the mean distance (N,) of the evaluated points in % of the square root of the area of their box.

    Unlike the inter-ocular distance, this length hardly depends on the yaw. The arguments are those of `nme`.
    """
    with np.errstate(divide="ignore", invalid="ignore"):  # of faces without an evaluated point
        errors = 100 * np.linalg.norm(predicted - true, axis=-1) / box_root(true, evaluated)[:, None]
    return mean_of_points(errors, evaluated)


def mean_of_points(errors: Floats, evaluated: Marks | None = None) -> Floats:
    """Return the mean (N,) of errors (N, K) over the evaluated points; NaN if a face has none."""
    if evaluated is None:
        evaluated = np.ones(errors.shape, np.bool_)
    with np.errstate(invalid="ignore"):
        mean: Floats = np.where(evaluated, errors, 0).sum(-1) / evaluated.sum(-1).astype(errors.dtype)
    return mean


def mean_distance(one: Floats, other: Floats, true: Floats, scheme: Scheme | None = None) -> Floats:
    """Return the mean distance (N,) of two predictions (N, K, 2), in % of the normalizer of the true points."""
    return mean_of_points(point_errors(one, other, true, scheme))


def point_errors(one: Floats, other: Floats, true: Floats, scheme: Scheme | None = None) -> Floats:
    """Return the distance (N, K) of each point of two predictions (N, K, 2), in % of the normalizer of `true`."""
    distance = np.linalg.norm(one - other, axis=-1)
    normalizer = np.linalg.norm((scheme or scheme_of(true.shape[1])).normalizer_vector(true), axis=-1)
    errors: Floats = 100 * distance / normalizer[:, None]
    return errors


@dataclass(frozen=True)
class Summary:
    """Accuracy over faces. A missed face has an infinite error: it is a failure, and `nme` leaves it out."""

    nme: float  # mean, %
    fr10: float  # failure rate, %
    auc10: float  # 0 to 1
    faces: int
    missed: int
    interval: tuple[float, float]  # 95 % confidence interval of `nme`


def summarize(errors: Floats, seed: int = 0, resamples: int = 2000) -> Summary:
    """Summarize the NMEs (N,) of faces, in %.

    FR@10 is the percentage of faces above 10 %. AUC@10 is the area under the cumulative error distribution from 0 to
    10 %, over 10 %. It is exact: the mean of max(0, 1 - error / 10 %). The confidence interval is from the bootstrap.
    """
    errors = np.where(np.isfinite(errors), errors, np.inf)
    found = errors[np.isfinite(errors)]
    if not len(found):
        nan = float("nan")
        return Summary(nan, 100.0, 0.0, len(errors), len(errors), (nan, nan))
    draws = np.random.default_rng(seed).integers(0, len(found), (resamples, len(found)))
    low, high = np.percentile(found[draws].mean(1), [2.5, 97.5])
    return Summary(
        nme=float(found.mean()),
        fr10=float(100 * (errors > FAILURE_THRESHOLD).mean()),
        auc10=float(np.clip(1 - errors / FAILURE_THRESHOLD, 0, 1).mean()),
        faces=len(errors),
        missed=len(errors) - len(found),
        interval=(float(low), float(high)),
    )


@dataclass(frozen=True)
class Reliability:
    """How well scores predict errors. The tuples have one value per interval of scores, NaN without points in it."""

    points: tuple[int, ...]  # number of points with such a score
    mean_score: tuple[float, ...]
    accurate: tuple[float, ...]  # fraction of the points with an error up to ACCURATE_THRESHOLD
    median_error: tuple[float, ...]  # %
    calibration_error: float  # expected calibration error: mean over all points of |mean_score - accurate|
    rank_correlation: float  # Spearman's, of score and negative error; NaN if all scores are equal


def reliability(scores: Floats, errors: Floats) -> Reliability:
    """Compare scores (N, K) in [0, 1] with the errors (N, K) of their points in %. NaN (a missed face) is left out."""
    found = np.isfinite(scores) & np.isfinite(errors)
    scores, errors = scores[found].astype(np.float64), errors[found].astype(np.float64)
    interval = np.clip(scores * BINS, 0, BINS - 1).astype(np.int64)
    count = np.bincount(interval, minlength=BINS)
    with np.errstate(invalid="ignore"):
        mean_score = np.bincount(interval, scores, BINS) / count
        accurate = np.bincount(interval, errors <= ACCURATE_THRESHOLD, BINS) / count
    median = [float(np.median(errors[interval == one])) if count[one] else float("nan") for one in range(BINS)]
    used = count > 0
    calibration_error = np.abs(mean_score - accurate)[used] @ count[used] / max(len(scores), 1)
    varied = len(np.unique(scores)) > 1 and len(np.unique(errors)) > 1
    return Reliability(
        tuple(count.tolist()),
        tuple(mean_score.tolist()),
        tuple(accurate.tolist()),
        tuple(median),
        float(calibration_error),
        float(np.corrcoef(_ranks(scores), _ranks(-errors))[0, 1]) if varied else float("nan"),
    )


def _ranks(values: Floats) -> Floats:
    """Return the rank of each value; equal values have the mean of their ranks."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts + 1) / 2)[index]
    return ranks
