"""Contact sheets of evaluated faces: the worst ones, and cases that show no photograph."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.geometry import crop, invert, roi_from_points, to_frame, transform
from canthus.runtime.types import Roi
from canthus.trainer.evaluation.evaluate import Result, faces_in_order
from canthus.trainer.faces.contact_sheet import (
    LABEL_COLOR,
    PREDICTION_COLOR,
    TILE,
    contact_sheet,
    draw_points,
    shorten_name,
)
from canthus.trainer.faces.kinds import is_labelled
from canthus.trainer.faces.labelled import LabelledFace, LabelledSet

WORST = 20
"""Number of faces on the sheet of the worst faces."""

CASES = 4
"""Number of faces in each row of the sheet of cases: best, median, worst."""

BACKGROUND = 48
"""Gray level behind the cases, which are drawn without the photographs, as those are not ours to publish."""

COLOR_STEP = 48
"""Step of all colors of the sheet of cases, so that its file is small."""

TILE_SCALE = 1.3
"""Side of a tile over the side of the region. The surroundings of a face help to see why a model failed."""

ABBREVIATIONS = {"expression": "expr.", "illumination": "illum.", "occlusion": "occl."}
"""Names of subsets, as in the tables of papers."""

CASES = 4
"""Number of faces in each row of the sheet of cases: best, median, worst."""

BACKGROUND = 48
"""Gray level behind the cases, which are drawn without the photographs, as those are not ours to publish."""

COLOR_STEP = 48
"""Step of all colors of the sheet of cases, so that its file is small."""

TILE_SCALE = 1.3
"""Side of a tile over the side of the region. The surroundings of a face help to see why a model failed."""

ABBREVIATIONS = {"expression": "expr.", "illumination": "illum.", "occlusion": "occl."}
"""Names of subsets, as in the tables of papers."""

BACKGROUND = 48
"""Gray level behind the cases, which are drawn without the photographs, as those are not ours to publish."""

COLOR_STEP = 48
"""Step of all colors of the sheet of cases, so that its file is small."""

TILE_SCALE = 1.3
"""Side of a tile over the side of the region. The surroundings of a face help to see why a model failed."""

ABBREVIATIONS = {"expression": "expr.", "illumination": "illum.", "occlusion": "occl."}
"""Names of subsets, as in the tables of papers."""

COLOR_STEP = 48
"""Step of all colors of the sheet of cases, so that its file is small."""

TILE_SCALE = 1.3
"""Side of a tile over the side of the region. The surroundings of a face help to see why a model failed."""

ABBREVIATIONS = {"expression": "expr.", "illumination": "illum.", "occlusion": "occl."}
"""Names of subsets, as in the tables of papers."""

TILE_SCALE = 1.3
"""Side of a tile over the side of the region. The surroundings of a face help to see why a model failed."""

ABBREVIATIONS = {"expression": "expr.", "illumination": "illum.", "occlusion": "occl."}
"""Names of subsets, as in the tables of papers."""


def worst_sheet(sets: Sequence[LabelledSet], result: Result) -> NDArray[np.uint8]:
    """Draw the faces with the largest errors, missed ones first: labels in green, predictions in red."""
    faces = faces_in_order(sets)
    tiles = []
    for row in np.argsort(-result.errors, kind="stable")[:WORST]:
        one, face = faces[row]
        roi = roi_from_points(face.points)
        larger = Roi(roi.x, roi.y, roi.side * TILE_SCALE)
        to_tile = invert(to_frame(larger, TILE))
        image = crop(one.read_image(face.image), larger, TILE)
        tile = draw_points(image, transform(to_tile, _labelled_points(face)), one.scheme, LABEL_COLOR)
        text = "missed"
        if np.isfinite(result.errors[row]):
            tile = draw_points(tile, transform(to_tile, result.points[row]), one.scheme, PREDICTION_COLOR)
            text = f"{result.errors[row]:.1f} %"
        tiles.append((tile, f"{text}  {shorten_name(face.image)}"))
    return contact_sheet(tiles)


def _labelled_points(face: LabelledFace) -> NDArray[np.float32]:
    """Return the points (K, 2) of a face; they are NaN without a label."""
    return np.where(is_labelled(face.kinds)[:, None], face.points, np.float32(np.nan))


def cases_sheet(sets: Sequence[LabelledSet], result: Result) -> NDArray[np.uint8]:
    """Draw the faces with the smallest, median and largest errors, `CASES` in a row, without their photographs.

    Labels are green, predictions are red on top, and the caption is the NME. Missed faces are left out. The sheet
    shows no photograph and no file name, so it may be published even if the images may not.
    """
    faces = faces_in_order(sets)
    order = np.argsort(result.errors, kind="stable")[: int(np.isfinite(result.errors).sum())]
    middle = max((len(order) - CASES) // 2, 0)
    tiles = []
    for kind, rows in (
        ("best", order[:CASES]),
        ("median", order[middle : middle + CASES]),
        ("worst", order[max(len(order) - CASES, 0) :]),
    ):
        for row in rows:
            one, face = faces[row]
            to_tile = invert(to_frame(roi_from_points(face.points), TILE))
            tile = np.full((TILE, TILE, 3), BACKGROUND, np.uint8)
            for points, color, radius in (
                (_labelled_points(face), LABEL_COLOR, 2.5),
                (result.points[row], PREDICTION_COLOR, 1.5),
            ):
                tile = draw_points(tile, transform(to_tile, points), one.scheme, color, radius)
            tiles.append((tile, f"{kind}: {result.errors[row]:.1f} %"))
    return contact_sheet(tiles, columns=max(min(CASES, len(order)), 1)) // COLOR_STEP * COLOR_STEP
