"""Recipes: all settings of a training run in one frozen dataclass, read from TOML and JSON files.

The recipes that come with canthus are the TOML files in recipes/.
"""

import dataclasses
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal, get_type_hints

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.errors import InputError, UsageError
from canthus.runtime.fields import FieldError, parse_value, read_values
from canthus.runtime.files import write_file
from canthus.trainer.augmentation.settings import Augmentation
from canthus.trainer.faces.kinds import PointKind
from canthus.trainer.faces.schemes import COFW, WFLW
from canthus.trainer.renamed_keys import rename_keys

_RECIPES = resources.files("canthus.trainer") / "recipes"

_MINIMUM = {"batch": 1, "size": 32} | dict.fromkeys(
    (
        "clip_grad_norm", "contour_weight", "ema_decay", "held_out", "near_weight", "offset_weight",
        "open_mouth_weight", "point_weight", "profile_weight", "seed", "warm_up", "weight_decay",
    ),
    0,
)  # fmt: skip
_POSITIVE = ("epochs", "learning_rate", "sigma", "spread_half_weight")
_FRACTIONS = ("distillation_weight", "negative_fraction")


@dataclass(frozen=True)
class KindWeights:
    """Weights in the loss of the kinds of points (`PointKind`). Unlabelled points have the weight 0."""

    placed: float = 1.0
    covered: float = 1.0
    hidden: float = 0.2
    filled_in: float = 0.5
    pseudo: float = 1.0

    def table(self) -> NDArray[np.float32]:
        """Return the weights, indexed by `PointKind`."""
        return np.array([getattr(self, kind.name.lower(), 0.0) for kind in PointKind], np.float32)


_TABLES = {"kind_weights": KindWeights, "augmentation": Augmentation}
"""The tables of a recipe: fields that are dataclasses. `TABLE.NAME` is a value of one."""


SMALL_NETWORK: Final = "student_stride8"
"""The network of the recipe `student`, which trains on a CPU."""

_OTHER_STUDENTS: dict[str, dict[str, Any]] = {
    "student": {"network": "student", "sigma": 1.5},
    "student_lean": {"network": "student_lean", "sigma": 1.1, "size": 96},
}
"""What the default recipes of these networks change in the recipe `student`."""


@dataclass(frozen=True)
class Recipe:
    """The settings of a training run. The defaults train the small student on a CPU.

    Raises InputError if a value is out of range.
    """

    # network
    network: Literal["student", "student_stride8", "student_lean", "hrnet_w18", "hrnet_w18_skps"] = SMALL_NETWORK
    size: int = 128  # side of a crop, pixels
    flip_tta: bool = False  # use the trained network on each crop and its mirror image: more accurate, twice the time
    decode: Literal["window", "peak"] = "window"  # points from all cells near the peak, or from the peak cell alone
    # loss
    sigma: float = 1.3  # of the Gaussians in the score maps, cells
    near_weight: float = 10.0  # added to the weight of cells with a target score above 0.2, in the loss of the scores
    offset_loss: Literal["adaptive-wing", "smooth-l1"] = "smooth-l1"
    offset_weight: float = 10.0  # Adaptive Wing is about ten times steeper than smooth L1
    point_weight: float = 0.0  # weight of the distance of the decoded points; for a network with good maps
    # optimization
    epochs: float = 30.0  # one epoch draws as many faces as the pack has for training
    batch: int = 32  # faces per step, all processes together
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.02
    warm_up: int = 500  # steps, at most a quarter of all
    schedule: Literal["cosine", "step"] = "cosine"  # learning rate after warm-up: cosine to 0, or steps
    milestones: tuple[float, ...] = (20.0, 25.0)  # epochs at which "step" divides the learning rate by ten
    clip_grad_norm: float = 5.0  # maximum norm of the gradients; 0 = no limit
    ema_decay: float = 0.999  # decay of the exponential moving average of the weights; 0 = no average
    # Of the network's arithmetic; weights are always fp32. "tf32": fp32, but products are rounded to TF32 on a GPU.
    precision: Literal["bf16", "tf32", "fp32"] = "bf16"
    seed: int = 0
    # faces
    held_out: int = 32  # keep one face in this many for validation; 0 = none, then the last checkpoint is the best
    choose_with_flip: bool = False  # validate with the mean of the points of each crop and of its mirror image
    choose_on: str = ""  # pack whose faces are for validation instead, all of them; empty = those held out
    # (name of a set or part of it, how often its faces are drawn). An entry names the sets with exactly this name, else
    # those with this word in their name, else those whose name contains it; with *, ? or [ it is a pattern of the whole
    # name (packs/set_names.py). The weights of several entries for a set are multiplied.
    dataset_weights: tuple[tuple[str, float], ...] = ()
    profile_weight: float = 2.5  # how often profile faces are drawn (absolute yaw estimate above 0.3)
    open_mouth_weight: float = 1.0  # how often faces with a wide-open mouth are drawn (`is_wide_open`)
    negative_fraction: float = 0.08  # share of crops without a face; their target scores are 0
    spread_half_weight: float = 0.02  # a pseudo-label with this spread has half the weight
    contour_weight: float = 0.5  # factor on the contour of faces made from 68 points: WFLW's contour is not the same
    # distillation
    teacher: str = ""  # checkpoint of a network to learn from; empty = labels only
    distillation_weight: float = 0.5  # share of the teacher in the loss; the rest is for the labels
    kind_weights: KindWeights = field(default_factory=KindWeights)
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        for name, least in _MINIMUM.items():
            if not getattr(self, name) >= least:
                raise InputError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be positive, got {getattr(self, name)}")
        for name in _FRACTIONS:
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        for part, weight in self.dataset_weights:
            if not weight >= 0:
                raise InputError(f"dataset_weights must be at least 0, got {weight} for {part!r}")
        for name, weight in dataclasses.asdict(self.kind_weights).items():
            if not weight >= 0:
                raise InputError(f"kind_weights.{name} must be at least 0, got {weight:g}")
        if list(self.milestones) != sorted(self.milestones):
            raise InputError(f"milestones must be in ascending order, got {list(self.milestones)}")
        if self.held_out == 1:
            raise InputError("held_out=1 leaves no face to train on (0 keeps none for validation)")
        if not self.ema_decay < 1:
            raise InputError(f"ema_decay must be below 1, got {self.ema_decay}")
        if self.size % 32:
            raise InputError(f"size must be a multiple of 32, got {self.size}")
        _check_augmentation(self.augmentation)

    @property
    def stride(self) -> int:
        """Pixels of the crop per cell of the maps."""
        return 8 if self.network in ("student_stride8", "student_lean") else 4

    def save(self, path: Path) -> None:
        """Write all values as JSON, which `load_recipe` reads."""
        write_file(path, (json.dumps(dataclasses.asdict(self), indent=2) + "\n").encode())


def _check_augmentation(augmentation: Augmentation) -> None:
    """Raise InputError if a value is out of range."""
    probabilities = {one.name: 1.0 for one in dataclasses.fields(augmentation) if one.name.endswith("_p")}
    for name, most in {**probabilities, "rotation": 50.0, "shift": math.inf}.items():
        if not 0 <= getattr(augmentation, name) <= most:
            raise InputError(
                f"augmentation.{name} must lie between 0 and {most:g}, got {getattr(augmentation, name):g}"
            )
    for name in ("scale", "blur_sigma", "dropout_holes", "dropout_size"):
        low, high = getattr(augmentation, name)
        if not low <= high:
            raise InputError(f"augmentation.{name} must be [lowest, highest], got {[low, high]}")
    for name in ("scale", "blur_sigma"):
        if not getattr(augmentation, name)[0] > 0:
            raise InputError(f"augmentation.{name} must be positive, got {list(getattr(augmentation, name))}")
    if not 0 < augmentation.squeeze_min <= 1:
        raise InputError(f"augmentation.squeeze_min must be above 0 and at most 1, got {augmentation.squeeze_min:g}")
    if augmentation.dropout_holes[0] < 0:
        raise InputError(f"augmentation.dropout_holes must be at least 0, got {list(augmentation.dropout_holes)}")
    if augmentation.dropout_size[0] < 0 or augmentation.dropout_size[1] >= 1:
        raise InputError(
            f"augmentation.dropout_size must be at least 0 and below 1, got {list(augmentation.dropout_size)}"
        )


def named_recipes() -> list[str]:
    """Return the names of the recipes that come with canthus."""
    return sorted(file.name.removesuffix(".toml") for file in _RECIPES.iterdir() if file.name.endswith(".toml"))


def default_name(network: str, points: int = WFLW.points) -> str:
    """Return the name of the default recipe for a network and a number of points."""
    if network == "hrnet_w18_skps":
        return "cofw-published" if points == COFW.points else "wflw-published"
    if network != "hrnet_w18":
        return "student"
    return "cofw-hrnet" if points == COFW.points else "wflw-hrnet"


def default_recipe(network: str, points: int = WFLW.points) -> Recipe:
    """Return the default recipe for a network and a number of points."""
    recipe = find_recipe(default_name(network, points))
    return dataclasses.replace(recipe, **_OTHER_STUDENTS[network]) if network in _OTHER_STUDENTS else recipe


def find_recipe(name: str) -> Recipe:
    """Return a recipe by its name, or read it from a .toml or .json file.

    Raises InputError if there is no such recipe, or if the file is not one.
    """
    if name in named_recipes():
        values = tomllib.loads((_RECIPES / f"{name}.toml").read_text(encoding="utf-8"))
        return _read_values(values, name, Recipe())
    if Path(name).suffix not in (".toml", ".json"):
        raise UsageError(f"no recipe {name!r}; expected {', '.join(named_recipes())}, or a .toml or .json file")
    return load_recipe(Path(name))


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from a TOML file, or from the JSON file that `Recipe.save` wrote.

    Values that the file leaves out come from the recipe that it `extends`, or from the default recipe of its network.
    Raises InputError if the file cannot be read, or if a value does not fit.
    """
    try:
        values = read_values(path)
    except OSError as unreadable:
        raise InputError(f"{path}: cannot be read ({unreadable.strerror})") from unreadable
    except ValueError as wrong:
        raise InputError(f"{path}: not a recipe: {wrong}") from wrong
    if not isinstance(values, dict):
        raise InputError(f"{path}: not a recipe: expected names and values, got {json.dumps(values)[:60]}")
    return _read_values(values, str(path), default_recipe(str(values.get("network", SMALL_NETWORK))))


def _read_values(values: dict[str, Any], source: str, default: Recipe) -> Recipe:
    """Return the recipe with these values; the others come from the recipe that it extends, or from `default`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if name not in _TABLES:
            flat[name] = value
        elif isinstance(value, dict):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            raise InputError(f"{source}: {name}: expected a table of names and values, got {value!r}")
    try:
        renamed = rename_keys(flat)
        parent = renamed.pop("extends", None)
        if parent is not None and parent not in named_recipes():
            raise InputError(f"extends: expected one of {', '.join(named_recipes())}, got {parent!r}")
        return change(default if parent is None else find_recipe(parent), renamed)
    except InputError as wrong:
        raise InputError(f"{source}: {wrong}") from wrong


def change(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return the recipe with some values replaced; `augmentation.NAME` is a value of the table augmentation.

    Values have the types of parsed JSON or TOML. Old names are accepted. Raises InputError if a name does not exist or
    a value does not fit.
    """
    outer: dict[str, Any] = {}
    tables: dict[str, dict[str, Any]] = {name: {} for name in _TABLES}
    for name, value in rename_keys(values).items():
        head, _, rest = name.partition(".")
        kind, key, into = (_TABLES[head], rest, tables[head]) if head in _TABLES and rest else (Recipe, name, outer)
        hints = get_type_hints(kind)
        if key not in hints or key in _TABLES:
            raise InputError(_unknown_name(name, [one for one in hints if one not in _TABLES]))
        try:
            into[key] = parse_value(hints[key], value, name)
        except FieldError as wrong:
            raise InputError(str(wrong)) from wrong
    changed = {name: dataclasses.replace(getattr(recipe, name), **inner) for name, inner in tables.items()}
    return dataclasses.replace(recipe, **outer, **changed)


def _unknown_name(name: str, known: list[str]) -> str:
    if name in _TABLES:
        return f"{name} is a table of values; change one of them: {name}.NAME"
    for table, kind in _TABLES.items():
        if name in get_type_hints(kind):
            return f"a recipe has no {name!r}; its table {table} has: {table}.{name}"
    return f"a recipe has no {name!r}; expected one of {', '.join(known)}"
