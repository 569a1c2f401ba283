"""A 3D model of the 98 points on a mean head, and how far points of real faces lie from it.

The model is in head.json. `canthus data fit-head` made it from 723 faces of AFLW with points that people placed and
with known poses (AFLW2000-3D), and from their mirror images: structure from motion with known rotations, under weak
perspective. Each face has a scale and a translation, each point a place on the head; they are fitted alternately by
weighted least squares.

The points of the contour are no fixed places on the head. They lie on the outline of the visible face and slide back
when the head turns. So the model has an offset of each contour point for each yaw.

Axes: x to the right of the image, y down, z away from the camera, for a face that looks into the camera. The origin is
midway between the centers of the eyes. The unit is mm, if the pupils are PUPIL_DISTANCE apart.
"""

import json
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.errors import InputError
from canthus.runtime.wflw import CONTOUR, POINTS, PUPILS

Floats = NDArray[np.float64]

HEAD = Path(__file__).with_name("head.json")

PUPIL_DISTANCE = 63.0
"""Assumed distance of the pupils in mm: the mean of adults (Dodgson, "Variation and extrema of human interpupillary
distance", 2004). A person with other eyes is nearer or farther than measured by the same factor."""

YAW_STEP = 15.0
YAWS = np.arange(-90.0, 91.0, YAW_STEP)
"""Yaws of the table, in degrees."""


@dataclass(frozen=True, eq=False)
class Head:
    """The model. `table` has x, y, z in mm and the variance in mm² for each of YAWS and each point."""

    shape: Floats  # (98, 3) mm, without the offsets of the contour
    table: Floats  # (13, 98, 4)

    def rows_at(self, yaw: float) -> Floats:
        """Return x, y, z and variance of the points at a yaw in degrees, (4, 98), interpolated linearly."""
        place = min(max((yaw + 90.0) / YAW_STEP, 0.0), len(YAWS) - 1.000001)
        values, change = self._pieces[int(place)]
        rows: Floats = change * (place % 1)
        rows += values
        return rows

    def shape_at(self, yaw: float) -> Floats:
        """Return x, y and z of the points at a yaw in degrees, (3, 98)."""
        return self.rows_at(yaw)[:3]

    @cached_property
    def _pieces(self) -> Floats:
        """The rows between two of YAWS: (12, 2, 4, 98) the values at the first one, and their change to the second."""
        rows = self.table.swapaxes(1, 2)
        return np.stack([rows[:-1], np.diff(rows, axis=0)], axis=1)


def make_head(shape: Floats, contour_offsets: Floats, deviations: Floats) -> Head:
    """Return a model from its parts, all in mm.

    Args:
        shape: (98, 3) the points.
        contour_offsets: (13, 33, 3) what is added to the contour at each of YAWS.
        deviations: (13, 98) standard deviations of the points at each of YAWS.
    """
    table = np.empty((len(YAWS), POINTS, 4))
    table[..., :3] = shape
    table[:, list(CONTOUR), :3] += contour_offsets
    table[..., 3] = deviations**2
    return Head(shape, table)


def read_head(path: Path) -> Head:
    """Read a model from a file that `write_head` wrote. Raises InputError if it is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        parts = [np.array(content[name], np.float64) for name in ("shape", "contour_offsets", "deviations")]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path}: is not a model of the head ({error}); make one with `canthus data fit-head`"
        ) from error
    expected = [(POINTS, 3), (len(YAWS), len(CONTOUR), 3), (len(YAWS), POINTS)]
    if [part.shape for part in parts] != expected or not all(np.isfinite(part).all() for part in parts):
        raise InputError(f"{path}: is not a model of the head (expected finite arrays {expected})")
    return make_head(*parts)


def write_head(path: Path, shape: Floats, contour_offsets: Floats, deviations: Floats) -> None:
    """Write a model as json, rounded to 0.01 mm; the arguments are those of `make_head`."""
    parts = {"shape": shape, "contour_offsets": contour_offsets, "deviations": deviations}
    lines = [f'"{name}": {json.dumps(np.round(part, 2).tolist())}' for name, part in parts.items()]
    path.write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")


@cache
def included_head() -> Head:
    """Return the included model."""
    return read_head(HEAD)


def to_standard_axes(shape: Floats) -> tuple[Floats, float]:
    """Return the origin (3,) of a shape (98, 3) and the factor to mm, as the module describes them."""
    left, right = PUPILS
    return (shape[left] + shape[right]) / 2, PUPIL_DISTANCE / float(np.linalg.norm(shape[left] - shape[right]))
