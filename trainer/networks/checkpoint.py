"""Checkpoints: one safetensors file each, its facts as json inside and beside. No pickle, so nothing runs."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor, nn

from canthus.runtime.backends.torch import TorchBackend
from canthus.runtime.calibration import IDENTITY, Calibration, read_calibration
from canthus.runtime.errors import ModelError
from canthus.trainer.networks.network import DecodingNetwork, build, with_flip_tta
from canthus.trainer.renamed_keys import rename_keys

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A network's weights and what is needed to use or continue it."""

    weights: Tensors
    metadata: dict[str, Any]  # network, points, size, step, calibration, ...
    optimiser: Tensors  # empty unless the run can be continued from here
    training_weights: Tensors  # before averaging; empty likewise


def flatten_optimiser(optimiser: torch.optim.Optimizer) -> Tensors:
    """The optimiser's tensors, named "<parameter number>.<kind>"."""
    return {
        f"{number}.{kind}": value
        for number, state in optimiser.state_dict()["state"].items()
        for kind, value in state.items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Put back what `flatten_optimiser` took."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, kind = name.split(".")
        parameter = parameters[int(number)]
        if value.shape == parameter.shape:
            # The fused optimiser walks raw memory: its averages must lie as the weights do (channels last).
            value = torch.empty_like(parameter, requires_grad=False).copy_(value)
        state.setdefault(int(number), {})[kind] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write PATH.safetensors, which holds everything, and PATH.json, its facts for people.

    Each is written aside and then renamed, so a break leaves the former file whole or the new one. ModelError where
    they cannot be written.
    """
    parts = {
        "weights": checkpoint.weights,
        "optimiser": checkpoint.optimiser,
        "running": checkpoint.training_weights,
    }
    tensors = {
        f"{part}/{name}": value.detach().cpu().contiguous().clone()
        for part, values in parts.items()
        for name, value in values.items()
    }
    weights, facts = path.with_suffix(".safetensors"), path.with_suffix(".json")
    drafts = weights.with_suffix(".part"), facts.with_suffix(".json.part")
    try:
        drafts[0].write_bytes(serialise(tensors, {"facts": json.dumps(checkpoint.metadata)}))
        drafts[1].write_text(json.dumps(checkpoint.metadata, indent=2) + "\n")
        for draft, whole in zip(drafts, (weights, facts), strict=True):
            draft.replace(whole)
    except OSError as refused:
        for draft in drafts:
            draft.unlink(missing_ok=True)
        raise ModelError(
            f"{weights}: cannot be written ({refused.strerror}); what was saved there before is whole"
        ) from refused


def load(path: Path) -> Checkpoint:
    """Read a checkpoint; ModelError tells what is wrong with it."""
    if path.suffix not in ("", ".safetensors"):
        raise ModelError(f"{path}: not a .safetensors file; other checkpoints are not opened, as a pickle can run code")
    path = path.with_suffix(".safetensors")
    if not path.is_file():
        raise ModelError(f"{path}: no such file (a checkpoint is a .safetensors)")
    try:
        with safe_open(path, "pt") as file:
            told = rename_keys(json.loads((file.metadata() or {}).get("facts", "{}")))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, TypeError, ValueError, OSError) as damaged:
        raise ModelError(f"{path}: not a readable checkpoint: {damaged}") from damaged
    parts: dict[str, Tensors] = {"weights": {}, "optimiser": {}, "running": {}}
    for name, value in tensors.items():
        part, _, inner = name.partition("/")
        parts.setdefault(part, {})[inner] = value
    return Checkpoint(parts["weights"], told, parts["optimiser"], parts["running"])


def load_network(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a checkpoint, ready to be used, and the checkpoint's facts."""
    checkpoint = load(path)
    try:
        network = build(checkpoint.metadata["network"], checkpoint.metadata["points"])
        network.load_state_dict(checkpoint.weights)
    except KeyError as lacking:
        raise ModelError(f"{path}: not a checkpoint of canthus: it does not tell its {lacking}") from lacking
    except RuntimeError as other:
        raise ModelError(f"{path}: the weights do not fit {checkpoint.metadata['network']}") from other
    if "size" not in checkpoint.metadata:
        raise ModelError(f"{path}: not a checkpoint of canthus: it does not tell its 'size'")
    return with_flip_tta(network, checkpoint.metadata).eval(), checkpoint.metadata


def calibration_from_metadata(facts: dict[str, Any], path: Path) -> Calibration:
    """How a checkpoint's scores are calibrated, by its facts; ModelError names `path`."""
    try:
        return read_calibration(facts.get("calibration", IDENTITY))
    except ValueError as wrong:
        raise ModelError(f"{path}: calibration: {wrong}; fit it again: canthus data calibrate") from wrong


class CheckpointBackend(TorchBackend):
    """Runs a checkpoint with PyTorch: the reference for every exported form.

    With `gpu` it runs on a CUDA GPU if there is one; results differ there by rounding.
    """

    def __init__(self, path: Path, gpu: bool = False) -> None:
        network, facts = load_network(path)
        super().__init__(
            DecodingNetwork(network, int(facts.get("stride", 4))),
            int(facts["size"]),
            calibration_from_metadata(facts, path),
            "cuda" if gpu and torch.cuda.is_available() else "cpu",
        )
