"""Follows faces from frame to frame by their own points, and detects only when it must."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from canthus.runtime.backends import Backend
from canthus.runtime.detector import MIN_SCORE, overlap
from canthus.runtime.geometry import roi_from_box, roi_from_points, roll_of
from canthus.runtime.locate import SETTLED, locate, settle
from canthus.runtime.types import FaceBox, Faces, Roi

GROWTH = 1.6
TURN = math.radians(50)
"""What no face does from one frame to the next: grow or shrink by this factor, lean over by this angle.

Nor does one that was lost come back so much larger or smaller: there stands another, often after a cut."""

CUT = 14.0
ALIKE = 0.5
"""A video is cut where thumbnails of two frames, 8 x 8, differ by more grey levels and correlate less than this.

Within the shots of nine clips they differ by less than 9 and correlate above 0.8, where these are cut by more than 18
and below 0.45. Light that goes on or off keeps the correlation, and so does a frame that moves by a tenth of its width.
"""

FLAT = 4.0
"""Grey levels by which a picture that shows something deviates; a covered camera deviates less."""

Detect = Callable[[NDArray[np.uint8]], list[FaceBox]]


@dataclass(frozen=True)
class Following:
    """When faces are looked for, and when one is lost."""

    max_faces: int = 8
    beat: float = 0.5  # seconds between detections while faces are followed
    quick_beat: float = 0.15  # the same, while a face was lost just now
    slow_beat: float = 4.0  # the same, while as many as wanted are followed
    new_score: float = 0.45  # a face is new from here on: the detector's score times the root of the points' mean score
    lost_score: float = 0.2  # a followed face is lost below this mean score of its points
    doubted_score: float = 0.35  # so is one below this that the detector has not seen for `doubt`
    doubt: float = 2.5  # seconds
    memory: float = 0.7  # seconds, or else two frames, that a lost face may come back as itself
    same: float = 0.5  # overlap of boxes that are one face
    surer: float = 0.1  # what a fresh look at a followed face must score more to replace its points
    mend: float = 2.0  # seconds between such looks at a face that stays unsure
    spare: int = 3  # boxes that are looked at beyond max_faces: some show no face


@dataclass
class _Track:
    face: int
    points: NDArray[np.float32]
    scores: NDArray[np.float32]
    seen: float  # seconds of the last frame with it
    frame: int  # that frame's number
    confirmed: float  # seconds of the last detection of it
    mended: float = -math.inf  # seconds of the last fresh look at it

    @property
    def box(self) -> FaceBox:
        (x0, y0), (x1, y1) = self.points.min(0), self.points.max(0)
        return FaceBox(float(x0), float(y0), float(x1), float(y1), float(self.scores.mean()))


@dataclass
class Tracker:
    """Keeps faces and their ids. `detections` counts how often it had to look for faces."""

    detect: Detect
    backend: Backend
    following: Following = field(default_factory=Following)
    detections: int = 0
    _tracks: list[_Track] = field(default_factory=list)
    _lost: list[_Track] = field(default_factory=list)
    _refused: list[FaceBox] = field(default_factory=list)
    _next: int = 0
    _frame: int = 0
    _looked: float = -math.inf
    _judged: float = -math.inf  # when what is refused was looked at
    _thumbnail: NDArray[np.float32] | None = None  # of the last frame that shows something

    def restart(self) -> None:
        """Forget every face, as after a jump to another place of a video; ids go on counting."""
        self._tracks, self._lost, self._refused = [], [], []

    def update(self, image: NDArray[np.uint8], seconds: float) -> Faces:
        """The faces of the next frame, in the order of their ids."""
        self._frame += 1
        if self._is_cut(image):
            self.restart()  # the faces of the next shot are others
        followed = [roi_from_points(track.points, roll_of(track.points)) for track in self._tracks]
        self._follow(image, followed, seconds)
        if self._must_look(seconds):
            self._look(image, seconds)
        self._tracks.sort(key=lambda track: track.face)
        if not self._tracks:
            return Faces.none()
        return Faces(
            np.stack([track.points for track in self._tracks]),
            np.stack([track.scores for track in self._tracks]),
            np.array([track.face for track in self._tracks], np.int64),
        )

    def _is_cut(self, image: NDArray[np.uint8]) -> bool:
        if not image.size:
            return False
        step = max(min(image.shape[:2]) // 96, 1)
        green = np.ascontiguousarray(image[::step, ::step, 1])
        now = cv2.resize(green, (8, 8), interpolation=cv2.INTER_AREA).astype(np.float32)
        if now.std() < FLAT:
            return False
        before, self._thumbnail = self._thumbnail, now
        if before is None or np.abs(now - before).mean() <= CUT:
            return False
        return float(np.corrcoef(now.ravel(), before.ravel())[0, 1]) < ALIKE

    def _follow(self, image: NDArray[np.uint8], rois: list[Roi], seconds: float) -> None:
        points, scores = locate(self.backend, image, rois)
        kept: list[_Track] = []
        for track, place, score in zip(self._tracks, points, scores, strict=True):
            mean = float(score.mean())
            doubted = abs(seconds - track.confirmed) > self.following.doubt  # also after a jump back
            moved = replace(track, points=place, scores=score, seen=seconds, frame=self._frame)
            is_face = mean >= (self.following.doubted_score if doubted else self.following.lost_score)
            # When two tracks slide onto one face, the older one keeps it.
            alone = all(overlap(moved.box, other.box) < self.following.same for other in kept)
            if is_face and alone and _goes_on(track, moved, image.shape):
                kept.append(moved)
            else:
                self._lost.append(track)
        self._tracks = kept
        self._lost = [track for track in self._lost if self._remembers(track, seconds)]

    def _must_look(self, seconds: float) -> bool:
        if not self._tracks:
            return True
        full = len(self._tracks) >= self.following.max_faces
        beat = self.following.slow_beat if full else self.following.beat
        waited = seconds - self._looked
        # Time that runs backwards is a jump in the source.
        return waited < 0 or waited >= (self.following.quick_beat if self._lost else beat)

    def _look(self, image: NDArray[np.uint8], seconds: float) -> None:
        self._looked = seconds
        self.detections += 1
        fresh: list[FaceBox] = []
        unsure: list[tuple[FaceBox, _Track]] = []
        for box in self.detect(image):
            inside = [track for track in self._tracks if _same_face(box, track, self.following.same)]
            for track in inside:
                track.confirmed = seconds
            if not inside:
                fresh.append(box)
            elif len(inside) == 1 and self._may_mend(inside[0], seconds):
                unsure.append((box, inside[0]))
        fresh = self._worth_a_look(fresh, seconds)
        boxes = fresh + [box for box, _ in unsure]
        points, scores = settle(partial(locate, self.backend, image), [roi_from_box(box) for box in boxes])
        for box, place, score in zip(fresh, points, scores, strict=False):
            found = _Track(-1, place, score, seconds, self._frame, seconds)
            if not self._is_new(found, box):
                self._refused.append(box)
            elif len(self._tracks) < self.following.max_faces:
                found.face = self._recall(found)
                self._tracks.append(found)
        for (_, track), place, score in zip(unsure, points[len(fresh) :], scores[len(fresh) :], strict=True):
            self._mend(track, place, score, seconds)

    def _worth_a_look(self, fresh: list[FaceBox], seconds: float) -> list[FaceBox]:
        """Boxes for as many faces as may still come, and some more, without those that were refused a moment ago."""
        if not 0 <= seconds - self._judged < self.following.quick_beat:
            self._judged, self._refused = seconds, []
        room = self.following.max_faces - len(self._tracks)
        fresh = [box for box in fresh if all(overlap(box, other) < self.following.same for other in self._refused)]
        return fresh[: room + self.following.spare] if room > 0 else []

    def _is_new(self, found: _Track, box: FaceBox) -> bool:
        # Two who judge apart: what fools the detector seldom fools the network too. Its scores reach lower than the
        # detector's sure ones, which start at a half; the root makes both count alike. Below that half the
        # detector hardly tells a face from a fist, and the network decides.
        seen = max(box.score, MIN_SCORE) * math.sqrt(float(found.scores.mean()))
        return seen >= self.following.new_score and self._alone(found)

    def _may_mend(self, track: _Track, seconds: float) -> bool:
        return bool(track.scores.mean() < SETTLED) and abs(seconds - track.mended) >= self.following.mend

    def _mend(self, track: _Track, points: NDArray[np.float32], scores: NDArray[np.float32], seconds: float) -> None:
        """Place an unsure track anew, as it may have shrunk onto an eye or turned over, where that is clearly surer."""
        track.mended = seconds
        surer = float(scores.mean()) > float(track.scores.mean()) + self.following.surer
        if surer and self._alone(replace(track, points=points, scores=scores), track):
            track.points, track.scores = points, scores

    def _alone(self, found: _Track, itself: _Track | None = None) -> bool:
        others = (track for track in self._tracks if track is not itself)
        return all(overlap(found.box, track.box) < self.following.same for track in others)

    def _remembers(self, lost: _Track, seconds: float) -> bool:
        return abs(seconds - lost.seen) <= self.following.memory or self._frame - lost.frame <= 2

    def _recall(self, found: _Track) -> int:
        """The id of the lost face that stood here a moment ago, or a new one."""
        for track in self._lost:
            if overlap(found.box, track.box) >= self.following.same and _as_large(track, found):
                self._lost.remove(track)
                return track.face
        self._next += 1
        return self._next - 1


def _goes_on(before: _Track, now: _Track, frame: tuple[int, ...]) -> bool:
    """A face stays in the frame, and neither turns over nor changes its size at a blow; a track gone astray does."""
    x, y = (now.points.min(0) + now.points.max(0)) / 2
    inside = 0 <= x < frame[1] and 0 <= y < frame[0]
    turned = abs(math.remainder(roll_of(now.points) - roll_of(before.points), 2 * math.pi))
    return inside and _as_large(before, now) and turned < TURN


def _as_large(before: _Track, now: _Track) -> bool:
    grown = float(np.ptp(now.points, axis=0).max() / max(np.ptp(before.points, axis=0).max(), 1.0))
    return 1 / GROWTH < grown < GROWTH


def _same_face(box: FaceBox, track: _Track, same: float) -> bool:
    return overlap(box, track.box) >= same
