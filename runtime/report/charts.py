"""Charts as SVG in an HTML page: lines over time, and a timeline of faces. They need no script."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 900, 150
"""Size of a chart in its own units; it is scaled to the page."""

LEFT, RIGHT, TOP, BOTTOM = 46, 8, 8, 22
"""Margins."""

BUCKETS = 450
"""Longer series are shown by the mean of each of so many parts."""

COLORS = ("#3b82f6", "#f97316", "#10b981", "#a855f7", "#ef4444", "#eab308", "#06b6d4", "#ec4899")

MAX_TRACKS = 24
"""Faces with a line of their own in the timeline; further ones share the last line."""

ROW = 14


@dataclass(frozen=True, eq=False)
class Series:
    """Values over time."""

    name: str
    seconds: NDArray[np.float64]  # (N,)
    values: NDArray[np.floating]  # (N,); NaN is a gap
    color: int = 0  # place in COLORS, from the start again after the last one


def clock(seconds: float) -> str:
    """Return a time as 1:02.5, or 1:00:02 above an hour."""
    minutes, rest = divmod(max(seconds, 0.0), 60)
    if minutes >= 60:
        return f"{int(minutes // 60)}:{int(minutes % 60):02}:{int(rest):02}"
    return f"{int(minutes)}:{rest:04.1f}"


def line_chart(title: str, series: Sequence[Series], duration: float, unit: str = "") -> str:
    """Return a chart of one or more series, as a `<figure>`."""
    values = np.concatenate([one.values for one in series]) if series else np.zeros(0)
    known = values[np.isfinite(values)]
    if not len(known):
        return ""
    low, high = _rounded_range(float(known.min()), float(known.max()))
    parts = [_frame(duration, low, high)]
    for one in series:
        for points in _polylines(one, duration, low, high):
            parts.append(f'<polyline points="{points}" stroke="{COLORS[one.color % len(COLORS)]}"/>')
    legend = "".join(
        f'<span><i style="background:{COLORS[one.color % len(COLORS)]}"></i>{escape(one.name)}</span>' for one in series
    )
    heading = f"{escape(title)}{f' ({escape(unit)})' if unit else ''}"
    return (
        f"<figure><figcaption>{heading} <small>{legend}</small></figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{heading}">{"".join(parts)}</svg></figure>'
    )


def timeline(
    tracks: Sequence[tuple[int, NDArray, NDArray]], lost: Sequence[tuple[float, float]], duration: float
) -> str:
    """Return when each face is there, and the spans without a face, as a `<figure>`.

    tracks: for each face its id, and the numbers and times of its frames.
    """
    rows = min(len(tracks), MAX_TRACKS) or 1
    height = TOP + rows * ROW + BOTTOM
    parts = []
    for start, end in lost:
        x0, x1 = _x(start, duration), _x(end, duration)
        parts.append(
            f'<rect class="lost" x="{x0:.1f}" y="{TOP}" width="{max(x1 - x0, 1):.1f}" height="{rows * ROW}">'
            f"<title>no face from {clock(start)} to {clock(end)}</title></rect>"
        )
    for index, (number, places, seconds) in enumerate(tracks):
        row = min(index, rows - 1)
        y = TOP + row * ROW + 2
        if index < rows:
            parts.append(f'<text x="{LEFT - 6}" y="{y + 9}" text-anchor="end">{number}</text>')
        for start, end in runs(places, seconds):
            x0, x1 = _x(start, duration), _x(end, duration)
            parts.append(
                f'<rect x="{x0:.1f}" y="{y}" width="{max(x1 - x0, 1.5):.1f}" height="{ROW - 4}" rx="2" '
                f'fill="{COLORS[index % len(COLORS)]}"><title>face {number}: {clock(start)} to {clock(end)}'
                "</title></rect>"
            )
    parts.append(_time_axis(duration, height))
    return (
        "<figure><figcaption>Faces over time <small>each line is the id of a face; red: no face"
        f'</small></figcaption><svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="faces over time">'
        f"{''.join(parts)}</svg></figure>"
    )


def runs(places: NDArray, seconds: NDArray) -> list[tuple[float, float]]:
    """Return the times of the first and last frame of each run of frames without a gap."""
    cuts = np.flatnonzero(np.diff(places) > 1) + 1
    return [(float(part[0]), float(part[-1])) for part in np.split(seconds, cuts) if len(part)]


def _x(seconds: float, duration: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * (seconds / duration if duration > 0 else 0.0)


def _polylines(series: Series, duration: float, low: float, high: float) -> list[str]:
    """Return the points of each part of a series without a gap, after averaging it in buckets of time."""
    bucket = np.clip((series.seconds / (duration or 1.0) * BUCKETS).astype(int), 0, BUCKETS)
    known = np.isfinite(series.values)
    sums = np.bincount(bucket[known], series.values[known], BUCKETS + 1)
    counts = np.bincount(bucket[known], minlength=BUCKETS + 1)
    times = np.bincount(bucket[known], series.seconds[known], BUCKETS + 1)
    used = np.flatnonzero(counts)
    step = max(1, int(np.median(np.diff(used)))) if len(used) > 1 else 1
    parts = np.split(used, np.flatnonzero(np.diff(used) > 2 * step) + 1)
    scale = (HEIGHT - TOP - BOTTOM) / (high - low)
    lines = []
    for part in parts:
        x = [_x(times[place] / counts[place], duration) for place in part]
        y = [HEIGHT - BOTTOM - (sums[place] / counts[place] - low) * scale for place in part]
        points = [f"{left:.1f},{top:.1f}" for left, top in zip(x, y, strict=True)]
        lines.append(" ".join(points * 2 if len(points) == 1 else points))
    return [line for line in lines if line]


def _frame(duration: float, low: float, high: float) -> str:
    """Return the grid and the labels of both axes."""
    parts = []
    for value in np.linspace(low, high, 5):
        y = HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    return "".join(parts) + _time_axis(duration, HEIGHT)


def _time_axis(duration: float, height: int) -> str:
    ticks = np.linspace(0, duration, 7) if duration > 0 else np.zeros(1)
    return "".join(
        f'<text x="{_x(second, duration):.1f}" y="{height - 6}" '
        f'text-anchor="{"end" if second and second == ticks[-1] else "middle"}">{clock(second)}</text>'
        for second in ticks
    )


def _rounded_range(low: float, high: float) -> tuple[float, float]:
    """Return a range with round ends that contains both values."""
    if high - low < 1e-6:
        low, high = low - 0.5, high + 0.5
    step = 10.0 ** math.floor(math.log10((high - low) / 2))
    return math.floor(low / step) * step, math.ceil(high / step) * step
