"""Checkpoints of version 0.1, and flip test-time augmentation as their metadata asks for it."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from canthus.runtime.errors import ModelError
from canthus.trainer.networks.checkpoint import (
    CheckpointBackend,
    calibration_from_metadata,
    load,
    load_network,
)
from canthus.trainer.networks.network import FlipTTANetwork, build

OLD_METADATA = {
    "network": "student",
    "points": 98,
    "size": 64,
    "stride": 4,
    "mirrored": True,
    "sigma": 2.0,
    "step": 7,
    "best": 5.5,
    "averaged": 7,
    "calibration": [1.1, 0.2],
}
"""What version 0.1 wrote, under the header key "facts"."""


def write_old_checkpoint(path) -> dict[str, torch.Tensor]:
    """Write a checkpoint with the layout of version 0.1, and return its averaged weights."""
    torch.manual_seed(3)
    averaged, current = build("student", 98).state_dict(), build("student", 98).state_dict()
    tensors = {f"weights/{name}": value for name, value in averaged.items()}
    tensors |= {f"running/{name}": value for name, value in current.items()}
    tensors |= {"optimiser/0.step": torch.tensor(7.0)}
    save_file(tensors, path, metadata={"facts": json.dumps(OLD_METADATA)})
    return averaged


def test_a_checkpoint_of_version_0_1_loads(tmp_path):
    averaged = write_old_checkpoint(tmp_path / "old.safetensors")
    checkpoint = load(tmp_path / "old")
    assert checkpoint.metadata == {
        "flip_tta" if key == "mirrored" else key: value for key, value in OLD_METADATA.items()
    }
    assert checkpoint.weights.keys() == checkpoint.training_weights.keys() == averaged.keys()
    assert all(torch.equal(value, averaged[name]) for name, value in checkpoint.weights.items())
    assert list(checkpoint.optimizer) == ["0.step"]


def test_a_checkpoint_of_version_0_1_predicts_with_flip_tta_and_calibration(tmp_path):
    write_old_checkpoint(tmp_path / "old.safetensors")
    network, metadata = load_network(tmp_path / "old.safetensors")
    assert isinstance(network, FlipTTANetwork)
    assert metadata["flip_tta"] is True
    crops = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    with CheckpointBackend(tmp_path / "old.safetensors") as backend:
        points, scores = backend.predict(crops)
    assert points.shape == (2, 98, 2)
    assert ((scores >= 0) & (scores <= 1)).all()


@pytest.mark.parametrize("points", [None, "98"])
def test_a_checkpoint_without_its_number_of_points_is_one_line(tmp_path, points):
    with pytest.raises(ModelError, match=r"one\.safetensors: not a checkpoint of canthus: its metadata lacks points"):
        calibration_from_metadata({"points": points}, tmp_path / "one.safetensors")
