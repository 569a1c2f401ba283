"""Relabel a pack (self-training): move its labels towards the mean of the predictions of models trained on it.

The labels of one source have systematic errors. A network that was trained on many faces averages some of them out. If
the errors of label and network differ, the mean of both has a smaller error than each.

Points that people placed never move. On a face that has some, the models' residuals there correct the other points.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from canthus.runtime.errors import InputError, ModelError
from canthus.runtime.geometry import roi_from_points
from canthus.trainer.evaluation.evaluate import Candidate
from canthus.trainer.evaluation.metrics import box_nme
from canthus.trainer.faces.kinds import Kinds, PointKind, is_placed
from canthus.trainer.faces.labelled import is_held_out
from canthus.trainer.faces.schemes import WFLW, Scheme
from canthus.trainer.labels.labelling import MIN_FACE_SCORE, PseudoLabel, label_face
from canthus.trainer.packs.pack import Pack, copy_pack

REACH = 0.05
"""Standard deviation of the Gaussian that weighs the residuals of placed points by their distance, in sizes of the
face. Neighbors on the contour are 0.05 apart."""

FAR = 0.05
"""Weight of the residual 0. So the correction of a point fades where no placed point is near."""

Points = NDArray[np.float32]


@dataclass(frozen=True)
class RelabelOptions:
    """Which labels move, and how far."""

    share: float = 0.5  # of the way to the models' mean: 0 keeps the labels, 1 replaces them
    held_out: int = 32  # leave the faces unchanged that training holds out with this value; 0 = none
    max_spread: float = 0.02  # leave a face unchanged whose predictions are further apart, as a fraction of its size
    views: tuple[int, ...] = ()  # of each model, see `label_face`
    sets: tuple[str, ...] = ()  # relabel only the faces of sets that have one of these in their names; empty = all


@dataclass
class Relabelled:
    """Counts of a pack's faces, and how well the models predict held-out faces with placed points."""

    held_out: int = 0
    uncertain: int = 0
    skipped: int = 0  # of other sets, or without a point that may move
    moves: list[float] = field(default_factory=list)  # of each changed face: mean distance of its points, over its size
    checks: list[tuple[float, float]] = field(default_factory=list)  # (spread, `box_nme`) of each held-out face

    @property
    def changed(self) -> int:
        """The number of changed faces."""
        return len(self.moves)

    @property
    def moved(self) -> float:
        """The mean distance that points of changed faces moved, over the face size."""
        return float(np.mean(self.moves)) if self.moves else 0.0


def relabel(folder: Path, candidates: Sequence[Candidate], output: Path, options: RelabelOptions) -> Relabelled:
    """Copy the pack in `folder` to `output` and move its labels towards the mean of the models' predictions.

    Held-out faces are copied unchanged, so that validation NME stays comparable. So are the points of faces on which
    the models are uncertain: a mean score below MIN_FACE_SCORE, or predictions that are further apart than
    `options.max_spread`. The spread of the predictions replaces that of each face without placed points.

    Pseudo-labels, filled-in points and hidden points move. Unlabelled points get the prediction and become filled in.

    Raises:
        InputError: `folder` is not a pack, has no set that `options.sets` names, or `output` cannot be written.
        ModelError: The models predict another number of points than the pack has.
    """
    done = Relabelled()
    with copy_pack(folder, output) as pack:
        scheme = pack.scheme
        chosen = _chosen_sets(pack, options.sets)
        for row, name in enumerate(tqdm(pack.names, "relabelling", unit="face", disable=None)):
            kinds, before = pack.kinds[row], pack.points[row].copy()
            placed = is_placed(kinds)
            if options.held_out and is_held_out(name, options.held_out):
                done.held_out += 1
                if placed.any():
                    found = _predict(pack, row, scheme, candidates, options)
                    error = box_nme(found.points[None], before[None], placed[None])[0]
                    done.checks.append((found.spread, float(error)))
                continue
            if placed.all() or not chosen[pack.source[row]]:
                done.skipped += 1
                continue
            found = _predict(pack, row, scheme, candidates, options)
            if not placed.any() and np.isfinite(found.spread):
                pack.spread[row] = found.spread
            if found.score < MIN_FACE_SCORE or not found.spread <= options.max_spread:
                done.uncertain += 1
                continue
            target = found.points + smooth_residual(before, found.points, placed, scheme)
            pack.points[row] += _shares(kinds, options.share)[:, None] * (target - before)
            kinds[kinds == PointKind.UNLABELLED] = PointKind.FILLED_IN
            distance = np.linalg.norm(pack.points[row] - before, axis=-1).mean() / np.ptp(before, axis=0).max()
            done.moves.append(float(distance))
    return done


def _chosen_sets(pack: Pack, parts: Sequence[str]) -> NDArray[np.bool_]:
    """Return which sources of a pack have one of `parts` in their names. Raises InputError if a part fits none."""
    names = [Path(source).name.casefold() for source in pack.sources]
    for part in parts:
        if not any(part.casefold() in name for name in names):
            raise InputError(
                f"--sets {part}: no set of the pack has this in its name (expected a part of one of {names})"
            )
    return np.array([not parts or any(part.casefold() in name for part in parts) for name in names], np.bool_)


def _predict(
    pack: Pack, row: int, scheme: Scheme, candidates: Sequence[Candidate], options: RelabelOptions
) -> PseudoLabel:
    """Predict a face of a pack in the region of its labels."""
    before = pack.points[row]
    region = roi_from_points(before, scheme.roll(before))
    found = label_face(pack.crops[row], region, candidates, options.views)
    if found.points.shape != before.shape:
        raise ModelError(
            f"{candidates[0].name}: predicts {len(found.points)} points, the faces of the pack have {scheme.points}"
        )
    return found


def smooth_residual(labels: Points, predicted: Points, placed: NDArray[np.bool_], scheme: Scheme = WFLW) -> Points:
    """Return the residual (K, 2) of labels at the placed points, smoothed over the face (K, 2).

    It is the mean of the residuals with Gaussian weights (Nadaraya-Watson kernel regression), and 0 without placed
    points. The contour is apart: on a profile it is close to other points. Added to the predictions, the
    result keeps the other points in line with the placed ones.
    """
    size = max(float(np.ptp(predicted, axis=0).max()), 1.0)
    distance = np.linalg.norm(predicted[:, None] - predicted[None, placed], axis=-1) / size  # (K, placed)
    contour = np.isin(np.arange(len(labels)), scheme.regions.get("contour", ()))
    weights = np.exp(-0.5 * (distance / REACH) ** 2) * (contour[:, None] == contour[None, placed])
    residual = weights @ (labels - predicted)[placed] / (weights.sum(1, keepdims=True) + FAR)
    return np.asarray(residual, np.float32)


def _shares(kinds: Kinds, share: float) -> NDArray[np.float32]:
    """Return how far each point (K,) of a face moves, as a fraction of the way to its new place."""
    shares = np.full(len(kinds), share, np.float32)
    shares[is_placed(kinds)] = 0
    shares[kinds == PointKind.UNLABELLED] = 1
    return shares
