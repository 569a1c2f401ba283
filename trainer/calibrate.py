"""What scores have to say: fits the curve from a network's peaks to the chance that a point sits well.

For each point the network gives a peak s, and the label tells whether the point lies within `WITHIN` % of the canthi's
distance of its place. With x = log(s / (1 - s)) and p = 1 / (1 + exp(-(a * x + b))), a and b are where

    sum of -(t * log p + (1 - t) * log(1 - p))

is lowest, the most likely curve. t is (n + 1) / (n + 2) for the n points that sit well and 1 / (m + 2) for the m
others, instead of 1 and 0, so that there is such a place even where a peak parts them perfectly (Platt, "Probabilistic
Outputs for Support Vector Machines", 1999). It is found by Newton's steps, each halved until the sum falls (Lin, Lin
and Weng, "A Note on Platt's Probabilistic Outputs for Support Vector Machines", 2007).
"""

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from canthus.runtime.calibration import IDENTITY, Calibration, apply_calibration, logit
from canthus.runtime.errors import CanthusError, InputError
from canthus.trainer.augmentation.augment import PLAIN, Augmentation, augment
from canthus.trainer.evaluation.metrics import WITHIN, point_errors, reliability
from canthus.trainer.networks.checkpoint import load, load_network, save
from canthus.trainer.networks.network import Deployed
from canthus.trainer.packs.batches import VALIDATED, Batches
from canthus.trainer.packs.pack import open_pack
from canthus.trainer.recipe import find_recipe

STEPS = 50
"""Of Newton's; some six are enough."""

Floats = NDArray[np.float64]
Marks = NDArray[np.bool_]


def fit(scores: NDArray[np.floating], well: Marks) -> Calibration:
    """The most likely a and b for peaks and whether their points sit well, both (N,).

    `IDENTITY` where nothing can be learnt: all peaks or all marks are alike, or a higher peak is no better sign.
    """
    odds, sat, others = logit(scores), int(well.sum()), int((~well).sum())
    if not sat or not others or np.ptp(odds) == 0:
        return IDENTITY
    target = np.where(well, (sat + 1) / (sat + 2), 1 / (others + 2))
    inputs = np.stack([odds, np.ones_like(odds)], 1)  # (N, 2)
    place = np.array([0.0, np.log((sat + 1) / (others + 1))])
    lowest = _surprise(inputs @ place, target)
    for _ in range(STEPS):
        chance = 1 / (1 + np.exp(-(inputs @ place)))
        slope = inputs.T @ (chance - target)
        bend = inputs.T @ (inputs * (chance * (1 - chance))[:, None]) + 1e-9 * np.eye(2)
        step = np.linalg.solve(bend, slope)
        size = 1.0
        while (found := _surprise(inputs @ (place - size * step), target)) >= lowest and size > 1e-6:
            size /= 2
        if found >= lowest:
            break
        place, lowest = place - size * step, found
    a, b = float(place[0]), float(place[1])
    return (a, b) if a > 0 else IDENTITY


def _surprise(values: Floats, target: Floats) -> float:
    """The sum that is to be lowest; -log p = log(1 + exp(-v)), which `logaddexp` takes without overflow."""
    return float((target * np.logaddexp(0, -values) + (1 - target) * np.logaddexp(0, values)).sum())


def seen(network: nn.Module, batches: Batches, how: Augmentation) -> Iterator[tuple[Floats, Floats]]:
    """Peaks and errors (%), both (n,), of the held-out faces' points inside the crop, each face changed once.

    The seed is fixed, so each call changes them alike.
    """
    recipe, pack = batches.recipe, batches.judged
    deployed, device = Deployed(network, recipe.stride).eval(), next(network.parameters()).device
    rng = np.random.default_rng(recipe.seed)
    for start in range(0, len(batches.held_out), VALIDATED):
        rows = batches.held_out[start : start + VALIDATED].tolist()
        faces = [augment(pack.crops[row], pack.points[row], recipe.size, how, rng) for row in rows]
        true = np.stack([points for _, points in faces])
        with torch.inference_mode():
            answer = deployed(torch.from_numpy(np.stack([crop for crop, _ in faces])).to(device))
        points, scores = (part.float().cpu().numpy() for part in answer)
        inside = ((true >= 0) & (true <= recipe.size - 1)).all(-1)
        yield scores[inside].astype(np.float64), point_errors(points, true, true)[inside].astype(np.float64)


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A curve, and the mean distance of score and share of well placed points before and after it."""

    calibration: Calibration
    points: int
    before: float
    after: float

    def __str__(self) -> str:
        a, b = self.calibration
        return (
            f"scores calibrated on {self.points} points: a = {a:.4f}, b = {b:.4f}; "
            f"their gap to the share within {WITHIN:g} % is {self.after:.4f}, it was {self.before:.4f}"
        )


def calibrate(checkpoint: Path, batches: Batches, device: torch.device | None = None) -> Fitted:
    """Fit the curve of a checkpoint on held-out faces, plain and changed together, and write it into its facts."""
    network, _ = load_network(checkpoint)
    network.to(device or torch.device("cpu"))
    looks = [one for how in (PLAIN, batches.recipe.augmentation) for one in seen(network, batches, how)]
    if not looks:
        raise InputError(f"{checkpoint}: no face is held out to calibrate its scores on; set held_out")
    scores, errors = (np.concatenate(part) for part in zip(*looks, strict=True))
    calibration = fit(scores, errors <= WITHIN)
    former = load(checkpoint)
    save(checkpoint, dataclasses.replace(former, facts={**former.facts, "calibration": list(calibration)}))
    after = apply_calibration(scores.astype(np.float32), calibration)
    return Fitted(calibration, len(scores), reliability(scores, errors).gap, reliability(after, errors).gap)


def main(arguments: list[str] | None = None) -> int:
    """Calibrate the scores of a checkpoint: `python -m canthus.trainer.calibrate CHECKPOINT PACK`.

    It learns from the faces that the recipe holds out of the pack, or from all where it holds none out.
    """
    parser = argparse.ArgumentParser(prog="canthus.trainer.calibrate", description=main.__doc__)
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a .safetensors; its facts are rewritten")
    parser.add_argument("pack", type=Path, metavar="PACK", help="the faces of its run; others, if it held none out")
    parser.add_argument("--recipe", metavar="RECIPE", help="of the run (default: recipe.json beside the checkpoint)")
    told = parser.parse_args(arguments)
    recipe = find_recipe(told.recipe or str(told.checkpoint.with_name("recipe.json")))
    _, facts = load_network(told.checkpoint)
    if facts.get("size") != recipe.size:
        raise InputError(f"{told.checkpoint}: takes crops of {facts.get('size')} px, the recipe of {recipe.size}")
    pack = open_pack(told.pack)
    print(calibrate(told.checkpoint, Batches(pack, recipe, judged=None if recipe.held_out else pack)))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CanthusError as error:
        sys.exit(f"canthus.trainer.calibrate: {error}")
