"""Calibrates scores: fits the curve from the peak of a score map to the probability that its point is accurate.

For each point the network gives a peak s, and the label says whether the point is accurate: its error is at most
ACCURATE_THRESHOLD % of the normalizer. With x = log(s / (1 - s)) and p = 1 / (1 + exp(-(a * x + b))), a and b minimize
the negative log-likelihood

    sum of -(t * log p + (1 - t) * log(1 - p))

The target t is (n + 1) / (n + 2) for the n accurate points and 1 / (m + 2) for the m others, instead of 1 and 0, so
that the minimum exists even if a threshold on the peak separates them perfectly (Platt, "Probabilistic Outputs for
Support Vector Machines", 1999). The minimum is found with Newton's method; each step is halved until the sum falls
(Lin, Lin and Weng, "A Note on Platt's Probabilistic Outputs for Support Vector Machines", 2007).
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from canthus.runtime.calibration import IDENTITY, Calibration, apply_calibration, logit
from canthus.runtime.errors import InputError
from canthus.trainer.augmentation.settings import NO_AUGMENTATION, Augmentation
from canthus.trainer.evaluation.metrics import ACCURATE_THRESHOLD, point_errors, reliability
from canthus.trainer.faces.kinds import evaluated_points, has_normalizer
from canthus.trainer.networks.checkpoint import load, load_network, save
from canthus.trainer.networks.network import DecodingNetwork
from canthus.trainer.packs.batches import VALIDATION_BATCH, Batches, augment_face
from canthus.trainer.packs.pack import Pack
from canthus.trainer.recipe import Recipe

MAX_STEPS = 50
"""Newton steps at most; about six are enough."""

Floats = NDArray[np.float64]
Marks = NDArray[np.bool_]


def fit_calibration(scores: NDArray[np.floating], accurate: Marks) -> Calibration:
    """Return the most likely a and b for peaks and whether their points are accurate, both (N,).

    Returns `IDENTITY` if nothing can be learned: all peaks or all marks are equal, or a higher peak does not mean a
    better point.
    """
    x, positive, negative = logit(scores), int(accurate.sum()), int((~accurate).sum())
    if not positive or not negative or np.ptp(x) == 0:
        return IDENTITY
    target = np.where(accurate, (positive + 1) / (positive + 2), 1 / (negative + 2))
    inputs = np.stack([x, np.ones_like(x)], 1)  # (N, 2)
    parameters = np.array([0.0, np.log((positive + 1) / (negative + 1))])
    lowest = _negative_log_likelihood(inputs @ parameters, target)
    for _ in range(MAX_STEPS):
        p = 1 / (1 + np.exp(-(inputs @ parameters)))
        gradient = inputs.T @ (p - target)
        hessian = inputs.T @ (inputs * (p * (1 - p))[:, None]) + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while (found := _negative_log_likelihood(inputs @ (parameters - size * step), target)) >= lowest:
            if size <= 1e-6:
                break
            size /= 2
        if found >= lowest:
            break
        parameters, lowest = parameters - size * step, found
    a, b = float(parameters[0]), float(parameters[1])
    return (a, b) if a > 0 else IDENTITY


def _negative_log_likelihood(values: Floats, target: Floats) -> float:
    """Return the sum to minimize; `logaddexp` gives -log p = log(1 + exp(-v)) without overflow."""
    return float((target * np.logaddexp(0, -values) + (1 - target) * np.logaddexp(0, values)).sum())


def _predict(network: nn.Module, batches: Batches, augmentation: Augmentation) -> Iterator[tuple[Floats, Floats]]:
    """Yield peaks and errors (%), both (n,), of the evaluated points inside the crop, for all validation faces.

    Each face is augmented once, with a fixed seed, so that each call returns the same.
    """
    recipe, pack = batches.recipe, batches.validation_pack
    deployed, device = DecodingNetwork(network, recipe.stride).eval(), next(network.parameters()).device
    rng = np.random.default_rng(recipe.seed)
    for start in range(0, len(batches.validation_rows), VALIDATION_BATCH):
        rows = batches.validation_rows[start : start + VALIDATION_BATCH].tolist()
        faces = [augment_face(pack, row, recipe.size, augmentation, rng) for row in rows]
        crops, true, kinds = (np.stack(part) for part in zip(*faces, strict=True))
        with torch.inference_mode():
            predicted = deployed(torch.from_numpy(crops).to(device))
        points, scores = (part.float().cpu().numpy() for part in predicted)
        inside = ((true >= 0) & (true <= recipe.size - 1)).all(-1)
        used = inside & evaluated_points(kinds) & has_normalizer(kinds)[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):  # of faces without a normalizer
            errors = point_errors(points, true, true)
        yield scores[used].astype(np.float64), errors[used].astype(np.float64)


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A calibration, and the mean gap between score and share of accurate points before and after it."""

    calibration: Calibration
    points: int
    before: float
    after: float

    def __str__(self) -> str:
        a, b = self.calibration
        return (
            f"scores calibrated on {self.points} points: a = {a:.4f}, b = {b:.4f}; "
            f"expected calibration error {self.after:.4f} (before: {self.before:.4f})"
        )


def calibrate(checkpoint: Path, batches: Batches, device: torch.device | None = None) -> Fitted:
    """Fit the calibration of a checkpoint on the validation faces, and write it into the checkpoint's metadata.

    Each face is used twice: as it is, and augmented as in training. Raises InputError without validation faces.
    """
    network, _ = load_network(checkpoint)
    network.to(device or torch.device("cpu"))
    predictions = [
        one
        for augmentation in (NO_AUGMENTATION, batches.recipe.augmentation)
        for one in _predict(network, batches, augmentation)
    ]
    if not predictions:
        raise InputError(f"{checkpoint}: no validation faces to calibrate scores with; set held_out in the recipe")
    scores, errors = (np.concatenate(part) for part in zip(*predictions, strict=True))
    calibration = fit_calibration(scores, errors <= ACCURATE_THRESHOLD)
    former = load(checkpoint)
    save(checkpoint, dataclasses.replace(former, metadata={**former.metadata, "calibration": list(calibration)}))
    after = apply_calibration(scores.astype(np.float32), calibration)
    before, afterwards = (reliability(one, errors).calibration_error for one in (scores, after))
    return Fitted(calibration, len(scores), before, afterwards)


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
