"""Where the points of faces are: one look at a region that fits, as many as it takes at a detector's rough one."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.backends import Backend, RegionBackend
from canthus.runtime.decode import LEAST
from canthus.runtime.geometry import crop_all, roi_from_points, roll_of, transform
from canthus.runtime.types import Roi

Answer = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Points (N, K, 2) in pixels of the picture and scores (N, K) of its faces."""

Look = Callable[[Sequence[Roi]], Answer]

SETTLED = 0.7
"""A mean score from here on is believed. Of training faces in detected boxes, plain and spoilt, 3 in 100 stay below."""

AGAIN = (0.93, 1.07)
"""Sides of the regions of two more looks, over that of the region of the points. Looks differ by the network's own
errors, which their mean has less of."""

WIDER = 1.25
"""Side of the upright region where a face is looked for anew, over that of the rough one."""


def locate(backend: Backend, image: NDArray[np.uint8], rois: Sequence[Roi]) -> Answer:
    """One look at each region of a picture (H, W, 3) RGB.

    A network that overflows gives NaN; such a face scores nothing, its points in the middle of its region.
    """
    if isinstance(backend, RegionBackend):
        points, scores = backend.predict_regions(image, rois)
    else:
        crops = crop_all(image, rois, backend.size)
        points, scores = backend.predict(crops.images)
        points = transform(crops.to_frame, points)
    for place in np.flatnonzero(~(np.isfinite(points).all((1, 2)) & np.isfinite(scores).all(1))).tolist():
        points[place], scores[place] = (rois[place].x, rois[place].y), 0
    return points, scores


def settle(look: Look, rois: Sequence[Roi], roll: Callable[[NDArray[np.floating]], float] = roll_of) -> Answer:
    """Look at rough regions, and again at those of the points found there; the surest look of each face stands.

    Where both are unsure, the region may be at fault: too tight, or turned, as the detector sometimes takes an upright
    face for a lying one. Then an upright and wider one is tried, and twice the region of the points found there.
    """
    if not rois:
        return look(rois)
    first = look(rois)
    best = _surer(first, look(_around(first, roll)))
    unsure = np.flatnonzero(best[1].mean(1) < SETTLED)
    if not unsure.size:
        return best
    doubtful = [rois[place] for place in unsure.tolist()]
    found = look([dataclasses.replace(roi, angle=0.0, side=WIDER * roi.side) for roi in doubtful])
    tried = found
    for _ in range(2):
        found = look(_around(found, roll))
        tried = _surer(tried, found)
    points, scores = (part.copy() for part in best)
    points[unsure], scores[unsure] = _surer((points[unsure], scores[unsure]), tried)
    return points, scores


def look_again(look: Look, found: Answer, roll: Callable[[NDArray[np.floating]], float] = roll_of) -> Answer:
    """The mean of the points found and of two more looks at each face, each point by its score in each look.

    For a picture that stands alone; in a video the next frame is such a look.
    """
    points, scores = found
    if not len(points):
        return found
    rois = _around(found, roll)
    more, seen = look([dataclasses.replace(roi, side=times * roi.side) for times in AGAIN for roi in rois])
    looks = np.concatenate([points[None], more.reshape(len(AGAIN), *points.shape)])  # (looks, N, K, 2)
    trust = np.concatenate([scores[None], seen.reshape(len(AGAIN), *scores.shape)])  # (looks, N, K)
    weight = trust[..., None] + LEAST  # where no look sees anything, the mean of all
    mean: NDArray[np.float32] = (looks * weight).sum(0) / weight.sum(0)
    return mean, trust.mean(0)


def _around(found: Answer, roll: Callable[[NDArray[np.floating]], float]) -> list[Roi]:
    return [roi_from_points(points, roll(points)) for points in found[0]]


def _surer(before: Answer, after: Answer) -> Answer:
    """Of each face the answer with the higher mean score."""
    better = after[1].mean(1) >= before[1].mean(1)
    return np.where(better[:, None, None], after[0], before[0]), np.where(better[:, None], after[1], before[1])
