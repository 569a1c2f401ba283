"""Checkpoints: tensors as safetensors, everything else as json beside them. Nothing is pickled, so nothing can run."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from canthus.runtime.errors import ModelError
from canthus.trainer.network import build

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A network's weights and what is needed to use or continue it."""

    weights: Tensors
    facts: dict[str, Any]  # network, points, size, step, ...
    optimiser: Tensors  # empty unless the run can be continued from here
    running: Tensors  # weights before averaging; empty likewise


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
            # The fused optimiser walks memory in step: its averages must lie as the weights do (channels last).
            value = torch.empty_like(parameter, requires_grad=False).copy_(value)
        state.setdefault(int(number), {})[kind] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write PATH.safetensors and PATH.json; a break in between leaves the former pair whole or the new one."""
    parts = {
        "weights": checkpoint.weights,
        "optimiser": checkpoint.optimiser,
        "running": checkpoint.running,
    }
    tensors = {
        f"{part}/{name}": value.detach().cpu().contiguous().clone()
        for part, values in parts.items()
        for name, value in values.items()
    }
    weights, facts = path.with_suffix(".safetensors"), path.with_suffix(".json")
    text = {"facts": json.dumps(checkpoint.facts)}
    save_file(tensors, weights.with_suffix(".part"), metadata=text)
    facts.with_suffix(".json.part").write_text(json.dumps(checkpoint.facts, indent=2) + "\n")
    os.replace(weights.with_suffix(".part"), weights)
    os.replace(facts.with_suffix(".json.part"), facts)


def load(path: Path) -> Checkpoint:
    """Read a checkpoint; ModelError tells what is wrong with it."""
    path = path.with_suffix(".safetensors")
    facts = path.with_suffix(".json")
    try:
        tensors = load_file(path)
        told = json.loads(facts.read_text())
    except FileNotFoundError as missing:
        raise ModelError(
            f"{missing.filename or path}: no such file (a checkpoint is a .safetensors and a .json)"
        ) from missing
    except (SafetensorError, ValueError, OSError) as damaged:
        raise ModelError(f"{path}: not a readable checkpoint: {damaged}") from damaged
    parts: dict[str, Tensors] = {"weights": {}, "optimiser": {}, "running": {}}
    for name, value in tensors.items():
        part, _, inner = name.partition("/")
        parts.setdefault(part, {})[inner] = value
    return Checkpoint(parts["weights"], told, parts["optimiser"], parts["running"])


def load_network(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a checkpoint, ready to evaluate, and the checkpoint's facts."""
    checkpoint = load(path)
    try:
        network = build(checkpoint.facts["network"], checkpoint.facts["points"])
        network.load_state_dict(checkpoint.weights)
    except KeyError as lacking:
        raise ModelError(f"{path}: the checkpoint's json lacks {lacking}") from lacking
    except RuntimeError as other:
        raise ModelError(
            f"{path}: the weights do not fit {checkpoint.facts['network']}"
        ) from other
    return network.eval(), checkpoint.facts
