"""Checkpoints: a .safetensors file with its metadata inside, and the metadata again as json beside it.

No pickle is read or written, so loading a checkpoint runs no code.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from canthus.runtime.backends.torch import TorchBackend
from canthus.runtime.calibration import IDENTITY, Calibration, fits_points, read_calibration
from canthus.runtime.errors import ModelError
from canthus.runtime.fields import parse_json
from canthus.runtime.files import Draft
from canthus.trainer.networks.network import (
    DecodingNetwork,
    build,
    scheme_from_metadata,
    window_sigma,
    with_flip_tta,
)
from canthus.trainer.renamed_keys import rename_keys

Tensors = dict[str, Tensor]

HEADER, OLD_HEADER = "metadata", "facts"
"""Key of the metadata in the header of the safetensors file, now and in version 0.1."""

RENAMED_PARTS = {"running": "training_weights", "optimiser": "optimizer"}
"""Parts of a checkpoint: name in version 0.1, name now. Each tensor is stored as "PART/NAME"."""


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a network, and what is needed to use it or to resume its training."""

    weights: Tensors  # moving average, used for inference
    metadata: dict[str, Any]  # network, points, size, step, calibration, ...
    optimizer: Tensors  # empty if training cannot be resumed from this checkpoint
    training_weights: Tensors  # without averaging; empty if training cannot be resumed


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> Tensors:
    """Return the state of an optimizer as tensors named "PARAMETER_INDEX.KEY"."""
    return {
        f"{index}.{key}": value
        for index, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Load the tensors of `flatten_optimizer` into an optimizer of the same parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".")
        parameter = parameters[int(index)]
        if value.shape == parameter.shape:
            # The fused optimizer ignores strides: its state must have the memory format of the weights.
            value = torch.empty_like(parameter, requires_grad=False).copy_(value)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write PATH.safetensors, which holds everything, and PATH.json, a copy of the metadata for people.

    Each file is replaced at once: after an error or a crash it is the old or the new one, complete.

    Raises:
        InputError: A file cannot be written.
    """
    parts = {
        "weights": checkpoint.weights,
        "optimizer": checkpoint.optimizer,
        "training_weights": checkpoint.training_weights,
    }
    tensors = {
        f"{part}/{name}": value.detach().cpu().contiguous().clone()
        for part, values in parts.items()
        for name, value in values.items()
    }
    with Draft(path.with_suffix(".json")) as copy, Draft(path.with_suffix(".safetensors")) as draft:
        draft.file.write_bytes(serialize(tensors, {HEADER: json.dumps(checkpoint.metadata)}))
        copy.file.write_text(json.dumps(checkpoint.metadata, indent=2) + "\n")


def load(path: Path) -> Checkpoint:
    """Read a checkpoint, of this version or of version 0.1.

    path: the .safetensors file; the suffix may be left out.

    Raises:
        ModelError: The file is missing, damaged, or in another format.
    """
    if path.suffix not in ("", ".safetensors"):
        raise ModelError(
            f"{path}: not a checkpoint (expected a .safetensors file); other formats are not read, as a pickle can "
            "run code"
        )
    path = path.with_suffix(".safetensors")
    if not path.is_file():
        raise ModelError(f"{path}: no such file (expected a checkpoint)")
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            metadata = rename_keys(parse_json(header.get(HEADER, header.get(OLD_HEADER, "{}"))))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, AttributeError, TypeError, ValueError, OSError) as error:
        raise ModelError(f"{path}: not a readable checkpoint: {error}") from error
    parts: dict[str, Tensors] = {"weights": {}, "optimizer": {}, "training_weights": {}}
    for name, value in tensors.items():
        part, _, inner = name.partition("/")
        parts.setdefault(RENAMED_PARTS.get(part, part), {})[inner] = value
    return Checkpoint(parts["weights"], metadata, parts["optimizer"], parts["training_weights"])


def load_network(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network of a checkpoint, in evaluation mode, and the metadata of the checkpoint.

    The network includes flip test-time augmentation if the checkpoint was trained for it.

    Raises:
        ModelError: The file is not a checkpoint of canthus, or its weights do not fit its network.
    """
    checkpoint = load(path)
    metadata = checkpoint.metadata
    if missing := [key for key in ("network", "points", "size") if key not in metadata]:
        raise ModelError(f"{path}: not a checkpoint of canthus: its metadata lacks {', '.join(missing)}")
    network = build(metadata["network"], metadata["points"])
    try:
        network.load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        raise ModelError(f"{path}: its weights do not fit the network {metadata['network']}") from error
    return with_flip_tta(network, metadata).eval(), metadata


def calibration_from_metadata(metadata: dict[str, Any], path: Path) -> Calibration:
    """Return the calibration of a checkpoint's scores. Raises ModelError, with `path`, if it is invalid."""
    try:
        calibration, points = read_calibration(metadata.get("calibration", IDENTITY)), metadata.get("points")
        if not isinstance(points, int):
            raise ModelError(f"{path}: not a checkpoint of canthus: its metadata lacks points")
        if not fits_points(calibration, points):
            raise ValueError(f"expected 2 numbers or {3 + points}, got {len(calibration)}")
        return calibration
    except ValueError as error:
        raise ModelError(f"{path}: calibration: {error}; fit it again: canthus data calibrate") from error


class CheckpointBackend(TorchBackend):
    """Runs a checkpoint with PyTorch: the reference for every exported form.

    gpu: use a CUDA GPU if there is one. Its results differ from those of the CPU by rounding.
    """

    def __init__(self, path: Path, gpu: bool = False) -> None:
        network, metadata = load_network(path)
        super().__init__(
            DecodingNetwork(network, int(metadata.get("stride", 4)), window_sigma(metadata)),
            int(metadata["size"]),
            calibration_from_metadata(metadata, path),
            "cuda" if gpu and torch.cuda.is_available() else "cpu",
            scheme_from_metadata(metadata),
        )
