"""HRNet with padded channels: the same network, the same training, the same checkpoints."""

import dataclasses

import pytest
import torch

from canthus.trainer.networks.checkpoint import flatten_optimizer, load, restore_optimizer
from canthus.trainer.networks.network import build
from canthus.trainer.networks.padding import PADDED_WIDTHS, pad_channels
from canthus.trainer.parallel import World
from canthus.trainer.recipe import change
from canthus.trainer.run import Run
from support.training import TINY, UNCOMPILED

POINTS = 5
ROUNDING = 1e-9
"""Relative tolerance in float64."""

CPU = World(torch.device("cpu"))
HRNET = change(TINY, {"network": "hrnet_w18", "precision": "fp32", "batch": 3})
PADDED = dataclasses.replace(UNCOMPILED, pad_channels="on")


def random_network() -> torch.nn.Module:
    """Return an HRNet in float64 in which every weight and statistic is random, so that every channel counts."""
    torch.manual_seed(0)
    network = build("hrnet_w18", POINTS)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1)
            torch.nn.init.uniform_(module.bias, -0.3, 0.3)
            torch.nn.init.uniform_(module.running_mean, -0.3, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    torch.nn.init.normal_(network.head[3].weight, std=0.1)
    return network.double()


def same(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=ROUNDING, atol=ROUNDING * float(one.detach().abs().max()))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_all_convolutions_have_multiples_of_eight_except_for_the_colors():
    padded = pad_channels(build("hrnet_w18", POINTS), POINTS).network
    channels = {
        count
        for module in padded.modules()
        if isinstance(module, torch.nn.Conv2d)
        for count in (module.in_channels, module.out_channels)
    }
    assert {count for count in channels if count % 8} == {3}
    assert PADDED_WIDTHS == (24, 40, 72, 144)


def test_padded_network_has_the_same_maps(images):
    network = random_network()
    padding = pad_channels(network, POINTS)
    for training in (False, True):
        plain, padded = network.train(training)(images), padding.network.train(training)(images)
        assert padded.shape == (2, 3 * POINTS, 16, 16)
        same(plain, padded)


def test_stripping_undoes_padding():
    plain = random_network().state_dict()
    padding = pad_channels(random_network(), POINTS)
    again = padding.strip(padding.network.state_dict())
    assert again.keys() == plain.keys()
    assert not [name for name in plain if not torch.equal(again[name], plain[name])]


def test_training_steps_are_the_same_and_leave_the_additional_channels_at_0(images):
    network = random_network()
    padding = pad_channels(network, POINTS)
    for one in (network, padding.network):
        optimizer = torch.optim.AdamW(one.parameters(), 1e-3, weight_decay=0.02)
        for _ in range(2):
            optimizer.zero_grad()
            one.train()(images).square().mean().backward()
            torch.nn.utils.clip_grad_norm_(one.parameters(), 5.0)
            optimizer.step()
    plain, padded = network.state_dict(), padding.network.state_dict()
    stripped = padding.strip(padded)
    for name, additional in padding.pad(stripped).items():
        if name.endswith("running_var"):  # of a feature that is 0 it has no effect
            continue
        assert torch.equal(padded[name], additional)
        same(plain[name], stripped[name])


def test_state_of_the_optimizer_survives_stripping_and_padding(images):
    padding = pad_channels(random_network(), POINTS)
    network = padding.network
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    network(images).square().mean().backward()
    optimizer.step()
    names = [name for name, _ in network.named_parameters()]
    state = flatten_optimizer(optimizer)
    stripped = padding.strip(state, names)
    plain = build("hrnet_w18", POINTS).double()
    other = torch.optim.AdamW(plain.parameters(), 1e-3)
    restore_optimizer(other, stripped)
    for parameter in plain.parameters():
        assert other.state[parameter]["exp_avg"].shape == parameter.shape
    again = padding.pad(stripped, names)
    assert again.keys() == state.keys()
    assert not [key for key in state if not torch.equal(again[key], state[key])]


def test_networks_with_such_channels_already_are_not_changed():
    network = build("student", POINTS)
    padding = pad_channels(network, POINTS)
    assert padding.network is network
    tensors = network.state_dict()
    assert padding.pad(tensors) == padding.strip(tensors) == tensors


def test_padded_run_saves_the_published_network_and_each_kind_of_run_resumes_the_other(faces, tmp_path):
    published = {name: value.shape for name, value in build("hrnet_w18", 98).state_dict().items()}
    padded, plain = Run(faces, HRNET, CPU, PADDED), Run(faces, HRNET, CPU, UNCOMPILED)
    assert (padded.network.head[3].out_channels, plain.network.head[3].out_channels) == (296, 3 * 98)
    padded.train_step(padded.batches.make_batch(0))
    padded.save_last(tmp_path)
    saved = load(tmp_path / "last")
    assert {name: value.shape for name, value in saved.weights.items()} == published
    for run in (plain, padded):
        run.restore(tmp_path / "last")
        assert run.step == 1
        run.save_last(tmp_path)
        again = load(tmp_path / "last")
        for part in ("weights", "optimizer", "training_weights"):
            former, now = getattr(saved, part), getattr(again, part)
            assert former.keys() == now.keys()
            assert not [key for key in former if not torch.equal(former[key], now[key])]
