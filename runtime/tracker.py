"""Track faces over the frames of a video: follow each by its own landmarks, and run the detector only when needed."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from canthus.runtime.backends import Backend
from canthus.runtime.detector import MIN_SCORE
from canthus.runtime.geometry import (
    intersection_over_minimum,
    overlaps,
    roi_from_box,
    rois_from_points,
)
from canthus.runtime.landmarks import CONFIDENT_SCORE, Landmarks, predict_landmarks, refine_landmarks
from canthus.runtime.saved_state import values_without
from canthus.runtime.schemes import Scheme
from canthus.runtime.types import FaceBox, Faces

MAX_SCALE_CHANGE = 1.6
MAX_ROLL_CHANGE = math.radians(50)
"""No face changes more than this between two frames: its size by this factor, its roll by this angle. A lost face that
returns does not change its size more either; a face of another size is another person, often after a cut."""

STILL = 0.005
"""Mean change of x and y from frame to frame below which a face is still, relative to the longer side of its box."""

CUT_DIFFERENCE = 14.0
CUT_CORRELATION = 0.5
"""There is a cut between two frames if their 8 x 8 thumbnails differ by more gray levels (mean) and correlate less.

Within the shots of nine clips, thumbnails differ by less than 9 and correlate above 0.8; at their cuts, they differ by
more than 18 and correlate below 0.45. Lights that go on or off do not change the correlation, nor does a shift by a
tenth of the width.
"""

BLANK_DEVIATION = 4.0
"""Thumbnails whose gray levels deviate less than this show nothing, such as a covered camera."""

Detect = Callable[[NDArray[np.uint8]], list[FaceBox] | None]
"""Detects the faces in an image (H, W, 3).

A detector that runs in the background returns None until it has finished, and is called with each frame until then. Its
boxes are those of the image of the first of these calls.
"""

Shrink = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""Returns the thumbnail of an image (H, W, 3) that is not empty: see `thumbnail`."""


@dataclass(frozen=True)
class TrackerSettings:
    """When the tracker runs the detector, accepts a new face and drops a lost one. Times are in seconds."""

    max_faces: int = 8
    detection_interval: float = 0.5  # between runs of the detector while faces are tracked
    detection_interval_when_lost: float = 0.15  # the same, shortly after a face was lost
    detection_interval_when_full: float = 4.0  # the same, while `max_faces` are tracked
    new_face_score: float = 0.4  # of a new face: minimum of detection score times square root of face score
    lost_score: float = 0.2  # a tracked face is lost below this face score
    unconfirmed_lost_score: float = 0.35  # the same, if the detector has not found it for `confirmation_timeout`
    confirmation_timeout: float = 2.5
    lost_timeout: float = 0.7  # a face that returns within this time, or two frames, gets its id back
    same_face_overlap: float = 0.5  # intersection over minimum from which two boxes are one face
    refinement_gain: float = 0.1  # increase of the face score from which a prediction in the detector's box is used
    refinement_interval: float = 2.0  # between such predictions for a face with a low score
    extra_boxes: int = 3  # how many boxes more than `max_faces` are tried, as some are not faces


@dataclass(eq=False)
class _Track:
    id: int
    face: "_Face"
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


class _Face(NamedTuple):
    """A predicted face, with what decides about it. Computed for all faces of a frame at once."""

    points: NDArray[np.float32]  # (K, 2) frame pixels
    scores: NDArray[np.float32]  # (K,)
    box: FaceBox  # of the points; its score is the face score
    roll: float  # radians


def _measure(found: Landmarks, scheme: Scheme) -> list[_Face]:
    points, scores = found
    edges = np.concatenate([points.min(1), points.max(1), scores.mean(1)[:, None]], axis=1).tolist()
    rolls = scheme.rolls(points).tolist()
    return [_Face(points[row], scores[row], FaceBox(*edges[row]), rolls[row]) for row in range(len(points))]


class _Match(NamedTuple):
    """A box of the detector and the track that it shows."""

    box: FaceBox
    track: _Track


class _Matches(NamedTuple):
    new: list[FaceBox]  # boxes without a track, to be tried as new faces
    uncertain: list[_Match]  # tracks with a low face score, to be predicted again in the detector's box


class Tracker:
    """Tracks faces and gives each an id.

    Only its three inputs look at pixels, so a recording of what they returned can take their place.

    detect: returns the boxes of the faces in an image, for example `Detector.detect_in_stream`.
    backend: predicts the landmarks in regions of an image.
    shrink: returns the thumbnail of an image, from which cuts are found.
    `detections` counts the runs of the detector.
    """

    def __init__(
        self,
        detect: Detect,
        backend: Backend,
        settings: TrackerSettings | None = None,
        shrink: Shrink | None = None,
    ) -> None:
        self.detect = detect
        self.backend = backend
        self._scheme = backend.scheme
        self.settings = settings or TrackerSettings()
        self.detections = 0
        self._cuts = _CutDetector(shrink or thumbnail)
        self._tracks: list[_Track] = []
        self._lost: list[_Track] = []
        self._rejected: list[FaceBox] = []
        self._rejected_since = -math.inf
        self._next_id = 0
        self._frame = 0
        self._last_detection = -math.inf
        self._awaited = False  # the detector works on the image of an earlier frame
        self._outdated = False  # that image is of before a restart

    def restart(self) -> None:
        """Forget all faces, as after a jump to another position of a video. Their ids are not used again."""
        self._tracks, self._lost, self._rejected = [], [], []
        self._outdated = self._awaited

    def state(self) -> dict[str, object]:
        """Return what the next frame depends on, for `restore`."""
        cuts = values_without(self._cuts, ("_shrink",))
        return values_without(self, ("detect", "backend", "settings", "_cuts", "_scheme")) | {"cuts": cuts}

    def restore(self, state: dict[str, object]) -> None:
        """Go on from a state of a tracker with the same settings."""
        values = dict(state)
        cuts = values.pop("cuts")
        assert isinstance(cuts, dict), "as in `state`"
        vars(self._cuts).update(cuts)
        vars(self).update(values)

    def update(self, image: NDArray[np.uint8], seconds: float) -> Faces:
        """Return the faces of the next frame, sorted by id; `seconds` is the frame's time."""
        self._frame += 1
        if self._cuts.is_cut(image):
            self.restart()
        del self._tracks[self.settings.max_faces :]  # it may have been lowered
        self._follow(image, seconds)
        if self._awaited or self._detection_is_due(seconds):
            self._detect(image, seconds)
        self._tracks.sort(key=lambda track: track.id)
        if not self._tracks:
            return Faces.none(self._scheme)
        return Faces(
            points=np.stack([track.face.points for track in self._tracks]),
            scores=np.stack([track.face.scores for track in self._tracks]),
            ids=np.array([track.id for track in self._tracks], np.int64),
            detection_scores=np.array([track.detection_score for track in self._tracks], np.float32),
            scheme=self._scheme,
        )

    def _follow(self, image: NDArray[np.uint8], seconds: float) -> None:
        """Predict the landmarks of each track in the region of its last ones; drop the tracks that are lost."""
        if self._tracks:
            before = np.stack(
                [track.face.points if track.region_points is None else track.region_points for track in self._tracks]
            )
            rois = rois_from_points(before, self._scheme.rolls(before))
            self._keep(_measure(predict_landmarks(self.backend, image, rois), self._scheme), image.shape, seconds)
        self._lost = [track for track in self._lost if self._may_return(track, seconds)]

    def _keep(self, found: list[_Face], frame: tuple[int, ...], seconds: float) -> None:
        """Move each track to its face in this frame, unless it is lost."""
        same = overlaps([face.box for face in found]) >= self.settings.same_face_overlap
        kept: list[int] = []
        for index, (track, face) in enumerate(zip(self._tracks, found, strict=True)):
            # If two tracks end up on one face, the older one stays.
            separate = len(found) == 1 or not same[index, kept].any()
            if separate and self._is_face(track, face, seconds) and _is_plausible(track.face, face, frame):
                kept.append(index)
            else:
                self._lost.append(track)
        moved = ((self._tracks[index], found[index]) for index in kept)
        self._tracks = [
            replace(
                track,
                face=face,
                region_points=region_points(track.face.points, face.points),
                seconds=seconds,
                frame=self._frame,
            )
            for track, face in moved
        ]

    def _is_face(self, track: _Track, face: _Face, seconds: float) -> bool:
        # The absolute value, because time may also jump back.
        unconfirmed = abs(seconds - track.confirmed) > self.settings.confirmation_timeout
        return face.box.score >= (self.settings.unconfirmed_lost_score if unconfirmed else self.settings.lost_score)

    def _may_return(self, lost: _Track, seconds: float) -> bool:
        return abs(seconds - lost.seconds) <= self.settings.lost_timeout or self._frame - lost.frame <= 2

    def _detection_is_due(self, seconds: float) -> bool:
        if not self._tracks:
            return True
        if self._lost:
            interval = self.settings.detection_interval_when_lost
        elif len(self._tracks) >= self.settings.max_faces:
            interval = self.settings.detection_interval_when_full
        else:
            interval = self.settings.detection_interval
        elapsed = seconds - self._last_detection
        return elapsed < 0 or elapsed >= interval  # negative after a jump back in the source

    def _detect(self, image: NDArray[np.uint8], seconds: float) -> None:
        """Run the detector: confirm tracks, add new ones, and improve those with a low face score."""
        if not self._awaited:
            self._last_detection = seconds
            self.detections += 1
        boxes = self.detect(image)
        self._awaited = boxes is None
        if boxes is None:
            return
        if self._outdated:
            self._outdated = False  # a cut since the detector got its image; it starts again with the next frame
            self._last_detection = -math.inf
            return
        new, uncertain = self._match(boxes, seconds)
        rois = [roi_from_box(box) for box in (*new, *(match.box for match in uncertain))]
        if not rois:
            return
        predict = partial(predict_landmarks, self.backend, image)
        faces = _measure(refine_landmarks(predict, rois, self._scheme.roll), self._scheme)
        for box, face in zip(new, faces[: len(new)], strict=True):
            self._add(
                _Track(
                    id=-1,  # not assigned yet
                    face=face,
                    seconds=seconds,
                    frame=self._frame,
                    confirmed=seconds,
                    detection_score=box.score,
                ),
                box,
            )
        for match, face in zip(uncertain, faces[len(new) :], strict=True):
            self._improve(match.track, face, seconds)

    def _match(self, boxes: list[FaceBox], seconds: float) -> _Matches:
        """Assign boxes to tracks, and record that the detector has confirmed these tracks."""
        new: list[FaceBox] = []
        uncertain: list[_Match] = []
        for box in boxes:
            tracks = [track for track in self._tracks if self._is_same(box, track)]
            for track in tracks:
                track.confirm(box, seconds)
            if not tracks:
                new.append(box)
            elif len(tracks) == 1 and self._needs_refinement(tracks[0], seconds):
                uncertain.append(_Match(box, tracks[0]))
        return _Matches(self._select(new, seconds), uncertain)

    def _select(self, boxes: list[FaceBox], seconds: float) -> list[FaceBox]:
        """Return the boxes to try as new faces: without those rejected shortly before, and not many more than fit."""
        if not 0 <= seconds - self._rejected_since < self.settings.detection_interval_when_lost:
            self._rejected_since, self._rejected = seconds, []
        free = self.settings.max_faces - len(self._tracks)
        if free <= 0:
            return []
        overlap = self.settings.same_face_overlap
        boxes = [
            box for box in boxes if all(intersection_over_minimum(box, other) < overlap for other in self._rejected)
        ]
        return boxes[: free + self.settings.extra_boxes]

    def _add(self, track: _Track, box: FaceBox) -> None:
        """Add a track for a new face, or remember that the box was rejected."""
        # A false detection seldom has a high face score too, so the product of both scores decides. Face scores are
        # lower, hence the square root. Differences of the detector's score below MIN_SCORE mean nothing.
        score = max(box.score, MIN_SCORE) * math.sqrt(track.face.box.score)
        if score < self.settings.new_face_score or not self._is_separate(track.face.box):
            self._rejected.append(box)
        elif len(self._tracks) < self.settings.max_faces:
            track.id = self._assign_id(track)
            self._tracks.append(track)

    def _assign_id(self, track: _Track) -> int:
        """Return the id of a face lost at this place shortly before, or a new one."""
        for lost in self._lost:
            if self._is_same(track.face.box, lost) and _has_similar_size(lost.face, track.face):
                self._lost.remove(lost)
                return lost.id
        self._next_id += 1
        return self._next_id - 1

    def _needs_refinement(self, track: _Track, seconds: float) -> bool:
        uncertain = track.face.box.score < CONFIDENT_SCORE
        return uncertain and abs(seconds - track.refined) >= self.settings.refinement_interval

    def _improve(self, track: _Track, face: _Face, seconds: float) -> None:
        """Replace the points of an uncertain track if the new ones score clearly higher.

        The region of a track may have shrunk to an eye or be rotated, and tracking does not correct this.
        """
        track.refined = seconds
        gain = face.box.score - track.face.box.score
        if gain > self.settings.refinement_gain and self._is_separate(face.box, ignore=track):
            track.face, track.region_points = face, None

    def _is_separate(self, box: FaceBox, ignore: _Track | None = None) -> bool:
        return not any(self._is_same(box, other) for other in self._tracks if other is not ignore)

    def _is_same(self, box: FaceBox, track: _Track) -> bool:
        return intersection_over_minimum(box, track.face.box) >= self.settings.same_face_overlap


def region_points(before: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the points (K, 2) around which the next frame is cropped, from those of the last two frames.

    Of a still face they are the mean of both. With the last ones alone, region and prediction can alternate between two
    states for ever.
    """
    still = float(np.abs(after - before).mean()) < STILL * float(np.ptp(after, axis=0).max())
    return np.asarray((before + after) / 2 if still else after, np.float32)


def _is_plausible(before: _Face, after: _Face, frame: tuple[int, ...]) -> bool:
    """Whether a face can have moved so from one frame to the next, and is still in the frame."""
    x, y = (after.box.x0 + after.box.x1) / 2, (after.box.y0 + after.box.y1) / 2
    inside = 0 <= x < frame[1] and 0 <= y < frame[0]
    turned = math.remainder(after.roll - before.roll, 2 * math.pi)
    return inside and _has_similar_size(before, after) and abs(turned) < MAX_ROLL_CHANGE


def _has_similar_size(before: _Face, after: _Face) -> bool:
    scale = _longer_side(after.box) / max(_longer_side(before.box), 1.0)
    return 1 / MAX_SCALE_CHANGE < scale < MAX_SCALE_CHANGE


def _longer_side(box: FaceBox) -> float:
    return max(box.x1 - box.x0, box.y1 - box.y0)


def thumbnail(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the green channel of an image (H, W, 3) at 8 x 8 pixels."""
    step = max(min(image.shape[:2]) // 96, 1)
    green = np.ascontiguousarray(image[:: 2 * step, ::step, 1])  # fewer rows, as each costs more than a column
    return np.asarray(cv2.resize(green, (8, 8), interpolation=cv2.INTER_AREA), np.uint8)


class _CutDetector:
    """Finds cuts between successive frames."""

    def __init__(self, shrink: Shrink) -> None:
        self._shrink = shrink
        self._thumbnail: NDArray[np.float32] | None = None  # of the last frame that is not blank

    def is_cut(self, image: NDArray[np.uint8]) -> bool:
        """Whether there is a cut between the last frame and this one. Blank frames are ignored."""
        if not image.size:
            return False
        small = self._shrink(image).astype(np.float32)
        if cv2.meanStdDev(small)[1].item() < BLANK_DEVIATION:
            return False
        before, self._thumbnail = self._thumbnail, small
        if before is None or cv2.norm(small, before, cv2.NORM_L1) / small.size <= CUT_DIFFERENCE:
            return False
        return float(np.corrcoef(small.ravel(), before.ravel())[0, 1]) < CUT_CORRELATION
