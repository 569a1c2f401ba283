"""Calibrates scores: fits the curve from the peaks of score maps to the probability that a point is accurate.

For each point the network gives a peak s, and the label says whether the point is accurate (evaluation/scores.py). With
the numbers a, b, c and d[k] of `runtime/calibration.py` and the probability p that they give, the negative
log-likelihood is

    sum of -(t * log p + (1 - t) * log(1 - p))

The target t is (n + 1) / (n + 2) for the n accurate points and 1 / (m + 2) for the m others, instead of 1 and 0, so
that the minimum exists even if a threshold on the peak separates them perfectly (Platt, "Probabilistic Outputs for
Support Vector Machines", 1999). The minimum is found with Newton's method; each step is halved until the sum falls
(Lin, Lin and Weng, "A Note on Platt's Probabilistic Outputs for Support Vector Machines", 2007). Small penalties on the
squares of d keep points with few labels close to the other points of their line (contour, brow, eye ...).

Only points that people placed count, if the validation faces have any. Each face is used twice: in a region as rough as
those of the detector, and augmented as in training.
"""

import dataclasses
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from canthus.runtime.calibration import IDENTITY, Calibration, apply_calibration, logit
from canthus.runtime.errors import InputError
from canthus.runtime.geometry import crop, invert, roi_from_points, to_frame, transform
from canthus.runtime.types import Roi
from canthus.trainer.augmentation.settings import Augmentation
from canthus.trainer.evaluation.metrics import ACCURATE_THRESHOLD
from canthus.trainer.evaluation.scores import SCORE_HEADER, ScoreReliability, length_errors, measure_scores, score_rows
from canthus.trainer.faces.kinds import Kinds, evaluated_points, is_placed
from canthus.trainer.faces.labelled import yaw_estimate
from canthus.trainer.faces.schemes import WFLW, Scheme
from canthus.trainer.networks.checkpoint import load, load_network, save
from canthus.trainer.networks.network import DecodingNetwork, window_sigma
from canthus.trainer.packs.batches import VALIDATION_BATCH, AugmentedFace, Batches, augment_face
from canthus.trainer.packs.pack import Pack
from canthus.trainer.recipe import Recipe

MAX_STEPS = 50
"""Newton steps at most; about six are enough."""

MIN_POINTS = 3000
"""With fewer points only a and b are fitted."""

LINE_PENALTY, POINT_PENALTY = 0.1, 20.0
"""Half of the weight of d's squares: of the part that all points of a line share, and of the rest."""

BOX_SCALE_SD, BOX_SHIFT_SD, BOX_ROLL_SD = 0.08, 0.035, math.radians(4)
"""Standard deviations of regions like the detector's: of the logarithm of the side, of the center in sides, of the
angle. The first two are from the percentiles at BOX_SCALE in runtime/geometry.py."""

Floats = NDArray[np.float64]
Marks = NDArray[np.bool_]


def fit_calibration(scores: NDArray[np.floating], accurate: Marks) -> Calibration:
    """Return the most likely a and b for peaks and whether their points are accurate, both (N,).

    Returns `IDENTITY` if nothing can be learned: all peaks or all marks are equal, or a higher peak does not mean a
    better point.
    """
    x = logit(scores)
    if accurate.all() or not accurate.any() or np.ptp(x) == 0:
        return IDENTITY
    a, b = _minimize(np.stack([x, np.ones_like(x)], 1), accurate, np.zeros(2))
    return (a, b) if a > 0 else IDENTITY


def fit_faces(peaks: NDArray[np.floating], accurate: Marks, used: Marks, scheme: Scheme = WFLW) -> Calibration:
    """Return the most likely a, b, c and d[k] for the peaks of faces, and whether their points are accurate.

    All arguments are (N, K); `used` marks the points that count. With few points, or if a point's own peak means
    nothing beside those of the others, only a and b are fitted.
    """
    platt = fit_calibration(peaks[used], accurate[used])
    if used.sum() < MIN_POINTS or platt == IDENTITY:
        return platt
    x, offsets = logit(peaks), _offset_inputs(scheme)
    columns = [x, np.ones_like(x), np.broadcast_to(x.mean(1, keepdims=True), x.shape)]
    shared = np.broadcast_to(offsets.inputs, (len(x), *offsets.inputs.shape))[used]
    for whole_face in (True, False):
        own = np.stack([one[used] for one in columns[: 3 if whole_face else 2]], 1)
        penalty = np.concatenate([np.zeros(own.shape[1]), offsets.penalty])
        found = _minimize(np.concatenate([own, shared], 1), accurate[used], penalty)
        a, b, *c = found[: own.shape[1]]
        if a > 0 and (not c or c[0] >= 0):
            of_points = offsets.inputs @ np.array(found[own.shape[1] :])
            return (a, b, c[0] if c else 0.0, *of_points.tolist())
    return platt


class _Offsets(NamedTuple):
    inputs: Floats  # (K, P) d = inputs @ parameters
    penalty: Floats  # (P,)


def _offset_inputs(scheme: Scheme) -> _Offsets:
    """Return how d depends on one parameter for each line of a scheme and one for each pair of mirrored points."""
    mirror = scheme.mirror
    line = np.full(scheme.points, len(scheme.lines))  # points on no line, such as the pupils, are a line too
    for index in reversed(range(len(scheme.lines))):
        line[list(scheme.lines[index])] = index
    parts = [np.minimum(line, line[mirror]), np.minimum(np.arange(scheme.points), mirror)]
    inputs = [(part[:, None] == np.unique(part)).astype(np.float64) for part in parts]
    penalties = [np.full(one.shape[1], size) for one, size in zip(inputs, (LINE_PENALTY, POINT_PENALTY), strict=True)]
    return _Offsets(np.concatenate(inputs, 1), np.concatenate(penalties))


def _minimize(inputs: Floats, accurate: Marks, penalty: Floats) -> list[float]:
    """Return the parameters (P,) with the least negative log-likelihood plus `penalty` (P,) times their squares.

    inputs: (N, P). The first parameters are a and b. `accurate` (N,) has both values.
    """
    positive, negative = int(accurate.sum()), int((~accurate).sum())
    target = np.where(accurate, (positive + 1) / (positive + 2), 1 / (negative + 2))

    def loss(parameters: Floats) -> float:
        """Return the sum to minimize; `logaddexp` gives -log p = log(1 + exp(-v)) without overflow."""
        values = inputs @ parameters
        return float(
            (target * np.logaddexp(0, -values) + (1 - target) * np.logaddexp(0, values)).sum() + penalty @ parameters**2
        )

    parameters = np.zeros(inputs.shape[1])
    parameters[1] = np.log((positive + 1) / (negative + 1))
    lowest = loss(parameters)
    for _ in range(MAX_STEPS):
        p = 1 / (1 + np.exp(-(inputs @ parameters)))
        gradient = inputs.T @ (p - target) + 2 * penalty * parameters
        hessian = inputs.T @ (inputs * (p * (1 - p))[:, None]) + np.diag(2 * penalty + 1e-9)
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while (found := loss(parameters - size * step)) >= lowest:
            if size <= 1e-6:
                break
            size /= 2
        if found >= lowest:
            break
        parameters, lowest = parameters - size * step, found
    return [float(one) for one in parameters]


class _Predicted(NamedTuple):
    """Faces and what the network predicts for them."""

    peaks: Floats  # (N, K)
    errors: Floats  # (N, K) see `length_errors`; NaN where not measured
    kinds: Kinds  # (N, K)
    yaw: Floats  # (N,)

    def reliability(self, calibration: Calibration) -> dict[str, ScoreReliability]:
        """Return the reliability of the scores after a calibration, by pose and occlusion."""
        scores = apply_calibration(self.peaks.astype(np.float32), calibration)
        return measure_scores(scores, self.errors, self.kinds, self.yaw)


def _predict(network: nn.Module, batches: Batches, augmentation: Augmentation | None) -> _Predicted:
    """Predict the validation faces, augmented, or without `augmentation` in regions like the detector's.

    Each face is changed once, with a fixed seed, so that each call returns the same.
    """
    recipe, pack = batches.recipe, batches.validation_pack
    deployed = DecodingNetwork(network, recipe.stride, window_sigma({"decode": recipe.decode})).eval()
    device = next(network.parameters()).device
    rng = np.random.default_rng(recipe.seed)
    found: list[_Predicted] = []
    rows = _calibration_rows(batches)
    for start in range(0, len(rows), VALIDATION_BATCH):
        chosen = rows[start : start + VALIDATION_BATCH].tolist()
        faces = [
            augment_face(pack, row, recipe.size, augmentation, rng)
            if augmentation
            else detector_like_face(pack, row, recipe.size, rng)
            for row in chosen
        ]
        crops, true, kinds = (np.stack(part) for part in zip(*faces, strict=True))
        with torch.inference_mode():
            predicted = deployed(torch.from_numpy(crops).to(device))
        points, peaks = (part.float().cpu().numpy() for part in predicted)
        inside = ((true >= 0) & (true <= recipe.size - 1)).all(-1)
        errors = length_errors(points, true, evaluated_points(kinds), pack.scheme)
        yaw = yaw_estimate(pack.points[chosen], pack.scheme)
        found.append(_Predicted(peaks.astype(np.float64), np.where(inside, errors, np.nan), kinds, yaw))
    return _Predicted(*(np.concatenate(part) for part in zip(*found, strict=True)))


def _calibration_rows(batches: Batches) -> NDArray[np.intp]:
    """Return the validation rows that people labelled, or all if there is none."""
    rows = batches.validation_rows
    placed = is_placed(batches.validation_pack.kinds[rows]).any(-1)
    return rows[placed] if placed.any() else rows


def detector_like_face(pack: Pack, row: int, size: int, rng: np.random.Generator) -> AugmentedFace:
    """Cut a face out of a packed crop at `size` pixels, in a region that is as rough as those of the detector."""
    points = pack.points[row]
    exact = roi_from_points(points, pack.scheme.roll(points))
    x, y = rng.normal(0, BOX_SHIFT_SD * exact.side, 2)
    side = exact.side * math.exp(rng.normal(0, BOX_SCALE_SD))
    region = Roi(exact.x + x, exact.y + y, side, exact.angle + rng.normal(0, BOX_ROLL_SD))
    moved = transform(invert(to_frame(region, size)), points)
    return AugmentedFace(crop(pack.crops[row], region, size), moved, pack.kinds[row])


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A calibration, and the reliability of the scores before and after it, on faces in regions like the detector's."""

    calibration: Calibration
    points: int
    before: dict[str, ScoreReliability]
    after: dict[str, ScoreReliability]

    def __str__(self) -> str:
        a, b, *more = self.calibration
        face = f", c = {more[0]:.4f}, d of {len(more) - 1} points" if more else ""
        rows = [["", *SCORE_HEADER]]
        for name, measured in (("before", self.before), ("after", self.after)):
            rows += [[name, *row] for row in score_rows(measured)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        table = "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
        before, after = (measured["all"].calibration_error for measured in (self.before, self.after))
        return (
            f"scores calibrated on {self.points} points: a = {a:.4f}, b = {b:.4f}{face}; "
            f"expected calibration error {after:.4f} (before: {before:.4f})\n"
            f"mean score and share of points with an error up to {ACCURATE_THRESHOLD:g} % of the inter-ocular distance "
            f"that the face would have frontally:\n{table}"
        )


def calibrate(checkpoint: Path, batches: Batches, device: torch.device | None = None) -> Fitted:
    """Fit the calibration of a checkpoint on the validation faces, and write it into the checkpoint's metadata.

    Raises InputError without validation faces.
    """
    network, metadata = load_network(checkpoint)
    if not len(batches.validation_rows):
        raise InputError(f"{checkpoint}: no validation faces to calibrate scores with; set held_out in the recipe")
    network.to(device or torch.device("cpu"))
    plain, augmented = (_predict(network, batches, one) for one in (None, batches.recipe.augmentation))
    peaks, errors = (np.concatenate([getattr(one, name) for one in (plain, augmented)]) for name in ("peaks", "errors"))
    used = np.isfinite(errors)
    calibration = fit_faces(peaks, errors <= ACCURATE_THRESHOLD, used, batches.pack.scheme)
    former = load(checkpoint)
    save(checkpoint, dataclasses.replace(former, metadata={**former.metadata, "calibration": list(calibration)}))
    before = tuple(metadata.get("calibration", IDENTITY))
    return Fitted(calibration, int(used.sum()), plain.reliability(before), plain.reliability(calibration))


def calibrate_checkpoint(checkpoint: Path, pack: Pack, recipe: Recipe) -> Fitted:
    """Calibrate a checkpoint on the validation faces of its run's pack, or on all faces if the recipe holds none out.

    Raises InputError if the recipe and the checkpoint have different crop sizes.
    """
    _, metadata = load_network(checkpoint)
    if metadata["size"] != recipe.size:
        raise InputError(
            f"{checkpoint}: its crops have {metadata['size']} px, those of the recipe {recipe.size} px; "
            "name the recipe of its run (--recipe)"
        )
    return calibrate(checkpoint, Batches(pack, recipe, None if recipe.held_out else pack))
