"""Where the detector's box lies on a face: measures the two constants of `roi_from_box` on labelled faces.

Run as `python -m canthus.trainer.boxes SET...` with sets of training faces, never with those of a test.
"""

import argparse
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.detector import Detector
from canthus.runtime.errors import InputError
from canthus.runtime.geometry import roi_from_points
from canthus.runtime.types import FaceBox
from canthus.trainer.faces.formats import open_set
from canthus.trainer.faces.labelled import LabelledSet

SURROUNDS = (1.6, 2.5, 4.0, 6.0)
"""Sides of the grey canvas over the longer side of a picture, taken in turn.

Shards hold tight cuts, and the detector's boxes are the tighter the less of its view a face fills.
"""

GREY = 128


@dataclass(frozen=True)
class Quantiles:
    """The middle of a measured value and its spread: the 5th and 95th percentile."""

    low: float
    median: float
    high: float


@dataclass(frozen=True)
class Fit:
    """How regions of the true points lie on detected boxes, in sides of the box and along its own axes."""

    scale: Quantiles  # side of the region over that of the box
    right: Quantiles  # from the box's middle to the region's
    down: Quantiles
    faces: int
    missed: int


def place(box: FaceBox, points: NDArray[np.floating]) -> tuple[float, float, float]:
    """Scale, shift right and shift down, along the box's axes, from it to the region of points (98, 2)."""
    side = max(box.x1 - box.x0, box.y1 - box.y0)
    region = roi_from_points(points, box.roll)
    right, below = region.x - (box.x0 + box.x1) / 2, region.y - (box.y0 + box.y1) / 2
    cos, sin = math.cos(box.roll), math.sin(box.roll)
    return region.side / side, (cos * right + sin * below) / side, (cos * below - sin * right) / side


def fit(sets: Iterable[LabelledSet], detector: Detector, every: int = 1) -> Fit:
    """Detect the faces of one picture in `every` and measure how their regions lie on the boxes."""
    places, missed = [], 0
    for (picture, points), surround in zip(_pictures(sets, every), cycle(SURROUNDS), strict=False):
        canvas, shift = _surround(picture, surround)
        inside = [box for box in detector.detect(canvas) if _holds(box, points + shift)]
        if inside:
            places.append(place(inside[0], points + shift))
        else:
            missed += 1
    if not places:
        raise InputError("the detector found none of the faces")
    scale, right, down = (
        Quantiles(*(float(value) for value in np.percentile(values, (5, 50, 95)))) for values in np.array(places).T
    )
    return Fit(scale, right, down, len(places) + missed, missed)


def _pictures(sets: Iterable[LabelledSet], every: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    for one in sets:
        for face in one.faces[::every]:
            yield one.image(face.image), face.points


def _surround(picture: NDArray[np.uint8], times: float) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The picture in the middle of a grey square so many times its size, and the shift (2,) of its points."""
    height, width = picture.shape[:2]
    side = round(times * max(height, width))
    left, top = (side - width) // 2, (side - height) // 2
    canvas = np.full((side, side, 3), GREY, np.uint8)
    canvas[top : top + height, left : left + width] = picture
    return canvas, np.array([left, top], np.float32)


def _holds(box: FaceBox, points: NDArray[np.floating]) -> bool:
    x, y = points.mean(0)
    return bool(box.x0 < x < box.x1 and box.y0 < y < box.y1)


def main() -> None:
    """Print the two constants with their spread."""
    parser = argparse.ArgumentParser(prog="python -m canthus.trainer.boxes", description=__doc__)
    parser.add_argument("sets", type=Path, nargs="+", metavar="SET", help="official folders, shards or tars")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take one face in N (default 1)")
    options = parser.parse_args()
    with Detector() as detector:
        found = fit([open_set(path, "train") for path in options.sets], detector, options.every)
    print(f"{found.faces} faces, {found.missed} missed; 5 % and 95 % in brackets")
    for name, value in (
        ("BOX_SCALE", found.scale),
        ("BOX_SHIFT_Y", found.down),
        ("(shift right, expected 0)", found.right),
    ):
        print(f"{name} = {value.median:.3f}  [{value.low:.3f}, {value.high:.3f}]")


if __name__ == "__main__":
    main()
