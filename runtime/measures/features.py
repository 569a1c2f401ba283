"""Distances on the face as seen from the front, from which the expressions are computed."""

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

# Means of points, whose height or place is compared: weights (98, M).
_GROUPS = (
    (76,), (82,), (55, 56, 57, 58, 59),  # corners of the mouth, base of the nose
    (37, 38), (42, 50), (33, 34, 41), (46, 45, 47),  # inner and outer ends of the brows
    (60, 64), (68, 72),  # corners of the eyes
    (77, 78, 79, 80, 81), (83, 84, 85, 86, 87),  # outer edges of the lips
)  # fmt: skip
_MEANS = np.zeros((len(_GROUPS), POINTS))
for _row, _points in zip(_MEANS, _GROUPS, strict=True):
    _row[list(_points)] = 1 / len(_points)


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
    difference = flat[:, _FROM] - flat[:, _TO]
    distances = np.sqrt((difference**2).sum(-1))
    gaps = distances[:, :9].reshape(-1, 3, 3).mean(2)
    means = _MEANS @ flat
    x, y = means[..., 0], means[..., 1]
    result = np.empty((len(flat), len(FEATURES)))
    result[:, :2] = gaps[:, :2] / np.maximum(distances[:, 9:11], 1.0)
    result[:, 2] = gaps[:, 2]
    result[:, 3] = distances[:, 11]
    result[:, 4:6] = y[:, 2:3] - y[:, :2]
    result[:, 6] = x[:, 2] - x[:, 0]
    result[:, 7] = x[:, 1] - x[:, 2]
    result[:, 8:10] = y[:, 7:9] - y[:, 3:5]
    result[:, 10:12] = y[:, 7:9] - y[:, 5:7]
    result[:, 12] = distances[:, 12]
    result[:, 13] = (x[:, 0] + x[:, 1]) / 2 - x[:, 2]
    result[:, 14] = y[:, 2] - y[:, 9]
    result[:, 15] = y[:, 2] - y[:, 10]
    return result
