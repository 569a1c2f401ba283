"""Self-training: a pack whose labels lean to what models trained on it see, each face looked at from several sides.

The labels of one source err in ways of their own; a network that learned from many faces has averaged some of that
out. The mean of both errs less than either where their errors differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from canthus.runtime.errors import ModelError
from canthus.runtime.geometry import roi_from_points
from canthus.trainer.evaluation.evaluate import Entrant
from canthus.trainer.faces.labelled import is_held_out
from canthus.trainer.faces.schemes import scheme_of
from canthus.trainer.labels.labelling import LEAST_SCORE, look_around
from canthus.trainer.packs.pack import copy_pack


@dataclass(frozen=True)
class Relabelled:
    """What became of the faces of a pack; `moved` is the mean way of the changed faces' points, over face size."""

    changed: int
    kept_aside: int
    doubtful: int
    moved: float


def relabel(
    folder: Path, entrants: Sequence[Entrant], output: Path, share: float, held_out: int, max_spread: float
) -> Relabelled:
    """Write the pack in `folder` to `output` with every label moved by `share` (0 to 1) of the way to the models' mean.

    Faces that training with `held_out` keeps aside stay as they are, so that NME on them means what it meant. So do
    those that the models doubt: a mean score below LEAST_SCORE, or looks that lie further apart than `max_spread` of
    the face's size.
    """
    aside = doubtful = 0
    moved: list[float] = []
    with copy_pack(folder, output) as pack:
        scheme = scheme_of(pack.points.shape[1])
        for row, name in enumerate(tqdm(pack.names, "looking again", unit="face", disable=None)):
            if held_out and is_held_out(name, held_out):
                aside += 1
                continue
            before = pack.points[row].copy()
            found = look_around(pack.crops[row], roi_from_points(before, scheme.roll(before)), entrants)
            if found.points.shape != before.shape:
                raise ModelError(
                    f"{entrants[0].name}: gives {len(found.points)} points, the faces of {folder} have {scheme.points}"
                )
            if found.score < LEAST_SCORE or found.spread > max_spread:
                doubtful += 1
                continue
            pack.points[row] += share * (found.points - before)
            way = np.linalg.norm(pack.points[row] - before, axis=-1).mean() / np.ptp(before, axis=0).max()
            moved.append(float(way))
    return Relabelled(len(moved), aside, doubtful, float(np.mean(moved)) if moved else 0.0)
