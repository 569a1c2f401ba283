"""Errors of predicted points against true ones, as the literature counts them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from canthus.trainer.schemes import scheme_of

FAILURE = 10.0
"""A face counts as failed above this NME (%): FR@10 and AUC@10."""

Floats = NDArray[np.floating]


def nme(predicted: Floats, true: Floats) -> Floats:
    """Normalised mean error of each face in %: mean point distance over the true length of the scheme's ruler.

    predicted, true: (N, K, 2), same pixels; K tells the scheme. Returns (N,).
    """
    return apart(predicted, true, true)


def apart(one: Floats, other: Floats, true: Floats) -> Floats:
    """How far two answers (N, K, 2) for the same faces lie apart, (N,) in % of the true ruler."""
    distance = np.linalg.norm(one - other, axis=-1).mean(-1)
    share: Floats = 100 * distance / np.linalg.norm(scheme_of(true.shape[1]).across(true), axis=-1)
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
        fr10=float(100 * (errors > FAILURE).mean()),
        auc10=float(np.clip(1 - errors / FAILURE, 0, 1).mean()),
        faces=len(errors),
        missed=len(errors) - len(found),
        interval=(float(low), float(high)),
    )
