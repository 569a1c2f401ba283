"""Measure faces frame by frame."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.measures.blendshapes import BLENDSHAPES, blendshapes
from canthus.runtime.measures.features import PLACE, by_coordinate, features, mean_weights
from canthus.runtime.measures.head import Floats, included_head
from canthus.runtime.measures.known import KnownPerson
from canthus.runtime.measures.person import NEUTRAL_PITCH, NEUTRAL_YAW, Person
from canthus.runtime.measures.pose import (
    Camera,
    Poses,
    angles_from_rotation,
    fit_poses,
    guess_camera,
    points_on_heads,
)
from canthus.runtime.measures.values import Measures, no_measures
from canthus.runtime.wflw import INNER_LIPS, LEFT_EYE, LEFT_PUPIL, OUTER_LIPS, POINTS, PUPILS, RIGHT_EYE, RIGHT_PUPIL

PUPIL_REST = np.array([[-0.2, -2.0], [0.2, -2.0]])
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

# Products with x and then y of the points: where each pupil is, relative to the middle of the corners of its eye.
_EYES = zip(PUPILS, ((60, 64), (68, 72)), strict=True)
_FROM_MIDDLE = [mean_weights([pupil]) - mean_weights(corners) for pupil, corners in _EYES]
_PUPIL_WEIGHTS = np.concatenate([np.kron(np.eye(2), weights[:, None]) for weights in _FROM_MIDDLE], axis=1)

_BROW_ENDS = [PLACE[name] for name in ("brow_inner_left", "brow_outer_left", "brow_inner_right", "brow_outer_right")]
_BROW_DISTANCE, _LIP_GAP, _MOUTH_WIDTH = (PLACE[name] for name in ("brow_distance", "lip_gap", "mouth_width"))
_SMILE = [BLENDSHAPES.index("mouthSmileLeft"), BLENDSHAPES.index("mouthSmileRight")]


class Measurer:
    """Measures the faces of successive frames, and remembers each person by the id of the face.

    focal: the focal length of the camera in pixels. None guesses it from the size of the frame.
    known: the person of every face, whose neutral face need not be measured. None: it is measured for each face.
    """

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
        raw = points if raw is None else raw
        # One face must not spoil the others. A sum of squares shows fastest whether all points are finite.
        if not (math.isfinite(np.vdot(points, points)) and math.isfinite(np.vdot(raw, raw))):
            finite = (np.isfinite(points) & np.isfinite(raw)).all((1, 2))
            points, raw = (np.where(finite[:, None, None], one, self._head.shape[:, :2]) for one in (points, raw))
            scores = np.where(finite[:, None], scores, 0.0)
        camera = guess_camera(*size, self._focal)
        poses = self._fit(people, points, scores, camera)
        flat = points_on_heads(poses, raw, camera)
        return _measure(people, poses, flat, scores, seconds)

    def _fit(
        self, people: list[Person], points: NDArray[np.floating], scores: NDArray[np.floating], camera: Camera
    ) -> Poses:
        """Fit the poses, from those of the frame before if all faces were there, and update the heads."""
        start = None
        if all(person.rotation is not None for person in people):
            rotations = [person.rotation for person in people if person.rotation is not None]
            translations = [person.translation for person in people]
            start = np.array(rotations), np.array(translations), np.array([person.head.offsets for person in people])
        poses = fit_poses(self._head, points, scores, camera, start)
        for index, (person, error) in enumerate(zip(people, poses.error.tolist(), strict=True)):
            person.translation = poses.translations[index]
            good = error < MAX_ERROR and all(map(math.isfinite, person.translation.tolist()))
            person.rotation = poses.rotations[index] if good else None
        return poses


def _measure(
    people: list[Person], poses: Poses, flat: Floats, scores: NDArray[np.floating], seconds: float
) -> Measures:
    faces = zip(
        people,
        features(flat),
        (scores @ _SCORE_WEIGHTS).tolist(),
        _sines(flat).tolist(),
        poses.rotations.tolist(),
        poses.translations.tolist(),
        poses.error.tolist(),
        strict=True,
    )
    values, shapes, gazes = [], [], []
    for index, (person, raw, means, sines, rotation, place, error) in enumerate(faces):
        yaw, pitch, roll = angles_from_rotation(rotation)
        left, right, mouth, everything = means
        person.update(raw, abs(yaw) < NEUTRAL_YAW and abs(pitch) < NEUTRAL_PITCH and everything > MIN_SCORE, seconds)
        if everything > MIN_SCORE:
            person.head.update(poses.rotations[index], poses.residuals[index], everything)
        eyes, width, change = person.eyes_open(raw), person.neutral_width, (raw - person.neutral).tolist()
        looks = [[-math.degrees(math.asin(sine)) for sine in eye] for eye in sines]  # to the left, up
        shapes.append(blendshapes(change, eyes, looks, width))
        left, right, mouth = left * _visible(yaw), right * _visible(-yaw), mouth * _visible(abs(yaw))
        trust = left * min(eyes[0], 1.0), right * min(eyes[1], 1.0)
        x, y, z = _turned(rotation, _look(sines, trust))
        gazes.append((x, y, z))
        inner_left, outer_left, inner_right, outer_right = (change[end] for end in _BROW_ENDS)
        frown = -(inner_left + inner_right) / 20 - change[_BROW_DISTANCE] / 10
        excess = max(error - 1, 0.0)
        values.append((
            yaw, pitch, roll, *place, everything / (1 + excess**2) * min(1.5 - abs(yaw) / 120, 1.0),
            math.degrees(math.atan2(-x, -z)), math.degrees(math.atan2(-y, math.hypot(x, z))), PUPIL_TRUST * max(trust),
            *eyes, *person.closed, left, right, person.is_blinking(seconds), person.blinks,
            raw[_LIP_GAP] / width, person.mouth_is_open, raw[_MOUTH_WIDTH] / width,
            sum(min(max(shapes[-1][side], 0.0), 1.0) for side in _SMILE) / 2, mouth,
            _limited((inner_left + outer_left) / 16), _limited((inner_right + outer_right) / 16),
            max(_limited(frown), 0.0), person.calibrated,
        ))  # fmt: skip
    limited = np.minimum(np.maximum(np.array(shapes), 0.0), 1.0).astype(np.float32)
    return Measures(np.array(values, np.float32), limited, poses.rotations, np.array(gazes))


def _sines(flat: Floats) -> Floats:
    """Return the sines of the rotations of both eyes (N, 2, 2), to the right and down, of faces seen from the front."""
    offsets = (by_coordinate(flat) @ _PUPIL_WEIGHTS).reshape(-1, 2, 2)
    return np.asarray(np.minimum(np.maximum((offsets - PUPIL_REST) / EYE_RADIUS, -MAX_SINE), MAX_SINE))


def _look(sines: Sequence[Sequence[float]], weights: tuple[float, float]) -> tuple[float, float, float]:
    """Return the direction in the axes of the head in which eyes with weights look; sines (2, 2) as `_sines`."""
    left, right = weights
    total = left + right
    x, y = ((left * a + right * b) / total if total > 1e-6 else 0.0 for a, b in zip(*sines, strict=True))
    length = math.sqrt(max(1.0, x * x + y * y + 0.01))
    return x / length, y / length, -math.sqrt(max(1 - x * x - y * y, 0.01)) / length


def _turned(rotation: Sequence[Sequence[float]], vector: tuple[float, float, float]) -> list[float]:
    """Return a vector after a rotation (3, 3)."""
    x, y, z = vector
    return [a * x + b * y + c * z for a, b, c in rotation]


def _visible(yaw: float) -> float:
    """Return how well a part on the left of the face is visible: 1 up to 30 degrees of yaw to the left, 0 from 75."""
    return min(max((75.0 - yaw) / 45.0, 0.0), 1.0)


def _limited(value: float) -> float:
    return min(max(value, -1.0), 1.0)
