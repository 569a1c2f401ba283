"""Build networks by name, and wrap them as backends run them: uint8 crops in, points and scores out."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from canthus.runtime.decode import WINDOW_SIGMA
from canthus.runtime.errors import ModelError
from canthus.runtime.fields import FieldError
from canthus.runtime.schemes import Scheme, guess_scheme, parse_scheme
from canthus.trainer.networks.head import decode
from canthus.trainer.networks.student import LAYOUTS, Student
from canthus.trainer.renamed_keys import rename_keys

Architecture = Literal["hrnet_w18", "hrnet_w18_skps", "student", "student_stride8", "student_lean"]

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of the colors of ImageNet, for values in [0, 1]: the published backbone weights expect
images that are normalized with them."""


def build(architecture: str, points: int) -> nn.Module:
    """Return a network with random weights: normalized images (B, 3, S, S) -> maps (B, 3K, S/stride, S/stride).

    Raises ModelError for an unknown architecture.
    """
    match architecture:
        case "hrnet_w18":
            from canthus.trainer.networks.hrnet import HRNet

            return HRNet(points)
        case "hrnet_w18_skps":
            from canthus.trainer.networks.hrnet import HRNetSkps

            return HRNetSkps(points)
        case "student" | "student_stride8" | "student_lean":
            return Student(points, LAYOUTS[architecture])
        case _:
            raise ModelError(f"unknown network {architecture!r} (expected {' or '.join(get_args(Architecture))})")


class FlipTTANetwork(nn.Module):
    """Flip test-time augmentation: averages the maps of each image and of its mirror image, in one batch.

    Cell c of a map is at pixel stride * c. The mirror image is shifted by `stride` - 1 pixels, so that its cells are at
    the same pixels of the image.
    """

    def __init__(self, network: nn.Module, scheme: Scheme, stride: int) -> None:
        super().__init__()
        self.network = network
        self.stride = stride
        self.order: Tensor
        self.signs: Tensor
        points, mirror = scheme.points, torch.tensor(scheme.mirror)
        self.register_buffer("order", torch.cat([mirror + kind * points for kind in range(3)]), persistent=False)
        signs = torch.tensor([1.0, -1.0, 1.0]).repeat_interleave(points)  # the x offset changes its sign
        self.register_buffer("signs", signs.view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, S, S) -> (B, 3K, S/stride, S/stride)
        size = images.shape[-1]
        column = (size - self.stride - torch.arange(size, device=images.device)).clamp(min=0)
        maps: Tensor = self.network(torch.cat([images, images[..., column]]))
        plain, mirrored = maps.view(2, -1, *maps.shape[1:]).unbind(0)
        back = torch.arange(mirrored.shape[-1] - 1, -1, -1, device=images.device)
        mean: Tensor = (plain + mirrored[:, self.order][..., back] * self.signs) / 2
        return mean


def with_flip_tta(network: nn.Module, metadata: Mapping[str, Any]) -> nn.Module:
    """Wrap a network in `FlipTTANetwork` if `flip_tta` is true in the metadata of its checkpoint or manifest."""
    metadata = rename_keys(metadata)
    if not metadata.get("flip_tta"):
        return network
    return FlipTTANetwork(network, scheme_from_metadata(metadata), int(metadata.get("stride", 4)))


def scheme_from_metadata(metadata: Mapping[str, Any]) -> Scheme:
    """Return the scheme of a checkpoint or manifest. Without one, as up to version 0.2, the number of points decides.

    Raises ModelError if it is not one.
    """
    points = int(metadata["points"])
    try:
        scheme = parse_scheme(metadata["scheme"]) if "scheme" in metadata else guess_scheme(points)
    except FieldError as wrong:
        raise ModelError(f"the scheme of the model: {wrong}") from wrong
    if scheme.points != points:
        raise ModelError(f"the scheme of the model: {scheme.name} has {scheme.points} points (expected {points})")
    return scheme


class ChannelStatistics(NamedTuple):
    """Mean and standard deviation of each color channel, (1, 3, 1, 1) float32, for values 0 to 255."""

    mean: Tensor
    std: Tensor


def channel_statistics(device: torch.device) -> ChannelStatistics:
    """Return MEAN and STD on a device. The copy to a GPU synchronizes with it, so call this once, not in each step."""
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) * 255 for values in (MEAN, STD))
    return ChannelStatistics(mean, std)


def normalize(crops: Tensor, statistics: ChannelStatistics | None = None) -> Tensor:
    """Normalize crops (B, S, S, 3) uint8 RGB: images (B, 3, S, S) float32 with zero mean and unit deviation."""
    mean, std = statistics or channel_statistics(crops.device)
    return (crops.permute(0, 3, 1, 2).float() - mean) / std


PEAK = 0.0
"""The `window_sigma` of `decode` that selects the published decoder."""


def window_sigma(metadata: Mapping[str, Any]) -> float:
    """Return the `window_sigma` of `decode` for the recipe key `decode` in the metadata of a checkpoint or manifest."""
    return PEAK if metadata.get("decode") == "peak" else WINDOW_SIGMA


class DecodingNetwork(nn.Module):
    """Normalizes crops, runs a network and decodes its maps, as a backend does.

    Crops (B, S, S, 3) uint8 -> points (B, K, 2) in crop pixels and scores (B, K).

    The scores are the peaks of the score maps, without calibration.

    window_sigma: of the decode; `PEAK` selects the published decoder.
    """

    def __init__(self, network: nn.Module, stride: int, window_sigma: float = WINDOW_SIGMA) -> None:
        super().__init__()
        self.network = network
        self.stride = stride
        self.window_sigma = window_sigma

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        return decode(self.network(normalize(crops)).float(), self.stride, self.window_sigma)


class FlipAveragedPoints(nn.Module):
    """Averages the points and scores that a `DecodingNetwork` finds on each crop and on its mirror image, as published.

    `FlipTTANetwork` averages the maps instead: one decode, and each cell is averaged with the same place of the face.
    """

    def __init__(self, decoding: DecodingNetwork, scheme: Scheme) -> None:
        super().__init__()
        self.decoding = decoding
        self.mirror: Tensor
        self.register_buffer("mirror", torch.tensor(scheme.mirror), persistent=False)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        points, scores = self.decoding(crops)
        mirrored, mirrored_scores = (found[:, self.mirror] for found in self.decoding(crops.flip(2)))
        mirrored = torch.stack([crops.shape[2] - 1 - mirrored[..., 0], mirrored[..., 1]], -1)
        return (points + mirrored) / 2, (scores + mirrored_scores) / 2
