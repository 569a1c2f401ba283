"""The loss of the head: Adaptive Wing on score maps, and an offset loss weighted by them.

Adaptive Wing (Wang, Bo and Fuxin, ICCV 2019): an error e against a target y costs
omega * ln(1 + (e / epsilon)^(alpha - y)) up to theta. Above theta the loss continues as a straight line, smoothly.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from canthus.trainer.networks.head import decode, split_maps

NEAR_SCORE = 0.2
"""Cells whose target score is above this are near a point."""


@dataclass(frozen=True)
class AdaptiveWing:
    """Adaptive Wing loss with the constants of the paper."""

    alpha: float = 2.1
    omega: float = 14.0
    epsilon: float = 1.0
    theta: float = 0.5

    def __call__(self, error: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each element. `error` is absolute.

        Computed with ln(1 + a^p) = softplus(p ln a), which stays finite if the exponent p = alpha - target is
        negative. A target above alpha has a cost that falls with the error: do not use it there.
        """
        power = self.alpha - target
        exponent = power * math.log(self.theta / self.epsilon)
        slope = self.omega * power * torch.sigmoid(exponent) / self.theta
        line = self.omega * functional.softplus(exponent) + slope * (error - self.theta)
        # The logarithm has no finite gradient at an error of 0; the lower limit avoids that.
        limited = error.clamp(1e-4 * self.epsilon, self.theta)
        curve = self.omega * functional.softplus(power * torch.log(limited / self.epsilon))
        return torch.where(error < self.theta, curve, line)


class LossWeight(NamedTuple):
    """Weights in the loss. A point with the weight 0 is ignored, a face with the weight 0 too."""

    faces: Tensor  # (B,)
    points: Tensor  # (B, K)


@dataclass(frozen=True)
class SkpsLoss:
    """Loss of the head's maps against points.

    Score maps: Adaptive Wing. Cells near a point have the weight `1 + near`, as in its paper, which first dilates the
    target by 3 x 3 cells; we do not, and all figures in RESULTS.md are without dilation. The published skps recipe has
    no such weight: near = 0.
    Offset maps: only cells near the point count. "adaptive-wing" is the published loss: predicted and true offsets are
    multiplied by the target score, then compared by Adaptive Wing. The products stay below alpha (1.21 with sigma = 2),
    where it grows with the error. "smooth-l1" compares the offsets and multiplies the cost by the target score.
    Decoded points: mean distance to the true points, multiplied by `point_weight`.
    """

    stride: int = 4
    sigma: float = 2.0
    near: float = 10.0
    offsets: Literal["adaptive-wing", "smooth-l1"] = "adaptive-wing"
    offset_weight: float = 1.0
    point_weight: float = 0.0

    def __call__(self, maps: Tensor, points: Tensor, weight: LossWeight) -> Tensor:
        """Return the scalar loss of maps (B, 3K, H, W) against points (B, K, 2), in pixels of the crop."""
        scores, offsets = draw_maps(points, maps.shape[-1], self.stride, self.sigma)
        loss = self.against_maps(maps, scores, offsets, weight)
        return loss + self.point_weight * self.point_loss(maps, points, weight) if self.point_weight else loss

    def point_loss(self, maps: Tensor, points: Tensor, weight: LossWeight) -> Tensor:
        """Return the mean absolute error of decoded x and y, in cells. Points outside the crop are ignored."""
        decoded, _ = decode(maps.float(), self.stride)
        inside = ((points >= 0) & (points <= maps.shape[-1] * self.stride - 1)).all(-1)
        cells = (decoded - points).abs().mean(-1) / self.stride  # (B, K)
        return (torch.where(inside, cells * weight.points, 0.0).mean(1) * weight.faces).mean()

    def against_maps(self, maps: Tensor, true_scores: Tensor, true_offsets: Tensor, weight: LossWeight) -> Tensor:
        """Return the scalar loss against maps: true_scores (B, K, H, W), true_offsets (B, 2, K, H, W) in cells."""
        wing = AdaptiveWing()
        scores, offsets = split_maps(maps.float())
        of_points = weight.points[..., None, None]  # (B, K, 1, 1)
        near = torch.where(true_scores > NEAR_SCORE, 1 + self.near, 1.0) * of_points
        score_loss = (wing((scores - true_scores).abs(), true_scores) * near).mean((1, 2, 3))
        error = (offsets - true_offsets).abs()
        match self.offsets:
            case "adaptive-wing":
                near_point = true_scores[:, None]
                cost = wing(error * near_point, true_offsets * near_point)
            case "smooth-l1":
                cost = torch.where(error < 1, error.square() / 2, error - 0.5) * true_scores[:, None]
        offset_loss = (cost * of_points[:, None]).mean((1, 2, 3, 4))
        return ((score_loss + self.offset_weight * offset_loss) * weight.faces).mean()


def draw_maps(points: Tensor, size: int, stride: int, sigma: float) -> tuple[Tensor, Tensor]:
    """Return target scores (B, K, size, size) and offsets (B, 2, K, size, size) for points (B, K, 2).

    Does the same as `encode` in runtime/decode.py, on the device of the points.
    """
    cells = torch.arange(size, device=points.device, dtype=points.dtype)
    to_x, to_y = (points / stride)[..., None].sub(cells).unbind(2)  # each (B, K, size)
    gauss_x, gauss_y = (torch.exp(-to.square() / (2 * sigma**2)) for to in (to_x, to_y))
    scores = gauss_y[..., :, None] * gauss_x[..., None, :]
    offset_x = to_x[..., None, :].expand_as(scores)
    offset_y = to_y[..., :, None].expand_as(scores)
    return scores, torch.stack([offset_x, offset_y], 1)
