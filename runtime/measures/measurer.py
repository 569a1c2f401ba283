"""Measure faces frame by frame."""

import math

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.measures.blendshapes import BLENDSHAPES, blendshapes
from canthus.runtime.measures.features import PLACE, features
from canthus.runtime.measures.head import Floats, included_head
from canthus.runtime.measures.known import KnownPerson
from canthus.runtime.measures.person import NEUTRAL_PITCH, NEUTRAL_YAW, Person
from canthus.runtime.measures.pose import (
    Camera,
    Poses,
    angles_from_rotations,
    fit_poses,
    guess_camera,
    points_on_heads,
)
from canthus.runtime.measures.values import VALUES, Measures, no_measures
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

_CORNERS = np.array([[60, 64], [68, 72]])
_SCORE_GROUPS = np.zeros((POINTS, 4))
for _column, _points in enumerate(((*LEFT_EYE, LEFT_PUPIL), (*RIGHT_EYE, RIGHT_PUPIL), (*OUTER_LIPS, *INNER_LIPS))):
    _SCORE_GROUPS[list(_points), _column] = 1 / len(_points)
_SCORE_GROUPS[:, 3] = 1 / POINTS

_BROW_ENDS = [PLACE[name] for name in ("brow_inner_left", "brow_outer_left", "brow_inner_right", "brow_outer_right")]
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
        if not (np.isfinite(points).all() and np.isfinite(raw).all()):  # one face must not spoil the others
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
            start = (
                np.stack(rotations),
                np.stack([person.translation for person in people]),
                np.stack([person.head.offsets for person in people]),
            )
        poses = fit_poses(self._head, points, scores, camera, start)
        for index, person in enumerate(people):
            good = poses.error[index] < MAX_ERROR and np.isfinite(poses.translations[index]).all()
            person.rotation = poses.rotations[index] if good else None
            person.translation = poses.translations[index]
        return poses


def _measure(
    people: list[Person], poses: Poses, flat: Floats, scores: NDArray[np.floating], seconds: float
) -> Measures:
    count = len(people)
    angles = angles_from_rotations(poses.rotations)
    means = scores @ _SCORE_GROUPS  # (N, 4): left eye, right eye, mouth, all points
    raw = features(flat)
    sines = _sines(flat)
    looks = np.degrees(np.arcsin(sines)) * (-1, -1)  # to the left, up
    values = np.empty((count, len(VALUES)), np.float32)
    weights = np.empty((count, len(BLENDSHAPES)), np.float32)
    gaze = np.empty((count, 3))
    for index, person in enumerate(people):
        yaw, pitch, roll = angles[index].tolist()
        left, right, mouth, everything = means[index].tolist()
        frontal = abs(yaw) < NEUTRAL_YAW and abs(pitch) < NEUTRAL_PITCH and everything > MIN_SCORE
        person.update(raw[index], frontal, seconds)
        if everything > MIN_SCORE:
            person.head.update(poses.rotations[index], poses.residuals[index], everything)
        eyes = person.eyes_open(raw[index])
        change = raw[index] - person.neutral
        shapes = weights[index] = blendshapes(change, eyes, looks[index], person.neutral_width)
        left, right, mouth = left * _visible(yaw), right * _visible(-yaw), mouth * _visible(abs(yaw))
        trust = left * min(eyes[0], 1.0), right * min(eyes[1], 1.0)
        gaze[index] = poses.rotations[index] @ _look(sines[index], trust)
        x, y, z = gaze[index].tolist()
        raises = change[_BROW_ENDS].tolist()
        excess = max(float(poses.error[index]) - 1, 0.0)
        frown = -(raises[0] + raises[2]) / 20 - float(change[PLACE["brow_distance"]]) / 10
        values[index] = (
            yaw, pitch, roll, *poses.translations[index].tolist(),
            everything / (1 + excess**2) * min(1.5 - abs(yaw) / 120, 1.0),
            math.degrees(math.atan2(-x, -z)), math.degrees(math.atan2(-y, math.hypot(x, z))), PUPIL_TRUST * max(trust),
            *eyes, *person.closed, left, right, person.is_blinking(seconds), person.blinks,
            raw[index, PLACE["lip_gap"]] / person.neutral_width, person.mouth_is_open,
            raw[index, PLACE["mouth_width"]] / person.neutral_width, shapes[_SMILE].mean(), mouth,
            _limited((raises[0] + raises[1]) / 16), _limited((raises[2] + raises[3]) / 16), max(_limited(frown), 0.0),
            person.calibrated,
        )  # fmt: skip
    return Measures(values, weights, poses.rotations, gaze)


def _sines(flat: Floats) -> Floats:
    """Return the sines of the rotations of both eyes (N, 2, 2), to the right and down, of faces seen from the front."""
    middle = (flat[:, _CORNERS[:, 0]] + flat[:, _CORNERS[:, 1]]) / 2
    sines = (flat[:, list(PUPILS)] - middle - PUPIL_REST) / EYE_RADIUS
    return np.asarray(np.minimum(np.maximum(sines, -MAX_SINE), MAX_SINE))


def _look(sines: Floats, weights: tuple[float, float]) -> Floats:
    """Return the direction (3,) in the axes of the head in which eyes with weights look; sines (2, 2) as `_sines`."""
    left, right = weights
    total = left + right
    x, y = ((left * sines[0] + right * sines[1]) / total).tolist() if total > 1e-6 else (0.0, 0.0)
    return np.array([x, y, -math.sqrt(max(1 - x * x - y * y, 0.01))]) / math.sqrt(max(1.0, x * x + y * y + 0.01))


def _visible(yaw: float) -> float:
    """Return how well a part on the left of the face is visible: 1 up to 30 degrees of yaw to the left, 0 from 75."""
    return min(max((75.0 - yaw) / 45.0, 0.0), 1.0)


def _limited(value: float) -> float:
    return min(max(value, -1.0), 1.0)
