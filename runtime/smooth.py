"""Smooth the landmarks of each face over time with the One Euro filter (Casiez, Roussel and Vogel, CHI 2012).

This is a low-pass filter whose cutoff frequency grows with speed: it removes the jitter of a still face and adds
little lag to a moving one.
"""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.types import Faces


@dataclass(frozen=True)
class OneEuro:
    """Parameters of the filter. Speeds are in face sizes per second, so near and far faces are smoothed alike."""

    cutoff: float = 1.2  # Hz, for a point at rest
    beta: float = 45.0  # increase of the cutoff: Hz for each face size per second
    speed_cutoff: float = 1.0  # Hz, for the speed itself


@dataclass
class _State:
    points: NDArray[np.float64]  # (98, 2) filtered, frame pixels
    speed: NDArray[np.float64]  # (98, 2) filtered, frame pixels per second
    seconds: float


class Smoother:
    """Smooths faces frame by frame. The state of each id is kept until its face is gone."""

    def __init__(self, settings: OneEuro | None = None) -> None:
        self._settings = settings or OneEuro()
        self._states: dict[int, _State] = {}

    def smooth(self, faces: Faces, seconds: float) -> Faces:
        """Return the faces with smoothed points; `seconds` is the frame's time.

        A new face, and any face after a step back in time, is returned unchanged.
        """
        states = [self._filter(self._states.get(face.id), face.points, seconds) for face in faces]
        self._states = dict(zip(faces.ids.tolist(), states, strict=True))
        points = np.empty_like(faces.points)
        for index, state in enumerate(states):
            points[index] = state.points
        return dataclasses.replace(faces, points=points)

    def _filter(self, state: _State | None, points: NDArray[np.float32], seconds: float) -> _State:
        new = points.astype(np.float64)
        if state is None or seconds <= state.seconds:
            return _State(new, np.zeros_like(new), seconds)
        settings, elapsed = self._settings, seconds - state.seconds
        size = max(float((new.max(0) - new.min(0)).max()), 1.0)
        raw_speed = (new - state.points) / elapsed
        speed = state.speed + _weight(settings.speed_cutoff, elapsed) * (raw_speed - state.speed)
        # Mainly the speed of the whole face opens the filters. The speed of a single point is noisy; it counts only as
        # far as it exceeds the speed of the face.
        face_speed = np.linalg.norm(speed.mean(0)) / size
        own_speed = np.linalg.norm(speed - speed.mean(0), axis=1) / size
        cutoff = settings.cutoff + settings.beta * (face_speed + np.maximum(own_speed - face_speed, 0.0))
        filtered = state.points + _weight(cutoff, elapsed)[:, None] * (new - state.points)
        return _State(filtered, speed, seconds)


def _weight(cutoff: NDArray[np.float64] | float, elapsed: float) -> NDArray[np.float64]:
    """Return the weight of a new value in a first-order low-pass of `cutoff` Hz, `elapsed` seconds after the last."""
    phase = 2 * math.pi * np.asarray(cutoff, np.float64) * elapsed
    return np.asarray(phase / (phase + 1))
