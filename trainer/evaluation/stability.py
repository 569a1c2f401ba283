"""Measure how much the points of a model change if the box of the face changes a little."""

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
    images_with_progress,
    predict_faces,
)
from canthus.trainer.evaluation.metrics import mean_distance
from canthus.trainer.faces.labelled import LabelledSet

SHIFT = 0.05  # of the side, in four directions
TURN = math.radians(10)  # in both directions
SCALE = 1.1  # and 1 / SCALE


@dataclass(frozen=True)
class BoxStability:
    """The mean distance of the points before and after a change of the box, in % of the normalizer."""

    model: str
    shift: float
    rotation: float
    scale: float


def changed_regions(roi: Roi) -> dict[str, list[Roi]]:
    """Return a region shifted, rotated and scaled a little, by kind of change."""
    step = SHIFT * roi.side
    return {
        "shift": [replace(roi, x=roi.x + x, y=roi.y + y) for x, y in ((step, 0), (-step, 0), (0, step), (0, -step))],
        "rotation": [replace(roi, angle=roi.angle + angle) for angle in (TURN, -TURN)],
        "scale": [replace(roi, side=roi.side * factor) for factor in (SCALE, 1 / SCALE)],
    }


def measure_box_stability(
    sets: Sequence[LabelledSet], candidates: Sequence[Candidate], worker: Worker = SINGLE_PROCESS
) -> list[BoxStability]:
    """Compare each model's points in the region of the labels with its points in changed regions."""
    scheme = common_scheme(sets)
    distances: list[dict[str, list[float]]] = [{"shift": [], "rotation": [], "scale": []} for _ in candidates]
    for image, faces in images_with_progress(sets, "stability", worker):
        labels = np.stack([face.points for face in faces])
        rois = [roi_from_points(points) for points in labels]
        changed = [changed_regions(roi) for roi in rois]
        for candidate, by_kind in zip(candidates, distances, strict=True):
            reference = predict_faces(candidate, image, rois, scheme).points
            for kind, values in by_kind.items():
                for variants in zip(*(regions[kind] for regions in changed), strict=True):  # one region per face
                    points = predict_faces(candidate, image, variants, scheme).points
                    values += mean_distance(points, reference, labels, scheme).tolist()
    gathered = worker.gather(distances)
    return [
        BoxStability(
            candidate.name,
            *(
                float(np.mean(np.concatenate([by_candidate[index][kind] for by_candidate in gathered])))
                for kind in ("shift", "rotation", "scale")
            ),
        )
        for index, candidate in enumerate(candidates)
    ]
