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
    """Parameters of the filter. Speeds are in face sizes per second, so small and large faces are smoothed equally."""

    cutoff: float = 1.2  # Hz, for a point at rest
    beta: float = 45.0  # increase of the cutoff: Hz for each face size per second
    speed_cutoff: float = 1.0  # Hz, for the speed itself


MIN_ELAPSED, MAX_ELAPSED = 1e-6, 10.0
"""Seconds between two frames. Outside this range the time has jumped, and the filter starts again."""


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

        A new face, and any face after a jump in time, is returned unchanged.
        """
        states = [self._filter(self._states.get(face.id), face.points, seconds) for face in faces]
        self._states = dict(zip(faces.ids.tolist(), states, strict=True))
        points = np.empty_like(faces.points)
        for index, state in enumerate(states):
            points[index] = state.points
        return dataclasses.replace(faces, points=points)

    def _filter(self, state: _State | None, points: NDArray[np.float32], seconds: float) -> _State:
        new = points.astype(np.float64)
        elapsed = 0.0 if state is None else seconds - state.seconds
        # Not finite: the last points were NaN, and every later value of the filter would be NaN too.
        if state is None or not MIN_ELAPSED <= elapsed <= MAX_ELAPSED or not np.isfinite(state.points).all():
            return _State(new, np.zeros_like(new), seconds)
        settings = self._settings
        size = max(float((new.max(0) - new.min(0)).max()), 1.0)
        raw_speed = (new - state.points) / elapsed
        speed = state.speed + _weight(settings.speed_cutoff, elapsed) * (raw_speed - state.speed)
        # The cutoff depends mainly on the speed of the whole face. The speed of a single point is noisy, so only the
        # part that exceeds the speed of the face is added.
        face_speed = np.linalg.norm(speed.mean(0)) / size
        own_speed = np.linalg.norm(speed - speed.mean(0), axis=1) / size
        cutoff = settings.cutoff + settings.beta * (face_speed + np.maximum(own_speed - face_speed, 0.0))
        filtered = state.points + _weight(cutoff, elapsed)[:, None] * (new - state.points)
        return _State(filtered, speed, seconds)


def _weight(cutoff: NDArray[np.float64] | float, elapsed: float) -> NDArray[np.float64]:
    """Return the weight of a new value in a first-order low-pass of `cutoff` Hz, `elapsed` seconds after the last."""
    phase = 2 * math.pi * np.asarray(cutoff, np.float64) * elapsed
    return np.asarray(phase / (phase + 1))
