"""Starting from weights that others have trained: their tensors are taken by name, and nothing else is run."""

import pickle
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from canthus.runtime.errors import ModelError

NESTS = ("state_dict_ema", "state_dict", "model")
"""Under what name files of the common trainers hold their weights, if not at the top."""


@dataclass(frozen=True)
class LoadedWeights:
    """Which tensors of the network came from the file."""

    path: Path
    fitted: tuple[str, ...]
    new: tuple[str, ...]  # not in the file, or of another shape: as freshly initialised
    unused: tuple[str, ...]  # of the file

    def __str__(self) -> str:
        whole = len(self.fitted) + len(self.new)
        told = f"{self.path}: {len(self.fitted)} of the network's {whole} tensors loaded"
        if self.new:
            told += f"; new are {_by_part(self.new)}"
        return told + (f"; not used are {_by_part(self.unused)}" if self.unused else "")


def load_pretrained(path: Path, network: nn.Module) -> LoadedWeights:
    """Load what fits by name and shape into a network: .safetensors, or a .pth read as weights only.

    The names may carry any prefix (`backbone.`, `module.`), so ImageNet's HRNet of its authors, of timm and of
    OpenMMLab fit, and so do canthus's own checkpoints of networks with other points. ModelError when the file is
    damaged, holds more than weights, or is of another network.
    """
    # The count of batches seen serves batch normalisation without momentum only.
    own = {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    theirs = _read(path)
    prefix = _prefix(theirs, own)
    stripped = {name.removeprefix(prefix): value for name, value in theirs.items() if name.startswith(prefix)}
    fitting = {name: stripped[name] for name, value in own.items() if _same_shape(stripped.get(name), value)}
    if 2 * len(fitting) < len(own):
        raise ModelError(
            f"{path}: only {len(fitting)} of the network's {len(own)} tensors fit; it is of another network"
        )
    network.load_state_dict(fitting, strict=False)
    unused = [name for name in stripped if name not in fitting and not name.endswith("num_batches_tracked")]
    return LoadedWeights(path, tuple(fitting), tuple(name for name in own if name not in fitting), tuple(unused))


def _same_shape(one: Tensor | None, other: Tensor) -> bool:
    return one is not None and one.shape == other.shape


def _prefix(names: Iterable[str], own: Mapping[str, Tensor]) -> str:
    """What stands before the network's own names in the file, by how often it does."""
    seen = Counter(prefix for name in names for prefix, inner in _cuts(name) if inner in own)
    return seen.most_common(1)[0][0] if seen else ""


def _cuts(name: str) -> Iterator[tuple[str, str]]:
    """Every way to cut a name behind a dot or a slash: "a.b.c" -> ("", "a.b.c"), ("a.", "b.c"), ("a.b.", "c")."""
    yield "", name
    for place, letter in enumerate(name, 1):
        if letter in "./":
            yield name[:place], name[place:]


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    try:
        with warnings.catch_warnings(action="ignore"):  # of a pickle's age
            held: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError as more:
        raise ModelError(
            f"{path}: damaged, or it holds more than weights, which could run code: not opened; where you trust it, "
            "save its weights as .safetensors"
        ) from more
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as damaged:
        raise ModelError(f"{path}: not a readable file of weights") from damaged
    for nest in NESTS:
        if isinstance(held, dict) and isinstance(held.get(nest), dict):
            held = held[nest]
    tensors = (
        {name: value for name, value in held.items() if isinstance(value, Tensor)} if isinstance(held, dict) else {}
    )
    if not tensors:
        raise ModelError(f"{path}: holds no weights by name")
    return tensors


def _by_part(names: Iterable[str]) -> str:
    """Names counted by their first part: "head (6), stage4 (2)"."""
    return ", ".join(f"{part} ({count})" for part, count in Counter(name.split(".")[0] for name in names).items())
