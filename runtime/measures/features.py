"""Distances on the face as seen from the front, from which the expressions are computed."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from canthus.runtime.measures.head import Floats
from canthus.runtime.wflw import POINTS

FEATURES = (
    "eye_aspect_left",
    "eye_aspect_right",
    "lip_gap",
    "mouth_width",
    "corner_raise_left",
    "corner_raise_right",
    "corner_out_left",
    "corner_out_right",
    "brow_inner_left",
    "brow_inner_right",
    "brow_outer_left",
    "brow_outer_right",
    "brow_distance",
    "mouth_shift",
    "upper_lip_raise",
    "lower_lip_drop",
)
"""Columns of `features`. Left and right are the image's. All are in mm, except for the aspects of the eyes, which are
ratios. Heights grow upwards."""

PLACE = {name: column for column, name in enumerate(FEATURES)}

POPULATION = np.array([0.3, 0.3, 1.3, 53.0, -22.5, -22.5, 26.5, 26.5, 17.0, 17.0, 17.0, 17.0, 28.0, 0.0, -14.5, -30.0])
"""Features of a neutral face: rounded medians of 2,085 frontal faces of AFLW and LFPW, of closed mouths for the lips.
They stand in until a person's own are known."""

_NOSE_BASE = (55, 56, 57, 58, 59)

# Means of points whose differences the features are computed from: (plus, minus).
_DIFFERENCES: dict[str, tuple[Sequence[int], Sequence[int]]] = {
    # The lids of an eye have three points above and three below.
    "lids_left_0": ((61,), (67,)), "lids_left_1": ((62,), (66,)), "lids_left_2": ((63,), (65,)),
    "lids_right_0": ((69,), (75,)), "lids_right_1": ((70,), (74,)), "lids_right_2": ((71,), (73,)),
    "lips_0": ((89,), (95,)), "lips_1": ((90,), (94,)), "lips_2": ((91,), (93,)),
    "corners_left": ((60,), (64,)), "corners_right": ((68,), (72,)), "mouth": ((76,), (82,)), "brows": ((38,), (50,)),
    "nose_to_corner_left": ((76,), _NOSE_BASE), "nose_to_corner_right": ((82,), _NOSE_BASE),
    "brow_inner_left": ((60, 64), (37, 38)), "brow_inner_right": ((68, 72), (42, 50)),
    "brow_outer_left": ((60, 64), (33, 34, 41)), "brow_outer_right": ((68, 72), (46, 45, 47)),
    "upper_lip": (_NOSE_BASE, (77, 78, 79, 80, 81)), "lower_lip": (_NOSE_BASE, (83, 84, 85, 86, 87)),
    "pupil_left": ((96,), (60, 64)), "pupil_right": ((97,), (68, 72)),
}  # fmt: skip
_DISTANCES = 13
"""The first of the differences are distances: only their lengths are used."""


def mean_weights(points: Sequence[int]) -> Floats:
    """Return the weights (98,) whose product with values of the points is the mean of some of them."""
    weights = np.zeros(POINTS)
    weights[list(points)] = 1 / len(points)
    return weights


_WEIGHTS = np.stack([mean_weights(plus) - mean_weights(minus) for plus, minus in _DIFFERENCES.values()], axis=1)


class FaceFeatures(NamedTuple):
    """What `features` returns of one face."""

    values: tuple[float, ...]  # FEATURES
    pupils: tuple[tuple[float, float], tuple[float, float]]  # left and right: x, y in mm from the middle of the corners


def features(flat: Floats) -> FaceFeatures:
    """Return the features of a face seen from the front, (2, 98) in mm as `points_on_head` returns it.

    - Aspect of an eye: the mean distance of the three pairs of lid points over the distance of the corners (the eye
      aspect ratio of Soukupova and Cech, 2016, with three pairs).
    - Gap: the mean distance of the three middle pairs of points of the inner lips.
    - Width of the mouth: between its corners 76 and 82. Raise and out: height and distance of a corner from the base of
      the nose. Shift: how far the middle of the mouth is to the right of the base of the nose.
    - Brows: height of the inner or outer end above the line through the corners of the eye; distance of the inner ends.
    - Raise and drop: height of the upper and lower edge of the lips above the base of the nose.
    """
    along_x, along_y = flat.dot(_WEIGHTS).tolist()
    a, b, c, d, e, f, g, h, i, left, right, width, brows = map(math.hypot, along_x[:_DISTANCES], along_y[:_DISTANCES])
    out_left, out_right, *_, left_x, right_x = along_x[_DISTANCES:]
    # y grows downwards.
    drop_left, drop_right, inner_left, inner_right, outer_left, outer_right, upper, lower, left_y, right_y = along_y[
        _DISTANCES:
    ]
    values = (
        (a + b + c) / (3 * max(left, 1.0)), (d + e + f) / (3 * max(right, 1.0)), (g + h + i) / 3, width,
        -drop_left, -drop_right, -out_left, out_right, inner_left, inner_right, outer_left, outer_right, brows,
        (out_left + out_right) / 2, upper, lower,
    )  # fmt: skip
    return FaceFeatures(values, ((left_x, left_y), (right_x, right_y)))
