"""Predict the landmarks of faces in regions of an image, and refine the rough regions of a detector."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.backends import Backend
from canthus.runtime.backends.regions import predict_regions
from canthus.runtime.decode import MIN_WEIGHT
from canthus.runtime.geometry import extents, rois_from_points
from canthus.runtime.schemes import WFLW
from canthus.runtime.types import Roi

CONFIDENT_SCORE = 0.5
"""A prediction with a lower mean score is uncertain, and is refined further. On training faces, clean and degraded,
these are 3 % of the predictions in the detector's boxes."""

VIEW_SCALES = (0.93, 1.07)
"""Sides of the two additional regions of `average_views`, relative to the region of the points. The errors of the
network differ between regions, so their mean has a smaller error."""

WIDER_SCALE = 1.25
"""Side of the upright region in which an uncertain face is predicted again, relative to the detector's region."""


SCORE_TOLERANCE = 0.001
"""How far a score may be outside [0, 1], by rounding in half precision."""

MAX_DISTANCE = 1.0
"""A point further from the center of its region is an error of the network, in sides of the region. A corner of the
region is at 0.7."""

MIN_EXTENT = 0.01
"""Points that extend over less than this are no face, in sides of the region. The points of a face extend over 0.8."""


class Landmarks(NamedTuple):
    """The landmarks of the faces of one image."""

    points: NDArray[np.float32]  # (N, K, 2) image pixels
    scores: NDArray[np.float32]  # (N, K) in [0, 1]


Predict = Callable[[Sequence[Roi]], Landmarks]
"""Predicts the landmarks of one face per region."""

Roll = Callable[[NDArray[np.floating]], float]
"""Computes the roll of a face, in radians, from its points (K, 2)."""


def predict_landmarks(backend: Backend, image: NDArray[np.uint8], rois: Sequence[Roi]) -> Landmarks:
    """Predict the landmarks in each region of an image (H, W, 3) RGB, once.

    If the network returns impossible values for a face, its points are the center of its region and its scores are 0:
    NaN, points far outside the region or all at one place, or scores outside [0, 1].
    """
    points, scores = predict_regions(backend, image, rois)
    certain = _are_certain(points, scores, rois)
    for index, roi in enumerate(rois):
        if not (certain[index] or _is_possible(points[index], scores[index], roi)):
            points[index], scores[index] = (roi.x, roi.y), 0
    return Landmarks(points, scores)


def _are_certain(points: NDArray[np.float32], scores: NDArray[np.float32], rois: Sequence[Roi]) -> list[bool]:
    """Whether the points (N, K, 2) and scores (N, K) are possible by their extremes: (N,). A fast check of most faces.

    The points are in the square that is inside the circle of `_is_possible`. NaN is not certain.
    """
    if not rois:
        return []
    lowest, highest = scores.min(1).tolist(), scores.max(1).tolist()
    return [
        worst >= 0
        and best <= 1
        and max(roi.x - x0, x1 - roi.x) <= MAX_DISTANCE * math.sqrt(0.5) * roi.side
        and max(roi.y - y0, y1 - roi.y) <= MAX_DISTANCE * math.sqrt(0.5) * roi.side  # `max` of both would ignore NaN
        and max(x1 - x0, y1 - y0) >= MIN_EXTENT * roi.side
        for roi, (x0, y0, x1, y1), worst, best in zip(rois, extents(points), lowest, highest, strict=True)
    ]


def _is_possible(points: NDArray[np.float32], scores: NDArray[np.float32], roi: Roi) -> bool:
    """Whether a network that works can return these points (K, 2) and scores (K,) for a region. NaN is not possible."""
    if not (scores.min() >= -SCORE_TOLERANCE and scores.max() <= 1 + SCORE_TOLERANCE):
        return False
    distances = np.linalg.norm(points.astype(np.float64) - (roi.x, roi.y), axis=1)
    if not distances.max() <= MAX_DISTANCE * roi.side:
        return False
    return len(points) == 1 or bool(np.ptp(points, axis=0).max() >= MIN_EXTENT * roi.side)


def refine_landmarks(predict: Predict, rois: Sequence[Roi], roll: Roll = WFLW.roll) -> Landmarks:
    """Predict landmarks in rough regions, then in the regions of the points found, and keep the better of the two.

    The better one has the higher mean score. If it is low for a face, the region may be too tight, or rotated: the
    detector sometimes reports an upright face as rotated by 90 degrees. Such a face is predicted in an upright and
    wider region, and twice more in the region of the points found there.
    """
    if not rois:
        return predict(rois)
    first = predict(rois)
    best = _higher_score(first, predict(_regions(first, roll)))
    uncertain = np.flatnonzero(best.scores.mean(1) < CONFIDENT_SCORE)
    if not uncertain.size:
        return best
    rough = [rois[index] for index in uncertain.tolist()]
    wider = [dataclasses.replace(roi, angle=0.0, side=WIDER_SCALE * roi.side) for roi in rough]
    current = upright = predict(wider)
    for _ in range(2):
        current = predict(_regions(current, roll))
        upright = _higher_score(upright, current)
    points, scores = best.points.copy(), best.scores.copy()
    points[uncertain], scores[uncertain] = _higher_score(Landmarks(points[uncertain], scores[uncertain]), upright)
    return Landmarks(points, scores)


def average_views(predict: Predict, found: Landmarks, roll: Roll = WFLW.roll) -> Landmarks:
    """Predict each face in two more regions, and average all three predictions of each point, weighted by score.

    This is for a single image. In a video, the smoothing over frames has the same effect.
    """
    if not len(found.points):
        return found
    rois = _regions(found, roll)
    more = predict([dataclasses.replace(roi, side=scale * roi.side) for scale in VIEW_SCALES for roi in rois])
    views = len(VIEW_SCALES)
    points = np.concatenate([found.points[None], more.points.reshape(views, *found.points.shape)])  # (V, N, K, 2)
    scores = np.concatenate([found.scores[None], more.scores.reshape(views, *found.scores.shape)])  # (V, N, K)
    weights = scores[..., None] + MIN_WEIGHT  # if all scores are 0, the plain mean
    return Landmarks((points * weights).sum(0) / weights.sum(0), scores.mean(0))


def _regions(found: Landmarks, roll: Roll) -> list[Roi]:
    return rois_from_points(found.points, np.array([roll(points) for points in found.points]))


def _higher_score(before: Landmarks, after: Landmarks) -> Landmarks:
    """Return the prediction with the higher mean score of each face; `after` if they are equal."""
    better = after.scores.mean(1) >= before.scores.mean(1)
    return Landmarks(
        np.where(better[:, None, None], after.points, before.points),
        np.where(better[:, None], after.scores, before.scores),
    )
