"""Initialize a network with pretrained weights from other software. Only tensors are read, and no code is run."""

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
from canthus.runtime.models import included_models

STATE_DICT_KEYS = ("state_dict_ema", "state_dict", "model")
"""Keys under which the files of common trainers hold the weights, if not at the top level."""

AVERAGED = "weights/"
"""Prefix of the averaged weights in a checkpoint of canthus. A checkpoint of a running training has others too."""


@dataclass(frozen=True)
class LoadedWeights:
    """The names of the tensors that were loaded from a file, and of those that were not."""

    path: Path
    loaded: tuple[str, ...]
    missing: tuple[str, ...]  # of the network: not in the file, or of another shape; they keep their random values
    unused: tuple[str, ...]  # of the file

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.missing)
        text = f"{self.path}: loaded {len(self.loaded)} of the network's {total} tensors"
        if self.missing:
            text += f"; missing: {_count_by_module(self.missing)}"
        return text + (f"; unused: {_count_by_module(self.unused)}" if self.unused else "")


def load_pretrained(path: Path, network: nn.Module) -> LoadedWeights:
    """Load the tensors of a file that fit a network by name and shape.

    path: a .safetensors file, or a .pth file, which is read with `weights_only`. The names may have a prefix
        (`backbone.`, `module.`). So ImageNet's HRNet of its authors, of timm and of OpenMMLab can be loaded, and
        checkpoints of canthus for other points.

    Raises:
        ModelError: The file is damaged, holds more than tensors, or fits less than half of the network.
    """
    # `num_batches_tracked` matters only for batch normalization without momentum.
    own = {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    tensors = _read(path)
    prefix = _find_prefix(tensors, own)
    stripped = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    fitting = {name: stripped[name] for name, value in own.items() if _same_shape(stripped.get(name), value)}
    if 2 * len(fitting) < len(own):
        raise ModelError(
            f"{path}: only {len(fitting)} of the network's {len(own)} tensors fit (expected the same network)"
        )
    network.load_state_dict(fitting, strict=False)
    unused = [name for name in stripped if name not in fitting and not name.endswith("num_batches_tracked")]
    return LoadedWeights(path, tuple(fitting), tuple(name for name in own if name not in fitting), tuple(unused))


def _same_shape(one: Tensor | None, other: Tensor) -> bool:
    return one is not None and one.shape == other.shape


def _find_prefix(names: Iterable[str], own: Mapping[str, Tensor]) -> str:
    """Return the most frequent prefix of the network's own names in the file."""
    counts = Counter(prefix for name in names for prefix, rest in _split(name) if rest in own)
    return max(counts, key=lambda prefix: (counts[prefix], prefix == AVERAGED), default="")


def _split(name: str) -> Iterator[tuple[str, str]]:
    """Yield all splits of a name after a dot or slash: "a.b.c" -> ("", "a.b.c"), ("a.", "b.c"), ("a.b.", "c")."""
    yield "", name
    for index, letter in enumerate(name, 1):
        if letter in "./":
            yield name[:index], name[index:]


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ModelError(f"{path}: no such file, nor an included model ({', '.join(included_models())})")
    try:
        with warnings.catch_warnings(action="ignore"):  # about old pickle formats
            content: Any = (
                load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
            )
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path}: not opened: it is damaged, or a pickle that could run code (expected tensors only); if you "
            "trust it, save its weights as .safetensors"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ModelError(f"{path}: not a readable file of weights") from error
    for key in STATE_DICT_KEYS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = (
        {name: value for name, value in content.items() if isinstance(value, Tensor)}
        if isinstance(content, dict)
        else {}
    )
    if not tensors:
        raise ModelError(f"{path}: holds no named tensors (expected the weights of a network)")
    return tensors


def _count_by_module(names: Iterable[str]) -> str:
    """Count names by their first part: "head (6), stage4 (2)"."""
    return ", ".join(f"{module} ({count})" for module, count in Counter(name.split(".")[0] for name in names).items())
