"""How long models take for a face, one beside the other in the same run, as machines and their moods differ."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.geometry import roi_from_points
from canthus.runtime.types import Roi
from canthus.trainer.evaluation.evaluate import Candidate, images_with_progress, look
from canthus.trainer.faces.labelled import LabelledSet

TURN = 20
"""Faces that a model sees in a row before the next has its turn: so all meet the same moods of the machine, and each
with its own weights in the cache."""

ROUNDS = 10


@dataclass(frozen=True)
class Speed:
    """The time of one face: cut out of its picture, through the network, its points back in the picture."""

    model: str
    ms: float  # median
    times: float  # that of the first model: median over the rounds


def measure_speed(sets: Sequence[LabelledSet], candidates: Sequence[Candidate]) -> list[Speed]:
    """Time each model on the first faces of the sets, one face at a time, the models in turn."""
    faces = _some(sets)
    taken = np.zeros((ROUNDS + 1, len(candidates), len(faces)))
    for turn in taken:
        for row, candidate in zip(turn, candidates, strict=True):
            for place, (picture, region) in enumerate(faces):
                started = time.perf_counter()
                look(candidate, picture, [region])
                row[place] = 1000 * (time.perf_counter() - started)
    warm = taken[1:]  # in the first round everything is opened and filled
    medians = np.median(warm, axis=2)  # (rounds, candidates)
    return [
        Speed(
            candidate.name,
            round(float(np.median(warm[:, place])), 3),
            round(float(np.median(medians[:, place] / medians[:, 0])), 2),
        )
        for place, candidate in enumerate(candidates)
    ]


def _some(sets: Sequence[LabelledSet]) -> list[tuple[NDArray[np.uint8], Roi]]:
    faces: list[tuple[NDArray[np.uint8], Roi]] = []
    for picture, marked in images_with_progress(sets, "speed"):
        faces += [(picture, roi_from_points(face.points)) for face in marked]
        if len(faces) >= TURN:
            break
    return faces[:TURN]
