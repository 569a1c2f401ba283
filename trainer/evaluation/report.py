"""What a measurement tells, for people and for machines: tables, json, the curve of errors, sheets of faces."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.errors import BackendError, InputError
from canthus.runtime.extras import install_command
from canthus.runtime.geometry import crop, invert, roi_from_points, to_frame, transform
from canthus.runtime.types import Roi
from canthus.trainer.evaluation.clips import ClipTracks, measure_temporal_stability
from canthus.trainer.evaluation.evaluate import Result, faces_in_order
from canthus.trainer.evaluation.metrics import ACCURATE_THRESHOLD, BINS, FAILURE_THRESHOLD
from canthus.trainer.evaluation.speed import Speed
from canthus.trainer.evaluation.stability import BoxStability
from canthus.trainer.faces.contact_sheet import (
    LABEL_COLOR,
    PREDICTION_COLOR,
    TILE,
    contact_sheet,
    draw_points,
    shorten_name,
)
from canthus.trainer.faces.labelled import LabelledSet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORST = 20
"""Faces on the sheet of the worst."""

CASES = 4
"""Faces of each kind on the sheet of cases: best, middle, worst."""

GROUND, LEVELS = 48, 48
"""Grey on which cases are drawn, without their photographs, which others own; and the step of all their colours, so
that the file is small."""

ROOM = 1.3
"""Side of a tile over the side of the region: what lies around a face helps to see why it failed."""

SHORT = {"expression": "expr.", "illumination": "illum.", "occlusion": "occl."}
"""As the published tables abbreviate the subsets."""


def table(results: Sequence[Result]) -> str:
    """The results as lines of text, NME in % with its 95 % interval, one line a model and kind of boxes."""
    subsets = list(results[0].attributes)
    rows = [["model", "boxes", "NME", "95 %", "FR@10", "AUC@10", "faces", "missed", *subsets]]
    rows += [
        [
            *(one.model, one.boxes, _number(one.all.nme), _interval(one), f"{one.all.fr10:.1f}"),
            *(f"{one.all.auc10:.3f}", str(one.all.faces), str(one.all.missed)),
            *(_number(one.attributes[name].nme) for name in subsets),
        ]
        for one in results
    ]
    return _aligned(rows, left=2)


def stability_table(measured: Sequence[BoxStability]) -> str:
    """How far points move, in % of the ruler, when the box is changed a little."""
    rows = [["model", "shifted", "turned", "scaled"]]
    rows += [[one.model, *(_number(value) for value in (one.shift, one.rotation, one.scale))] for one in measured]
    return _aligned(rows, left=1)


def speed_table(measured: Sequence[Speed]) -> str:
    """How long each model takes for a face, and how many times as long as the first."""
    rows = [["model", "ms", "times"], *([one.model, f"{one.ms:.2f}", f"{one.times:.2f}"] for one in measured)]
    return _aligned(rows, left=1)


def clips_table(followed: Sequence[ClipTracks]) -> str:
    """How calm points are on clips, raw and smoothed; `less` is what smoothing takes from the jitter of still faces."""
    rows = [["model", "points", "jitter", "mean", "still", "mean", "less", "flicker", "lag", "lost"]]
    for one in measure_temporal_stability(followed):
        less = (
            f"{100 * (1 - one.smoothed.still_median / one.raw.still_median):.0f} %" if one.raw.still_median > 0 else "-"
        )
        for kind, told, ends in (
            ("raw", one.raw, ("-", "-", str(one.lost_frames))),
            ("smoothed", one.smoothed, (less, _number(one.lag_frames), "-")),
        ):
            jitter = (told.median, told.mean, told.still_median, told.still_mean)
            fine = (_number(value, 3) for value in jitter)
            rows.append([one.model, kind, *fine, ends[0], _number(told.jumps_per_1000), *ends[1:]])
    return _aligned(rows, left=2)


def clips_line(followed: Sequence[ClipTracks]) -> str:
    """What the figures of clips are over."""
    one = measure_temporal_stability(followed)[0]
    faces, gaps = (sum(values) for values in zip(*((len(each.segments), each.gaps) for each in followed), strict=True))
    return (
        f"{len(followed)} clips, {faces} segments of followed faces, {one.frames} frames of them, {one.still_frames} "
        f"still; a face lost for a moment: {gaps}. Jitter in % of the canthi's distance, flicker of 1,000 points"
    )


def _aligned(rows: Sequence[Sequence[str]], left: int) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if column < left else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def markdown(results: Sequence[Result]) -> str:
    """The results as a Markdown table in the form in which the literature gives them: NME in %, all and subsets."""
    subsets = list(results[0].attributes)
    heads = ["model", "boxes", "all", "95 %", *(SHORT.get(name, name) for name in subsets), "FR@10", "AUC@10", "missed"]
    rows = [heads, ["---", "---", *("---:" for _ in heads[2:])]]
    rows += [
        [
            *(one.model, one.boxes, _number(one.all.nme), _interval(one)),
            *(_number(one.attributes[name].nme) for name in subsets),
            *(f"{one.all.fr10:.2f}", f"{one.all.auc10:.3f}", f"{one.all.missed} of {one.all.faces}"),
        ]
        for one in results
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _interval(one: Result) -> str:
    low, high = one.all.interval
    return f"{_number(low)}-{_number(high)}"


def _number(value: float, digits: int = 2) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def to_json(
    results: Sequence[Result],
    stability: Iterable[BoxStability] = (),
    speed: Iterable[Speed] = (),
    followed: Sequence[ClipTracks] = (),
) -> dict[str, Any]:
    """The first result's figures, and all of them under `results`, as json has them; a figure of no faces is null."""
    told = [_result_json(one) for one in results]
    steady, timed = ([dataclasses.asdict(one) for one in measured] for measured in (stability, speed))
    return {
        **(told[0] if told else {}),
        "results": told,
        **({"stability": steady} if steady else {}),
        **({"speed": timed} if timed else {}),
        **({"clips": _clips_json(followed)} if followed else {}),
    }


def _clips_json(followed: Sequence[ClipTracks]) -> dict[str, Any]:
    """Over all clips, and of each."""
    each = [
        {"clip": one.clip, "segments": len(one.segments), "gaps": one.gaps, "figures": _stability_json([one])}
        for one in followed
    ]
    return {"all": _stability_json(followed), "each": each}


def _stability_json(followed: Sequence[ClipTracks]) -> Any:
    return _null_for_nan([dataclasses.asdict(one) for one in measure_temporal_stability(followed)])


def _result_json(one: Result) -> dict[str, Any]:
    told = {"model": one.model, "boxes": one.boxes, **dataclasses.asdict(one.all)}
    told["attributes"] = {name: summary.nme for name, summary in one.attributes.items()}
    told["reliability"] = dataclasses.asdict(one.reliability)
    return {name: _null_for_nan(value) for name, value in told.items()}


def _null_for_nan(value: Any) -> Any:
    match value:
        case float() if math.isnan(value):
            return None
        case dict():
            return {name: _null_for_nan(inner) for name, inner in value.items()}
        case tuple() | list():
            return [_null_for_nan(inner) for inner in value]
    return value


def draw_curve(results: Sequence[Result], path: Path) -> None:
    """Draw the share of faces below each error up to 10 %: its area is AUC@10, what it lacks at the end is FR@10."""
    figure = _empty_figure(path)
    axes = figure.add_subplot()
    for one in results:
        errors, share = curve(one.errors)
        axes.step(errors, share, where="post", label=f"{one.model}, {one.boxes} boxes: AUC@10 {one.all.auc10:.3f}")
    axes.set(
        xlim=(0, FAILURE_THRESHOLD),
        ylim=(0, 100),
        xlabel="NME, %",
        ylabel="faces below, %",
        title="Cumulative error distribution",
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")
    _save(figure, path)


def _empty_figure(path: Path) -> "Figure":
    try:
        from matplotlib.figure import Figure
    except ImportError as missing:
        raise BackendError(f"{path}: drawing needs matplotlib: {install_command('train')}") from missing
    return Figure(figsize=(6.4, 4.8), dpi=150, layout="constrained")


def _save(figure: "Figure", path: Path) -> None:
    try:
        figure.savefig(path)
    except (OSError, ValueError) as unwritable:
        raise InputError(f"{path}: cannot be written: {unwritable}") from unwritable


def draw_reliability(results: Sequence[Result], path: Path) -> None:
    """Draw what scores foretell: over the score, how many points sit well, their median error, how many there are.

    A score that is the chance to sit well lies on the broken line. Networks that score all points alike are left out.
    """
    figure = _empty_figure(path)
    well, wrong, many = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 1))
    well.plot((0, 1), (0, 100), "--", color="grey", linewidth=1, label="where a score is the chance itself")
    for one in (one for one in results if not math.isnan(one.reliability.rank_correlation)):
        told = one.reliability
        name = (
            f"{one.model}, {one.boxes} boxes: gap {told.calibration_error:.3f}, rank {_number(told.rank_correlation)}"
        )
        well.plot(told.mean_score, 100 * np.array(told.accurate), "o-", markersize=3, label=name)
        wrong.plot(told.mean_score, told.median_error, "o-", markersize=3)
        many.step(np.arange(BINS + 1) / BINS, [*told.points, told.points[-1]], where="post")
    well.set(xlim=(0, 1), ylim=(0, 100), ylabel=f"within {ACCURATE_THRESHOLD:g} %, %", title="What scores foretell")
    wrong.set(ylim=(0, None), ylabel="median error, %")
    many.set(yscale="log", ylabel="points", xlabel="score")
    for axes in (well, wrong, many):
        axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize="small")  # a curve may run through any corner
    _save(figure, path)


def curve(errors: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Errors up to 10 % in order, from 0 on, and the share of all faces (%) up to each."""
    reached = np.sort(errors[errors <= FAILURE_THRESHOLD])
    share = 100 * np.arange(len(reached) + 1) / max(len(errors), 1)
    return np.concatenate([[0.0], reached, [FAILURE_THRESHOLD]]), np.concatenate([share, share[-1:]])


def worst_sheet(sets: Sequence[LabelledSet], result: Result, count: int = WORST) -> NDArray[np.uint8]:
    """The faces with the largest errors, missed ones first: truth in green, what was found in red."""
    faces = faces_in_order(sets)
    tiles = []
    for row in np.argsort(-result.errors, kind="stable")[:count]:
        one, face = faces[row]
        region = roi_from_points(face.points)
        roomy = Roi(region.x, region.y, region.side * ROOM)
        into = invert(to_frame(roomy, TILE))
        tile = draw_points(
            crop(one.image(face.image), roomy, TILE), transform(into, face.points), one.scheme, LABEL_COLOR
        )
        text = "missed"
        if np.isfinite(result.errors[row]):
            tile = draw_points(tile, transform(into, result.points[row]), one.scheme, PREDICTION_COLOR)
            text = f"{result.errors[row]:.1f} %"
        tiles.append((tile, f"{text}  {shorten_name(face.image)}"))
    return contact_sheet(tiles)


def cases_sheet(sets: Sequence[LabelledSet], result: Result, count: int = CASES) -> NDArray[np.uint8]:
    """The faces with the smallest, middle and largest errors, a row of each, as drawings without photographs.

    Truth in green, what was found over it in red, the face's NME below. Missed faces, which have no points, are left
    out, and no picture is named: the sheet may be shown where the pictures may not.
    """
    faces = faces_in_order(sets)
    order = np.argsort(result.errors, kind="stable")[: int(np.isfinite(result.errors).sum())]
    middle = max((len(order) - count) // 2, 0)
    tiles = []
    for kind, rows in (
        ("best", order[:count]),
        ("middle", order[middle : middle + count]),
        ("worst", order[max(len(order) - count, 0) :]),
    ):
        for row in rows:
            one, face = faces[row]
            into = invert(to_frame(roi_from_points(face.points), TILE))
            tile = np.full((TILE, TILE, 3), GROUND, np.uint8)
            for points, colour, radius in (
                (face.points, LABEL_COLOR, 2.5),
                (result.points[row], PREDICTION_COLOR, 1.5),
            ):
                tile = draw_points(tile, transform(into, points), one.scheme, colour, radius)
            tiles.append((tile, f"{kind}: {result.errors[row]:.1f} %"))
    return contact_sheet(tiles, columns=max(min(count, len(order)), 1)) // LEVELS * LEVELS
