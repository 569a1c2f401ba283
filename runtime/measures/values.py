"""The measures of the faces of a frame."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.measures.blendshapes import BLENDSHAPES

MEASURES_VERSION = 1
"""Changes if a column of a table gets another name, formula or unit."""

VALUES = (
    "pose_yaw", "pose_pitch", "pose_roll", "pose_tx", "pose_ty", "pose_tz", "pose_score",
    "gaze_yaw", "gaze_pitch", "gaze_score",
    "eye_open_left", "eye_open_right", "eye_closed_left", "eye_closed_right", "eye_score_left", "eye_score_right",
    "blink", "blinks",
    "mouth_open", "mouth_is_open", "mouth_width", "smile", "mouth_score",
    "brow_raise_left", "brow_raise_right", "brow_frown",
    "calibrated",
)  # fmt: skip
"""Names of the columns of `Measures.values`."""

MEASURE_COLUMNS = (*VALUES, *BLENDSHAPES)
"""Names of the columns of a table with measures."""

_PLACE = {name: place for place, name in enumerate(VALUES)}

Values = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Measures:
    """Head pose, gaze, eyes, mouth and brows of N faces. Left and right are those of the image.

    All values are computed from the 98 points and their scores. Expressions are relative to the person's neutral face,
    the median of the first two seconds in which the person looks into the camera; `calibrated` says how much of it is
    known. Single images have no neutral face: the population's stands in.

    The scores are no probabilities. They are mean scores of the points used, and fall to 0 as the head turns until the
    part of the face is hidden.
    """

    values: Values  # (N, 27) VALUES
    blendshapes: Values  # (N, 32) BLENDSHAPES, each in [0, 1]
    rotations: NDArray[np.float64]  # (N, 3, 3) from the axes of the head to those of the camera; see pose.py
    gaze_directions: NDArray[np.float64]  # (N, 3) unit vectors in the camera's axes

    def __post_init__(self) -> None:
        count = len(self.values)
        shapes = self.values.shape, self.blendshapes.shape, self.rotations.shape, self.gaze_directions.shape
        expected = (count, len(VALUES)), (count, len(BLENDSHAPES)), (count, 3, 3), (count, 3)
        if shapes != expected:
            raise ValueError(f"values, blendshapes, rotations and gaze_directions must be {expected}, got {shapes}")

    def __len__(self) -> int:
        return len(self.values)

    def select(self, index: slice | Sequence[int] | NDArray[np.integer] | NDArray[np.bool_]) -> "Measures":
        """Return the measures of some of the faces."""
        return Measures(self.values[index], self.blendshapes[index], self.rotations[index], self.gaze_directions[index])

    def as_dict(self, face: int) -> dict[str, float]:
        """Return the measures and blend shapes of one face by name."""
        numbers = [*self.values[face].tolist(), *self.blendshapes[face].tolist()]
        return dict(zip(MEASURE_COLUMNS, numbers, strict=True))

    def _get(self, name: str) -> Values:
        return self.values[:, _PLACE[name]]

    @property
    def pose_yaw(self) -> Values:
        """Yaw of the head (N,), degrees, -90 to 90; positive if the face is turned to the left of the image.

        From the rotation that `fit_pose` fits: Rx(-pitch) Ry(yaw) Rz(roll), the convention of AFLW2000-3D.
        """
        return self._get("pose_yaw")

    @property
    def pose_pitch(self) -> Values:
        """Pitch of the head (N,), degrees, -180 to 180; positive if the face looks up. See `pose_yaw`."""
        return self._get("pose_pitch")

    @property
    def pose_roll(self) -> Values:
        """Roll of the head (N,), degrees, -180 to 180; positive if rotated clockwise in the image. See `pose_yaw`."""
        return self._get("pose_roll")

    @property
    def translations(self) -> Values:
        """Position (N, 3) of the head in mm: x to the right, y down, z away from the camera.

        The point midway between the centers of the eyes, relative to the camera. It assumes that the pupils are 63 mm
        apart, and a focal length that is given or guessed; an error of either changes all three in proportion.
        """
        return self.values[:, _PLACE["pose_tx"] : _PLACE["pose_tz"] + 1]

    @property
    def pose_score(self) -> Values:
        """Confidence of the pose (N,), 0 to 1.

        Mean score of the points, divided by 1 + (error - 1)² if the error of `Fit` is above 1 (the points do not fit
        a head), times 1 up to 60 degrees of yaw, falling to 0.75 at 90.
        """
        return self._get("pose_score")

    @property
    def gaze_yaw(self) -> Values:
        """Yaw of the gaze (N,), degrees, relative to the camera's axis; positive to the left of the image.

        Each eye looks along (dx, dy) / 11 mm, the sine of its rotation in the head: dx and dy is how far the pupil is
        from its place in a face that looks straight on, seen from the front. The eye rotates about a point 11 mm behind
        the pupil. The mean of both eyes, weighted by their scores and openings, is rotated with the head.

        It is little more than the direction of the head: the included models follow 4 to 7 % of the horizontal motion
        of the pupils in the eyes and 14 to 20 % of the vertical one.
        """
        return self._get("gaze_yaw")

    @property
    def gaze_pitch(self) -> Values:
        """Pitch of the gaze (N,), degrees, relative to the camera's axis; positive up. See `gaze_yaw`."""
        return self._get("gaze_pitch")

    @property
    def gaze_score(self) -> Values:
        """Confidence of the gaze (N,), 0 to 0.25: a quarter of the better eye's score times its opening up to 1.

        A quarter, because the pupils of the included models hardly follow the eyes; see `gaze_yaw`.
        """
        return self._get("gaze_score")

    @property
    def eye_open_left(self) -> Values:
        """Opening of the left eye (N,), 0 = closed, 1 = as in the neutral face, up to 2.

        (aspect - closed) / (neutral - closed) with the eye aspect ratio (Soukupova and Cech, 2016) of the face as seen
        from the front. `closed` is the person's smallest in closed eyes, 0.18 before the first blink.
        """
        return self._get("eye_open_left")

    @property
    def eye_open_right(self) -> Values:
        """Opening of the right eye (N,). See `eye_open_left`."""
        return self._get("eye_open_right")

    @property
    def eye_closed_left(self) -> Values:
        """Whether the left eye is closed (N,), 0 or 1.

        It closes if its aspect is below 0.22 and falls below 85 % of what it was shortly before, and opens above 94 %.
        """
        return self._get("eye_closed_left")

    @property
    def eye_closed_right(self) -> Values:
        """Whether the right eye is closed (N,), 0 or 1. See `eye_closed_left`."""
        return self._get("eye_closed_right")

    @property
    def eye_score_left(self) -> Values:
        """Confidence of the left eye (N,), 0 to 1.

        Mean score of its nine points, times 1 up to 30 degrees of yaw to its side, falling to 0 at 75 degrees.
        """
        return self._get("eye_score_left")

    @property
    def eye_score_right(self) -> Values:
        """Confidence of the right eye (N,), 0 to 1. See `eye_score_left`."""
        return self._get("eye_score_right")

    @property
    def blink(self) -> Values:
        """Whether both eyes are closed, for at most 0.6 seconds so far (N,), 0 or 1."""
        return self._get("blink")

    @property
    def blinks(self) -> Values:
        """Number of blinks since the face appeared (N,): both eyes closed, for at most 0.6 seconds."""
        return self._get("blinks")

    @property
    def mouth_open(self) -> Values:
        """Gap of the inner lips over the neutral width of the mouth (N,), 0 to about 1.

        The mean distance of the points 89 and 95, 90 and 94, 91 and 93, on the face as seen from the front.
        """
        return self._get("mouth_open")

    @property
    def mouth_is_open(self) -> Values:
        """Whether the mouth is wide open (N,), 0 or 1: `mouth_open` rose above 0.30, and did not fall below 0.24."""
        return self._get("mouth_is_open")

    @property
    def mouth_width(self) -> Values:
        """Distance of the corners of the mouth, 76 and 82, over that of the neutral face (N,), 1 = neutral."""
        return self._get("mouth_width")

    @property
    def smile(self) -> Values:
        """Smile (N,), 0 to 1: the mean of the blend shapes mouthSmileLeft and mouthSmileRight."""
        return self._get("smile")

    @property
    def mouth_score(self) -> Values:
        """Confidence of mouth and smile (N,), 0 to 1.

        Mean score of the points of the lips, times 1 up to 30 degrees of yaw, falling to 0 at 75 degrees.
        """
        return self._get("mouth_score")

    @property
    def brow_raise_left(self) -> Values:
        """Raise of the left brow (N,), -1 to 1: mean change of the heights of both ends / 8 mm; negative if lowered.

        The height is that above the line through the corners of the eye. A mm is that of a head whose pupils are 63 mm
        apart.
        """
        return self._get("brow_raise_left")

    @property
    def brow_raise_right(self) -> Values:
        """Raise of the right brow (N,), -1 to 1. See `brow_raise_left`."""
        return self._get("brow_raise_right")

    @property
    def brow_frown(self) -> Values:
        """Frown (N,), 0 to 1: how much lower the inner ends of the brows are / 10 mm + how much closer / 10 mm."""
        return self._get("brow_frown")

    @property
    def calibrated(self) -> Values:
        """How much of the neutral face is known (N,), 0 to 1 after two seconds of a face that looks into the camera."""
        return self._get("calibrated")


def no_measures() -> Measures:
    """Return the measures of no faces."""
    shapes = (0, len(VALUES)), (0, len(BLENDSHAPES))
    values, weights = (np.zeros(shape, np.float32) for shape in shapes)
    return Measures(values, weights, np.zeros((0, 3, 3)), np.zeros((0, 3)))
