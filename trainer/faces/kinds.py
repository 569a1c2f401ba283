"""Kinds of points: who labelled a point, and whether it is visible.

Each face has one kind per point. Training weighs points by their kind (`kind_weights` in a recipe), evaluation measures
the points that people placed.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from canthus.runtime import wflw
from canthus.trainer.faces.schemes import Scheme, scheme_of

Kinds = NDArray[np.uint8]


class PointKind(IntEnum):
    """Where the label of a point comes from. The values are the digits of human.csv in a shard."""

    FILLED_IN = 0  # computed or predicted, on a face whose other points people placed
    PLACED = 1  # placed by a person, visible
    COVERED = 2  # placed by a person, but something covers it
    HIDDEN = 3  # behind the head, so that nobody placed it; a guess
    PSEUDO = 4  # predicted by a model
    UNLABELLED = 5  # unknown: the loss and all measurements ignore it


NOT_IBUG = np.array([point for point in range(wflw.POINTS) if point not in wflw.IBUG_68])
"""Points of WFLW that the 68-point scheme does not have."""


def is_placed(kinds: Kinds) -> NDArray[np.bool_]:
    """Return which points were placed by a person."""
    placed: NDArray[np.bool_] = (kinds == PointKind.PLACED) | (kinds == PointKind.COVERED)
    return placed


def is_labelled(kinds: Kinds) -> NDArray[np.bool_]:
    """Return which points have a label of any kind."""
    labelled: NDArray[np.bool_] = kinds != PointKind.UNLABELLED
    return labelled


def evaluated_points(kinds: Kinds) -> NDArray[np.bool_]:
    """Return the points (N, K) that errors are measured at: the placed ones, or all labels of a face without any."""
    placed = is_placed(kinds)
    without = ~placed.any(-1, keepdims=True)
    evaluated: NDArray[np.bool_] = placed | (without & is_labelled(kinds))
    return evaluated


def has_normalizer(kinds: Kinds, scheme: Scheme | None = None) -> NDArray[np.bool_]:
    """Return which faces (N,) of kinds (N, K) have labels at the points whose distance normalizes errors.

    scheme: of the points; None = the included one with K points.
    """
    points = [point for group in (scheme or scheme_of(kinds.shape[1])).normalizer for point in group]
    return np.asarray(is_labelled(kinds)[:, points].all(-1))


def are_mixed(kinds: Kinds) -> bool:
    """Return whether any of the faces (N, K) has other points than placed ones only or pseudo-labels only."""
    uniform = [(kinds == kind).all(-1) for kind in (PointKind.PLACED, PointKind.PSEUDO)]
    return not bool((uniform[0] | uniform[1]).all())


def is_from_68(kinds: Kinds) -> NDArray[np.bool_]:
    """Return which faces (N,) of kinds (N, K) have 98 points that were made from the 68 of iBUG 300-W."""
    if kinds.shape[-1] != wflw.POINTS:
        return np.zeros(len(kinds), np.bool_)
    others = kinds[:, NOT_IBUG]
    from_68: NDArray[np.bool_] = ((others == PointKind.FILLED_IN) | (others == PointKind.UNLABELLED)).all(-1)
    return from_68


def place_unlabelled(points: NDArray[np.float32], kinds: Kinds) -> NDArray[np.float32]:
    """Return the points (K, 2) of a face with each unlabelled one at the mean of the labelled ones.

    The mean is inside every box around the labelled points, whatever its rotation, and stays the mean under affine
    maps. So regions computed from all points are those of the labelled points, and augmentation needs no exception.
    """
    labelled = is_labelled(kinds)
    if labelled.all():
        return points
    return np.where(labelled[:, None], points, points[labelled].mean(0)).astype(np.float32)
