"""The results of an evaluation as tables: text for a terminal, or Markdown."""

import math
from collections.abc import Sequence

from canthus.trainer.evaluation.clips import ClipTracks, measure_temporal_stability
from canthus.trainer.evaluation.evaluate import Result
from canthus.trainer.evaluation.metrics import ACCURATE_THRESHOLD, Summary
from canthus.trainer.evaluation.placed import MAX_FRONTAL_YAW, MIN_PROFILE_YAW
from canthus.trainer.evaluation.pose import PUBLISHED, PoseErrors
from canthus.trainer.evaluation.scores import SCORE_HEADER, score_rows
from canthus.trainer.evaluation.speed import Speed
from canthus.trainer.evaluation.stability import BoxStability
from canthus.trainer.faces.lengths import WIDE_OPEN

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
    return _table(rows, left=2)


def has_placed(results: Sequence[Result]) -> bool:
    """Return whether the results have the accuracy at the points that people placed."""
    return any(one.placed for one in results)


def placed_caption() -> str:
    """Return the explanation of `placed_table`."""
    return (
        "points that people placed: mean distance in % of the inter-ocular distance (NME) and of the square root of "
        "the area of their box (box), by pose\n"
        f"(yaw -1 to 1: frontal up to {MAX_FRONTAL_YAW}, profile from {MIN_PROFILE_YAW}, about 25 and 40 degrees)"
    )


def placed_table(results: Sequence[Result], markdown: bool = False) -> str:
    """Return a table of the accuracy at the points that people placed: one line per pose, model and kind of boxes."""
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
    return _table(rows, 3, markdown)


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


def mouth_table(results: Sequence[Result], markdown: bool = False) -> str:
    """Return a table of the errors of the mouth opening, see `measure_mouth`."""
    rows = [["model", "boxes", "error", "95 %", "bias", "missed"]]
    for one in results:
        if one.mouth:
            error = one.mouth.error
            values = [_number(error.nme), _interval(error), _number(one.mouth.bias), str(error.missed)]
            rows.append([one.model, one.boxes, *values])
    return _table(rows, 2, markdown)


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
    return _table(rows, left=3)


def stability_table(measured: Sequence[BoxStability]) -> str:
    """Return a table of the distances between points before and after a change of the box, in % of the normalizer."""
    rows = [["model", "shift", "rotation", "scale"]]
    rows += [[one.model, *(_number(value) for value in (one.shift, one.rotation, one.scale))] for one in measured]
    return _table(rows, left=1)


def speed_table(measured: Sequence[Speed]) -> str:
    """Return a table of the time for one face, and of its ratio to the time of the first model."""
    rows = [["model", "ms", "ratio"], *([one.model, f"{one.ms:.2f}", f"{one.ratio:.2f}"] for one in measured)]
    return _table(rows, left=1)


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
    return _table([header, *rows], left=2)


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
    return _table(rows, left=2)


def clips_summary(tracks: Sequence[ClipTracks]) -> str:
    """Return one line: on how many clips, faces and frames the temporal stability was measured, and the units."""
    one = measure_temporal_stability(tracks)[0]
    segments, gaps = sum(len(clip.segments) for clip in tracks), sum(clip.gaps for clip in tracks)
    return (
        f"{len(tracks)} clips, {segments} track segments, {one.frames} frames with a face, {one.still_frames} of them "
        f"with a still face; faces lost and found again: {gaps}. Jitter in % of the inter-ocular distance, jumps per "
        "1000 points, lag and lost in frames"
    )


def _table(rows: Sequence[Sequence[str]], left: int, markdown: bool = False) -> str:
    """Align columns: the first `left` ones to the left, the others to the right."""
    if markdown:
        line = ["---"] * left + ["---:"] * (len(rows[0]) - left)
        return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], line, *rows[1:]))
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
    rows = [header]
    rows += [
        [
            *(one.model, one.boxes, _number(one.all.nme), _interval(one.all)),
            *(_number(one.attributes[name].nme) for name in subsets),
            *(f"{one.all.fr10:.2f}", f"{one.all.auc10:.3f}", f"{one.all.missed} of {one.all.faces}"),
        ]
        for one in results
    ]
    return _table(rows, 2, markdown=True)


def _interval(summary: Summary) -> str:
    low, high = summary.interval
    return f"{_number(low)}-{_number(high)}"


def _number(value: float, digits: int = 2) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"
