"""The moving average of a network's weights, which validates better than the weights themselves."""

import copy
import itertools

import torch
from torch import Tensor, nn


class Average:
    """Exponential moving average of a network's parameters and buffers, with the decay `decay`.

    It starts short, so that the first weights are soon forgotten. With a decay of 0 it is the network as it is, and
    costs nothing until it is asked for. Counts of batches are copied. torch's AveragedModel has the same figures, but
    waits for the GPU at every step.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.count = 0  # updates so far
        self._decay = decay
        self._copy = copy.deepcopy(network)
        pairs = list(zip(_tensors(self._copy), _tensors(network), strict=True))
        self._floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counts = [pair for pair in pairs if not pair[0].is_floating_point()]

    @property
    def network(self) -> nn.Module:
        """The averaged network, another object than the one that trains."""
        if not self._decay:
            self._lean(1.0)
        return self._copy

    def update(self) -> None:
        """Take in what a step made of the weights."""
        if self._decay:
            self._lean(1 - min(self._decay, (1 + self.count) / (10 + self.count)) if self.count else 1.0)
        self.count += 1

    def _lean(self, share: float) -> None:
        """Move by this share towards the network as it is now."""
        averaged, current = zip(*self._floats, strict=True)
        torch._foreach_lerp_(averaged, current, share)
        averaged, current = zip(*self._counts, strict=True)
        torch._foreach_copy_(averaged, current)


def _tensors(network: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in itertools.chain(network.parameters(), network.buffers())]
