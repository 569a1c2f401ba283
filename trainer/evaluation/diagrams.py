"""Diagrams of an evaluation: cumulative errors, and the reliability of scores."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.errors import BackendError, InputError
from canthus.runtime.extras import install_command
from canthus.trainer.evaluation.evaluate import Result
from canthus.trainer.evaluation.metrics import ACCURATE_THRESHOLD, BINS, FAILURE_THRESHOLD

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
            f"rank correlation {values.rank_correlation:.2f}"
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
