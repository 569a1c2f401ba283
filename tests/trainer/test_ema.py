"""The exponential moving average of weights, compared with that of torch."""

import copy
import os

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from canthus.trainer.ema import EMA
from canthus.trainer.networks.network import build

STEPS = 12
ROUNDING = 1e-6


def train_a_little(network: nn.Module) -> None:
    """Change weights and buffers, as a training step does."""
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            tensor += torch.randn_like(tensor) if tensor.is_floating_point() else 1


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_ema_equals_averaged_model_of_torch(decay):
    def by_torch(averaged: list[torch.Tensor], current: list[torch.Tensor], count: torch.Tensor) -> None:
        if averaged[0].is_floating_point():
            seen = float(count)
            get_ema_multi_avg_fn(min(decay, (1 + seen) / (10 + seen)))(averaged, current, count)
        else:
            torch._foreach_copy_(averaged, current)

    torch.manual_seed(0)
    network = build("student", 98)
    ours, theirs = EMA(network, decay), AveragedModel(network, multi_avg_fn=by_torch, use_buffers=True)
    for _ in range(STEPS):
        train_a_little(network)
        ours.update()
        theirs.update_parameters(network)
    assert ours.count == int(theirs.n_averaged) == STEPS
    for one, other in zip(ours.network.state_dict().values(), theirs.module.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=ROUNDING, atol=ROUNDING)


def test_ema_does_not_change_when_the_network_trains_on():
    for decay in (0.0, 0.9):
        network = build("student", 98)
        average = EMA(network, decay)
        average.update()
        before = copy.deepcopy(average.network.state_dict())
        kept = average.network
        train_a_little(network)
        assert all(torch.equal(before[name], value) for name, value in kept.state_dict().items())
        assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_ema_update_does_not_synchronize_with_the_gpu():
    if not torch.cuda.is_available():
        message = "torch finds no CUDA GPU"
        pytest.fail(message) if os.environ.get("CANTHUS_REQUIRE_CUDA") == "1" else pytest.skip(message)
    network = build("student", 98).cuda()
    averages = EMA(network, 0.0), EMA(network, 0.999)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for average in averages:
            average.update()
            average.update()
    finally:
        torch.cuda.set_sync_debug_mode("default")
