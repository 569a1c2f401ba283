"""Present the results of an evaluation: tables, json, diagrams, and contact sheets of faces."""

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
from canthus.trainer.evaluation.metrics import ACCURATE_THRESHOLD, BINS, FAILURE_THRESHOLD, Summary
from canthus.trainer.evaluation.placed import MAX_FRONTAL_YAW, MIN_PROFILE_YAW
from canthus.trainer.evaluation.pose import PUBLISHED, PoseErrors
from canthus.trainer.evaluation.scores import SCORE_HEADER, score_rows
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
from canthus.trainer.faces.kinds import is_labelled
from canthus.trainer.faces.labelled import LabelledFace, LabelledSet
from canthus.trainer.faces.lengths import WIDE_OPEN

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORST = 20
"""Number of faces on the sheet of the worst faces."""

CASES = 4
"""Number of faces in each row of the sheet of cases: best, median, worst."""

BACKGROUND = 48
"""Gray level behind the cases, which are drawn without the photographs, as those are not ours to publish."""

COLOR_STEP = 48
"""Step of all colors of the sheet of cases, so that its file is small."""

TILE_SCALE = 1.3
"""Side of a tile over the side of the region. The surroundings of a face help to see why a model failed."""

ABBREVIATIONS = {"expression": "expr.", "illumination": "illum.", "occlusion": "occl."}
"""Names of subsets, as in the tables of papers."""


def results_table(results: Sequence[Result]) -> str:
    """Return a table with one line per model and kind of boxes: NME in % with its 95 % confidence interval, etc."""
    subsets = list(results[0].attributes)
    rows = [["model", "boxes", "NME", "95 %", "FR@10", "AUC@10", "faces", "missed", *subsets]]
    rows += [
        [
            *(one.model, one.boxes, _number(one.all.nme), _interval(one.all), f"{one.all.fr10:.1f}"),
            *(f"{one.all.auc10:.3f}", str(one.all.faces), str(one.all.missed)),
            *(_number(one.attributes[name].nme) for name in subsets),
        ]
        for one in results
    ]
    return _align(rows, left=2)


def has_placed(results: Sequence[Result]) -> bool:
    """Return whether the results have the accuracy at the points that people placed."""
    return any(one.placed for one in results)


def placed_table(results: Sequence[Result]) -> str:
    """Return a table of the accuracy at the points that people placed: one line per pose, model and kind of boxes."""
    return _align(_placed_rows(results), left=3)


def placed_markdown(results: Sequence[Result]) -> str:
    """Return the table of `placed_table` as Markdown."""
    header, *rows = _placed_rows(results)
    return _markdown_table([header, ["---"] * 3 + ["---:"] * (len(header) - 3), *rows])


def placed_caption() -> str:
    """Return the explanation of both tables."""
    return (
        "points that people placed: mean distance in % of the inter-ocular distance (NME) and of the square root of "
        "the area of their box (box), by pose\n"
        f"(yaw -1 to 1: frontal up to {MAX_FRONTAL_YAW}, profile from {MIN_PROFILE_YAW}, about 25 and 40 degrees)"
    )


def _placed_rows(results: Sequence[Result]) -> list[list[str]]:
    rows = [["pose", "model", "boxes", "NME", "95 %", "box", "95 %", "faces", "missed"]]
    for pose in results[0].placed:
        for one in results:
            accuracy = one.placed[pose]
            errors = [
                cell
                for summary in (accuracy.inter_ocular, accuracy.box)
                for cell in (_number(summary.nme), _interval(summary))
            ]
            rows.append([pose, one.model, one.boxes, *errors, str(accuracy.box.faces), str(accuracy.box.missed)])
    return rows


def mouth_caption(results: Sequence[Result]) -> str:
    """Return the explanation of `mouth_table`, or nothing if no labelled mouth is wide open."""
    measured = [one.mouth for one in results if one.mouth]
    if not measured:
        return ""
    return (
        f"opening of the {measured[0].error.faces} wide-open mouths (labelled opening above {100 * WIDE_OPEN:g} %, "
        f"mean {measured[0].opening:.1f} %), in % of the inter-ocular distance the face would have frontally: mean "
        "absolute error, and predicted minus labelled"
    )


def mouth_table(results: Sequence[Result]) -> str:
    """Return a table of the errors of the mouth opening, see `measure_mouth`."""
    return _align(_mouth_rows(results), left=2)


def mouth_markdown(results: Sequence[Result]) -> str:
    """Return the table of `mouth_table` as Markdown."""
    header, *rows = _mouth_rows(results)
    return _markdown_table([header, ["---"] * 2 + ["---:"] * (len(header) - 2), *rows])


def _mouth_rows(results: Sequence[Result]) -> list[list[str]]:
    rows = [["model", "boxes", "error", "95 %", "bias", "missed"]]
    for one in results:
        if one.mouth:
            error = one.mouth.error
            values = [_number(error.nme), _interval(error), _number(one.mouth.bias), str(error.missed)]
            rows.append([one.model, one.boxes, *values])
    return rows


def scores_caption() -> str:
    """Return the explanation of `scores_table`."""
    return (
        f"scores: their mean, and the share of accurate points (error up to {ACCURATE_THRESHOLD:g} % of the "
        "inter-ocular distance that the face would have frontally)"
    )


def scores_table(results: Sequence[Result]) -> str:
    """Return a table of the reliability of scores by pose and occlusion. Models without scores are left out."""
    rows = [["model", "boxes", *SCORE_HEADER]]
    for one in results:
        if not math.isnan(one.reliability.rank_correlation):
            rows += [[one.model, one.boxes, *row] for row in score_rows(one.scores)]
    return _align(rows, left=3)


def stability_table(measured: Sequence[BoxStability]) -> str:
    """Return a table of the distances between points before and after a change of the box, in % of the normalizer."""
    rows = [["model", "shift", "rotation", "scale"]]
    rows += [[one.model, *(_number(value) for value in (one.shift, one.rotation, one.scale))] for one in measured]
    return _align(rows, left=1)


def speed_table(measured: Sequence[Speed]) -> str:
    """Return a table of the time for one face, and of its ratio to the time of the first model."""
    rows = [["model", "ms", "ratio"], *([one.model, f"{one.ms:.2f}", f"{one.ratio:.2f}"] for one in measured)]
    return _align(rows, left=1)


POSE_CAPTION = f"""head pose: mean absolute errors in degrees; faces with an angle beyond 99 degrees are left out
published on AFLW2000-3D, mean of the three: {PUBLISHED}"""


def pose_table(measured: Sequence[PoseErrors]) -> str:
    """Return a table of the errors of the head pose, from the labels and from the points of each model."""
    header = ["points", "boxes", "yaw", "pitch", "roll", "mean", "faces", "missed"]
    rows = [
        [
            *(one.model, one.boxes),
            *(_number(angle) for angle in (one.yaw, one.pitch, one.roll, one.mean)),
            *(str(one.faces), str(one.missed)),
        ]
        for one in measured
    ]
    return _align([header, *rows], left=2)


def clips_table(tracks: Sequence[ClipTracks]) -> str:
    """Return a table of the temporal stability of each model, raw and smoothed.

    `jitter` and `still` are medians over all frames and over those with a still face, each followed by the mean.
    `reduction` is how much smoothing reduces the jitter of still faces. The units are in `clips_summary`.
    """
    rows = [["model", "points", "jitter", "mean", "still", "mean", "reduction", "jumps", "lag", "lost"]]
    for one in measure_temporal_stability(tracks):
        before, after = one.raw.still_median, one.smoothed.still_median
        reduction = f"{100 * (1 - after / before):.0f} %" if before > 0 else "-"
        for kind, jitter, (reduced, lag, lost) in (
            ("raw", one.raw, ("-", "-", str(one.lost_frames))),
            ("smoothed", one.smoothed, (reduction, _number(one.lag_frames), "-")),
        ):
            values = (jitter.median, jitter.mean, jitter.still_median, jitter.still_mean)
            numbers = (_number(value, 3) for value in values)
            rows.append([one.model, kind, *numbers, reduced, _number(jitter.jumps_per_1000), lag, lost])
    return _align(rows, left=2)


def clips_summary(tracks: Sequence[ClipTracks]) -> str:
    """Return one line: on how many clips, faces and frames the temporal stability was measured, and the units."""
    one = measure_temporal_stability(tracks)[0]
    segments, gaps = sum(len(clip.segments) for clip in tracks), sum(clip.gaps for clip in tracks)
    return (
        f"{len(tracks)} clips, {segments} track segments, {one.frames} frames with a face, {one.still_frames} of them "
        f"with a still face; faces lost and found again: {gaps}. Jitter in % of the inter-ocular distance, jumps per "
        "1000 points, lag and lost in frames"
    )


def _align(rows: Sequence[Sequence[str]], left: int) -> str:
    """Align columns: the first `left` ones to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if column < left else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def markdown(results: Sequence[Result]) -> str:
    """Return a Markdown table with the columns of papers: NME in % of all faces and of the subsets, FR@10, AUC@10."""
    subsets = list(results[0].attributes)
    names = [ABBREVIATIONS.get(name, name) for name in subsets]
    header = ["model", "boxes", "all", "95 %", *names, "FR@10", "AUC@10", "missed"]
    rows = [header, ["---", "---", *("---:" for _ in header[2:])]]
    rows += [
        [
            *(one.model, one.boxes, _number(one.all.nme), _interval(one.all)),
            *(_number(one.attributes[name].nme) for name in subsets),
            *(f"{one.all.fr10:.2f}", f"{one.all.auc10:.3f}", f"{one.all.missed} of {one.all.faces}"),
        ]
        for one in results
    ]
    return _markdown_table(rows)


def _markdown_table(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _interval(summary: Summary) -> str:
    low, high = summary.interval
    return f"{_number(low)}-{_number(high)}"


def _number(value: float, digits: int = 2) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def to_json(
    results: Sequence[Result],
    stability: Iterable[BoxStability] = (),
    speed: Iterable[Speed] = (),
    tracks: Sequence[ClipTracks] = (),
    pose: Iterable[PoseErrors] = (),
) -> dict[str, Any]:
    """Return everything as values for json; NaN becomes null.

    The keys of the first result are at the top level, those of all are in `results`. `stability`, `speed`, `pose` and
    `clips` are there if they were measured.
    """
    accuracy = [_result_json(one) for one in results]
    boxes, times, poses = ([dataclasses.asdict(one) for one in measured] for measured in (stability, speed, pose))
    return {
        **(accuracy[0] if accuracy else {}),
        "results": accuracy,
        **({"stability": boxes} if boxes else {}),
        **({"speed": times} if times else {}),
        **({"pose": _null_for_nan(poses)} if poses else {}),
        **({"clips": _clips_json(tracks)} if tracks else {}),
    }


def _clips_json(tracks: Sequence[ClipTracks]) -> dict[str, Any]:
    """Return the temporal stability over all clips, and of each clip."""
    each = [
        {"clip": one.clip, "segments": len(one.segments), "gaps": one.gaps, "models": _stability_json([one])}
        for one in tracks
    ]
    return {"all": _stability_json(tracks), "each": each}


def _stability_json(tracks: Sequence[ClipTracks]) -> Any:
    return _null_for_nan([dataclasses.asdict(one) for one in measure_temporal_stability(tracks)])


def _result_json(one: Result) -> dict[str, Any]:
    values = {"model": one.model, "boxes": one.boxes, **dataclasses.asdict(one.all)}
    values["attributes"] = {name: summary.nme for name, summary in one.attributes.items()}
    if one.placed:
        values["placed_points"] = {pose: dataclasses.asdict(accuracy) for pose, accuracy in one.placed.items()}
    if one.mouth:
        values["mouth_opening"] = dataclasses.asdict(one.mouth)
    values["scores"] = {name: dataclasses.asdict(group) for name, group in one.scores.items()}
    values["reliability"] = dataclasses.asdict(one.reliability)
    return {name: _null_for_nan(value) for name, value in values.items()}


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
    """Draw the cumulative error distribution: the percentage of faces below each error up to 10 %.

    The area below the curve is AUC@10. What is missing to 100 % at its end is FR@10.
    """
    figure = _empty_figure(path)
    axes = figure.add_subplot()
    for one in results:
        errors, percentage = error_distribution(one.errors)
        axes.step(errors, percentage, where="post", label=f"{one.model}, {one.boxes} boxes: AUC@10 {one.all.auc10:.3f}")
    axes.set(
        xlim=(0, FAILURE_THRESHOLD),
        ylim=(0, 100),
        xlabel="NME (%)",
        ylabel="faces (%)",
        title="Cumulative error distribution",
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")
    _save(figure, path)


def error_distribution(errors: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return the sorted errors up to 10 %, from 0 on, and the percentage of all faces up to each error."""
    below = np.sort(errors[errors <= FAILURE_THRESHOLD])
    percentage = 100 * np.arange(len(below) + 1) / max(len(errors), 1)
    return np.concatenate([[0.0], below, [FAILURE_THRESHOLD]]), np.concatenate([percentage, percentage[-1:]])


def _empty_figure(path: Path) -> "Figure":
    try:
        from matplotlib.figure import Figure
    except ImportError as missing:
        raise BackendError(f"{path}: drawing needs matplotlib: {install_command('train')}") from missing
    return Figure(figsize=(6.4, 4.8), dpi=150, layout="constrained")


def _save(figure: "Figure", path: Path) -> None:
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be written: {error}") from error


def draw_reliability(results: Sequence[Result], path: Path) -> None:
    """Draw the reliability diagram: over the score, the accurate points (%), their median error, and their number.

    The scores of a calibrated model are on the dashed line. Below it a model is overconfident, above it underconfident.
    Models that give all points the same score are left out.
    """
    figure = _empty_figure(path)
    accurate, median, number = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 1))
    accurate.plot((0, 1), (0, 100), "--", color="gray", linewidth=1, label="calibrated")
    for one in (one for one in results if not math.isnan(one.reliability.rank_correlation)):
        values = one.reliability
        name = (
            f"{one.model}, {one.boxes} boxes: ECE {values.calibration_error:.3f}, "
            f"rank correlation {_number(values.rank_correlation)}"
        )
        accurate.plot(values.mean_score, 100 * np.array(values.accurate), "o-", markersize=3, label=name)
        median.plot(values.mean_score, values.median_error, "o-", markersize=3)
        number.step(np.arange(BINS + 1) / BINS, [*values.points, values.points[-1]], where="post")
    label = f"error up to {ACCURATE_THRESHOLD:g} % (% of points)"
    accurate.set(xlim=(0, 1), ylim=(0, 100), ylabel=label, title="Reliability of the scores")
    median.set(ylim=(0, None), ylabel="median error (%)")
    number.set(yscale="log", ylabel="points", xlabel="score")
    for axes in (accurate, median, number):
        axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize="small")  # inside, it could cover a curve
    _save(figure, path)


def worst_sheet(sets: Sequence[LabelledSet], result: Result, count: int = WORST) -> NDArray[np.uint8]:
    """Draw the faces with the largest errors, missed ones first: labels in green, predictions in red."""
    faces = faces_in_order(sets)
    tiles = []
    for row in np.argsort(-result.errors, kind="stable")[:count]:
        one, face = faces[row]
        roi = roi_from_points(face.points)
        larger = Roi(roi.x, roi.y, roi.side * TILE_SCALE)
        to_tile = invert(to_frame(larger, TILE))
        image = crop(one.read_image(face.image), larger, TILE)
        tile = draw_points(image, transform(to_tile, _labelled_points(face)), one.scheme, LABEL_COLOR)
        text = "missed"
        if np.isfinite(result.errors[row]):
            tile = draw_points(tile, transform(to_tile, result.points[row]), one.scheme, PREDICTION_COLOR)
            text = f"{result.errors[row]:.1f} %"
        tiles.append((tile, f"{text}  {shorten_name(face.image)}"))
    return contact_sheet(tiles)


def _labelled_points(face: LabelledFace) -> NDArray[np.float32]:
    """Return the points (K, 2) of a face; they are NaN without a label."""
    return np.where(is_labelled(face.kinds)[:, None], face.points, np.float32(np.nan))


def cases_sheet(sets: Sequence[LabelledSet], result: Result, count: int = CASES) -> NDArray[np.uint8]:
    """Draw the faces with the smallest, median and largest errors, `count` in a row, without their photographs.

    Labels are green, predictions are red on top, and the caption is the NME. Missed faces are left out. The sheet
    shows no photograph and no file name, so it may be published even if the images may not.
    """
    faces = faces_in_order(sets)
    order = np.argsort(result.errors, kind="stable")[: int(np.isfinite(result.errors).sum())]
    middle = max((len(order) - count) // 2, 0)
    tiles = []
    for kind, rows in (
        ("best", order[:count]),
        ("median", order[middle : middle + count]),
        ("worst", order[max(len(order) - count, 0) :]),
    ):
        for row in rows:
            one, face = faces[row]
            to_tile = invert(to_frame(roi_from_points(face.points), TILE))
            tile = np.full((TILE, TILE, 3), BACKGROUND, np.uint8)
            for points, color, radius in (
                (_labelled_points(face), LABEL_COLOR, 2.5),
                (result.points[row], PREDICTION_COLOR, 1.5),
            ):
                tile = draw_points(tile, transform(to_tile, points), one.scheme, color, radius)
            tiles.append((tile, f"{kind}: {result.errors[row]:.1f} %"))
    return contact_sheet(tiles, columns=max(min(count, len(order)), 1)) // COLOR_STEP * COLOR_STEP
