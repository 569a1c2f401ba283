"""The exponential moving average (EMA) of a network's weights; it has a lower validation error than the weights."""

import copy
import itertools

import torch
from torch import Tensor, nn


class EMA:
    """Exponential moving average of the parameters and buffers of a network.

    The decay is `min(decay, (1 + count) / (10 + count))`, so that the first weights are soon forgotten. With a decay
    of 0 the average equals the network, and is copied only when it is read. Integer buffers are copied. The result is
    that of `torch.optim.swa_utils.AveragedModel`, which synchronizes with the GPU at every step.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.count = 0  # updates so far
        self._decay = decay
        self._average = copy.deepcopy(network)
        pairs = list(zip(_tensors(self._average), _tensors(network), strict=True))
        self._floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._integers = [pair for pair in pairs if not pair[0].is_floating_point()]

    @property
    def network(self) -> nn.Module:
        """The network with the averaged weights. It is not the object that is trained."""
        if not self._decay:
            self._move(1.0)
        return self._average

    def update(self) -> None:
        """Update the average with the current weights. Call it after each step of the optimizer."""
        if self._decay:
            self._move(1 - min(self._decay, (1 + self.count) / (10 + self.count)) if self.count else 1.0)
        self.count += 1

    def _move(self, fraction: float) -> None:
        """Move the average by this fraction towards the current weights."""
        averaged, current = zip(*self._floats, strict=True)
        torch._foreach_lerp_(averaged, current, fraction)
        averaged, current = zip(*self._integers, strict=True)
        torch._foreach_copy_(averaged, current)


def _tensors(network: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in itertools.chain(network.parameters(), network.buffers())]
