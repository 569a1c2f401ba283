"""What is remembered of a person from frame to frame: the neutral face, the fitted head, and closed eyes."""

from collections.abc import Sequence

import numpy as np

from canthus.runtime.measures.features import PLACE, POPULATION
from canthus.runtime.measures.head import Floats
from canthus.runtime.measures.known import KnownPerson, make_known
from canthus.runtime.measures.pose import Pose
from canthus.runtime.wflw import CONTOUR, INNER_LIPS, OUTER_LIPS, POINTS

NEUTRAL_SECONDS = 2.0
"""The neutral face is the median over the first seconds in which the person looks roughly into the camera."""

NEUTRAL_YAW, NEUTRAL_PITCH = 30.0, 25.0
"""Larger angles, in degrees, are not used for the neutral face."""

POPULATION_SECONDS = 0.3
"""The population's features count as much as this many seconds of a person's own."""

MAX_STEP = 0.2
"""Longer intervals between frames, in seconds, count as this long: a pause says nothing about the neutral face."""

CLOSING, REOPENING = 0.85, 0.94
"""An eye closes if its aspect falls below this share of what it was shortly before, and opens again above the other."""

OPEN_ASPECT, CLOSED_ASPECT = 0.22, 0.18
"""An eye with a larger aspect than the first is never closed. The second is that of a closed eye, until the person has
blinked: networks place the lids of closed eyes a little apart."""

RISE, FALL, FALL_WHEN_CLOSED = 0.15, 0.5, 8.0
"""Time constants, in seconds, of the aspect that an open eye is compared with."""

MAX_BLINK = 0.6
"""Eyes that stay closed longer, in seconds, have not blinked. Blinks take 0.1 to 0.4 seconds."""

MOUTH_OPENS, MOUTH_CLOSES = 0.30, 0.24
"""The mouth opens above the first gap of the lips and closes below the second, in neutral widths of the mouth."""

SHAPE_MEMORY = 100.0
"""How many frames the fit of the head remembers."""

SHAPE_PRIOR, MOVING_PRIOR = 20.0, 400.0
"""How many frames the mean head counts in the fit. The second is that of points that move with the jaw and the lips:
they say little about the shape of the head."""

SHAPE_EVERY = 5
"""The head is fitted again after this many frames."""

_IS_MOVING = np.isin(np.arange(POINTS), [*CONTOUR, *OUTER_LIPS, *INNER_LIPS])
_PRIORS = np.where(_IS_MOVING, MOVING_PRIOR, SHAPE_PRIOR)
_PRIOR_MATRICES = np.array([SHAPE_PRIOR, MOVING_PRIOR])[:, None, None] * np.eye(3)

_MOUTH_WIDTH = PLACE["mouth_width"]


class FittedHead:
    """Fits the places of the points on the head of a person.

    Each frame says where a point lies across its line of sight. The information of all frames adds up, with the mean
    head, or the known head of the person, as a prior: weighted recursive least squares with exponential forgetting. So
    poses of the same person agree better, when the head turns and the features of the person differ from the mean.
    """

    def __init__(self, known: Floats | None = None) -> None:
        self._known: Floats = np.zeros((3, POINTS)) if known is None else known.T.copy()
        self.offsets: Floats = self._known  # (3, 98) mm, added to the model's points
        self._frames = 0
        self._information = np.zeros((3, 3))  # the same for all points, as it depends on the rotations only
        self._right = np.zeros((3, POINTS))

    def is_due(self) -> bool:
        """Count a frame, and return whether it is to be added."""
        self._frames += 1
        return self._frames % SHAPE_EVERY == 1  # neighboring frames say the same

    def add(self, rotation: Floats, residuals: Floats, weight: float) -> None:
        """Add a frame: the rotation (3, 3), and the way (2, 98) in mm from the fitted model to the points."""
        rows = rotation[:2]
        keep, gain = 1 - SHAPE_EVERY / SHAPE_MEMORY, weight * SHAPE_EVERY
        seen = residuals + rows @ self.offsets
        self._information = keep * self._information + gain * (rows.T @ rows)
        self._right = keep * self._right + gain * (rows.T @ seen)
        right = self._right + _PRIORS * self._known
        still, moving = np.linalg.inv(self._information + _PRIOR_MATRICES)
        self.offsets = np.where(_IS_MOVING, moving.dot(right), still.dot(right))


class Person:
    """The state of one face. `known`: the person, if it is known; then the neutral face is not measured."""

    def __init__(self, known: KnownPerson | None = None) -> None:
        self.pose: Pose | None = None  # of the last frame, if it fitted
        self.head = FittedHead(known.head_offsets if known else None)
        self.neutral: list[float] = (known.features if known else POPULATION).tolist()
        self.neutral_seconds = NEUTRAL_SECONDS if known else 0.0
        self.closed = [False, False]  # left and right eye
        self.closed_aspect = list(known.closed_aspect) if known else [CLOSED_ASPECT, CLOSED_ASPECT]
        self.mouth_is_open = False
        self.blinks = 0
        self._samples: list[Sequence[float]] = []
        self._next_median = 1
        self._reference: list[float] = []  # aspect of each eye when it was open
        self._closed_since: float | None = None  # seconds, of both eyes
        self._seconds: float | None = None  # of the last frame

    @property
    def calibrated(self) -> float:
        """How much of the neutral face is known, 0 to 1."""
        return min(self.neutral_seconds / NEUTRAL_SECONDS, 1.0)

    def to_known(self) -> KnownPerson:
        """Return what can be kept for another run."""
        left, right = self.closed_aspect
        return make_known(np.array(self.neutral), (left, right), self.head.offsets.T)

    def forget_neutral(self) -> None:
        """Start the calibration of the neutral face again."""
        self._samples, self.neutral_seconds, self._next_median = [], 0.0, 1

    def update(self, values: Sequence[float], frontal: bool, seconds: float) -> None:
        """Use the features (16,) of the next frame. `frontal`: whether they can be used for the neutral face."""
        elapsed = 0.0 if self._seconds is None else min(max(seconds - self._seconds, 0.0), MAX_STEP)
        self._seconds = seconds
        if frontal and self.neutral_seconds < NEUTRAL_SECONDS:
            self._calibrate(values, elapsed)
        left, right, gap, *_ = values
        self._update_eyes((left, right), seconds, elapsed)
        # Hysteresis.
        self.mouth_is_open = gap / self.neutral_width > (MOUTH_CLOSES if self.mouth_is_open else MOUTH_OPENS)

    def _calibrate(self, values: Sequence[float], elapsed: float) -> None:
        self._samples.append(values)
        self.neutral_seconds += elapsed
        done = self.neutral_seconds >= NEUTRAL_SECONDS
        if len(self._samples) < self._next_median and not done:
            return
        self._next_median = len(self._samples) + max(len(self._samples) // 4, 1)
        weight = 1.0 if done else self.neutral_seconds / (self.neutral_seconds + POPULATION_SECONDS)
        self.neutral = (weight * np.median(self._samples, axis=0) + (1 - weight) * POPULATION).tolist()
        if done:
            self._samples = []

    def _update_eyes(self, aspects: tuple[float, float], seconds: float, elapsed: float) -> None:
        """Find out whether each eye is closed, with hysteresis, and count blinks of both eyes."""
        if not self._reference:
            self._reference = [max(aspect, OPEN_ASPECT) for aspect in aspects]
        for eye, aspect in enumerate(aspects):
            reference = self._reference[eye]
            if self.closed[eye]:
                self.closed[eye] = aspect < min(REOPENING * reference, OPEN_ASPECT * REOPENING / CLOSING)
                level = self.closed_aspect[eye]
                self.closed_aspect[eye] = max(level + 0.3 * min(aspect - level, 0.0), 0.05)
            else:
                self.closed[eye] = aspect < min(CLOSING * reference, OPEN_ASPECT)
            constant = RISE if aspect > reference else FALL_WHEN_CLOSED if self.closed[eye] else FALL
            self._reference[eye] = reference + (aspect - reference) * elapsed / (elapsed + constant)
        both = all(self.closed)
        if both and self._closed_since is None:
            self._closed_since = seconds
        elif not both and self._closed_since is not None:
            self.blinks += 0 <= seconds - self._closed_since <= MAX_BLINK
            self._closed_since = None

    def is_blinking(self, seconds: float) -> bool:
        """Return whether both eyes are closed, and not for longer than a blink."""
        return self._closed_since is not None and abs(seconds - self._closed_since) <= MAX_BLINK

    def eyes_open(self, values: Sequence[float]) -> tuple[float, float]:
        """Return the opening of the left and the right eye, from the features (16,): 0 closed, 1 neutral, up to 2."""
        return self._eye_open(0, values[0]), self._eye_open(1, values[1])

    def _eye_open(self, eye: int, aspect: float) -> float:
        closed = self.closed_aspect[eye]
        return min(max((aspect - closed) / max(self.neutral[eye] - closed, 0.05), 0.0), 2.0)

    @property
    def neutral_width(self) -> float:
        """Width of the neutral mouth, mm."""
        return max(self.neutral[_MOUTH_WIDTH], 20.0)
