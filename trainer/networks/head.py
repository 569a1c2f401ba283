"""The "skps" head: for each point one score map and two offset maps, and their decode in PyTorch.

runtime/decode.py describes the maps and is the reference for the decode.
"""

import torch
from torch import Tensor, nn

from canthus.runtime.decode import CORE_THRESHOLD, MIN_WEIGHT, WINDOW_SIGMA


class SkpsHead(nn.Sequential):
    """Features (B, C, H, W) -> maps (B, 3K, H, W): K score maps, K maps of x offsets, K maps of y offsets."""

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
    """Split maps (B, 3K, H, W) into scores (B, K, H, W) and offsets (B, 2, K, H, W) in cells, x before y."""
    batch, channels, height, width = maps.shape
    parts = maps.view(batch, 3, channels // 3, height, width)
    return parts[:, 0], parts[:, 1:]


def decode(maps: Tensor, stride: int, window_sigma: float = WINDOW_SIGMA) -> tuple[Tensor, Tensor]:
    """Decode maps (B, 3K, H, W) to points (B, K, 2) in crop pixels and scores (B, K), as in runtime/decode.py.

    The sums are not written as matrix products. In bf16, OpenVINO computes everything up to the last matrix product
    in bf16 and the rest in float32; the whole decode needs float32.
    """
    scores, offsets = split_maps(maps)
    height, width = scores.shape[2:]
    columns = torch.arange(width, device=maps.device, dtype=maps.dtype)
    rows = torch.arange(height, device=maps.device, dtype=maps.dtype)
    peak = scores.amax((2, 3))  # (B, K)
    if window_sigma == 0:
        return _decode_argmax(scores, offsets, stride), peak.clamp(0, 1)

    core = (scores - CORE_THRESHOLD * peak.clamp(min=0)[..., None, None]).clamp(min=0) + MIN_WEIGHT  # (B, K, H, W)
    by_column, by_row = core.sum(2), core.sum(3)  # (B, K, W), (B, K, H)
    total = by_row.sum(-1, keepdim=True)  # (B, K, 1)
    to_x = columns - (by_column * columns).sum(-1, keepdim=True) / total  # (B, K, W) distance from the center, cells
    to_y = rows - (by_row * rows).sum(-1, keepdim=True) / total  # (B, K, H)

    exponent = -0.5 / window_sigma**2
    gauss_x, gauss_y = (exponent * to_x * to_x).exp(), (exponent * to_y * to_y).exp()
    weight = (scores.clamp(min=0) + MIN_WEIGHT) * gauss_x[:, :, None, :] * gauss_y[..., None]  # (B, K, H, W)
    by_column, by_row = weight.sum(2), weight.sum(3)
    offset = (weight[:, None] * offsets).sum((3, 4))  # (B, 2, K)
    cell = torch.stack([(by_column * columns).sum(-1), (by_row * rows).sum(-1)], 1)  # (B, 2, K)
    points = (cell + offset) / by_row.sum(-1)[:, None] * stride
    return points.transpose(1, 2), peak.clamp(0, 1)


def _decode_argmax(scores: Tensor, offsets: Tensor, stride: int) -> Tensor:
    """Return points (B, K, 2), each decoded from the cell with the highest score alone, as published."""
    width = scores.shape[-1]
    peak = scores.flatten(2).argmax(-1, keepdim=True)  # (B, K, 1)
    offset = offsets.flatten(3).gather(-1, peak[:, None].expand(-1, 2, -1, -1))[..., 0]  # (B, 2, K)
    cell = torch.cat([peak % width, peak.div(width, rounding_mode="floor")], -1)  # (B, K, 2)
    return (cell + offset.transpose(1, 2)) * stride
