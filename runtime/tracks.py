"""The track of a face: its last points, and whether those of the next frame can belong to it."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.geometry import extents
from canthus.runtime.landmarks import Landmarks
from canthus.runtime.schemes import Scheme
from canthus.runtime.types import FaceBox

MAX_SCALE_CHANGE = 1.6
MAX_ROLL_CHANGE = math.radians(50)
"""No face changes more than this between two frames: its size by this factor, its roll by this angle. A lost face that
returns does not change its size more either; a face of another size is another person, often after a cut."""

STILL = 0.005
"""Mean change of x and y from frame to frame below which a face is still, relative to the longer side of its box."""


class TrackedFace(NamedTuple):
    """A predicted face, with what decides about it."""

    points: NDArray[np.float32]  # (K, 2) frame pixels
    scores: NDArray[np.float32]  # (K,)
    box: FaceBox  # of the points; its score is the face score
    roll: float  # radians

    @property
    def side(self) -> float:
        """Longer side of the box."""
        return max(self.box.x1 - self.box.x0, self.box.y1 - self.box.y0)


def tracked_faces(found: Landmarks, scheme: Scheme) -> list[TrackedFace]:
    """Return the faces of a prediction."""
    points, scores = found
    means, rolls = (scores.sum(1) / scores.shape[1]).tolist(), scheme.rolls(points).tolist()
    return [
        TrackedFace(points[row], scores[row], FaceBox(*edges, score), roll)
        for row, (edges, score, roll) in enumerate(zip(extents(points), means, rolls, strict=True))
    ]


@dataclass(eq=False)
class Track:
    """A face that is followed from frame to frame."""

    id: int
    face: TrackedFace
    seconds: float  # of the last frame that shows the face
    frame: int  # number of this frame
    confirmed: float  # seconds of the last detection of the face
    detection_score: float  # of this detection
    refined: float = -math.inf  # seconds of the last prediction in the detector's box
    region_points: NDArray[np.float32] | None = None  # (K, 2), see `region_points`; None: those of `face`

    def confirm(self, box: FaceBox, seconds: float) -> None:
        """Record that the detector has found the face. If it returned two boxes for it, the higher score stays."""
        first = seconds != self.confirmed
        self.detection_score = box.score if first else max(box.score, self.detection_score)
        self.confirmed = seconds

    def move(self, face: TrackedFace, seconds: float, frame: int) -> None:
        """Go on with the face in the next frame."""
        self.region_points = region_points(self.face.points, face.points, face.side)
        self.face, self.seconds, self.frame = face, seconds, frame


def region_points(before: NDArray[np.float32], after: NDArray[np.float32], side: float) -> NDArray[np.float32]:
    """Return the points (K, 2) around which the next frame is cropped, from those of the last two frames.

    Of a still face they are the mean of both. With the last ones alone, region and prediction can alternate between two
    states for ever.

    side: the longer side of the box of `after`.
    """
    change = float(np.abs(after - before).sum()) / after.size
    return (before + after) / np.float32(2) if change < STILL * side else after


def is_plausible(before: TrackedFace, after: TrackedFace, frame: tuple[int, ...]) -> bool:
    """Whether a face can have moved so from one frame to the next, and is still in the frame of this shape."""
    x, y = (after.box.x0 + after.box.x1) / 2, (after.box.y0 + after.box.y1) / 2
    inside = 0 <= x < frame[1] and 0 <= y < frame[0]
    turned = math.remainder(after.roll - before.roll, 2 * math.pi)
    return inside and has_similar_size(before, after) and abs(turned) < MAX_ROLL_CHANGE


def has_similar_size(before: TrackedFace, after: TrackedFace) -> bool:
    """Whether two faces can be the same one by their sizes."""
    scale = after.side / max(before.side, 1.0)
    return 1 / MAX_SCALE_CHANGE < scale < MAX_SCALE_CHANGE
