"""The frame rate of `canthus video` without an overlay, and of MediaPipe Face Mesh, from the file to the points."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.bench.peer_process import PeerProcess

Ratio = Callable[[NDArray[np.float64], NDArray[np.float64]], tuple[float, float, float]]
"""Returns the ratio of the medians of two series, and its 95 % interval."""


class VideoRate(NamedTuple):
    """The frame rate of one candidate, and its ratio to that of the base with a 95 % interval."""

    name: str
    frames_per_second: float  # median of the rounds
    ratio: float | None  # None without the base
    ratio_low: float | None
    ratio_high: float | None


def measure_videos(processes: Sequence[PeerProcess], clip: Path, rounds: int) -> dict[str, NDArray[np.float64]]:
    """Let each process that can do so read the whole clip in turn, and return its rates. A first round is not kept."""
    from tqdm import tqdm

    able = [process for process in processes if process.reads_videos]
    rates: dict[str, list[float]] = {process.name: [] for process in able}
    rng = np.random.default_rng(0)
    for number in tqdm(range(rounds + 1), "videos", unit="round", disable=None, leave=False):
        for index in rng.permutation(len(able)).tolist():
            answer = able[index].ask({"video": str(clip.resolve())})
            if number:
                rates[able[index].name].append(answer["frames"] / answer["seconds"])
    return {name: np.array(values) for name, values in rates.items()}


def summarize_videos(rates: Mapping[str, NDArray[np.float64]], base: str, ratio: Ratio) -> list[VideoRate]:
    """Return the median rate of each candidate, and its ratio to that of the base."""
    return [
        VideoRate(
            name,
            round(float(np.median(values)), 1),
            *(ratio(values, rates[base]) if base in rates else (None, None, None)),
        )
        for name, values in rates.items()
    ]


def describe_videos(rates: Sequence[VideoRate]) -> str:
    """Return the rates as lines of text."""
    lines = ["frames/s from the file to the points of one face, decoding included:"]
    for one in rates:
        ratio = "" if one.ratio is None else f"  {one.ratio:.2f} times ({one.ratio_low:.2f} to {one.ratio_high:.2f})"
        lines.append(f"  {one.name:<36}{one.frames_per_second:8.1f}{ratio}")
    return "\n".join(lines)
