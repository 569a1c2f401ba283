"""The small networks: their layouts, their maps, and the weights they share."""

from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import save_file

from canthus.trainer.networks.network import Architecture, build
from canthus.trainer.networks.pretrained import load_pretrained
from canthus.trainer.networks.student import LAYOUTS
from canthus.trainer.recipe import Recipe

POINTS = 5


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("size", [64, 96])
def test_maps_have_the_stride_of_the_recipe(name: Architecture, size: int) -> None:
    stride = Recipe(network=name).stride
    network = build(name, POINTS).eval()
    assert network(torch.zeros(2, 3, size, size)).shape == (2, 3 * POINTS, size // stride, size // stride)


def test_every_network_builds_with_its_stride() -> None:
    for name in get_args(Architecture):
        assert build(name, POINTS).stride == Recipe(network=name).stride, name


def test_names_of_a_checkpoint_of_0_2_still_fit() -> None:
    names = build("student", POINTS).state_dict().keys()
    assert {"lateral.0.0.weight", "lateral.2.1.bias", "up.1.0.first.0.weight", "down.3.3.second.1.running_var"} <= names
    assert len(names) == 159


def test_a_lean_network_starts_from_the_weights_of_the_larger_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    large, lean = build("student", POINTS), build("student_lean", POINTS)
    save_file(large.state_dict(), tmp_path / "large.safetensors")
    loaded = load_pretrained(tmp_path / "large.safetensors", lean)
    assert {name.split(".")[0] for name in loaded.missing} == {"join", "head"}
    state = large.state_dict()
    assert all(torch.equal(lean.state_dict()[name], state[name]) for name in loaded.loaded)


def test_the_lean_network_computes_less() -> None:
    def multiplications(name: Architecture) -> int:
        network, sizes = build(name, 98), []
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_hook(
                    lambda one, _, maps: sizes.append(one.weight.numel() * maps.shape[-1] ** 2)  # per output pixel
                )
        network(torch.zeros(1, 3, 128, 128))
        return sum(sizes)

    full, stride8, lean = map(multiplications, ("student", "student_stride8", "student_lean"))
    assert lean < 0.7 * full
    assert lean < stride8 < full
