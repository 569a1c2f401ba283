"""The 98 points of WFLW (Wu et al., "Look at Boundary", CVPR 2018): regions, mirror pairs, lines, subsets.

Left and right are the image's: point 60 is the outer corner of the eye on the left side of the image.
"""

import numpy as np
from numpy.typing import NDArray

POINTS = 98

CONTOUR = tuple(range(0, 33))
LEFT_BROW = tuple(range(33, 42))
RIGHT_BROW = tuple(range(42, 51))
NOSE_BRIDGE = tuple(range(51, 55))
NOSE_BASE = tuple(range(55, 60))
LEFT_EYE = tuple(range(60, 68))
RIGHT_EYE = tuple(range(68, 76))
OUTER_LIPS = tuple(range(76, 88))
INNER_LIPS = tuple(range(88, 96))
PUPILS = LEFT_PUPIL, RIGHT_PUPIL = (96, 97)

OUTER_CANTHI = (60, 72)
"""The outer corners of the eyes. Their distance normalizes errors on WFLW (the inter-ocular distance)."""

IBUG_68 = (
    *CONTOUR[::2],  # every second point
    *range(33, 38),  # the upper edges of the brows
    *range(42, 47),
    *NOSE_BRIDGE,
    *NOSE_BASE,
    *(60, 61, 63, 64, 65, 67),  # without the middle of each eyelid
    *(68, 69, 71, 72, 73, 75),
    *OUTER_LIPS,
    *INNER_LIPS,
)
"""The points of WFLW that are the 68 of iBUG 300-W (Sagonas et al., 2013) and dlib, in their order.

The annotations of the two sets still differ a little. For example, WFLW divides an eyelid into four parts and iBUG
into three, so the eyelid points are not exactly at the same places.
"""

ATTRIBUTES = ("pose", "expression", "illumination", "make-up", "occlusion", "blur")
"""The six test subsets of WFLW, in the order of the official list files."""

COLORS: tuple[tuple[tuple[int, ...], tuple[int, int, int]], ...] = (
    (CONTOUR, (90, 200, 250)),
    (LEFT_BROW + RIGHT_BROW, (255, 200, 90)),
    (NOSE_BRIDGE + NOSE_BASE, (190, 150, 255)),
    (LEFT_EYE + RIGHT_EYE, (120, 240, 140)),
    (OUTER_LIPS + INNER_LIPS, (255, 120, 140)),
    (PUPILS, (255, 255, 255)),
)
"""Groups of points and the RGB color of each."""

LINES: tuple[tuple[int, ...], ...] = (
    CONTOUR,
    (*LEFT_BROW, LEFT_BROW[0]),
    (*RIGHT_BROW, RIGHT_BROW[0]),
    NOSE_BRIDGE,
    NOSE_BASE,
    (*LEFT_EYE, LEFT_EYE[0]),
    (*RIGHT_EYE, RIGHT_EYE[0]),
    (*OUTER_LIPS, OUTER_LIPS[0]),
    (*INNER_LIPS, INNER_LIPS[0]),
)
"""Chains of points that are joined by lines; the pupils are not joined."""


def _mirror() -> NDArray[np.intp]:
    """Return, for each point, the point at its place in a horizontally flipped image."""
    pairs = [
        *zip(CONTOUR, reversed(CONTOUR), strict=True),
        # The points of a brow go along its upper edge, then back along the lower one.
        *zip(range(33, 38), range(46, 41, -1), strict=True),
        *zip(range(38, 42), (50, 49, 48, 47), strict=True),
        *((point, point) for point in NOSE_BRIDGE),
        *zip(NOSE_BASE, reversed(NOSE_BASE), strict=True),
        *zip(range(60, 65), range(72, 67, -1), strict=True),
        *zip(range(65, 68), (75, 74, 73), strict=True),
        *zip(range(76, 83), range(82, 75, -1), strict=True),
        *zip(range(83, 88), range(87, 82, -1), strict=True),
        *zip(range(88, 93), range(92, 87, -1), strict=True),
        *zip(range(93, 96), range(95, 92, -1), strict=True),
        (96, 97),
    ]
    mirror = np.zeros(POINTS, np.intp)
    for one, other in pairs:
        mirror[one], mirror[other] = other, one
    mirror.setflags(write=False)
    return mirror


MIRROR: NDArray[np.intp] = _mirror()
"""(98,) the point at the place of each point in a horizontally flipped image."""
