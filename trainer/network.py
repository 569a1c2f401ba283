"""Networks by name, and the deployable form: uint8 crops in, points and scores out."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from canthus.runtime.errors import ModelError
from canthus.trainer.head import decode
from canthus.trainer.student import Student

Architecture = Literal["hrnet_w18", "student"]

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of ImageNet's colours in 0 to 1: what the published backbone weights expect."""


def build(architecture: str, points: int) -> nn.Module:
    """A freshly initialised network: images (B, 3, S, S), normalised -> maps (B, 3K, S/4, S/4)."""
    match architecture:
        case "hrnet_w18":
            from canthus.trainer.hrnet import HRNet

            return HRNet(points)
        case "student":
            return Student(points)
        case _:
            raise ModelError(f"{architecture}: the networks are {', '.join(get_args(Architecture))}")


Colours = tuple[Tensor, Tensor]


def colours_on(device: torch.device) -> Colours:
    """MEAN and STD as (1, 3, 1, 1), in grey levels; bringing them to a GPU waits for all that it has to do."""
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) * 255 for values in (MEAN, STD))
    return mean, std


def normalise(crops: Tensor, colours: Colours | None = None) -> Tensor:
    """Crops (B, S, S, 3) uint8 RGB -> images (B, 3, S, S) float32, zero mean and unit deviation."""
    mean, std = colours or colours_on(crops.device)
    return (crops.permute(0, 3, 1, 2).float() - mean) / std


class Deployed(nn.Module):
    """What a backend runs: crops (B, S, S, 3) uint8 -> points (B, K, 2) crop pixels, scores (B, K)."""

    def __init__(self, network: nn.Module, stride: int = 4) -> None:
        super().__init__()
        self.network = network
        self.stride = stride

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        return decode(self.network(normalise(crops)).float(), self.stride)
