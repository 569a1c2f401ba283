"""Everything that decides a training run, in one frozen dataclass."""

import dataclasses
import json
from collections.abc import Mapping
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

    def __post_init__(self) -> None:
        for name, choices in (
            ("network", ("student", "hrnet_w18")),
            ("offset_loss", ("adaptive-wing", "smooth-l1")),
        ):
            if getattr(self, name) not in choices:
                raise InputError(f"{name} must be {' or '.join(choices)}, got {getattr(self, name)!r}")
        for name, least in (("batch", 1), ("warm_up", 0), ("held_out", 2), ("size", 32)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("sigma", "epochs", "learning_rate", "trust"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be positive, got {getattr(self, name)}")
        if self.size % 32:
            raise InputError(f"size must be a multiple of 32, got {self.size}")

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


def default_recipe(network: str) -> Recipe:
    """The recipe that a network is trained with when nothing else is asked for."""
    return HRNET if network == HRNET.network else Recipe()


def load_recipe(path: Path) -> Recipe:
    """Read what `Recipe.save` wrote; what the file leaves out keeps its network's default."""
    try:
        values = dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as unreadable:
        raise InputError(f"{path}: not a recipe: {unreadable}") from unreadable
    inner = values.pop("augmentation", {})
    if isinstance(inner, dict):
        values |= {f"augmentation.{name}": value for name, value in inner.items()}
    else:
        raise InputError(f"{path}: augmentation must hold names and values")
    try:
        return change(default_recipe(values.get("network", "student")), values)
    except InputError as wrong:
        raise InputError(f"{path}: {wrong}") from wrong


def change(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe with some fields replaced; `augmentation.NAME` names one inside.

    InputError tells which name or value does not fit.
    """
    outer: dict[str, Any] = {}
    inner: dict[str, Any] = {}
    for name, value in values.items():
        head, _, rest = name.partition(".")
        owner, field_name, into = (
            (recipe.augmentation, rest, inner) if head == "augmentation" and rest else (recipe, name, outer)
        )
        names = [one.name for one in dataclasses.fields(owner) if one.name != "augmentation"]
        if field_name not in names:
            raise InputError(f"a recipe has no {name!r}; there are: {', '.join(names)}")
        into[field_name] = _fitted(name, getattr(type(owner), field_name), value)
    return dataclasses.replace(recipe, **outer, augmentation=dataclasses.replace(recipe.augmentation, **inner))


def _fitted(name: str, default: object, value: Any) -> Any:
    """The value as the field's kind, which its default shows."""
    match default, value:
        case int(), int() if not isinstance(value, bool):
            return value
        case float(), int() | float() if not isinstance(value, bool):
            return float(value)
        case str(), str():
            return value
        case tuple(), list() if name == "boosts":
            if all(
                isinstance(pair, list | tuple)
                and len(pair) == 2
                and isinstance(pair[0], str)
                and isinstance(pair[1], int | float)
                for pair in value
            ):
                return tuple((part, float(times)) for part, times in value)
        case tuple(), [int() | float() as low, int() | float() as high] if low <= high:
            return (float(low), float(high))
    raise InputError(f"{name}: {json.dumps(value)} does not fit; it is {json.dumps(default)} by default")
