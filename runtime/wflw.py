"""The 98 points of WFLW (Wu et al., "Look at Boundary", CVPR 2018) by name, for code that needs exactly these points.

All of it is from the scheme's file, schemes/wflw.toml. Left and right are the image's: point 60 is the outer corner of
the eye on the left side of the image.
"""

from canthus.runtime.schemes import WFLW

POINTS = WFLW.points

CONTOUR = WFLW.regions["contour"]
LEFT_BROW, RIGHT_BROW = WFLW.regions["left_brow"], WFLW.regions["right_brow"]
NOSE_BRIDGE, NOSE_BASE = WFLW.regions["nose_bridge"], WFLW.regions["nose_base"]
LEFT_EYE, RIGHT_EYE = WFLW.regions["left_eye"], WFLW.regions["right_eye"]
OUTER_LIPS, INNER_LIPS = WFLW.regions["outer_lips"], WFLW.regions["inner_lips"]
PUPILS = LEFT_PUPIL, RIGHT_PUPIL = WFLW.regions["left_pupil"][0], WFLW.regions["right_pupil"][0]

OUTER_CANTHI = WFLW.normalizer[0][0], WFLW.normalizer[1][0]
"""The outer corners of the eyes. Their distance normalizes errors on WFLW (the inter-ocular distance)."""

IBUG_68 = WFLW.ibug_68
"""The points of WFLW that are the 68 of iBUG 300-W (Sagonas et al., 2013) and dlib, in their order.

The annotations of the two sets still differ a little. For example, WFLW divides an eyelid into four parts and iBUG
into three, so the eyelid points are not exactly at the same places.
"""

ATTRIBUTES = WFLW.subsets
"""The six test subsets of WFLW, in the order of the official list files."""

LINES = WFLW.lines
"""Chains of points that are joined by lines; the pupils are not joined."""

MIRROR = WFLW.mirror
"""(98,) the point at the place of each point in a horizontally flipped image."""
