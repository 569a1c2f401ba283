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
from canthus.runtime.geometry import intersection_over_minimum, roi_from_box, roi_from_points, roll_from_points
from canthus.runtime.landmarks import CONFIDENT_SCORE, predict_landmarks, refine_landmarks
from canthus.runtime.types import FaceBox, Faces

MAX_SCALE_CHANGE = 1.6
MAX_ROLL_CHANGE = math.radians(50)
"""No face changes more than this between two frames: its size by this factor, its roll by this angle. A lost face that
returns does not change its size more either; a face of another size is another person, often after a cut."""

CUT_DIFFERENCE = 14.0
CUT_CORRELATION = 0.5
"""There is a cut between two frames if their 8 x 8 thumbnails differ by more gray levels (mean) and correlate less.

Within the shots of nine clips, thumbnails differ by less than 9 and correlate above 0.8; at their cuts, they differ by
more than 18 and correlate below 0.45. Lights that go on or off do not change the correlation, nor does a shift by a
tenth of the width.
"""

BLANK_DEVIATION = 4.0
"""Thumbnails whose gray levels deviate less than this show nothing, such as a covered camera."""

Detect = Callable[[NDArray[np.uint8]], list[FaceBox]]
"""Detects the faces in an image (H, W, 3)."""


@dataclass(frozen=True)
class TrackerSettings:
    """When the tracker runs the detector, accepts a new face and drops a lost one. Times are in seconds."""

    max_faces: int = 8
    detection_interval: float = 0.5  # between runs of the detector while faces are tracked
    detection_interval_when_lost: float = 0.15  # the same, shortly after a face was lost
    detection_interval_when_full: float = 4.0  # the same, while `max_faces` are tracked
    new_face_score: float = 0.45  # of a new face: minimum of detection score times square root of face score
    lost_score: float = 0.2  # a tracked face is lost below this face score
    unconfirmed_lost_score: float = 0.35  # the same, if the detector has not found it for `confirmation_timeout`
    confirmation_timeout: float = 2.5
    lost_timeout: float = 0.7  # a face that returns within this time, or two frames, gets its id back
    same_face_overlap: float = 0.5  # intersection over minimum from which two boxes are one face
    refinement_gain: float = 0.1  # increase of the face score from which a prediction in the detector's box is used
    refinement_interval: float = 2.0  # between such predictions for a face with a low score
    extra_boxes: int = 3  # how many boxes more than `max_faces` are tried, as some are not faces


@dataclass
class _Track:
    id: int
    points: NDArray[np.float32]  # (98, 2) frame pixels
    scores: NDArray[np.float32]  # (98,)
    seconds: float  # of the last frame that shows the face
    frame: int  # number of this frame
    confirmed: float  # seconds of the last detection of the face
    detection_score: float  # of this detection
    refined: float = -math.inf  # seconds of the last prediction in the detector's box

    @property
    def face_score(self) -> float:
        return float(self.scores.mean())

    def confirm(self, box: FaceBox, seconds: float) -> None:
        """Record that the detector has found the face. If it returned two boxes for it, the higher score stays."""
        first = seconds != self.confirmed
        self.detection_score = box.score if first else max(box.score, self.detection_score)
        self.confirmed = seconds

    @property
    def box(self) -> FaceBox:
        (x0, y0), (x1, y1) = self.points.min(0), self.points.max(0)
        return FaceBox(float(x0), float(y0), float(x1), float(y1), self.face_score)


class _Match(NamedTuple):
    """A box of the detector and the track that it shows."""

    box: FaceBox
    track: _Track


class _Matches(NamedTuple):
    new: list[FaceBox]  # boxes without a track, to be tried as new faces
    uncertain: list[_Match]  # tracks with a low face score, to be predicted again in the detector's box


class Tracker:
    """Tracks faces and gives each an id.

    detect: returns the boxes of the faces in an image, for example `Detector.detect_in_stream`.
    `detections` counts the runs of the detector.
    """

    def __init__(self, detect: Detect, backend: Backend, settings: TrackerSettings | None = None) -> None:
        self.detect = detect
        self.backend = backend
        self.settings = settings or TrackerSettings()
        self.detections = 0
        self._cuts = _CutDetector()
        self._tracks: list[_Track] = []
        self._lost: list[_Track] = []
        self._rejected: list[FaceBox] = []
        self._rejected_since = -math.inf
        self._next_id = 0
        self._frame = 0
        self._last_detection = -math.inf

    def restart(self) -> None:
        """Forget all faces, as after a jump to another position of a video. Their ids are not used again."""
        self._tracks, self._lost, self._rejected = [], [], []

    def update(self, image: NDArray[np.uint8], seconds: float) -> Faces:
        """Return the faces of the next frame, sorted by id; `seconds` is the frame's time."""
        self._frame += 1
        if self._cuts.is_cut(image):
            self.restart()
        self._follow(image, seconds)
        if self._detection_is_due(seconds):
            self._detect(image, seconds)
        self._tracks.sort(key=lambda track: track.id)
        if not self._tracks:
            return Faces.none()
        return Faces(
            points=np.stack([track.points for track in self._tracks]),
            scores=np.stack([track.scores for track in self._tracks]),
            ids=np.array([track.id for track in self._tracks], np.int64),
            detection_scores=np.array([track.detection_score for track in self._tracks], np.float32),
        )

    def _follow(self, image: NDArray[np.uint8], seconds: float) -> None:
        """Predict the landmarks of each track in the region of its last ones; drop the tracks that are lost."""
        rois = [roi_from_points(track.points, roll_from_points(track.points)) for track in self._tracks]
        found = predict_landmarks(self.backend, image, rois)
        kept: list[_Track] = []
        for track, points, scores in zip(self._tracks, found.points, found.scores, strict=True):
            moved = replace(track, points=points, scores=scores, seconds=seconds, frame=self._frame)
            # If two tracks end up on one face, the older one stays.
            separate = not any(self._is_same(moved.box, other) for other in kept)
            if separate and self._is_face(moved) and _is_plausible(track, moved, image.shape):
                kept.append(moved)
            else:
                self._lost.append(track)
        self._tracks = kept
        self._lost = [track for track in self._lost if self._may_return(track, seconds)]

    def _is_face(self, track: _Track) -> bool:
        # The absolute value, because time may also jump back.
        unconfirmed = abs(track.seconds - track.confirmed) > self.settings.confirmation_timeout
        return track.face_score >= (self.settings.unconfirmed_lost_score if unconfirmed else self.settings.lost_score)

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
        self._last_detection = seconds
        self.detections += 1
        new, uncertain = self._match(self.detect(image), seconds)
        rois = [roi_from_box(box) for box in (*new, *(match.box for match in uncertain))]
        points, scores = refine_landmarks(partial(predict_landmarks, self.backend, image), rois)
        for index, box in enumerate(new):
            track = _Track(
                id=-1,  # not assigned yet
                points=points[index],
                scores=scores[index],
                seconds=seconds,
                frame=self._frame,
                confirmed=seconds,
                detection_score=box.score,
            )
            self._add(track, box)
        for index, match in enumerate(uncertain, start=len(new)):
            self._improve(match.track, points[index], scores[index], seconds)

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
        score = max(box.score, MIN_SCORE) * math.sqrt(track.face_score)
        if score < self.settings.new_face_score or not self._is_separate(track):
            self._rejected.append(box)
        elif len(self._tracks) < self.settings.max_faces:
            track.id = self._assign_id(track)
            self._tracks.append(track)

    def _assign_id(self, track: _Track) -> int:
        """Return the id of a face lost at this place shortly before, or a new one."""
        for lost in self._lost:
            if self._is_same(track.box, lost) and _has_similar_size(lost, track):
                self._lost.remove(lost)
                return lost.id
        self._next_id += 1
        return self._next_id - 1

    def _needs_refinement(self, track: _Track, seconds: float) -> bool:
        uncertain = track.face_score < CONFIDENT_SCORE
        return uncertain and abs(seconds - track.refined) >= self.settings.refinement_interval

    def _improve(self, track: _Track, points: NDArray[np.float32], scores: NDArray[np.float32], seconds: float) -> None:
        """Replace the points of an uncertain track if the new ones score clearly higher.

        The region of a track may have shrunk to an eye or be rotated, and tracking does not correct this.
        """
        track.refined = seconds
        improved = replace(track, points=points, scores=scores)
        gain = improved.face_score - track.face_score
        if gain > self.settings.refinement_gain and self._is_separate(improved, ignore=track):
            track.points, track.scores = points, scores

    def _is_separate(self, track: _Track, ignore: _Track | None = None) -> bool:
        return not any(self._is_same(track.box, other) for other in self._tracks if other is not ignore)

    def _is_same(self, box: FaceBox, track: _Track) -> bool:
        return intersection_over_minimum(box, track.box) >= self.settings.same_face_overlap


def _is_plausible(before: _Track, after: _Track, frame: tuple[int, ...]) -> bool:
    """Whether a face can have moved so from one frame to the next, and is still in the frame."""
    x, y = (after.points.min(0) + after.points.max(0)) / 2
    inside = 0 <= x < frame[1] and 0 <= y < frame[0]
    turned = math.remainder(roll_from_points(after.points) - roll_from_points(before.points), 2 * math.pi)
    return inside and _has_similar_size(before, after) and abs(turned) < MAX_ROLL_CHANGE


def _has_similar_size(before: _Track, after: _Track) -> bool:
    scale = float(np.ptp(after.points, axis=0).max() / max(np.ptp(before.points, axis=0).max(), 1.0))
    return 1 / MAX_SCALE_CHANGE < scale < MAX_SCALE_CHANGE


class _CutDetector:
    """Finds cuts between successive frames."""

    def __init__(self) -> None:
        self._thumbnail: NDArray[np.float32] | None = None  # of the last frame that is not blank

    def is_cut(self, image: NDArray[np.uint8]) -> bool:
        """Whether there is a cut between the last frame and this one. Blank frames are ignored."""
        if not image.size:
            return False
        step = max(min(image.shape[:2]) // 96, 1)
        green = np.ascontiguousarray(image[::step, ::step, 1])
        thumbnail = cv2.resize(green, (8, 8), interpolation=cv2.INTER_AREA).astype(np.float32)
        if thumbnail.std() < BLANK_DEVIATION:
            return False
        before, self._thumbnail = self._thumbnail, thumbnail
        if before is None or np.abs(thumbnail - before).mean() <= CUT_DIFFERENCE:
            return False
        return float(np.corrcoef(thumbnail.ravel(), before.ravel())[0, 1]) < CUT_CORRELATION
