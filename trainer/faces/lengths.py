"""Lengths on a face: the root of its box, the length that errors are judged by, and the opening of the mouth."""

import numpy as np
from numpy.typing import NDArray

from canthus.trainer.faces.schemes import Scheme, scheme_of

FRONTAL_RATIO = 0.63
"""Inter-ocular distance over the root of the area of the box of the points: the median of 368 frontal faces with points
that people placed (5th to 95th percentile: 0.54 to 0.72). In profile it is 0.33."""

WIDE_OPEN = 0.15
"""A mouth is wide open from this opening on, relative to `face_length`. These are 5 to 19 % of the faces of a set."""

Floats = NDArray[np.floating]
Marks = NDArray[np.bool_]


def box_root(points: Floats, used: Marks | None = None) -> Floats:
    """Return the square root of the area of the box (N,) of points (N, K, 2); 0 if a face has none.

    used: (N, K) the points of the box; None = all.
    """
    if used is None:
        used = np.ones(points.shape[:2], np.bool_)
    low, high = (
        extreme(np.where(used[..., None], points, outside), axis=1)
        for extreme, outside in ((np.min, np.inf), (np.max, -np.inf))
    )
    root: Floats = np.sqrt(np.prod(np.maximum(high - low, 0), axis=-1))
    return root


def face_length(points: Floats, used: Marks | None = None, scheme: Scheme | None = None) -> Floats:
    """Return the length (N,) that distances on faces (N, K, 2) are judged by, whatever the pose.

    It is the scheme's normalizer (the inter-ocular distance), but at least FRONTAL_RATIO times `box_root`: what the
    inter-ocular distance would be if a turned face looked at the camera.

    scheme: of the points; None = the included one with K points. The same in the other functions.
    """
    normalizer = np.linalg.norm((scheme or scheme_of(points.shape[1])).normalizer_vector(points), axis=-1)
    length: Floats = np.maximum(normalizer, FRONTAL_RATIO * box_root(points, used))
    return length


def mouth_opening(points: Floats, scheme: Scheme | None = None) -> Floats:
    """Return the mean distance (N,) between the inner edges of the lips of faces (N, K, 2), in pixels.

    It is 0 if the scheme has no points there.
    """
    pairs = np.array((scheme or scheme_of(points.shape[1])).lip_pairs, np.intp).reshape(-1, 2)
    if not len(pairs):
        return np.zeros(len(points))
    distance = np.linalg.norm(points[:, pairs[:, 0]] - points[:, pairs[:, 1]], axis=-1)
    opening: Floats = distance.mean(-1)
    return opening


def is_wide_open(points: Floats, scheme: Scheme | None = None) -> Marks:
    """Return which of faces (N, K, 2) have a wide-open mouth."""
    length = face_length(points, scheme=scheme)
    return np.asarray(mouth_opening(points, scheme) > np.maximum(WIDE_OPEN * length, 1e-6))
