"""What the overlay shows, and in which colors."""

from dataclasses import dataclass, fields
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PyQt6.QtGui import QColor

from canthus.runtime.draw import OUTLINE
from canthus.runtime.draw_measures import GAZE_COLOR
from canthus.runtime.schemes import PART_COLORS, Color, Scheme

SCORE_STOPS: tuple[tuple[float, Color], ...] = (
    (0.0, (245, 125, 40)),
    (0.5, (240, 228, 66)),
    (1.0, (90, 190, 245)),
)
"""Colors of scores: orange, yellow, blue, which people with any color vision can tell apart."""

SCORE_LEVELS = 12
"""Number of different score colors: points of one level are painted together."""


@dataclass(frozen=True)
class Palette:
    """The colors of an overlay, RGB. `groups` are those of the parts of the face in `PART_COLORS`."""

    groups: tuple[Color, ...]
    axes: tuple[Color, Color, Color]  # of the head: right, down, towards the viewer
    gaze: Color

    def points(self, scheme: Scheme) -> tuple[Color, ...]:
        """Return the color of each point of a scheme. A scheme's own colors stay as they are."""
        changed = dict(zip(PART_COLORS.values(), self.groups, strict=True))
        return tuple(changed.get(color, color) for color in scheme.point_colors)


STANDARD = Palette(
    groups=tuple(PART_COLORS.values()),
    axes=((255, 120, 110), (80, 210, 100), (120, 175, 255)),
    gaze=GAZE_COLOR,
)

COLOR_BLIND_SAFE = Palette(
    groups=((86, 180, 233), (255, 190, 20), (215, 145, 190), (240, 228, 66), (250, 130, 40), (255, 255, 255)),
    axes=((245, 125, 40), (240, 228, 66), (86, 180, 233)),
    gaze=(215, 145, 190),
)
"""After Okabe and Ito, "Color universal design" (2008), without its dark colors, which the outline would hide."""


@dataclass(frozen=True)
class OverlayStyle:
    """What is painted, and whether the view is mirrored."""

    points: bool = True
    lines: bool = True
    regions: bool = False  # eyes, brows and lips are filled
    numbers: bool = False  # of the points, from 0
    boxes: bool = False  # around the points
    ids: bool = True
    pose: bool = False  # axes of the head; needs measures
    gaze: bool = False  # a ray from each pupil; needs measures
    scores: bool = False  # color each point by its score
    trails: bool = False  # where some points were in the last second
    safe_colors: bool = False  # COLOR_BLIND_SAFE instead of STANDARD
    mirrored: bool = False

    @property
    def palette(self) -> Palette:
        """The colors of this style."""
        return COLOR_BLIND_SAFE if self.safe_colors else STANDARD

    @property
    def needs_measures(self) -> bool:
        """Whether something is painted that only faces with measures have."""
        return self.pose or self.gaze


STYLE_NAMES = tuple(field.name for field in fields(OverlayStyle))


@cache
def qcolor(color: Color, alpha: int = 255) -> QColor:
    """Return a color of Qt. It is shared, so do not change it."""
    return QColor(*color, alpha)


OUTLINE_COLOR = qcolor(OUTLINE, 170)
"""Under points, lines and ids, so that they are visible on skin and on bright backgrounds."""


@cache
def score_color(level: int) -> Color:
    """Return the color of a level of `score_levels`."""
    score = level / (SCORE_LEVELS - 1)
    places, colors = zip(*SCORE_STOPS, strict=True)
    red, green, blue = (round(float(np.interp(score, places, channel))) for channel in zip(*colors, strict=True))
    return red, green, blue


def score_levels(scores: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the level of each score, 0 to SCORE_LEVELS - 1."""
    return np.rint(np.clip(scores, 0, 1) * (SCORE_LEVELS - 1)).astype(np.intp)
