"""The student must overfit 16 real faces; otherwise some part of the trainer is wrong."""

from dataclasses import replace
from pathlib import Path

import pytest

from canthus.trainer.augmentation.settings import NO_AUGMENTATION
from canthus.trainer.faces.formats import open_set
from canthus.trainer.faces.labelled import LabelledSet
from canthus.trainer.networks.checkpoint import load
from canthus.trainer.packs.pack import write_pack
from canthus.trainer.recipe import Recipe
from canthus.trainer.train import train
from support.training import UNCOMPILED

pytestmark = pytest.mark.faces
FACES = 16
MAX_NME = 1.0  # %

REPEATED = 16
"""How often the training pack holds each face. This makes epochs longer and validation less frequent."""

OVERFIT = Recipe(
    size=128, epochs=12, batch=8, learning_rate=4e-3, weight_decay=0, warm_up=20, ema_decay=0.95, precision="fp32",
    held_out=0, profile_weight=1, negative_fraction=0, spread_half_weight=1, offset_weight=320,
    augmentation=NO_AUGMENTATION,
)  # fmt: skip
"""384 steps. The offset weight is high because smooth L1 is small for errors of half a pixel."""


def overfit(faces: LabelledSet, folder: Path) -> float:
    """Train on the first faces of a set without augmentation, and return their lowest NME in %."""
    few = replace(faces, faces=faces.faces[:FACES], published_count=0)
    often = write_pack([few] * REPEATED, folder / "often", 192).pack
    write_pack([few], folder / "once", 192)
    train(often, replace(OVERFIT, choose_on=str(folder / "once")), folder / "run", UNCOMPILED)
    best = load(folder / "run" / "best").metadata["best"]
    assert best is not None
    return float(best)


def test_student_overfits_16_real_faces(real_faces, tmp_path):
    assert overfit(open_set(real_faces / "pseudo98" / "pseudo98-lfw-0.tar"), tmp_path) < MAX_NME
