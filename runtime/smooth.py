"""The One Euro filter (Casiez, Roussel and Vogel, CHI 2012) on the points of each face, driven by real timestamps.

A low-pass filter whose cut-off grows with speed: a still face does not tremble, a moving one is not late.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.types import Faces


@dataclass(frozen=True)
class OneEuro:
    """The filter's settings. Speeds are in face sizes a second, so that near and far faces are treated alike."""

    cutoff: float = 1.2  # Hz, of a still point
    beta: float = 45.0  # Hz for each face size a second
    speed_cutoff: float = 1.0  # Hz, of the speed itself


@dataclass
class _Memory:
    points: NDArray[np.float64]  # (98, 2) filtered, frame pixels
    speed: NDArray[np.float64]  # (98, 2) filtered, frame pixels a second
    seconds: float


class Smoother:
    """Smooths faces frame by frame; each id has its own memory, forgotten when the face is gone."""

    def __init__(self, settings: OneEuro | None = None) -> None:
        self._settings = settings or OneEuro()
        self._memories: dict[int, _Memory] = {}

    def smooth(self, faces: Faces, seconds: float) -> Faces:
        """The same faces with calmer points; `seconds` is the frame's time."""
        points = np.empty_like(faces.points)
        memories = {}
        for place, face in enumerate(faces.ids):
            memory = self._step(self._memories.get(int(face)), faces.points[place], seconds)
            memories[int(face)] = memory
            points[place] = memory.points
        self._memories = memories
        return Faces(points, faces.scores, faces.ids)

    def _step(self, memory: _Memory | None, points: NDArray[np.float32], seconds: float) -> _Memory:
        new = points.astype(np.float64)
        if memory is None or seconds <= memory.seconds:
            return _Memory(new, np.zeros_like(new), seconds)
        how, passed = self._settings, seconds - memory.seconds
        size = max(float((new.max(0) - new.min(0)).max()), 1.0)
        # The whole face's speed is a surer measure than one point's, whose own noise would open its filter.
        raw = (new - memory.points) / passed
        speed = memory.speed + _share(how.speed_cutoff, passed) * (raw - memory.speed)
        together = np.linalg.norm(speed.mean(0)) / size
        apart = np.linalg.norm(speed - speed.mean(0), axis=1) / size
        cutoff = how.cutoff + how.beta * (together + np.maximum(apart - together, 0.0))
        kept = memory.points + _share(cutoff, passed)[:, None] * (new - memory.points)
        return _Memory(kept, speed, seconds)


def _share(cutoff: NDArray[np.float64] | float, passed: float) -> NDArray[np.float64]:
    """How much of a new value a first-order low-pass of `cutoff` Hz takes after `passed` seconds."""
    turned = 2 * math.pi * np.asarray(cutoff, np.float64) * passed
    return np.asarray(turned / (turned + 1))
