"""Distances on the face as seen from the front, from which the expressions are computed."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

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

# Left and right end of each distance. The lids of an eye have three points above and three below.
_FROM = np.array([61, 62, 63, 69, 70, 71, 89, 90, 91, 60, 68, 76, 38])
_TO = np.array([67, 66, 65, 75, 74, 73, 95, 94, 93, 64, 72, 82, 50])
_CORNERS = slice(9, 11)  # of the eyes

# Which distances a feature is the mean of.
_DISTANCES = {
    "eye_aspect_left": (0, 1, 2), "eye_aspect_right": (3, 4, 5), "lip_gap": (6, 7, 8),
    "mouth_width": (11,), "brow_distance": (12,),
}  # fmt: skip

# Features that are the difference of two means of points, along x, or along y, which grows downwards.
_NOSE_BASE, _EYE_LEFT, _EYE_RIGHT = (55, 56, 57, 58, 59), (60, 64), (68, 72)
_ALONG_X = {
    "corner_out_left": (_NOSE_BASE, (76,)),
    "corner_out_right": ((82,), _NOSE_BASE),
    "mouth_shift": ((76, 82), _NOSE_BASE),
}
_ALONG_Y = {
    "corner_raise_left": (_NOSE_BASE, (76,)),
    "corner_raise_right": (_NOSE_BASE, (82,)),
    "brow_inner_left": (_EYE_LEFT, (37, 38)),
    "brow_inner_right": (_EYE_RIGHT, (42, 50)),
    "brow_outer_left": (_EYE_LEFT, (33, 34, 41)),
    "brow_outer_right": (_EYE_RIGHT, (46, 45, 47)),
    "upper_lip_raise": (_NOSE_BASE, (77, 78, 79, 80, 81)),
    "lower_lip_drop": (_NOSE_BASE, (83, 84, 85, 86, 87)),
}


def mean_weights(points: Sequence[int]) -> Floats:
    """Return the weights (98,) whose product with values of the points is the mean of some of them."""
    weights = np.zeros(POINTS)
    weights[list(points)] = 1 / len(points)
    return weights


def _point_weights() -> Floats:
    """Return what x and then y of the points are multiplied with, (196, 16 + 13 + 13).

    The product is the features that are linear in the points, and x and y of the distances.
    """
    count = len(FEATURES)
    weights = np.zeros((2, POINTS, count + 2 * len(_FROM)))
    for axis, group in enumerate((_ALONG_X, _ALONG_Y)):
        for name, (plus, minus) in group.items():
            weights[axis, :, PLACE[name]] = mean_weights(plus) - mean_weights(minus)
        columns = count + axis * len(_FROM) + np.arange(len(_FROM))
        weights[axis, _FROM, columns] = 1
        weights[axis, _TO, columns] = -1
    return weights.reshape(2 * POINTS, -1)


_POINT_WEIGHTS = _point_weights()
_DISTANCE_WEIGHTS = np.zeros((len(_FROM), len(FEATURES)))
for _name, _distances in _DISTANCES.items():
    _DISTANCE_WEIGHTS[list(_distances), PLACE[_name]] = 1 / len(_distances)


def features(flat: NDArray[np.floating]) -> Floats:
    """Return FEATURES (N, 16) of faces seen from the front, (N, 98, 2) in mm as `points_on_heads` returns them.

    - Aspect of an eye: the mean distance of the three pairs of lid points over the distance of the corners (the eye
      aspect ratio of Soukupova and Cech, 2016, with three pairs).
    - Gap: the mean distance of the three middle pairs of points of the inner lips.
    - Width of the mouth: between its corners 76 and 82. Raise and out: height and distance of a corner from the base of
      the nose. Shift: how far the middle of the mouth is to the right of the base of the nose.
    - Brows: height of the inner or outer end above the line through the corners of the eye; distance of the inner ends.
    - Raise and drop: height of the upper and lower edge of the lips above the base of the nose.
    """
    count = len(FEATURES)
    products = by_coordinate(flat) @ _POINT_WEIGHTS
    distances = np.hypot(products[:, count : count + len(_FROM)], products[:, count + len(_FROM) :])
    result = products[:, :count] + distances @ _DISTANCE_WEIGHTS
    result[:, :2] /= np.maximum(distances[:, _CORNERS], 1.0)
    return np.asarray(result)


def by_coordinate(flat: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return x of all points, then y, (N, 196), of points (N, 98, 2)."""
    return flat.swapaxes(1, 2).reshape(len(flat), -1)
