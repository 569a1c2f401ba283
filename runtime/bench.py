"""`canthus bench`: how fast, how large and how steady, measured on the sample clip, whose true motion is known."""

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.options import add_landmarking, settings_from_args

EXAMPLES = """examples:
  canthus bench
  canthus bench --max-faces 4 --json
  canthus bench --clip my.mp4     speed alone: the true motion of other clips is not known"""

FIRST = 15
"""Frames left out of the medians while everything warms up."""


@dataclass(frozen=True)
class Speed:
    """Medians over the frames of a clip, in milliseconds, the rate of the whole, and the memory that it took."""

    frame_size: str
    frames: int
    frames_per_second: float
    detect_ms: float
    landmark_ms: float
    smooth_ms: float
    detector_share: float  # of the frames, in %
    memory_mb: float | None  # held at the end of the clip; None where the system is not Linux
    grown_mb: float | None  # of it, since everything was warm


@dataclass(frozen=True)
class Steadiness:
    """Errors and tremor in % of the distance of the outer canthi, lag in frames."""

    moved_error: float  # mean distance of the points, as measured, from the first points moved as the portrait was
    moved_error_smooth: float
    tremor: float  # mean step from frame to frame of the still face, as measured
    tremor_smooth: float
    lag_frames: float  # by which the smoothed points follow the true motion late
    lag_frames_raw: float


def command(arguments: list[str]) -> int:
    """Measure speed, memory and steadiness on this machine."""
    parser = argparse.ArgumentParser(
        prog="canthus bench",
        description=command.__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--clip", type=Path, help="measure speed on this video (default: the sample clip)")
    parser.add_argument("--json", action="store_true", help="print the figures as json")
    add_landmarking(parser, max_faces=1)
    chosen = parser.parse_args(arguments)

    from canthus.runtime import sample
    from canthus.runtime.backends.automatic import engine_ready, gpu_expected
    from canthus.runtime.models import find_gpu_model

    if not chosen.cpu and gpu_expected() and not engine_ready(find_gpu_model(chosen.model)):
        print("canthus bench: the CPU is measured; for the GPU run `canthus engine build` first", file=sys.stderr)
        chosen.cpu = True
    name, speed = measure_speed(chosen.clip or sample.CLIP, chosen)
    steadiness = None if chosen.clip else measure_steadiness(chosen)
    if chosen.json:
        told = {"backend": name, "speed": asdict(speed)}
        print(json.dumps(told | ({"steadiness": asdict(steadiness)} if steadiness else {}), indent=2))
    else:
        print("\n".join(_speed_lines(name, speed) + (_steadiness_lines(steadiness) if steadiness else [])))
    return 0


def measure_speed(clip: Path, chosen: argparse.Namespace) -> tuple[str, Speed]:
    """Follow a clip as fast as it goes, decoding included; -> the backend's name and the figures."""
    from tqdm import tqdm

    from canthus.runtime.channel import Stage
    from canthus.runtime.pipeline import Landmarker
    from canthus.runtime.sources import VideoFile

    taken: list[tuple[float, ...]] = []
    ends: list[float] = []  # when the first frame began, and when each ended
    held: list[float | None] = []  # memory, when each frame ended
    with VideoFile(clip) as source, Landmarker(settings_from_args(chosen)) as landmarker:
        with Stage(lambda: iter(source), "decode") as frames:
            ends.append(time.perf_counter())
            for frame in tqdm(frames, "speed", total=source.frames, unit="frame", disable=None, leave=False):
                landmarker.update(frame)
                taken.append(tuple(landmarker.seconds[stage] for stage in ("detect", "landmark", "smooth")))
                ends.append(time.perf_counter())
                held.append(memory())
        warm = FIRST if len(taken) > FIRST else 0
        stages, passed = 1000 * np.array(taken[warm:]), ends[-1] - ends[warm]
        before, after = held[warm], held[-1]
        detecting = stages[:, 0][stages[:, 0] > 0]
        speed = Speed(
            frame_size=f"{source.width}x{source.height}",
            frames=len(taken),
            frames_per_second=round(len(stages) / passed, 1),
            detect_ms=round(float(np.median(detecting)), 2) if len(detecting) else 0.0,
            landmark_ms=round(float(np.median(stages[:, 1])), 2),
            smooth_ms=round(float(np.median(stages[:, 2])), 2),
            detector_share=round(100 * len(detecting) / len(stages), 1),
            memory_mb=after,
            grown_mb=None if before is None or after is None else round(after - before, 1),
        )
        return landmarker.backend.name, speed


def memory() -> float | None:
    """MB of memory that this process holds now, where Linux tells it."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def measure_steadiness(chosen: argparse.Namespace) -> Steadiness:
    """Follow the sample clip raw and smoothed, and compare with its true motion."""
    from tqdm import tqdm

    from canthus.runtime import sample
    from canthus.runtime.pipeline import Landmarker
    from canthus.runtime.smooth import Smoother
    from canthus.runtime.sources import VideoFile
    from canthus.runtime.temporal import lag_in_frames
    from canthus.runtime.wflw import OUTER_CANTHI

    chosen.no_smoothing = True
    raw, smooth, smoother = [], [], Smoother()
    with VideoFile(sample.CLIP) as source, Landmarker(settings_from_args(chosen)) as landmarker:
        for frame in tqdm(source, "steadiness", total=source.frames, unit="frame", disable=None, leave=False):
            faces = landmarker.update(frame)
            raw.append(faces.points[0])
            smooth.append(smoother.smooth(faces, frame.seconds).points[0])
    motion, still = sample.motion()[: len(raw)], sample.still_frames()
    measured, calmed = np.stack(raw), np.stack(smooth)
    true = carry(measured[:still].mean(0), motion)
    ocular = np.linalg.norm(true[:, OUTER_CANTHI[0]] - true[:, OUTER_CANTHI[1]], axis=-1)

    def error(points: NDArray[np.floating]) -> float:
        apart = np.linalg.norm(points - true, axis=-1).mean(-1) / ocular
        return round(float(100 * apart[still:].mean()), 2)

    def tremor(points: NDArray[np.floating]) -> float:
        steps = np.linalg.norm(np.diff(points[FIRST:still], axis=0), axis=-1).mean(-1)
        return round(float(100 * (steps / ocular[FIRST + 1 : still]).mean()), 3)

    return Steadiness(
        error(measured),
        error(calmed),
        tremor(measured),
        tremor(calmed),
        lag_in_frames(calmed[still:], true[still:]),
        lag_in_frames(measured[still:], true[still:]),
    )


def carry(points: NDArray[np.floating], motion: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points (K, 2) of the first frame, moved as the picture was: (frames, K, 2)."""
    linear = np.linalg.inv(motion[0][:, :2])
    portrait = (points - motion[0][:, 2]) @ linear.T
    moved: NDArray[np.float64] = portrait @ np.swapaxes(motion[:, :, :2], 1, 2) + motion[:, None, :, 2]
    return moved


def _speed_lines(name: str, speed: Speed) -> list[str]:
    lines = [
        f"speed: {name}, {speed.frame_size}, {speed.frames} frames",
        f"  end to end        {speed.frames_per_second:8.1f} frames a second, decoding included",
        f"  detect            {speed.detect_ms:8.2f} ms, on {speed.detector_share:.1f} % of the frames",
        f"  crop and network  {speed.landmark_ms:8.2f} ms a frame",
        f"  smooth            {speed.smooth_ms:8.2f} ms a frame",
    ]
    if speed.memory_mb is not None:
        lines.append(f"  memory            {speed.memory_mb:8.0f} MB, {speed.grown_mb:+.0f} on the way")
    return lines


def _steadiness_lines(steady: Steadiness) -> list[str]:
    calmer = 100 * (1 - steady.tremor_smooth / steady.tremor) if steady.tremor else 0.0
    return [
        "steadiness, in % of the distance of the outer canthi",
        f"  moved face: error {steady.moved_error:.2f} as measured, {steady.moved_error_smooth:.2f} smoothed",
        f"  still face: tremor {steady.tremor:.3f} as measured, {steady.tremor_smooth:.3f} smoothed "
        f"({calmer:.0f} % less)",
        f"  lag: {steady.lag_frames_raw:.2f} frames as measured, {steady.lag_frames:.2f} smoothed",
    ]
