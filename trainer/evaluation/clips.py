"""Measure the temporal stability of models on video clips: jitter and jumps of points, raw and smoothed, and lag.

The runtime's tracker, with one model as the reference, finds the faces of each frame, so that all models are measured
on the same faces. Each model then tracks these faces by itself: it predicts in the region of its own raw points of the
frame before, with its own margin. Regions of the reference would hide that jitter also moves a model's own crops,
and would favor the reference.

Scores are not used, as peers have none. A model has lost a face if the region of its points and the region of the
reference's points overlap less than SAME_FACE. Such frames are counted, and the model continues from the reference's
points.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from canthus.runtime.errors import InputError, ModelError
from canthus.runtime.geometry import intersection_over_union, roi_from_points, to_square_pixels
from canthus.runtime.smooth import Smoother
from canthus.runtime.temporal import lag_in_frames
from canthus.runtime.tracker import Detect, Tracker
from canthus.runtime.tracks import region_points
from canthus.runtime.types import Faces, Frame
from canthus.trainer.evaluation.evaluate import SAME_FACE, SINGLE_PROCESS, Candidate, Worker, predict_faces
from canthus.trainer.faces.schemes import WFLW, Scheme

CLIP_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")

STILL_SPEED = 12.0
MOVING_SPEED = 25.0
"""A face is still below the first and moves above the second, in % of its size per second."""

JUMP = 5.0
"""A point jumps if it is this far, in % of the face's size, from the line between its positions in the two
neighboring frames. Lips that open quickly do so too, but for all models: a jump is counted for a model only if fewer
than half of the models show it."""

FRONTAL_WIDTH = 0.6
"""The distance of the outer eye corners of a frontal face, over the longer side of the box of its points."""

MIN_MOTION = 15
"""Minimum number of consecutive frames with motion for a measurement of lag."""

Points = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class TrackSegment:
    """One face in T consecutive frames, as predicted by M models."""

    seconds: NDArray[np.float64]  # (T,)
    raw: Points  # (M, T, K, 2) pixels of the image with square pixels
    smoothed: Points  # the same
    scheme: Scheme = WFLW


@dataclass
class ClipTracks:
    """The tracked faces of one clip."""

    clip: str
    models: tuple[str, ...]
    lost: list[int]  # number of frames on which each model lost a face
    gaps: int = 0  # how often the reference lost a face and found it again
    segments: list[TrackSegment] = field(default_factory=list)


@dataclass(frozen=True)
class Jitter:
    """The jitter of points over frames, in % of the face's size, and their jumps; NaN without frames.

    The jitter of a frame is the distance of the points from the line between their positions in the two neighboring
    frames: the root of the mean square over the points, scaled so that independent noise in each frame gives its own
    root mean square. The size of a face is the distance of its outer eye corners, the median over models and frames;
    for a profile face it is FRONTAL_WIDTH times the longer side of the box of its points.
    """

    median: float
    mean: float
    still_median: float  # over the frames in which the face is still
    still_mean: float
    jumps_per_1000: float  # number of jumps (see JUMP) per 1000 points and frames


@dataclass(frozen=True)
class TemporalStability:
    """The temporal stability of one model, without and with smoothing."""

    model: str
    raw: Jitter
    smoothed: Jitter
    lag_frames: float  # of the smoothed points behind the raw ones during motion; NaN without long enough motion
    lost_frames: int
    frames: int
    still_frames: int


def find_clips(paths: Iterable[Path]) -> list[Path]:
    """Return the given files, and the videos of the given folders in the order of their names.

    Raises InputError for a folder without videos.
    """
    clips: list[Path] = []
    for path in paths:
        if not path.is_dir():
            clips.append(path)
            continue
        videos = [one for one in sorted(path.iterdir()) if one.suffix.lower() in CLIP_SUFFIXES]
        if not videos:
            raise InputError(f"{path}: contains no videos (expected {', '.join(CLIP_SUFFIXES)})")
        clips += videos
    return clips


def track_clips(
    clips: Sequence[Path],
    candidates: Sequence[Candidate],
    reference: Candidate,
    detect: Detect,
    worker: Worker = SINGLE_PROCESS,
) -> list[ClipTracks]:
    """Track the faces of each clip with each model. Each frame is read once.

    Args:
        clips: Video files.
        candidates: The models to measure.
        reference: The model with which the runtime's tracker finds the faces.
        detect: The detector of the tracker.
        worker: This process, if several share the clips. All of them return all results.

    Raises:
        ModelError: A model predicts other points than the reference.
    """
    from canthus.runtime.video_file import VideoFile  # here: without clips PyAV need not be installed

    for one in (reference, *candidates):
        empty = np.zeros((0, one.backend.size, one.backend.size, 3), np.uint8)
        count, expected = one.backend.predict(empty)[0].shape[1], reference.backend.scheme
        if count != expected.points or one.backend.scheme != expected:
            raise ModelError(
                f"{one.name}: predicts {count} points (expected the {expected.points} of {expected.name}, as "
                f"{reference.name})"
            )
    mine = clips[worker.rank :: worker.world_size]
    total = 0
    for clip in mine:
        with VideoFile(clip) as video:
            total += video.frames
    tracks = []
    with tqdm(total=total, unit="frame", leave=False, disable=None if worker.rank == 0 else True) as bar:
        for clip in mine:
            bar.set_description(clip.name)
            with VideoFile(clip) as video:
                tracks.append(track_faces(clip.name, _with_progress(video, bar), candidates, reference, detect))
    gathered = worker.gather(tracks)
    return [gathered[index % worker.world_size][index // worker.world_size] for index in range(len(clips))]


def _with_progress(frames: Iterable[Frame], bar: tqdm) -> Iterator[Frame]:
    for frame in frames:
        yield frame
        bar.update()


class _SelfTracking:
    """Predicts the faces of the reference with one candidate, each in the region of its own points, as the tracker."""

    def __init__(self, candidate: Candidate) -> None:
        self.lost = 0  # frames
        self._candidate = candidate
        self._smoother = Smoother()
        self._points: dict[int, Points] = {}  # (K, 2) of the frame before, by id
        self._region_points: dict[int, Points] = {}  # (K, 2) by id, see `region_points`

    def update(self, image: NDArray[np.uint8], seconds: float, reference: Faces) -> tuple[Points, Points]:
        """Return raw and smoothed points (N, K, 2) of the faces of the reference."""
        ids = reference.ids.tolist()
        before = [self._region_points.get(face, points) for face, points in zip(ids, reference.points, strict=True)]
        rois = [roi_from_points(points, reference.scheme.roll(points)) for points in before]
        predicted = predict_faces(self._candidate, image, rois, reference.scheme)
        found = Faces(*predicted, reference.ids, scheme=reference.scheme)
        former, self._points, self._region_points = self._points, {}, {}
        for face, points, expected in zip(ids, found.points, reference.points, strict=True):
            if intersection_over_union(roi_from_points(points), roi_from_points(expected)) >= SAME_FACE:
                self._points[face] = points
                side = float(np.ptp(points, axis=0).max())
                self._region_points[face] = region_points(former.get(face, points), points, side)
            else:
                self.lost += 1
        return found.points, self._smoother.smooth(found, seconds).points


def track_faces(
    clip: str, frames: Iterable[Frame], candidates: Sequence[Candidate], reference: Candidate, detect: Detect
) -> ClipTracks:
    """Track the faces of one clip. A segment ends when the reference loses its face, for example at a cut."""
    tracker = Tracker(detect, reference.backend)
    models = [_SelfTracking(candidate) for candidate in candidates]
    tracks = ClipTracks(clip, tuple(candidate.name for candidate in candidates), [])
    current: dict[int, list[tuple[float, Points, Points]]] = {}  # by id: seconds, raw and smoothed (M, K, 2) per frame
    known: set[int] = set()
    for frame in frames:
        image, _ = to_square_pixels(frame.image, frame.pixel_aspect)
        faces = tracker.update(image, frame.seconds)
        ids = faces.ids.tolist()
        for gone in set(current) - set(ids):
            tracks.segments.append(_segment(current.pop(gone), faces.scheme))
        tracks.gaps += sum(face in known and face not in current for face in ids)
        known.update(ids)

        predicted = [model.update(image, frame.seconds, faces) for model in models]
        for row, face in enumerate(ids):
            raw, smoothed = (np.stack([points[row] for points in kind]) for kind in zip(*predicted, strict=True))
            current.setdefault(face, []).append((frame.seconds, raw, smoothed))
    tracks.segments += [_segment(rows, reference.backend.scheme) for rows in current.values()]
    tracks.lost += [model.lost for model in models]
    return tracks


def _segment(rows: list[tuple[float, Points, Points]], scheme: Scheme) -> TrackSegment:
    seconds, raw, smoothed = zip(*rows, strict=True)
    return TrackSegment(np.array(seconds), np.stack(raw, 1), np.stack(smoothed, 1), scheme)


@dataclass(frozen=True, eq=False)
class _Motion:
    """Measurements of a segment, for its T frames without the first and the last. Axis of 2: raw, smoothed."""

    jitter: NDArray[np.float64]  # (2, M, T - 2) % of the face's size
    jumps: NDArray[np.int64]  # (2, M) number of points and frames
    speed: NDArray[np.float64]  # (T - 2,) % of the face's size per second, the median over models and points
    lags: list[list[float]]  # frames, of each model: one value per long enough motion


def _measure_segment(segment: TrackSegment) -> _Motion:
    points = np.stack([segment.raw, segment.smoothed]).astype(np.float64) * (
        100 / _face_size(segment.raw, segment.scheme)
    )
    before, now, after = points[:, :, :-2], points[:, :, 1:-1], points[:, :, 2:]  # (2, M, T - 2, K, 2)
    duration = segment.seconds[2:] - segment.seconds[:-2]
    fraction = (segment.seconds[1:-1] - segment.seconds[:-2]) / duration  # of the time between the neighbors
    part = fraction[:, None, None]
    deviation = np.linalg.norm(now - (1 - part) * before - part * after, axis=-1)  # (2, M, T - 2, K)
    jumped = deviation > JUMP
    others = jumped.sum(1, keepdims=True) - jumped
    speed = np.median(np.linalg.norm(after[0] - before[0], axis=-1), axis=(0, 2)) / duration
    return _Motion(
        # The deviation of independent noise has (1 + f^2 + (1 - f)^2) times the variance of the noise.
        jitter=np.sqrt(np.square(deviation).mean(-1) / (1 + fraction**2 + (1 - fraction) ** 2)),
        jumps=(jumped & (2 * others < len(segment.raw))).sum((2, 3)),
        speed=speed,
        lags=[
            [lag_in_frames(smoothed[moving], raw[moving]) for moving in _runs(speed > MOVING_SPEED)]
            for raw, smoothed in zip(now[0], now[1], strict=True)
        ],
    )


def _face_size(points: Points, scheme: Scheme) -> float:
    """Return the size of a face in pixels, from its points (M, T, K, 2); see `Jitter`."""
    left, right = (points[:, :, list(group)].mean(2) for group in scheme.normalizer)
    ocular = float(np.median(np.linalg.norm(left - right, axis=-1))) if scheme.normalizer[0] else 0.0
    longer_side = float(np.median(np.ptp(points, axis=2).max(-1)))
    return max(ocular, FRONTAL_WIDTH * longer_side, 1.0)


def _runs(values: NDArray[np.bool_]) -> list[slice]:
    """Return the runs of at least MIN_MOTION true values."""
    edges = np.flatnonzero(np.diff(values, prepend=False, append=False)).tolist()
    runs = zip(edges[::2], edges[1::2], strict=True)
    return [slice(start, end) for start, end in runs if end - start >= MIN_MOTION]


def measure_temporal_stability(tracks: Sequence[ClipTracks]) -> list[TemporalStability]:
    """Return the temporal stability of each model over all segments of the clips."""
    motions = [_measure_segment(segment) for clip in tracks for segment in clip.segments if len(segment.seconds) > 2]
    still = np.array([speed < STILL_SPEED for one in motions for speed in one.speed], np.bool_)
    points = next((segment.raw.shape[2] for clip in tracks for segment in clip.segments), 1)
    jumps = sum((one.jumps for one in motions), np.zeros((2, len(tracks[0].models)), np.int64))
    return [
        TemporalStability(
            model=model,
            raw=_jitter([one.jitter[0, index] for one in motions], still, jumps[0, index] / points),
            smoothed=_jitter([one.jitter[1, index] for one in motions], still, jumps[1, index] / points),
            lag_frames=_or_nan(np.median, np.array([lag for one in motions for lag in one.lags[index]])),
            lost_frames=sum(clip.lost[index] for clip in tracks),
            frames=len(still),
            still_frames=int(still.sum()),
        )
        for index, model in enumerate(tracks[0].models)
    ]


def _jitter(by_segment: list[NDArray[np.float64]], still: NDArray[np.bool_], jumps_of_a_point: float) -> Jitter:
    jitter = np.concatenate([np.zeros(0), *by_segment])  # (frames,)
    return Jitter(
        median=_or_nan(np.median, jitter),
        mean=_or_nan(np.mean, jitter),
        still_median=_or_nan(np.median, jitter[still]),
        still_mean=_or_nan(np.mean, jitter[still]),
        jumps_per_1000=1000 * jumps_of_a_point / len(jitter) if len(jitter) else math.nan,
    )


def _or_nan(mean: Callable[[NDArray[np.float64]], np.floating], values: NDArray[np.float64]) -> float:
    return float(mean(values)) if len(values) else math.nan
