"""Measures where the detector's box lies on a face: the two constants of `roi_from_box`, on labelled faces.

Use training faces (`canthus data fit-boxes`), never those of a test set.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.detector import Detector
from canthus.runtime.errors import InputError
from canthus.runtime.geometry import roi_from_points
from canthus.runtime.types import FaceBox
from canthus.trainer.faces.labelled import LabelledSet

PADDING = (1.6, 2.5, 4.0, 6.0)
"""Sides of the padded image, relative to the longer side of the image, used in turn.

The images of shards are tight crops, and the smaller a face is in the image, the tighter is the detector's box.
"""

GRAY = 128


@dataclass(frozen=True)
class Quantiles:
    """Percentiles of a measured value: the 5th, the median and the 95th."""

    low: float
    median: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f}  [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class BoxFit:
    """Size and place of the true region of a face relative to the detected box, in sides of the box."""

    scale: Quantiles  # side of the region
    right: Quantiles  # center of the region, along the x axis of the box
    down: Quantiles  # and along its y axis
    faces: int
    missed: int  # faces that the detector did not find

    def __str__(self) -> str:
        return (
            f"{self.faces} faces, {self.missed} not detected; 5th and 95th percentile in brackets\n"
            f"BOX_SCALE = {self.scale}\nBOX_SHIFT_Y = {self.down}\n(shift to the right, expected 0) = {self.right}"
        )


def measure_box(box: FaceBox, points: NDArray[np.floating]) -> tuple[float, float, float]:
    """Return scale, shift right and shift down of the region of points (98, 2), along the axes of the box."""
    side = max(box.x1 - box.x0, box.y1 - box.y0)
    region = roi_from_points(points, box.roll)
    dx, dy = region.x - (box.x0 + box.x1) / 2, region.y - (box.y0 + box.y1) / 2
    cos, sin = math.cos(box.roll), math.sin(box.roll)
    return region.side / side, (cos * dx + sin * dy) / side, (cos * dy - sin * dx) / side


def fit_boxes(sets: Iterable[LabelledSet], detector: Detector, every: int = 1) -> BoxFit:
    """Detect one face in `every` of the sets, and compare the boxes with the regions of the true points.

    Raises InputError if the detector finds none of the faces.
    """
    measured, missed = [], 0
    for (image, points), times in zip(_images(sets, every), cycle(PADDING), strict=False):
        padded, shift = _pad(image, times)
        matches = [box for box in detector.detect(padded) if _contains_center(box, points + shift)]
        if matches:
            measured.append(measure_box(matches[0], points + shift))
        else:
            missed += 1
    if not measured:
        raise InputError("the detector found none of the faces")
    scale, right, down = (
        Quantiles(*(float(value) for value in np.percentile(values, (5, 50, 95)))) for values in np.array(measured).T
    )
    return BoxFit(scale, right, down, len(measured) + missed, missed)


def _images(sets: Iterable[LabelledSet], every: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    for one in sets:
        for face in one.faces[::every]:
            yield one.read_image(face.image), face.points


def _pad(image: NDArray[np.uint8], times: float) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the image in the center of a gray square, `times` its longer side, and the shift (2,) of its points."""
    height, width = image.shape[:2]
    side = round(times * max(height, width))
    left, top = (side - width) // 2, (side - height) // 2
    padded = np.full((side, side, 3), GRAY, np.uint8)
    padded[top : top + height, left : left + width] = image
    return padded, np.array([left, top], np.float32)


def _contains_center(box: FaceBox, points: NDArray[np.floating]) -> bool:
    x, y = points.mean(0)
    return bool(box.x0 < x < box.x1 and box.y0 < y < box.y1)
