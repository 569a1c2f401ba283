"""Smooth the landmarks of each face over time with the One Euro filter (Casiez, Roussel and Vogel, CHI 2012).

This is a low-pass filter whose cutoff frequency grows with speed: it removes the jitter of a still face and adds
little lag to a moving one.
"""

import math
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.saved_state import Stateful
from canthus.runtime.types import Faces


@dataclass(frozen=True)
class OneEuro:
    """Parameters of the filter. Speeds are in face sizes per second, so small and large faces are smoothed equally."""

    cutoff: float = 1.2  # Hz, for a point at rest
    beta: float = 45.0  # increase of the cutoff: Hz for each face size per second
    speed_cutoff: float = 1.0  # Hz, for the speed itself


MIN_ELAPSED, MAX_ELAPSED = 1e-6, 10.0
"""Seconds between two frames. Outside this range the time has jumped, and the filter starts again."""


@dataclass(frozen=True)
class _State:
    """The last values of the filter, for all faces of one frame."""

    ids: NDArray[np.int64]  # (N,)
    points: NDArray[np.float64]  # (N, 2, K) filtered, frame pixels
    speeds: NDArray[np.float64]  # (N, 2, K) filtered, frame pixels per second
    seconds: float


class Smoother(Stateful):
    """Smooths faces frame by frame. The state of each id is kept until its face is gone."""

    FIXED = ("_settings",)

    def __init__(self, settings: OneEuro | None = None) -> None:
        self._settings = settings or OneEuro()
        self._state: _State | None = None

    def smooth(self, faces: Faces, seconds: float) -> Faces:
        """Return the faces with smoothed points; `seconds` is the frame's time.

        A new face, and any face after a jump in time, is returned unchanged.
        """
        state = self._state
        points = np.ascontiguousarray(faces.points.swapaxes(1, 2), np.float64)  # (N, 2, K)
        if not len(faces) or state is None or not MIN_ELAPSED <= seconds - state.seconds <= MAX_ELAPSED:
            speeds = np.zeros(points.shape)
        elif _same_faces(faces.ids, state):
            points, speeds = self._filter(points, state.points, state.speeds, seconds - state.seconds)
        else:
            speeds = np.zeros(points.shape)
            rows, before = _match(faces.ids, state)
            points[rows], speeds[rows] = self._filter(
                points[rows], state.points[before], state.speeds[before], seconds - state.seconds
            )
        self._state = _State(faces.ids, points, speeds, seconds)
        smoothed = np.ascontiguousarray(points.swapaxes(1, 2), np.float32)
        return replace(faces, points=smoothed)

    def _filter(
        self,
        new: NDArray[np.float64],
        points: NDArray[np.float64],
        speeds: NDArray[np.float64],
        elapsed: float,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the next filtered points and speeds (N, 2, K) of faces."""
        settings = self._settings
        sizes = np.maximum((new.max(2) - new.min(2)).max(1), 1.0)[:, None]  # (N, 1)
        change = new - points
        speeds = speeds + _weight(settings.speed_cutoff, elapsed) * (change / elapsed - speeds)
        # The cutoff depends mainly on the speed of the whole face. The speed of a single point is noisy, so only the
        # part that exceeds the speed of the face is added.
        mean = speeds.sum(2, keepdims=True) / speeds.shape[2]  # (N, 2, 1)
        own = speeds - mean
        speed = np.maximum(np.hypot(own[:, 0], own[:, 1]), np.hypot(mean[:, 0], mean[:, 1])) / sizes  # (N, K)
        weights = _weight(settings.cutoff + settings.beta * speed, elapsed)
        return points + weights[:, None] * change, speeds


def _same_faces(ids: NDArray[np.int64], state: _State) -> bool:
    """Whether the state is that of the same faces. A sum of squares shows fastest whether all points are finite."""
    return ids.tolist() == state.ids.tolist() and math.isfinite(np.vdot(state.points, state.points))


def _match(ids: NDArray[np.int64], state: _State) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows of the faces that have a state, and the rows of their states.

    Points that are not finite are no state: every later value of the filter would be NaN too.
    """
    known = {face: row for row, face in enumerate(state.ids.tolist())}
    pairs = [(row, known[face]) for row, face in enumerate(ids.tolist()) if face in known]
    rows, before = np.array(pairs, np.intp).reshape(-1, 2).T
    finite = np.isfinite(state.points[before]).all((1, 2))
    return rows[finite], before[finite]


_Frequency = TypeVar("_Frequency", float, NDArray[np.float64])


def _weight(cutoff: _Frequency, elapsed: float) -> _Frequency:
    """Return the weight of a new value in a first-order low-pass of `cutoff` Hz, `elapsed` seconds after the last."""
    phase = 2 * math.pi * cutoff * elapsed
    return phase / (phase + 1)
