"""Measure speed and memory on a video, and jitter, error and lag on the sample clip."""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.bench.machine import memory_mb
from canthus.runtime.errors import InputError
from canthus.runtime.schemes import WFLW, Scheme

if TYPE_CHECKING:
    from canthus.runtime.pipeline import Settings

WARM_UP = 15
"""Frames at the start that are not measured."""


@dataclass(frozen=True)
class Speed:
    """Times are medians per frame, in milliseconds."""

    frame_size: str
    frames: int
    frames_with_faces: int
    frames_per_second: float  # of the whole pipeline, decoding included
    detect_ms: float | None  # of the frames on which the detector ran; None if it did not run
    landmark_ms: float | None  # crop and network, of the frames with faces; None if there are none
    smooth_ms: float
    measure_ms: float | None  # head pose and expressions, of the frames with faces; None if not measured
    detector_share: float  # frames on which the detector ran, in %
    memory_mb: float | None  # resident memory at the end; None if the system is not Linux
    memory_growth_mb: float | None  # since the warm-up


@dataclass(frozen=True)
class Stability:
    """Errors and jitter in % of the scheme's normalizer, the inter-ocular distance, lag in frames; raw and smoothed."""

    error_raw: float  # mean distance of the points from the true path while the face moves
    error_smoothed: float
    jitter_raw: float  # mean step from frame to frame while the face is at rest
    jitter_smoothed: float
    lag_frames_raw: float  # delay behind the true path while the face moves
    lag_frames_smoothed: float


def measure_speed(clip: Path, settings: "Settings") -> tuple[str, Speed]:
    """Track the faces of a clip as fast as possible; return the backend's name and the measurements."""
    from tqdm import tqdm

    from canthus.runtime.channel import Stage
    from canthus.runtime.pipeline import Landmarker
    from canthus.runtime.video_file import VideoFile

    stages: list[tuple[float, ...]] = []  # seconds of each stage, for each frame
    counts: list[int] = []  # faces of each frame
    ends: list[float] = []  # when the first frame began, then when each frame ended
    memory: list[float | None] = []  # at the end of each frame
    with VideoFile(clip) as source, Landmarker(settings) as landmarker:
        with Stage(lambda: iter(source), "decode") as frames:
            ends.append(time.perf_counter())
            for frame in tqdm(frames, "speed", total=source.frames, unit="frame", disable=None, leave=False):
                counts.append(len(landmarker.update(frame)))
                stages.append(tuple(landmarker.seconds[stage] for stage in ("detect", "landmark", "smooth", "measure")))
                ends.append(time.perf_counter())
                memory.append(memory_mb())
        first = WARM_UP if len(stages) > WARM_UP else 0
        detect, landmark, smooth, measure = 1000 * np.array(stages[first:]).T
        with_faces = np.array(counts[first:]) > 0
        before, after = memory[first], memory[-1]
        speed = Speed(
            frame_size=f"{source.width}x{source.height}",
            frames=len(stages),
            frames_with_faces=sum(count > 0 for count in counts),
            frames_per_second=round(len(detect) / (ends[-1] - ends[first]), 1),
            detect_ms=_median(detect[detect > 0]),
            landmark_ms=_median(landmark[with_faces]),
            smooth_ms=round(float(np.median(smooth)), 2),
            measure_ms=_median(measure[with_faces]) if settings.measures else None,
            detector_share=round(float(100 * (detect > 0).mean()), 1),
            memory_mb=after,
            memory_growth_mb=None if before is None or after is None else round(after - before, 1),
        )
        return landmarker.backend.name, speed


def _median(milliseconds: NDArray[np.float64]) -> float | None:
    return round(float(np.median(milliseconds)), 2) if len(milliseconds) else None


def measure_stability(settings: "Settings") -> Stability:
    """Track the face of the sample clip, raw and smoothed, and compare it with its true path.

    Raises:
        InputError: If the face is not found on every frame.
    """
    from tqdm import tqdm

    from canthus.runtime import sample
    from canthus.runtime.pipeline import Landmarker
    from canthus.runtime.smooth import Smoother
    from canthus.runtime.temporal import lag_in_frames
    from canthus.runtime.video_file import VideoFile

    tracks: list[NDArray[np.float32]] = []
    smoothed_tracks: list[NDArray[np.float32]] = []
    smoother, missed = Smoother(), 0
    scheme = WFLW
    with VideoFile(sample.CLIP) as source, Landmarker(dataclasses.replace(settings, smoothing=False)) as landmarker:
        for frame in tqdm(source, "stability", total=source.frames, unit="frame", disable=None, leave=False):
            faces = landmarker.update(frame)
            if not len(faces):
                missed += 1
                continue
            scheme = faces.scheme
            tracks.append(faces.points[0])
            smoothed_tracks.append(smoother.smooth(faces, frame.seconds).points[0])
    if missed:
        raise InputError(
            f"{sample.CLIP}: stability cannot be measured: no face found on {missed} of {missed + len(tracks)} frames"
        )
    rest = sample.still_frames()
    raw, smoothed = np.stack(tracks), np.stack(smoothed_tracks)
    true = sample.true_points(raw[:rest].mean(0))
    return Stability(
        error_raw=_error(raw[rest:], true[rest:], scheme),
        error_smoothed=_error(smoothed[rest:], true[rest:], scheme),
        jitter_raw=_jitter(raw[WARM_UP:rest], scheme),
        jitter_smoothed=_jitter(smoothed[WARM_UP:rest], scheme),
        lag_frames_raw=lag_in_frames(raw[rest:], true[rest:]),
        lag_frames_smoothed=lag_in_frames(smoothed[rest:], true[rest:]),
    )


def _error(points: NDArray[np.floating], true: NDArray[np.floating], scheme: Scheme) -> float:
    """Return the mean distance of points (frames, K, 2) in % of the size of the face."""
    distances = np.linalg.norm(points - true, axis=-1).mean(-1)
    return round(float(100 * (distances / _sizes(true, scheme)).mean()), 2)


def _jitter(points: NDArray[np.floating], scheme: Scheme) -> float:
    """Return the mean step of points (frames, K, 2) from frame to frame in % of the size of the face."""
    steps = np.linalg.norm(np.diff(points, axis=0), axis=-1).mean(-1)
    return round(float(100 * (steps / _sizes(points, scheme).mean()).mean()), 3)


def _sizes(points: NDArray[np.floating], scheme: Scheme) -> NDArray[np.floating]:
    """Return the normalizer of the scheme, or without one the height of the points: (frames, K, 2) -> (frames,)."""
    if not scheme.normalizer[0]:
        return np.asarray(np.ptp(points[..., 1], axis=1))
    return np.asarray(np.linalg.norm(scheme.normalizer_vector(points), axis=-1))


def speed_lines(backend: str, speed: Speed) -> list[str]:
    """Return the measurements as text."""
    lines = [
        f"speed: {backend}, {speed.frame_size}, {speed.frames} frames, {speed.frames_with_faces} with faces",
        f"  end to end        {speed.frames_per_second:8.1f} frames per second, decoding included",
        f"  detect            {_ms(speed.detect_ms)}, on {speed.detector_share:.1f} % of the frames",
        f"  crop and network  {_ms(speed.landmark_ms)} per frame" + (" with faces" if speed.landmark_ms else ""),
        f"  smooth            {_ms(speed.smooth_ms)} per frame",
    ]
    if speed.measure_ms is not None:
        lines.append(f"  measure           {_ms(speed.measure_ms)} per frame with faces")
    if speed.memory_mb is not None:
        lines.append(
            f"  memory            {speed.memory_mb:8.0f} MB, {speed.memory_growth_mb:+.0f} MB after the warm-up"
        )
    return lines


def _ms(milliseconds: float | None) -> str:
    return "       - ms" if milliseconds is None else f"{milliseconds:8.2f} ms"


def stability_lines(stability: Stability) -> list[str]:
    """Return the measurements as text."""
    lines = ["stability, in % of the inter-ocular distance      raw  smoothed"]
    for name, raw, smoothed in (
        ("face at rest: jitter", f"{stability.jitter_raw:.3f}", f"{stability.jitter_smoothed:.3f}"),
        ("moving face: error", f"{stability.error_raw:.2f}", f"{stability.error_smoothed:.2f}"),
        ("moving face: lag, in frames", f"{stability.lag_frames_raw:.2f}", f"{stability.lag_frames_smoothed:.2f}"),
    ):
        lines.append(f"  {name:<42}{raw:>8}{smoothed:>10}")
    return lines
