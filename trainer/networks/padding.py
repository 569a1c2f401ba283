"""Pads the channels of HRNet to multiples of eight while it is trained: the tensor cores of GPUs need that for bf16.

The published widths of 18, 36, 72 and 144 channels become 24, 40, 72 and 144. All weights of the additional channels
are 0, so their features are 0, and no other channel depends on them. So each gradient of such a weight is a sum of
products with a factor 0, and AdamW leaves a weight of 0 with a gradient of 0 unchanged. The padded network is the
published one, to rounding, and stays it; checkpoints hold only the published channels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from canthus.trainer.networks.hrnet import WIDTHS, HRNet, HRNetSkps, upsample_bilinearly

MULTIPLE = 8

Tensors = dict[str, Tensor]


def _round_up(channels: int) -> int:
    return -(-channels // MULTIPLE) * MULTIPLE


PADDED_WIDTHS = tuple(_round_up(width) for width in WIDTHS)


class PaddedHRNet(HRNet):
    """HRNet with `PADDED_WIDTHS`, and with a padded number of maps inside; it returns the 3K maps of K points."""

    def __init__(self, points: int) -> None:
        super().__init__(points, PADDED_WIDTHS)
        self.maps = 3 * points
        self.head[3] = nn.Conv2d(sum(PADDED_WIDTHS), _round_up(self.maps), 1)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)[:, : self.maps]


@dataclass(frozen=True)
class ChannelPadding:
    """A network for training, and the maps from its tensors to those of the network in checkpoints and back."""

    network: nn.Module
    shapes: Mapping[str, torch.Size] = field(default_factory=dict)  # of the padded tensors, by name
    places: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)  # index of the published part in each

    def pad(self, tensors: Tensors, names: Sequence[str] = ()) -> Tensors:
        """Return tensors of the published network as those of the padded one, with zeros in the additional channels.

        names: the parameters, if `tensors` is the state of an optimizer, whose names begin with the index of one.
        """
        return self._map(self._pad_one, tensors, names)

    def strip(self, tensors: Tensors, names: Sequence[str] = ()) -> Tensors:
        """Return the published part of tensors of the padded network; undoes `pad`."""
        return self._map(self._strip_one, tensors, names)

    def _map(self, function: Callable[[str, Tensor], Tensor], tensors: Tensors, names: Sequence[str]) -> Tensors:
        return {
            key: function(names[int(key.partition(".")[0])] if names else key, value) for key, value in tensors.items()
        }

    def _pad_one(self, name: str, value: Tensor) -> Tensor:
        if name not in self.places or value.ndim == 0:  # a scalar is a count of steps
            return value
        padded = value.new_zeros(self.shapes[name])
        padded[self.places[name]] = value
        return padded

    def _strip_one(self, name: str, value: Tensor) -> Tensor:
        return value if name not in self.places or value.ndim == 0 else value[self.places[name]]


def pad_channels(network: nn.Module, points: int) -> ChannelPadding:
    """Return the padded form of a network with its weights. Only HRNet has another form than its own."""
    if not isinstance(network, HRNet):
        return ChannelPadding(network)
    plain = network.state_dict()
    padded = PaddedHRNet(points).to(next(network.parameters()))  # its device and data type
    if isinstance(network, HRNetSkps):
        upsample_bilinearly(padded)
    shapes = {name: value.shape for name, value in padded.state_dict().items() if value.shape != plain[name].shape}
    places = {name: _places(plain[name].shape, shape) for name, shape in shapes.items()}
    padding = ChannelPadding(padded, shapes, places)
    padded.load_state_dict(padding.pad(plain))
    return padding


def _places(shape: torch.Size, padded: torch.Size) -> tuple[Tensor, ...]:
    """Return the index of the published part of a tensor: of a vector, or of the first two dimensions of a kernel."""
    rows = _channels(shape[0], padded[0])
    return (rows,) if len(shape) == 1 else (rows[:, None], _channels(shape[1], padded[1]))


def _channels(count: int, padded: int) -> Tensor:
    """Return the places (count,) of the published channels among the padded ones."""
    if (count, padded) != (sum(WIDTHS), sum(PADDED_WIDTHS)):
        return torch.arange(count)
    starts = torch.tensor(PADDED_WIDTHS).cumsum(0) - torch.tensor(PADDED_WIDTHS)  # of the branches, concatenated
    return torch.cat([start + torch.arange(width) for start, width in zip(starts, WIDTHS, strict=True)])
