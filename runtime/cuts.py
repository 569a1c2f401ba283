"""Find cuts between the frames of a video from their thumbnails."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from canthus.runtime.saved_state import Stateful

CUT_DIFFERENCE = 14.0
CUT_CORRELATION = 0.5
"""There is a cut between two frames if their 8 x 8 thumbnails differ by more gray levels (mean) and correlate less.

Within the shots of nine clips, thumbnails differ by less than 9 and correlate above 0.8; at their cuts, they differ by
more than 18 and correlate below 0.45. Lights that go on or off do not change the correlation, nor does a shift by a
tenth of the width.
"""

BLANK_DEVIATION = 4.0
"""Thumbnails whose gray levels deviate less than this show nothing, such as a covered camera."""

Shrink = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""Returns the thumbnail of an image (H, W, 3) that is not empty: see `thumbnail`."""


SAMPLED = 32, 128
"""Rows and columns of the frame, at most, from which a thumbnail is made: fewer rows, as each costs more. For the usual
sizes of frames there are exactly as many, and OpenCV averages whole numbers of pixels fastest."""


def thumbnail(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the green channel of an image (H, W, 3) at 8 x 8 pixels."""
    down, across = (-(-side // count) for side, count in zip(image.shape, SAMPLED, strict=False))
    green = np.ascontiguousarray(image[::down, ::across, 1])
    return np.asarray(cv2.resize(green, (8, 8), interpolation=cv2.INTER_AREA), np.uint8)


class CutDetector(Stateful):
    """Finds cuts between successive frames."""

    FIXED = ("_shrink",)

    def __init__(self, shrink: Shrink) -> None:
        self._shrink = shrink
        self._thumbnail: NDArray[np.uint8] | None = None  # of the last frame that is not blank

    def is_cut(self, image: NDArray[np.uint8]) -> bool:
        """Whether there is a cut between the last frame and this one. Blank frames are ignored."""
        if not image.size:
            return False
        small = self._shrink(image)
        if cv2.meanStdDev(small)[1].item() < BLANK_DEVIATION:
            return False
        before, self._thumbnail = self._thumbnail, small
        if before is None or cv2.norm(small, before, cv2.NORM_L1) / small.size <= CUT_DIFFERENCE:
            return False
        return float(np.corrcoef(small.ravel(), before.ravel())[0, 1]) < CUT_CORRELATION
