"""How calm models are on clips: the jitter and flicker of their points, raw and smoothed, and the lag of smoothing.

Which faces are followed on which frames is told once, for all, by the runtime's tracker with one model, the follower.
On them each network follows by itself, as it would be used: its next region comes from its own last raw points, in its
own margin, so that one that trembles shakes its own crops too. Common regions would hide that, and would be crops that
suit the follower's author. Scores decide nothing here, for others' networks have none: a network has lost a face on a
frame where its region shares less with the follower's than one face can; it is counted, and starts again from there.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from canthus.runtime.errors import InputError, ModelError
from canthus.runtime.geometry import intersection_over_union, roi_from_points, roll_from_points, to_square_pixels
from canthus.runtime.smooth import Smoother
from canthus.runtime.sources import VideoFile
from canthus.runtime.temporal import lag_in_frames
from canthus.runtime.tracker import Detect, Tracker
from canthus.runtime.types import Faces, Frame
from canthus.runtime.wflw import OUTER_CANTHI
from canthus.trainer.evaluation.evaluate import SAME_FACE, SINGLE_PROCESS, Candidate, Worker, find
from canthus.trainer.faces.schemes import WFLW

VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")

STILL = 12.0
MOVING = 25.0
"""A face is still below, and moves above, so many % of its size a second."""

JUMP = 5.0
"""A point that lies so far (% of its face's size) from where its neighbours in time expect it has jumped.

Lips that open at a blow do so too, by every model: a jump that most of the others share is no flicker.
"""

FRONTAL = 0.6
"""The distance of the outer canthi over the longer side of the points' box, of a face seen from the front."""

LONG = 15
"""Frames of motion without a pause that a lag can be told from."""


@dataclass(frozen=True, eq=False)
class TrackSegment:
    """One face on frames in a row, as each of M models sees it."""

    seconds: NDArray[np.float64]  # (T,)
    raw: NDArray[np.float32]  # (M, T, 98, 2) frame pixels
    smoothed: NDArray[np.float32]  # the same, smoothed


@dataclass
class ClipTracks:
    """The faces of one clip."""

    clip: str
    models: tuple[str, ...]
    lost: list[int]  # on how many frames each model lost a face that the follower kept
    gaps: int = 0  # how often the follower lost a face for a moment
    segments: list[TrackSegment] = field(default_factory=list)


@dataclass(frozen=True)
class Jitter:
    """How much points tremble, over frames of tracked faces, in % of the face's size; NaN without such frames.

    The size of a face is the distance of its outer canthi, the median over the models and its segment, and at least
    what its points' box makes that of a face from the front: one in profile is no smaller. Jitter is the distance of
    points from the line between their neighbours in time, root of the mean square over the points of a face, scaled so
    that noise which is new in each frame measures its own.
    """

    median: float  # over frames
    mean: float
    still_median: float  # the same over frames in which the face hardly moves, by the median over the models
    still_mean: float
    jumps_per_1000: float  # how many points in 1,000, each frame's counted, jump where most other models' do not


@dataclass(frozen=True)
class TemporalStability:
    """How calm one model is, and what smoothing does for it."""

    model: str
    raw: Jitter
    smoothed: Jitter
    lag_frames: float  # of smoothed points behind raw ones while the head moves, frames; NaN where none does for long
    lost_frames: int
    frames: int
    still_frames: int


def find_clips(paths: Iterable[Path]) -> list[Path]:
    """The files, and for folders the videos in them by name."""
    clips: list[Path] = []
    for path in paths:
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        videos = [one for one in inside if one.suffix.lower() in VIDEOS] if path.is_dir() else inside
        if not videos:
            raise InputError(f"{path}: holds no videos ({', '.join(VIDEOS)})")
        clips += videos
    return clips


def track_clips(
    clips: Sequence[Path],
    candidates: Sequence[Candidate],
    follower: Candidate,
    detect: Detect,
    worker: Worker = SINGLE_PROCESS,
) -> list[ClipTracks]:
    """Follow the faces of every clip with every model, each frame read once; ModelError unless all give 98 points."""
    for one in (follower, *candidates):
        nothing = np.zeros((0, one.backend.size, one.backend.size, 3), np.uint8)
        if (given := one.backend.predict(nothing)[0].shape[1]) != WFLW.points:
            raise ModelError(f"{one.name}: gives {given} points; faces on clips are followed by {WFLW.points}")
    mine = clips[worker.rank :: worker.world_size]
    total = 0
    for clip in mine:
        with VideoFile(clip) as video:
            total += video.frames
    own = []
    with tqdm(total=total, unit="frame", leave=False, disable=None if worker.rank == 0 else True) as bar:
        for clip in mine:
            bar.set_description(clip.name)
            with VideoFile(clip) as video:
                own.append(track_faces(clip.name, _counted(video, bar), candidates, follower, detect))
    everyone = worker.gather(own)
    return [everyone[number % worker.world_size][number // worker.world_size] for number in range(len(clips))]


def _counted(frames: Iterable[Frame], bar: tqdm) -> Iterator[Frame]:
    for frame in frames:
        yield frame
        bar.update()


def track_faces(
    clip: str, frames: Iterable[Frame], candidates: Sequence[Candidate], follower: Candidate, detect: Detect
) -> ClipTracks:
    """Follow the faces of one clip; a segment ends where its face is lost, as at a cut."""
    told = ClipTracks(clip, tuple(candidate.name for candidate in candidates), [0] * len(candidates))
    tracker = Tracker(detect, follower.backend)
    smoothers = [Smoother() for _ in candidates]
    lasts: list[dict[int, NDArray[np.float32]]] = [{} for _ in candidates]  # each model's points by face
    runs: dict[int, list[tuple[float, NDArray, NDArray]]] = {}
    met: set[int] = set()
    for frame in frames:
        image, _ = to_square_pixels(frame.image, frame.pixel_aspect)
        faces = tracker.update(image, frame.seconds)
        ids = faces.ids.tolist()
        for gone in set(runs) - set(ids):
            told.segments.append(_segment(runs.pop(gone)))
        told.gaps += sum(face in met and face not in runs for face in ids)
        met.update(ids)

        raw, smooth = [], []
        for place, candidate in enumerate(candidates):
            known = [lasts[place].get(face, points) for face, points in zip(ids, faces.points, strict=True)]
            regions = [roi_from_points(points, roll_from_points(points)) for points in known]
            seen = Faces(*find(candidate, image, regions, WFLW), faces.ids)
            raw.append(seen.points)
            smooth.append(smoothers[place].smooth(seen, frame.seconds).points)
            pairs = zip(seen.points, faces.points, strict=True)
            kept = [
                intersection_over_union(roi_from_points(one), roi_from_points(other)) >= SAME_FACE
                for one, other in pairs
            ]
            told.lost[place] += kept.count(False)
            lasts[place] = {face: points for face, points, good in zip(ids, seen.points, kept, strict=True) if good}
        for row, face in enumerate(ids):
            now = (frame.seconds, np.stack([one[row] for one in raw]), np.stack([one[row] for one in smooth]))
            runs.setdefault(face, []).append(now)
    told.segments += [_segment(run) for run in runs.values()]
    return told


def _segment(run: list[tuple[float, NDArray, NDArray]]) -> TrackSegment:
    seconds, raw, smooth = zip(*run, strict=True)
    return TrackSegment(np.array(seconds), np.stack(raw, 1), np.stack(smooth, 1))


@dataclass(frozen=True, eq=False)
class _Seen:
    """A segment measured: its T frames less the first and the last, by (raw or smoothed, M models)."""

    jitter: NDArray[np.float64]  # (2, M, T - 2) % of the face's size
    jumps: NDArray[np.int64]  # (2, M); how many points in all frames
    speed: NDArray[np.float64]  # (T - 2,) % a second, the median over models and points
    lags: list[list[float]]  # of each model


def _look(segment: TrackSegment) -> _Seen:
    across = np.linalg.norm(np.subtract(*(segment.raw[:, :, end] for end in OUTER_CANTHI)), axis=-1)
    size = max(float(np.median(across)), FRONTAL * float(np.median(np.ptp(segment.raw, axis=2).max(-1))), 1.0)
    points = np.stack([segment.raw, segment.smoothed]).astype(np.float64) * (100 / size)  # (2, M, T, 98, 2)
    passed = segment.seconds[2:] - segment.seconds[:-2]
    part = (segment.seconds[1:-1] - segment.seconds[:-2]) / passed  # of the way from one neighbour to the other
    before, now, after = points[:, :, :-2], points[:, :, 1:-1], points[:, :, 2:]
    way = part[:, None, None]
    apart = np.linalg.norm(now - (1 - way) * before - way * after, axis=-1)  # (2, M, T - 2, 98)
    jumped = apart > JUMP
    others = jumped.sum(1, keepdims=True) - jumped
    speed = np.median(np.linalg.norm(after[0] - before[0], axis=-1), axis=(0, 2)) / passed
    return _Seen(
        np.sqrt(np.square(apart).mean(-1) / (1 + part**2 + (1 - part) ** 2)),
        (jumped & (2 * others < len(segment.raw))).sum((2, 3)),
        speed,
        [
            [lag_in_frames(late[moving], raw[moving]) for moving in _runs(speed > MOVING)]
            for raw, late in zip(now[0], now[1], strict=True)
        ],
    )


def _runs(true: NDArray[np.bool_]) -> list[slice]:
    """Where at least `LONG` frames in a row are true."""
    edges = np.flatnonzero(np.diff(true, prepend=False, append=False)).tolist()
    runs = zip(edges[::2], edges[1::2], strict=True)
    return [slice(start, end) for start, end in runs if end - start >= LONG]


def measure_temporal_stability(followed: Sequence[ClipTracks]) -> list[TemporalStability]:
    """Each model's figures over all segments of some clips."""
    seen = [_look(segment) for clip in followed for segment in clip.segments if len(segment.seconds) > 2]
    still = np.array([slow for one in seen for slow in one.speed < STILL], np.bool_)
    jumps = sum((one.jumps for one in seen), np.zeros((2, len(followed[0].models)), np.int64))
    return [
        TemporalStability(
            model=model,
            raw=_jitter([one.jitter[0, place] for one in seen], still, int(jumps[0, place])),
            smoothed=_jitter([one.jitter[1, place] for one in seen], still, int(jumps[1, place])),
            lag_frames=_of(np.median, np.array([frames for one in seen for frames in one.lags[place]])),
            lost_frames=sum(clip.lost[place] for clip in followed),
            frames=len(still),
            still_frames=int(still.sum()),
        )
        for place, model in enumerate(followed[0].models)
    ]


def _jitter(jitter: list[NDArray[np.float64]], still: NDArray[np.bool_], jumps: int) -> Jitter:
    each = np.concatenate([np.zeros(0), *jitter])
    return Jitter(
        median=_of(np.median, each),
        mean=_of(np.mean, each),
        still_median=_of(np.median, each[still]),
        still_mean=_of(np.mean, each[still]),
        jumps_per_1000=1000 * jumps / (WFLW.points * len(each)) if len(each) else math.nan,
    )


def _of(middle: Callable[[NDArray[np.float64]], np.floating], values: NDArray[np.float64]) -> float:
    return float(middle(values)) if len(values) else math.nan
