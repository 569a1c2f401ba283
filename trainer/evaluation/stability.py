"""Whether a model says the same when the box around a face is a little different."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from canthus.runtime.geometry import roi_from_points
from canthus.runtime.types import Roi
from canthus.trainer.evaluation.evaluate import (
    SINGLE_PROCESS,
    Candidate,
    Worker,
    common_scheme,
    find,
    images_with_progress,
)
from canthus.trainer.evaluation.metrics import mean_distance
from canthus.trainer.faces.labelled import LabelledSet

SHIFT = 0.05
TURN = math.radians(10)
SCALE = 1.1
"""How far boxes are moved (in sides, to four sides), turned (both ways) and grown or shrunk."""


@dataclass(frozen=True)
class BoxStability:
    """How far points move when the box is changed: mean over faces and changes, in % of the ruler."""

    model: str
    shift: float
    rotation: float
    scale: float


def changed(region: Roi) -> dict[str, list[Roi]]:
    """A region moved, turned and scaled a little."""
    aside = SHIFT * region.side
    return {
        "shift": [
            replace(region, x=region.x + right, y=region.y + down)
            for right, down in ((aside, 0), (-aside, 0), (0, aside), (0, -aside))
        ],
        "rotation": [replace(region, angle=region.angle + turn) for turn in (TURN, -TURN)],
        "scale": [replace(region, side=region.side * times) for times in (SCALE, 1 / SCALE)],
    }


def measure_box_stability(
    sets: Sequence[LabelledSet], candidates: Sequence[Candidate], worker: Worker = SINGLE_PROCESS
) -> list[BoxStability]:
    """Compare each model's points from the box of the true points with those from changed boxes."""
    scheme = common_scheme(sets)
    moved: list[dict[str, list[float]]] = [{"shift": [], "rotation": [], "scale": []} for _ in candidates]
    for picture, faces in images_with_progress(sets, "stability", worker):
        true = np.stack([face.points for face in faces])
        regions = [roi_from_points(points) for points in true]
        variants = [changed(region) for region in regions]
        for candidate, row in zip(candidates, moved, strict=True):
            still, _ = find(candidate, picture, regions, scheme)
            for kind, distances in row.items():
                for same_change in zip(*(variant[kind] for variant in variants), strict=True):
                    points, _ = find(candidate, picture, same_change, scheme)
                    distances += mean_distance(points, still, true).tolist()
    everyone = worker.gather(moved)
    return [
        BoxStability(
            candidate.name,
            *(
                float(np.mean(np.concatenate([theirs[place][kind] for theirs in everyone])))
                for kind in ("shift", "rotation", "scale")
            ),
        )
        for place, candidate in enumerate(candidates)
    ]
