"""Track faces over the frames of a video: follow each by its own landmarks, and run the detector only when needed."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.backends import Backend
from canthus.runtime.cuts import CutDetector, Shrink, thumbnail
from canthus.runtime.detector import MIN_SCORE
from canthus.runtime.geometry import (
    intersection_over_minimum,
    overlaps,
    roi_from_box,
    rois_from_points,
)
from canthus.runtime.landmarks import CONFIDENT_SCORE, predict_landmarks, refine_landmarks
from canthus.runtime.saved_state import Stateful
from canthus.runtime.tracks import Track, TrackedFace, has_similar_size, is_plausible, tracked_faces
from canthus.runtime.types import FaceBox, Faces

Detect = Callable[[NDArray[np.uint8]], list[FaceBox] | None]
"""Detects the faces in an image (H, W, 3).

A detector that runs in the background returns None until it has finished, and is called with each frame until then. Its
boxes are those of the image of the first of these calls.
"""


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


class _Match(NamedTuple):
    """A box of the detector and the track that it shows."""

    box: FaceBox
    track: Track


class _Matches(NamedTuple):
    new: list[FaceBox]  # boxes without a track, to be tried as new faces
    uncertain: list[_Match]  # tracks with a low face score, to be predicted again in the detector's box


class Tracker(Stateful):
    """Tracks faces and gives each an id.

    Only its three inputs look at pixels, so a recording of what they returned can take their place.

    detect: returns the boxes of the faces in an image, for example `Detector.detect_in_stream`.
    backend: predicts the landmarks in regions of an image.
    shrink: returns the thumbnail of an image, from which cuts are found.
    `detections` counts the runs of the detector.
    """

    FIXED = ("detect", "backend", "settings", "_cuts", "_scheme")

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
        self._cuts = CutDetector(shrink or thumbnail)
        self._tracks: list[Track] = []
        self._lost: list[Track] = []
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
        return super().state() | {"cuts": self._cuts.state()}

    def restore(self, state: Mapping[str, object]) -> None:
        """Go on from a state of a tracker with the same settings."""
        values = dict(state)
        cuts = values.pop("cuts")
        assert isinstance(cuts, dict), "as in `state`"
        self._cuts.restore(cuts)
        super().restore(values)

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
            points=np.array([track.face.points for track in self._tracks]),
            scores=np.array([track.face.scores for track in self._tracks]),
            ids=np.array([track.id for track in self._tracks], np.int64),
            detection_scores=np.array([track.detection_score for track in self._tracks], np.float32),
            scheme=self._scheme,
        )

    def _follow(self, image: NDArray[np.uint8], seconds: float) -> None:
        """Predict the landmarks of each track in the region of its last ones; drop the tracks that are lost."""
        if self._tracks:
            before = np.array(
                [track.face.points if track.region_points is None else track.region_points for track in self._tracks]
            )
            rois = rois_from_points(before, self._scheme.rolls(before))
            self._keep(tracked_faces(predict_landmarks(self.backend, image, rois), self._scheme), image.shape, seconds)
        self._lost = [track for track in self._lost if self._may_return(track, seconds)]

    def _keep(self, found: list[TrackedFace], frame: tuple[int, ...], seconds: float) -> None:
        """Move each track to its face in this frame, unless it is lost."""
        several = len(found) > 1
        same = overlaps([face.box for face in found]) >= self.settings.same_face_overlap if several else None
        kept: list[int] = []
        for index, (track, face) in enumerate(zip(self._tracks, found, strict=True)):
            # If two tracks end up on one face, the older one stays.
            separate = same is None or not same[index, kept].any()
            if separate and self._is_face(track, face, seconds) and is_plausible(track.face, face, frame):
                kept.append(index)
            else:
                self._lost.append(track)
        self._tracks = [self._tracks[index] for index in kept]
        for track, index in zip(self._tracks, kept, strict=True):
            track.move(found[index], seconds, self._frame)

    def _is_face(self, track: Track, face: TrackedFace, seconds: float) -> bool:
        # The absolute value, because time may also jump back.
        unconfirmed = abs(seconds - track.confirmed) > self.settings.confirmation_timeout
        return face.box.score >= (self.settings.unconfirmed_lost_score if unconfirmed else self.settings.lost_score)

    def _may_return(self, lost: Track, seconds: float) -> bool:
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
        faces = tracked_faces(refine_landmarks(predict, rois, self._scheme.roll), self._scheme)
        for box, face in zip(new, faces[: len(new)], strict=True):
            self._add(
                Track(
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

    def _add(self, track: Track, box: FaceBox) -> None:
        """Add a track for a new face, or remember that the box was rejected."""
        # A false detection seldom has a high face score too, so the product of both scores decides. Face scores are
        # lower, hence the square root. Differences of the detector's score below MIN_SCORE mean nothing.
        score = max(box.score, MIN_SCORE) * math.sqrt(track.face.box.score)
        if score < self.settings.new_face_score or not self._is_separate(track.face.box):
            self._rejected.append(box)
        elif len(self._tracks) < self.settings.max_faces:
            track.id = self._assign_id(track)
            self._tracks.append(track)

    def _assign_id(self, track: Track) -> int:
        """Return the id of a face lost at this place shortly before, or a new one."""
        for lost in self._lost:
            if self._is_same(track.face.box, lost) and has_similar_size(lost.face, track.face):
                self._lost.remove(lost)
                return lost.id
        self._next_id += 1
        return self._next_id - 1

    def _needs_refinement(self, track: Track, seconds: float) -> bool:
        uncertain = track.face.box.score < CONFIDENT_SCORE
        return uncertain and abs(seconds - track.refined) >= self.settings.refinement_interval

    def _improve(self, track: Track, face: TrackedFace, seconds: float) -> None:
        """Replace the points of an uncertain track if the new ones score clearly higher.

        The region of a track may have shrunk to an eye or be rotated, and tracking does not correct this.
        """
        track.refined = seconds
        gain = face.box.score - track.face.box.score
        if gain > self.settings.refinement_gain and self._is_separate(face.box, ignore=track):
            track.face, track.region_points = face, None

    def _is_separate(self, box: FaceBox, ignore: Track | None = None) -> bool:
        return not any(self._is_same(box, other) for other in self._tracks if other is not ignore)

    def _is_same(self, box: FaceBox, track: Track) -> bool:
        return intersection_over_minimum(box, track.face.box) >= self.settings.same_face_overlap
