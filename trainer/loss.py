"""The loss of the head: Adaptive Wing on score maps, and an offset loss weighted by them.

Adaptive Wing (Wang, Bo and Fuxin, ICCV 2019): an error e against a target y costs
omega * ln(1 + (e / epsilon)^(alpha - y)) up to theta, and from there on the line that continues it smoothly.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from canthus.trainer.networks.head import decode, split_maps


@dataclass(frozen=True)
class AdaptiveWing:
    """The paper's constants."""

    alpha: float = 2.1
    omega: float = 14.0
    epsilon: float = 1.0
    theta: float = 0.5

    def __call__(self, error: Tensor, target: Tensor) -> Tensor:
        """Loss of absolute errors, element by element.

        Written with ln(1 + a^p) = softplus(p ln a), which stays finite where the exponent p = alpha - target
        turns negative: targets beyond alpha are ordinary for offsets, but the paper had score maps in mind.
        """
        power = self.alpha - target
        bend = power * math.log(self.theta / self.epsilon)
        slope = self.omega * power * torch.sigmoid(bend) / self.theta
        line = self.omega * functional.softplus(bend) + slope * (error - self.theta)
        # At no error the logarithm has no gradient to give; the floor keeps it finite.
        near = error.clamp(1e-4 * self.epsilon, self.theta)
        curve = self.omega * functional.softplus(power * torch.log(near / self.epsilon))
        return torch.where(error < self.theta, curve, line)


@dataclass(frozen=True)
class SkpsLoss:
    """Loss of the head's maps against points drawn as maps.

    Score maps: Adaptive Wing, where the target exceeds 0.2 weighted `1 + near`. The paper's weighted map is a cell
    wider all around, as it dilates the target by 3 x 3 first; all figures in RESULTS.md are without.
    Offset maps: weighted by the target score map, so that only cells near the point count. "adaptive-wing" is the
    published choice, which falls as the error grows where the target exceeds alpha; "smooth-l1" never does.
    Decoded points, where `point_weight` is given: their distance from the true ones, which is what counts in the end.
    """

    stride: int = 4
    sigma: float = 2.0
    near: float = 10.0
    offsets: Literal["adaptive-wing", "smooth-l1"] = "adaptive-wing"
    offset_weight: float = 1.0
    point_weight: float = 0.0

    def __call__(self, maps: Tensor, points: Tensor, weight: Tensor) -> Tensor:
        """maps (B, 3K, H, W), points (B, K, 2) in crop pixels, weight (B,) of each face -> scalar."""
        value = self.against(maps, *draw(points, maps.shape[-1], self.stride, self.sigma), weight)
        return value + self.point_weight * self.apart(maps, points, weight) if self.point_weight else value

    def apart(self, maps: Tensor, points: Tensor, weight: Tensor) -> Tensor:
        """How far the decoded points lie from those that lie in the crop, in cells, x and y apart."""
        found, _ = decode(maps.float(), self.stride)
        inside = ((points >= 0) & (points <= maps.shape[-1] * self.stride - 1)).all(-1)
        cells = (found - points).abs().mean(-1) / self.stride  # (B, K)
        return (torch.where(inside, cells, 0.0).mean(1) * weight).mean()

    def against(self, maps: Tensor, target: Tensor, distance: Tensor, weight: Tensor) -> Tensor:
        """The same for targets as maps: scores `target` (B, K, H, W), offsets `distance` (B, 2, K, H, W)."""
        wing = AdaptiveWing()
        scores, offsets = split_maps(maps.float())
        emphasis = torch.where(target > 0.2, 1 + self.near, 1.0)
        score_loss = (wing((scores - target).abs(), target) * emphasis).mean((1, 2, 3))
        error = (offsets - distance).abs()
        match self.offsets:
            case "adaptive-wing":
                cost = wing(error, distance)
            case "smooth-l1":
                cost = torch.where(error < 1, error.square() / 2, error - 0.5)
        offset_loss = (cost * target[:, None]).mean((1, 2, 3, 4))
        return ((score_loss + self.offset_weight * offset_loss) * weight).mean()


def draw(points: Tensor, size: int, stride: int, sigma: float) -> tuple[Tensor, Tensor]:
    """Points (B, K, 2) as target scores (B, K, size, size) and offsets (B, 2, K, size, size).

    The same as `encode` in runtime/decode.py, on the device of the points.
    """
    cells = torch.arange(size, device=points.device, dtype=points.dtype)
    to_x, to_y = (points / stride)[..., None].sub(cells).unbind(2)  # each (B, K, size)
    bell_x, bell_y = (torch.exp(-to.square() / (2 * sigma**2)) for to in (to_x, to_y))
    scores = bell_y[..., :, None] * bell_x[..., None, :]
    across = to_x[..., None, :].expand_as(scores)
    down = to_y[..., :, None].expand_as(scores)
    return scores, torch.stack([across, down], 1)
