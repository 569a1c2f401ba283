"""Everything that decides a training run, in one frozen dataclass; recipes by name are the TOML files in recipes/."""

import dataclasses
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from canthus.runtime.errors import InputError
from canthus.trainer.augmentation.augment import Augmentation

_RECIPES = resources.files("canthus.trainer") / "recipes"

_AT_LEAST_0 = (
    "warm_up", "held_out", "clip", "average", "weight_decay", "seed", "offset_weight", "point_weight", "aside",
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """A training run. The defaults train the small student on a CPU."""

    network: Literal["student", "hrnet_w18"] = "student"
    size: int = 128  # of the crop, pixels
    mirrored: bool = False  # the finished network looks at each face in the mirror too: better, in twice the time
    sigma: float = 1.5  # of the score maps, cells
    offset_loss: Literal["adaptive-wing", "smooth-l1"] = "smooth-l1"
    offset_weight: float = 10.0  # Adaptive Wing is some ten times steeper than smooth L1
    point_weight: float = 0.0  # of the decoded points' distance in cells, for a network whose maps are good already
    epochs: float = 30.0  # of as many faces as the pack holds
    batch: int = 32  # of all processes together
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.02
    warm_up: int = 500  # steps, at most a quarter of all
    schedule: Literal["cosine", "step"] = "cosine"  # of the learning rate after warm-up: to nothing, or by tenths
    drops: tuple[float, ...] = (20.0, 25.0)  # epochs at which "step" divides the learning rate by ten
    clip: float = 5.0  # largest norm of the gradients; 0 = any
    average: float = 0.999  # decay of the averaged weights; 0 = the weights as they are
    precision: Literal["bf16", "fp32"] = "bf16"  # of the network's arithmetic; weights are always fp32
    seed: int = 0
    held_out: int = 32  # one face in so many is kept for choosing the checkpoint; 0 = none, and the last is taken
    boosts: tuple[tuple[str, float], ...] = ()  # (part of a set's name, how often it is drawn)
    aside: float = 2.5  # how often a face that looks aside (yaw > 0.3) is drawn
    faceless: float = 0.08  # share of crops that show no face, so that scores tell one from none
    trust: float = 0.02  # a pseudo-label with this spread counts half
    teacher: str = ""  # checkpoint of a network to learn from beside the labels; none where empty
    taught: float = 0.5  # the teacher's part of the loss; the labels have the rest
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        for name, choices in (
            ("network", ("student", "hrnet_w18")),
            ("offset_loss", ("adaptive-wing", "smooth-l1")),
            ("schedule", ("cosine", "step")),
            ("precision", ("bf16", "fp32")),
        ):
            if getattr(self, name) not in choices:
                raise InputError(f"{name} must be {' or '.join(choices)}, got {getattr(self, name)!r}")
        for name, least in (("batch", 1), ("size", 32), *((name, 0) for name in _AT_LEAST_0)):
            if not getattr(self, name) >= least:
                raise InputError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("sigma", "epochs", "learning_rate", "trust"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("taught", "faceless"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        for part, times in self.boosts:
            if not times >= 0:
                raise InputError(f"boosts must be at least 0, got {times} for {part!r}")
        _check(self.augmentation)
        if self.held_out == 1:
            raise InputError("held_out=1 leaves no face to train on; 0 holds none out")
        if not self.average < 1:
            raise InputError(f"average must be below 1, got {self.average}")
        if self.size % 32:
            raise InputError(f"size must be a multiple of 32, got {self.size}")

    @property
    def stride(self) -> int:
        """Crop pixels a cell, of every network here."""
        return 4

    def save(self, path: Path) -> None:
        """Write as json, every value told."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")


def _check(how: Augmentation) -> None:
    """InputError names a value that no face can be changed by."""
    chances = {one.name: 1.0 for one in dataclasses.fields(how) if one.name.endswith("_p")}
    for name, most in {**chances, "rotation": 50.0, "shift": math.inf}.items():
        if not 0 <= getattr(how, name) <= most:
            raise InputError(f"augmentation.{name} must lie between 0 and {most:g}, got {getattr(how, name):g}")
    for name in ("scale", "blur_sigma"):
        if not getattr(how, name)[0] > 0:
            raise InputError(f"augmentation.{name} must be positive, got {list(getattr(how, name))}")
    if not 0 < how.squeeze_min <= 1:
        raise InputError(f"augmentation.squeeze_min must lie above 0, and be at most 1, got {how.squeeze_min:g}")
    if how.dropout_holes[0] < 0:
        raise InputError(f"augmentation.dropout_holes must be at least 0, got {list(how.dropout_holes)}")
    if how.dropout_size[0] < 0 or how.dropout_size[1] >= 1:
        raise InputError(f"augmentation.dropout_size must be at least 0 and below 1, got {list(how.dropout_size)}")


def named_recipes() -> list[str]:
    """The recipes that come with canthus."""
    return sorted(file.name.removesuffix(".toml") for file in _RECIPES.iterdir() if file.name.endswith(".toml"))


def find_recipe(name: str) -> Recipe:
    """A recipe by its name, or by the path of a file (.toml, or a run's .json)."""
    if name in named_recipes():
        return _read(tomllib.loads((_RECIPES / f"{name}.toml").read_text()), name, Recipe())
    if Path(name).suffix not in (".toml", ".json"):
        raise InputError(f"no recipe {name!r}; there are {', '.join(named_recipes())}, or a .toml or .json file")
    return load_recipe(Path(name))


def default_name(network: str, points: int = 98) -> str:
    """Which recipe a network is trained with when nothing else is asked for."""
    if network != "hrnet_w18":
        return "student"
    return "cofw-hrnet" if points == 29 else "wflw-hrnet"


def default_recipe(network: str, points: int = 98) -> Recipe:
    """The recipe of `default_name`."""
    return find_recipe(default_name(network, points))


def load_recipe(path: Path) -> Recipe:
    """Read a recipe's file: TOML, or the json that `Recipe.save` wrote.

    What the file leaves out is as in the recipe that its `like` names, else as its network has it by default.
    """
    try:
        text = path.read_text()
        values = dict(tomllib.loads(text) if path.suffix == ".toml" else json.loads(text))
    except OSError as unreadable:
        raise InputError(f"{path}: cannot be read ({unreadable.strerror})") from unreadable
    except (ValueError, TypeError) as other:
        raise InputError(f"{path}: not a recipe: {other}") from other
    return _read(values, str(path), default_recipe(values.get("network", "student")))


def _read(values: dict[str, Any], source: str, otherwise: Recipe) -> Recipe:
    """The recipe that `values` tell, from the one they name as `like`, or from `otherwise`."""
    inner, like = values.pop("augmentation", {}), values.pop("like", None)
    if not isinstance(inner, dict):
        raise InputError(f"{source}: augmentation must hold names and values")
    if like is not None and like not in named_recipes():
        raise InputError(f"{source}: like must name one of {', '.join(named_recipes())}, got {like!r}")
    start = otherwise if like is None else find_recipe(like)
    try:
        return change(start, values | {f"augmentation.{name}": value for name, value in inner.items()})
    except InputError as wrong:
        raise InputError(f"{source}: {wrong}") from wrong


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
            if hasattr(recipe.augmentation, name):
                raise InputError(f"a recipe has no {name!r}, but its augmentation has: augmentation.{name}")
            raise InputError(f"a recipe has no {name!r}; there are: {', '.join(names)}")
        into[field_name] = _fitted(name, getattr(type(owner), field_name), value)
    return dataclasses.replace(recipe, **outer, augmentation=dataclasses.replace(recipe.augmentation, **inner))


def _fitted(name: str, default: object, value: Any) -> Any:
    """The value as the field's kind, which its default shows."""
    match default, value:
        case bool(), _:
            if isinstance(value, bool):
                return value
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
        case tuple(), list() if name == "drops":
            if all(isinstance(epoch, int | float) for epoch in value) and value == sorted(value):
                return tuple(map(float, value))
        case tuple(), [int() | float() as low, int() | float() as high] if low <= high:
            return (float(low), float(high))
    raise InputError(f"{name}: {json.dumps(value)} does not fit; it is {json.dumps(default)} by default")
