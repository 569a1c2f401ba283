"""Measure faces frame by frame."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.measures.blendshapes import BLENDSHAPES, blendshapes
from canthus.runtime.measures.features import PLACE, FaceFeatures, features, mean_weights
from canthus.runtime.measures.fit import fit_pose
from canthus.runtime.measures.head import Floats, Head, included_head
from canthus.runtime.measures.known import KnownPerson
from canthus.runtime.measures.person import NEUTRAL_PITCH, NEUTRAL_YAW, Person
from canthus.runtime.measures.pose import (
    Camera,
    Pose,
    angles_from_rotation,
    guess_camera,
    lines_of_sight,
    points_on_head,
)
from canthus.runtime.measures.values import VALUES, Measures, no_measures
from canthus.runtime.saved_state import Stateful
from canthus.runtime.wflw import INNER_LIPS, LEFT_EYE, LEFT_PUPIL, OUTER_LIPS, POINTS, RIGHT_EYE, RIGHT_PUPIL

PUPIL_REST = (-0.2, -2.0), (0.2, -2.0)
"""Place of each pupil relative to the middle of the corners of its eye, in mm, in a face that looks straight on: the
medians of 2,085 frontal faces."""

EYE_RADIUS = 11.0
"""Distance of the pupil from the center of the eye's rotation, mm: 14 mm behind the cornea, less 3 mm to the pupil."""

MAX_SINE = 0.77
"""Of the rotation of an eye: 50 degrees."""

PUPIL_TRUST = 0.25
"""Factor of the score of the gaze: how the horizontal place of the pupils in the eye correlates between the included
models and the labels of WFLW (669 open eyes of faces with a yaw below 30 degrees)."""

MIN_SCORE = 0.5
"""Mean score of the points below which a frame is not used for the neutral face and the head."""

MAX_ERROR = 4.0
"""Error of a pose above which the fit starts from the beginning in the next frame."""

_PARTS = (*LEFT_EYE, LEFT_PUPIL), (*RIGHT_EYE, RIGHT_PUPIL), (*OUTER_LIPS, *INNER_LIPS), range(POINTS)
_SCORE_WEIGHTS = np.stack([mean_weights(part) for part in _PARTS], axis=1)

_BROWS = slice(PLACE["brow_inner_left"], PLACE["brow_outer_right"] + 1)
_BROW_DISTANCE, _LIP_GAP, _MOUTH_WIDTH = (PLACE[name] for name in ("brow_distance", "lip_gap", "mouth_width"))
_SMILE_LEFT, _SMILE_RIGHT = BLENDSHAPES.index("mouthSmileLeft"), BLENDSHAPES.index("mouthSmileRight")


class Measurer(Stateful):
    """Measures the faces of successive frames, and remembers each person by the id of the face.

    focal: the focal length of the camera in pixels. None guesses it from the size of the frame.
    known: the person of every face, whose neutral face need not be measured. None: it is measured for each face.
    """

    FIXED = ("_focal", "_known", "_head")

    def __init__(self, focal: float | None = None, known: KnownPerson | None = None) -> None:
        self._focal = focal
        self._known = known
        self._head = included_head()
        self._people: dict[int, Person] = {}
        if focal is not None:
            Camera(focal, 0, 0)  # checks it

    def restart(self) -> None:
        """Forget all people."""
        self._people = {}

    def calibrate(self) -> None:
        """Measure the neutral faces again, from now on."""
        for person in self._people.values():
            person.forget_neutral()

    def people(self) -> dict[int, KnownPerson]:
        """Return what is known of the person of each visible face, by id of the face."""
        return {name: person.to_known() for name, person in self._people.items()}

    def update(
        self,
        points: NDArray[np.floating],
        scores: NDArray[np.floating],
        ids: NDArray[np.integer],
        seconds: float,
        size: tuple[int, int],
        raw: NDArray[np.floating] | None = None,
    ) -> Measures:
        """Return the measures of the faces of the next frame.

        The pose is fitted to `points`. Everything else is measured at `raw`: a blink is over before smoothed points
        have followed it.

        Args:
            points: (N, 98, 2) pixels of a frame with square pixels.
            scores: (N, 98) in [0, 1].
            ids: (N,) of the faces.
            seconds: The time of the frame.
            size: Width and height of the frame in pixels.
            raw: The points before smoothing. None: the same points.
        """
        names = ids.tolist()
        people = [self._people.get(name) or Person(self._known) for name in names]
        self._people = dict(zip(names, people, strict=True))
        if not people:
            return no_measures()
        camera = guess_camera(*size, self._focal)
        lines = lines_of_sight((points, points if raw is None else raw), camera)
        certain: Floats = scores.astype(np.float64)
        if not math.isfinite(lines.sum()):  # one face must not spoil the others
            finite = np.asarray(np.isfinite(lines).all((0, 2, 3)))
            lines = np.where(finite[:, None, None], lines, lines_of_sight([self._head.shape[None, :, :2]], camera))
            certain *= finite[:, None]
        faces = zip(people, *lines, certain, strict=True)
        seen = [_see(self._head, person, _Inputs(*inputs)) for person, *inputs in faces]
        found = [_measure(person, face, seconds) for person, face in zip(people, seen, strict=True)]
        numbers = np.array([face.values + face.blendshapes for face in found], np.float32)
        values, shapes = numbers[:, : len(VALUES)], numbers[:, len(VALUES) :]
        np.minimum(np.maximum(shapes, 0, out=shapes), 1, out=shapes)
        gazes = np.array([face.gaze for face in found])
        return Measures(values, shapes, np.array([face.pose.rotation for face in seen]), gazes)


class _Inputs(NamedTuple):
    """A face in a frame."""

    lines: Floats  # (3, 98) lines of sight of the smoothed points
    raw_lines: Floats  # (3, 98) of the points before smoothing
    scores: Floats  # (98,)


class _Seen(NamedTuple):
    """What was found of a face in a frame."""

    pose: Pose
    error: float  # of the pose, see `Fit`
    features: FaceFeatures
    scores: Sequence[float]  # mean scores of _PARTS


class _Measured(NamedTuple):
    """The measures of a face, before the blend shapes are limited."""

    values: tuple[float, ...]  # VALUES
    blendshapes: tuple[float, ...]  # BLENDSHAPES
    gaze: Sequence[float]  # (3,) in the camera's axes


def _see(head: Head, person: Person, face: _Inputs) -> _Seen:
    """Fit the pose of a face and the head of its person, and return what the points look like from the front."""
    fit = fit_pose(head, face.lines, face.scores, person.head.offsets, person.pose)
    scores = face.scores.dot(_SCORE_WEIGHTS).tolist()
    person.pose = fit.pose if fit.error < MAX_ERROR and math.isfinite(fit.pose.translation.sum()) else None
    if scores[-1] > MIN_SCORE and person.head.is_due():
        person.head.add(fit.pose.rotation, fit.missed, scores[-1])
    return _Seen(fit.pose, fit.error, features(points_on_head(fit.pose, fit.shape[2], face.raw_lines)), scores)


def _measure(person: Person, face: _Seen, seconds: float) -> _Measured:
    rotation, translation = face.pose.rotation.tolist(), face.pose.translation.tolist()
    raw = face.features.values
    yaw, pitch, roll = angles_from_rotation(rotation)
    left, right, mouth, everything = face.scores
    person.update(raw, abs(yaw) < NEUTRAL_YAW and abs(pitch) < NEUTRAL_PITCH and everything > MIN_SCORE, seconds)
    eyes, width = person.eyes_open(raw), person.neutral_width
    change = [value - neutral for value, neutral in zip(raw, person.neutral, strict=True)]
    left_pupil, right_pupil = face.features.pupils
    sines = _sines(left_pupil, PUPIL_REST[0]), _sines(right_pupil, PUPIL_REST[1])
    looks = [(-math.degrees(math.asin(x)), -math.degrees(math.asin(y))) for x, y in sines]  # to the left, up
    shapes = blendshapes(change, eyes, looks, width)
    left, right, mouth = left * _visible(yaw), right * _visible(-yaw), mouth * _visible(abs(yaw))
    trust = left * min(eyes[0], 1.0), right * min(eyes[1], 1.0)
    x, y, z = gaze = _turned(rotation, _look(sines, trust))
    inner_left, inner_right, outer_left, outer_right = change[_BROWS]
    frown = -(inner_left + inner_right) / 20 - change[_BROW_DISTANCE] / 10
    excess = max(face.error - 1, 0.0)
    values = (
        yaw, pitch, roll, *translation, everything / (1 + excess**2) * min(1.5 - abs(yaw) / 120, 1.0),
        math.degrees(math.atan2(-x, -z)), math.degrees(math.atan2(-y, math.hypot(x, z))), PUPIL_TRUST * max(trust),
        *eyes, *person.closed, left, right, person.is_blinking(seconds), person.blinks,
        raw[_LIP_GAP] / width, person.mouth_is_open, raw[_MOUTH_WIDTH] / width,
        (min(shapes[_SMILE_LEFT], 1.0) + min(shapes[_SMILE_RIGHT], 1.0)) / 2, mouth,
        _limited((inner_left + outer_left) / 16), _limited((inner_right + outer_right) / 16),
        max(_limited(frown), 0.0), person.calibrated,
    )  # fmt: skip
    return _Measured(values, shapes, gaze)


def _sines(pupil: tuple[float, float], rest: tuple[float, float]) -> tuple[float, float]:
    """Return the sines of the rotation of an eye, to the right and down, from the place of its pupil and PUPIL_REST."""
    right, down = (pupil[0] - rest[0]) / EYE_RADIUS, (pupil[1] - rest[1]) / EYE_RADIUS
    return min(max(right, -MAX_SINE), MAX_SINE), min(max(down, -MAX_SINE), MAX_SINE)


def _look(sines: Sequence[tuple[float, float]], weights: tuple[float, float]) -> tuple[float, float, float]:
    """Return the direction in the axes of the head in which eyes with weights look; sines (2, 2) as `_sines`."""
    (left_x, left_y), (right_x, right_y) = sines
    left, right = weights
    total = left + right
    if total <= 1e-6:
        left = right = 0.0
        total = 1.0
    x, y = (left * left_x + right * right_x) / total, (left * left_y + right * right_y) / total
    length = math.sqrt(max(1.0, x * x + y * y + 0.01))
    return x / length, y / length, -math.sqrt(max(1 - x * x - y * y, 0.01)) / length


def _turned(rotation: Sequence[Sequence[float]], vector: Sequence[float]) -> list[float]:
    """Return a vector after a rotation."""
    x, y, z = vector
    return [a * x + b * y + c * z for a, b, c in rotation]


def _visible(yaw: float) -> float:
    """Return how well a part on the left of the face is visible: 1 up to 30 degrees of yaw to the left, 0 from 75."""
    return min(max((75.0 - yaw) / 45.0, 0.0), 1.0)


def _limited(value: float) -> float:
    return min(max(value, -1.0), 1.0)
