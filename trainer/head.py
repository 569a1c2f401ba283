"""The "skps" head: for each point one score map and two offset maps."""

import torch
from torch import Tensor, nn

from canthus.runtime.decode import LEAST, REACH


class SkpsHead(nn.Sequential):
    """Features (B, C, H, W) -> maps (B, 3K, H, W): K score maps, K x offsets, K y offsets."""

    def __init__(self, width: int, points: int) -> None:
        super().__init__(
            nn.Conv2d(width, width, 1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 3 * points, 1),
        )
        last = self[3]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        nn.init.normal_(last.weight, std=0.001)
        nn.init.zeros_(last.bias)


def split_maps(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Maps (B, 3K, H, W) -> scores (B, K, H, W) and offsets (B, 2, K, H, W) in cells, x then y."""
    batch, channels, height, width = maps.shape
    parts = maps.view(batch, 3, channels // 3, height, width)
    return parts[:, 0], parts[:, 1:]


def decode(maps: Tensor, stride: int, reach: int = REACH) -> tuple[Tensor, Tensor]:
    """Maps (B, 3K, H, W) -> points (B, K, 2) in crop pixels and scores (B, K), as runtime/decode.py tells.

    Written with the operations that ONNX and OpenVINO take as they are: offsets are gathered from (B, 2, K, HW).
    """
    scores, offsets = split_maps(maps)
    batch, points, height, width = scores.shape
    flat = scores.reshape(batch, points, height * width)
    peak = flat.argmax(-1, keepdim=True)  # (B, K, 1)
    score = flat.gather(-1, peak)[..., 0].clamp(0, 1)

    steps = torch.arange(-reach, reach + 1, device=maps.device)
    down, right = steps.repeat_interleave(len(steps)), steps.repeat(len(steps))  # (cells around,)
    across, along = peak % width, peak.div(width, rounding_mode="floor")
    x, y = across + right, along + down  # (B, K, cells around)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    near = torch.where(inside, y * width + x, peak)
    says = flat.gather(-1, near)
    weight = torch.where(inside & (says > 0), says, 0.0) + LEAST * ((right == 0) & (down == 0))

    index = near[:, None].expand(-1, 2, -1, -1)  # (B, 2, K, cells around)
    told = offsets.reshape(batch, 2, points, height * width).gather(-1, index)
    from_peak = told + torch.stack([right, down])[:, None, :]
    moved = (weight[:, None] * from_peak).sum(-1) / weight.sum(-1)[:, None]  # (B, 2, K)
    place = (torch.cat([across, along], -1).transpose(1, 2) + moved) * stride
    return place.transpose(1, 2), score
