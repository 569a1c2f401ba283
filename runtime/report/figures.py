"""The figures of a report, computed from a table of points."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.run_details import described_points
from canthus.runtime.schemes import WFLW, Scheme
from canthus.runtime.tables import Table

WORST = 8
"""Rows with bad frames, at most."""

WORST_APART = 0.02
"""Least distance of two of the worst frames, as a share of the duration: neighbours look the same."""


@dataclass(frozen=True)
class Span:
    """A part of the source, in seconds."""

    start: float
    end: float


@dataclass(frozen=True, eq=False)
class FaceTrack:
    """One face over time. F is the number of frames that it is in."""

    id: int
    rows: NDArray[np.int64] = field(repr=False)  # (F,) rows of the table
    places: NDArray[np.int64] = field(repr=False)  # (F,) numbers of frames
    seconds: NDArray[np.float64] = field(repr=False)  # (F,)
    scores: NDArray[np.float32] = field(repr=False)  # (F,) face scores
    jitter: NDArray[np.float64] = field(repr=False)  # (F,) % of the inter-ocular distance; NaN where it is not known

    @property
    def median_jitter(self) -> float:
        """Median over the frames, NaN if it is known for none."""
        known = self.jitter[np.isfinite(self.jitter)]
        return float(np.median(known)) if len(known) else float("nan")


@dataclass(frozen=True)
class Overview:
    """The figures of one table in a few numbers."""

    name: str  # of the table
    count: int  # frames or images
    with_faces: int
    duration: float  # seconds, 0 for images
    faces: int  # ids of a video
    lost_spans: int
    mean_score: float  # NaN without a face
    median_jitter: float  # NaN if it is known for no frame

    @property
    def coverage(self) -> float:
        """Share of the frames that have a face."""
        return self.with_faces / self.count if self.count else 0.0


@dataclass(frozen=True, eq=False)
class Figures:
    """What a report shows of one table."""

    overview: Overview
    table: Table = field(repr=False)
    source: str  # the path in the metadata, or empty
    lost: tuple[Span, ...]  # without a face
    tracks: tuple[FaceTrack, ...]  # of a video, by their first frame
    worst: tuple[int, ...]  # rows with the lowest face scores, apart from each other

    @property
    def is_video(self) -> bool:
        """Whether the table is of frames, not of image files."""
        return self.table.schema.kind == "frames"


def compute_figures(table: Table, path: Path) -> Figures:
    """Compute the figures of a table that was read from `path`."""
    is_video = table.schema.kind == "frames"
    places = table.frame if is_video else np.asarray(table.records["picture"])
    found = table.face >= 0
    count = int(places.max(initial=-1)) + 1
    seconds = table.seconds if is_video else places.astype(np.float64)
    tracks = _tracks(table, places, seconds) if is_video else ()
    jitter = np.concatenate([track.jitter for track in tracks]) if tracks else np.zeros(0)
    jitter = jitter[np.isfinite(jitter)]
    duration = float(seconds.max(initial=0.0)) if is_video else 0.0
    lost = _lost_spans(places[found], seconds[found], count, duration) if is_video else ()
    overview = Overview(
        path.name,
        count,
        len(np.unique(places[found])),
        duration,
        len(tracks),
        len(lost),
        float(table.face_score[found].mean()) if found.any() else float("nan"),
        float(np.median(jitter)) if len(jitter) else float("nan"),
    )
    details = table.metadata.get("source")
    source = str(details.get("path", "")) if isinstance(details, dict) else ""
    return Figures(overview, table, source, lost, tracks, _worst_rows(table, seconds))


def _tracks(table: Table, places: NDArray[np.int64], seconds: NDArray[np.float64]) -> tuple[FaceTrack, ...]:
    tracks = []
    scheme = described_points(table.metadata, table.schema.points)
    for number in np.unique(table.face[table.face >= 0]):
        rows = np.flatnonzero(table.face == number)
        jitter = measure_jitter(table.points[rows], places[rows], scheme)
        tracks.append(FaceTrack(int(number), rows, places[rows], seconds[rows], table.face_score[rows], jitter))
    return tuple(sorted(tracks, key=lambda track: (track.seconds[0], track.id)))


def measure_jitter(
    points: NDArray[np.floating], places: NDArray[np.integer], scheme: Scheme = WFLW
) -> NDArray[np.float64]:
    """Return the jitter (F,) of a face: the mean distance of its points from the middle between the frames beside.

    points: (F, K, 2). places: (F,) numbers of the frames. The result is in % of the scheme's normalizer, such as the
    distance of the outer eye corners (without one of the height of the points' box), and NaN where a frame beside is
    missing.
    """
    jitter = np.full(len(points), np.nan)
    if len(points) < 3:
        return jitter
    middle = (points[:-2] + points[2:]) / 2
    distances = np.linalg.norm(points[1:-1] - middle, axis=2).mean(1)
    if scheme.normalizer[0]:
        sizes = np.linalg.norm(scheme.normalizer_vector(points[1:-1]), axis=1)
    else:
        sizes = np.ptp(points[1:-1, :, 1], axis=1)
    neighbours = (places[2:] - places[:-2]) == 2
    known = neighbours & (sizes > 0)
    jitter[1:-1][known] = 100 * distances[known] / sizes[known]
    return jitter


def _lost_spans(
    places: NDArray[np.int64], seconds: NDArray[np.float64], count: int, duration: float
) -> tuple[Span, ...]:
    """Return the spans in which no frame has a face, from the last frame with one to the next.

    places, seconds: of the rows with a face. count, duration: of the whole table.
    """
    order = np.unique(places, return_index=True)[1]
    places = np.concatenate([[-1], places[order], [count]])
    seconds = np.concatenate([[0.0], seconds[order], [duration]])
    gaps = np.flatnonzero(np.diff(places) > 1)
    return tuple(Span(float(seconds[gap]), float(seconds[gap + 1])) for gap in gaps)


def _worst_rows(table: Table, seconds: NDArray[np.float64]) -> tuple[int, ...]:
    """Return at most `WORST` rows with the lowest face scores; of those close to each other, only the lowest."""
    apart = WORST_APART * float(seconds.max(initial=0.0)) if table.schema.kind == "frames" else 0.5
    chosen: list[int] = []
    found = np.flatnonzero(table.face >= 0)
    for row in found[np.argsort(table.face_score[found], kind="stable")]:
        if len(chosen) == WORST:
            break
        if all(abs(seconds[row] - seconds[other]) >= apart for other in chosen):
            chosen.append(int(row))
    return tuple(chosen)
