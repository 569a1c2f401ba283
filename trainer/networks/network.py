"""Networks by name, and the deployable form: uint8 crops in, points and scores out."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from canthus.runtime.errors import ModelError
from canthus.trainer.faces.schemes import scheme_of
from canthus.trainer.networks.head import decode
from canthus.trainer.networks.student import Student

Architecture = Literal["hrnet_w18", "student"]

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of ImageNet's colours in 0 to 1: what the published backbone weights expect."""


def build(architecture: str, points: int) -> nn.Module:
    """A freshly initialised network: images (B, 3, S, S), normalised -> maps (B, 3K, S/4, S/4)."""
    match architecture:
        case "hrnet_w18":
            from canthus.trainer.networks.hrnet import HRNet

            return HRNet(points)
        case "student":
            return Student(points)
        case _:
            raise ModelError(f"{architecture}: the networks are {', '.join(get_args(Architecture))}")


class FlipTTANetwork(nn.Module):
    """A network that looks at each face twice, as it is and in the mirror, and gives the mean of both maps.

    The mirror image is moved by `stride` - 1 pixels, so that its cells lie where the cells of the picture lie.
    """

    def __init__(self, network: nn.Module, points: int, stride: int) -> None:
        super().__init__()
        self.network = network
        self.stride = stride
        self.order: Tensor
        self.signs: Tensor
        mirror = torch.tensor(scheme_of(points).mirror)
        self.register_buffer("order", torch.cat([mirror + kind * points for kind in range(3)]), persistent=False)
        signs = torch.tensor([1.0, -1.0, 1.0]).repeat_interleave(points)  # an offset across changes sides
        self.register_buffer("signs", signs.view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, S, S) -> (B, 3K, S/stride, S/stride)
        size = images.shape[-1]
        column = (size - self.stride - torch.arange(size, device=images.device)).clamp(min=0)
        maps: Tensor = self.network(torch.cat([images, images[..., column]]))
        straight, mirrored = maps.view(2, -1, *maps.shape[1:]).unbind(0)
        back = torch.arange(mirrored.shape[-1] - 1, -1, -1, device=images.device)
        both: Tensor = (straight + mirrored[:, self.order][..., back] * self.signs) / 2
        return both


def with_flip_tta(network: nn.Module, facts: Mapping[str, Any]) -> nn.Module:
    """A trained network as it is to be used, by the facts of its checkpoint: some look in the mirror too."""
    if not facts.get("flip_tta"):
        return network
    return FlipTTANetwork(network, int(facts["points"]), int(facts.get("stride", 4)))


class ChannelStatistics(NamedTuple):
    """Mean and standard deviation of each colour channel, (1, 3, 1, 1) float32 in grey levels 0 to 255."""

    mean: Tensor
    std: Tensor


def channel_statistics(device: torch.device) -> ChannelStatistics:
    """Return MEAN and STD on a device. The copy to a GPU synchronises with it, so call this once, not every step."""
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) * 255 for values in (MEAN, STD))
    return ChannelStatistics(mean, std)


def normalise(crops: Tensor, statistics: ChannelStatistics | None = None) -> Tensor:
    """Crops (B, S, S, 3) uint8 RGB -> images (B, 3, S, S) float32, zero mean and unit deviation."""
    mean, std = statistics or channel_statistics(crops.device)
    return (crops.permute(0, 3, 1, 2).float() - mean) / std


class DecodingNetwork(nn.Module):
    """What a backend runs: crops (B, S, S, 3) uint8 -> points (B, K, 2) crop pixels, scores (B, K)."""

    def __init__(self, network: nn.Module, stride: int = 4) -> None:
        super().__init__()
        self.network = network
        self.stride = stride

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        return decode(self.network(normalise(crops)).float(), self.stride)
