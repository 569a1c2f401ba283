"""Relabel a pack (self-training): move its labels towards the mean of the predictions of models trained on it.

The labels of one source have systematic errors. A network that was trained on many faces averages some of them out. If
the errors of label and network differ, the mean of both has a smaller error than each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from canthus.runtime.errors import ModelError
from canthus.runtime.geometry import roi_from_points
from canthus.trainer.evaluation.evaluate import Candidate
from canthus.trainer.faces.kinds import Kinds, PointKind, are_mixed, is_placed
from canthus.trainer.faces.labelled import is_held_out
from canthus.trainer.faces.schemes import scheme_of
from canthus.trainer.labels.labelling import MIN_FACE_SCORE, label_face
from canthus.trainer.packs.pack import copy_pack


@dataclass(frozen=True)
class RelabelOptions:
    """Which labels move, and how far."""

    share: float = 0.5  # of the way to the models' mean: 0 keeps the labels, 1 replaces them
    held_out: int = 32  # leave the faces unchanged that training holds out with this value; 0 = none
    max_spread: float = 0.02  # leave a face unchanged whose predictions are further apart, as a fraction of its size


@dataclass(frozen=True)
class Relabelled:
    """Counts of a pack's faces; `moved` is the mean distance that points of changed faces moved, over face size."""

    changed: int
    held_out: int
    uncertain: int
    moved: float


def relabel(folder: Path, candidates: Sequence[Candidate], output: Path, options: RelabelOptions) -> Relabelled:
    """Copy the pack in `folder` to `output` and move its labels towards the mean of the models' predictions.

    Held-out faces are copied unchanged, so that validation NME stays comparable. So are faces on which the models are
    uncertain: a mean score below MIN_FACE_SCORE, or predictions that are further apart than `options.max_spread`.
    If a face has points of several kinds, those that people placed stay, and unlabelled ones become filled in.

    Raises:
        InputError: `folder` is not a pack, or `output` cannot be written.
        ModelError: The models predict another number of points than the pack has.
    """
    held_out = uncertain = 0
    moved: list[float] = []
    with copy_pack(folder, output) as pack:
        scheme = scheme_of(pack.points.shape[1])
        for row, name in enumerate(tqdm(pack.names, "relabelling", unit="face", disable=None)):
            if options.held_out and is_held_out(name, options.held_out):
                held_out += 1
                continue
            before = pack.points[row].copy()
            found = label_face(pack.crops[row], roi_from_points(before, scheme.roll(before)), candidates)
            if found.points.shape != before.shape:
                raise ModelError(
                    f"{candidates[0].name}: predicts {len(found.points)} points, "
                    f"the faces of {folder} have {scheme.points}"
                )
            if found.score < MIN_FACE_SCORE or found.spread > options.max_spread:
                uncertain += 1
                continue
            pack.points[row] += _shares(pack.kinds[row], options.share)[:, None] * (found.points - before)
            pack.kinds[row][pack.kinds[row] == PointKind.UNLABELLED] = PointKind.FILLED_IN
            distance = np.linalg.norm(pack.points[row] - before, axis=-1).mean() / np.ptp(before, axis=0).max()
            moved.append(float(distance))
    return Relabelled(len(moved), held_out, uncertain, float(np.mean(moved)) if moved else 0.0)


def _shares(kinds: Kinds, share: float) -> NDArray[np.float32]:
    """Return how far each point (K,) of a face moves, as a fraction of the way to the models' mean."""
    shares = np.full(len(kinds), share, np.float32)
    if are_mixed(kinds[None]):
        shares[is_placed(kinds)] = 0
        shares[kinds == PointKind.UNLABELLED] = 1
    return shares
