"""Measure the time that models need for one face, alternately in one run, as the speed of a machine varies."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.geometry import roi_from_points
from canthus.runtime.types import Roi
from canthus.trainer.evaluation.evaluate import Candidate, images_with_progress, predict_rois
from canthus.trainer.faces.labelled import LabelledSet

FACES = 20
"""Faces that one model processes before the next model does. So the load of the machine affects all models equally, and
each model has its weights in the processor's cache."""

ROUNDS = 10


@dataclass(frozen=True)
class Speed:
    """The time for one face: crop, network and transform of the points to the image, without reading the image."""

    model: str
    ms: float  # median
    ratio: float  # to the first model: median over the rounds


def measure_speed(sets: Sequence[LabelledSet], candidates: Sequence[Candidate]) -> list[Speed]:
    """Time all models on the first faces of the sets, one face at a time."""
    faces = _first_faces(sets)
    times = np.zeros((ROUNDS + 1, len(candidates), len(faces)))  # ms
    for times_of_round in times:
        for row, candidate in zip(times_of_round, candidates, strict=True):
            for index, (image, roi) in enumerate(faces):
                started = time.perf_counter()
                predict_rois(candidate, image, [roi])
                row[index] = 1000 * (time.perf_counter() - started)
    warm = times[1:]  # the first round includes initialization
    medians = np.median(warm, axis=2)  # (rounds, candidates)
    return [
        Speed(
            candidate.name,
            round(float(np.median(warm[:, index])), 3),
            round(float(np.median(medians[:, index] / medians[:, 0])), 2),
        )
        for index, candidate in enumerate(candidates)
    ]


def _first_faces(sets: Sequence[LabelledSet]) -> list[tuple[NDArray[np.uint8], Roi]]:
    faces: list[tuple[NDArray[np.uint8], Roi]] = []
    for image, labelled in images_with_progress(sets, "speed"):
        faces += [(image, roi_from_points(face.points)) for face in labelled]
        if len(faces) >= FACES:
            break
    return faces[:FACES]
