"""Everything that decides a training run, in one frozen dataclass."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from canthus.runtime.errors import InputError
from canthus.trainer.augment import Augmentation


@dataclass(frozen=True)
class Recipe:
    """A training run. The defaults train the small student on a CPU."""

    network: Literal["student", "hrnet_w18"] = "student"
    size: int = 128  # of the crop, pixels
    sigma: float = 1.5  # of the score maps, cells
    offset_loss: Literal["adaptive-wing", "smooth-l1"] = "smooth-l1"
    offset_weight: float = 10.0  # Adaptive Wing is some ten times steeper than smooth L1
    epochs: float = 30.0  # of as many faces as the pack holds
    batch: int = 32
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.02
    warm_up: int = 500  # steps
    average: float = 0.999  # decay of the averaged weights
    seed: int = 0
    held_out: int = 32  # one face in so many is kept for choosing the checkpoint
    boosts: tuple[tuple[str, float], ...] = ()  # (part of a set's name, how often it is drawn)
    aside: float = 2.5  # how often a face that looks aside (yaw > 0.3) is drawn
    faceless: float = 0.08  # share of crops that show no face, so that scores tell one from none
    trust: float = 0.02  # a pseudo-label with this spread counts half
    augmentation: Augmentation = field(default_factory=Augmentation)

    @property
    def stride(self) -> int:
        """Crop pixels a cell, of every network here."""
        return 4

    def save(self, path: Path) -> None:
        """Write as json."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")


HRNET = Recipe(
    network="hrnet_w18",
    size=256,
    sigma=2.0,
    offset_loss="adaptive-wing",
    offset_weight=1.0,
    epochs=80,
    batch=64,
    learning_rate=2e-3,
    weight_decay=5e-4,
    average=0.9995,
)
"""The published network with its published optimiser figures."""


def load_recipe(path: Path) -> Recipe:
    """Read what `Recipe.save` wrote."""
    try:
        values: dict[str, Any] = json.loads(path.read_text())
        values["augmentation"] = Augmentation(
            **{
                name: tuple(value) if isinstance(value, list) else value
                for name, value in values["augmentation"].items()
            }
        )
        values["boosts"] = tuple((str(part), float(times)) for part, times in values["boosts"])
        return Recipe(**values)
    except (OSError, ValueError, KeyError, TypeError) as unreadable:
        raise InputError(f"{path}: not a recipe of this version: {unreadable}") from unreadable
