"""What is kept of a person from one run to the next, so that the neutral face need not be measured again."""

import math
from dataclasses import dataclass

import numpy as np

from canthus.runtime.errors import InputError
from canthus.runtime.measures.features import FEATURES
from canthus.runtime.measures.head import Floats
from canthus.runtime.wflw import POINTS

LIMIT = 1000.0
"""No feature and no point of a head is further from 0, in mm."""


@dataclass(frozen=True)
class KnownPerson:
    """The neutral face and the head of a person.

    Raises InputError if a value is missing or impossible.
    """

    neutral: dict[str, float]  # FEATURES: mm, and ratios for the eyes
    closed_aspect: tuple[float, float]  # of the closed left and right eye, 0 to 1
    head: tuple[tuple[float, float, float], ...]  # (98, 3) mm, added to the points of the mean head

    def __post_init__(self) -> None:
        if set(self.neutral) != set(FEATURES):
            raise InputError(f"neutral must have the features {', '.join(FEATURES)}")
        if len(self.head) != POINTS:
            raise InputError(f"head must have {POINTS} points, got {len(self.head)}")
        numbers = [*self.neutral.values(), *self.closed_aspect, *(value for point in self.head for value in point)]
        if not all(math.isfinite(value) and abs(value) <= LIMIT for value in numbers):
            raise InputError(f"a value is not a number between -{LIMIT:.0f} and {LIMIT:.0f} mm")
        if not all(0 <= aspect <= 1 for aspect in self.closed_aspect):
            raise InputError("closed_aspect must be between 0 and 1")

    @property
    def features(self) -> Floats:
        """The neutral FEATURES, (16,)."""
        return np.array([self.neutral[name] for name in FEATURES])

    @property
    def head_offsets(self) -> Floats:
        """What is added to the points of the mean head, (98, 3) mm."""
        return np.array(self.head)


def make_known(neutral: Floats, closed_aspect: tuple[float, float], head_offsets: Floats) -> KnownPerson:
    """Return a person from arrays: FEATURES (16,), aspects of closed eyes, and (98, 3) mm."""
    head = tuple((x, y, z) for x, y, z in np.round(head_offsets, 2).tolist())
    values = np.round(neutral, 4).tolist()
    left, right = (round(float(aspect), 4) for aspect in closed_aspect)
    return KnownPerson(dict(zip(FEATURES, values, strict=True)), (left, right), head)
