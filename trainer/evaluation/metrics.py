"""Errors of predicted points against true ones, as the literature counts them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from canthus.trainer.faces.schemes import scheme_of

FAILURE_THRESHOLD = 10.0
"""A face counts as failed above this NME (%): FR@10 and AUC@10."""

ACCURATE_THRESHOLD = 5.0
"""A point sits well up to this error (%): what its score should foretell."""

BINS = 20
"""Equal parts of the scores from 0 to 1 in which they are compared with errors."""

Floats = NDArray[np.floating]


def nme(predicted: Floats, true: Floats) -> Floats:
    """Normalised mean error of each face in %: mean point distance over the true length of the scheme's ruler.

    predicted, true: (N, K, 2), same pixels; K tells the scheme. Returns (N,).
    """
    return mean_distance(predicted, true, true)


def mean_distance(one: Floats, other: Floats, true: Floats) -> Floats:
    """How far two answers (N, K, 2) for the same faces lie apart, (N,) in % of the true ruler."""
    mean: Floats = point_errors(one, other, true).mean(-1)
    return mean


def point_errors(one: Floats, other: Floats, true: Floats) -> Floats:
    """The same of each point, (N, K)."""
    distance = np.linalg.norm(one - other, axis=-1)
    share: Floats = 100 * distance / np.linalg.norm(scheme_of(true.shape[1]).normalizer_vector(true), axis=-1)[:, None]
    return share


@dataclass(frozen=True)
class Summary:
    """Figures over faces; a missed face has an infinite error: it fails, and `nme` leaves it out."""

    nme: float
    fr10: float
    auc10: float
    faces: int
    missed: int
    interval: tuple[float, float]


def summarise(errors: Floats, seed: int = 0, resamples: int = 2000) -> Summary:
    """Summarise NMEs (N,) in %; `interval` is the bootstrap 95 % interval of the mean.

    FR@10: share of faces above 10 %, in %. AUC@10: area under the share of faces below an error, from 0 to
    10 %, over 10 %; it is exact, as the mean of what each face leaves of the 10 %.
    """
    errors = np.where(np.isfinite(errors), errors, np.inf)
    found = errors[np.isfinite(errors)]
    if not len(found):
        nothing = float("nan")
        return Summary(nothing, 100.0, 0.0, len(errors), len(errors), (nothing, nothing))
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
    """What the scores of points foretell, in `BINS` equal parts of 0 to 1; NaN in a part without points."""

    points: tuple[int, ...]  # how many have such a score
    mean_score: tuple[float, ...]  # their mean score
    accurate: tuple[float, ...]  # the share of them whose error is at most `ACCURATE_THRESHOLD`
    median_error: tuple[float, ...]  # their median error, %
    calibration_error: float  # mean distance of score and that share over all points: the expected calibration error
    rank_correlation: float  # Spearman's, of score and negative error; NaN if all scores are equal


def reliability(scores: Floats, errors: Floats) -> Reliability:
    """Compare scores (N, K) in [0, 1] with the errors (N, K) of their points in %; NaN, a missed face, is left out."""
    found = np.isfinite(scores) & np.isfinite(errors)
    sure, wrong = scores[found].astype(np.float64), errors[found].astype(np.float64)
    part = np.clip(sure * BINS, 0, BINS - 1).astype(np.int64)
    count = np.bincount(part, minlength=BINS)
    with np.errstate(invalid="ignore"):
        score = np.bincount(part, sure, BINS) / count
        within = np.bincount(part, wrong <= ACCURATE_THRESHOLD, BINS) / count
    median = [float(np.median(wrong[part == one])) if count[one] else float("nan") for one in range(BINS)]
    gap = np.abs(score - within)[count > 0] @ count[count > 0] / max(len(sure), 1)
    told = len(np.unique(sure)) > 1 and len(np.unique(wrong)) > 1
    rank = float(np.corrcoef(_ranks(sure), _ranks(-wrong))[0, 1]) if told else float("nan")
    return Reliability(
        tuple(count.tolist()), tuple(score.tolist()), tuple(within.tolist()), tuple(median), float(gap), rank
    )


def _ranks(values: Floats) -> Floats:
    """The place of each value in order; equal ones share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts + 1) / 2)[place]
    return ranks
