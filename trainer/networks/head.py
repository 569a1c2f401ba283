"""The "skps" head: for each point one score map and two offset maps."""

import torch
from torch import Tensor, nn

from canthus.runtime.decode import CORE, LEAST, REACH


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


def decode(maps: Tensor, stride: int, reach: float = REACH) -> tuple[Tensor, Tensor]:
    """Maps (B, 3K, H, W) -> points (B, K, 2) in crop pixels and scores (B, K), as runtime/decode.py tells.

    Written with sums and products alone. A product of matrices would be as short, but OpenVINO computes in bf16 up to
    the last of them, and what follows it in float32: the decode must be what follows.
    """
    scores, offsets = split_maps(maps)
    height, width = scores.shape[2:]
    across = torch.arange(width, device=maps.device, dtype=maps.dtype)
    along = torch.arange(height, device=maps.device, dtype=maps.dtype)
    top = scores.amax((2, 3))  # (B, K)
    if reach == 0:
        return _published(scores, offsets, stride), top.clamp(0, 1)

    core = (scores - CORE * top.clamp(min=0)[..., None, None]).clamp(min=0) + LEAST  # (B, K, H, W)
    column, row = core.sum(2), core.sum(3)  # (B, K, W), (B, K, H)
    whole = row.sum(-1, keepdim=True)  # (B, K, 1)
    to_x = across - (column * across).sum(-1, keepdim=True) / whole  # (B, K, W)
    to_y = along - (row * along).sum(-1, keepdim=True) / whole

    spread = -0.5 / reach**2
    bell_x, bell_y = (spread * to_x * to_x).exp(), (spread * to_y * to_y).exp()
    weight = (scores.clamp(min=0) + LEAST) * bell_x[:, :, None, :] * bell_y[..., None]  # (B, K, H, W)
    column, row = weight.sum(2), weight.sum(3)
    told = (weight[:, None] * offsets).sum((3, 4))  # (B, 2, K)
    cells = torch.stack([(column * across).sum(-1), (row * along).sum(-1)], 1)  # (B, 2, K)
    place = (cells + told) / row.sum(-1)[:, None] * stride
    return place.transpose(1, 2), top.clamp(0, 1)


def _published(scores: Tensor, offsets: Tensor, stride: int) -> Tensor:
    """Points (B, K, 2) as the cell with the highest score alone tells them."""
    width = scores.shape[-1]
    peak = scores.flatten(2).argmax(-1, keepdim=True)  # (B, K, 1)
    told = offsets.flatten(3).gather(-1, peak[:, None].expand(-1, 2, -1, -1))[..., 0]  # (B, 2, K)
    cells = torch.cat([peak % width, peak.div(width, rounding_mode="floor")], -1)  # (B, K, 2)
    return (cells + told.transpose(1, 2)) * stride
