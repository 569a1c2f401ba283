"""The "skps" head: for each point one score map and two offset maps."""

import torch
from torch import Tensor, nn


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


def decode(maps: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Maps (B, 3K, H, W) -> points (B, K, 2) in crop pixels and scores (B, K), as runtime/decode.py tells.

    Written with operations that ONNX and OpenVINO take as they are: offsets are gathered from (B, 2, K, HW).
    """
    scores, offsets = split_maps(maps)
    batch, points, height, width = scores.shape
    flat = scores.reshape(batch, points, height * width)
    peak = flat.argmax(-1, keepdim=True)  # (B, K, 1)
    score = flat.gather(-1, peak)[..., 0].clamp(0, 1)
    index = peak[:, None].expand(-1, 2, -1, -1)  # (B, 2, K, 1)
    read = offsets.reshape(batch, 2, points, height * width).gather(-1, index)[..., 0]
    x = (peak[..., 0] % width + read[:, 0]) * stride
    y = (peak[..., 0].div(width, rounding_mode="floor") + read[:, 1]) * stride
    return torch.stack([x, y], -1), score
