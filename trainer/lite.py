"""EfficientNet-Lite0 with a light way back up and the same head: small, and ImageNet's weights give it a start.

The backbone is that of Tan and Le (2019) in the Lite form of its authors: inverted residuals with ReLU6 and without
squeeze-and-excitation, which every runtime takes. Its modules are named as in the PyTorch ports, so that
`--pretrained` finds the ImageNet weights that those carry.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from canthus.trainer.head import SkpsHead
from canthus.trainer.student import convolution

STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Blocks, kernel, stride of the first block, expansion and width, behind a stem of stride 2 and 32 channels."""

TAPS = (2, 4, 10)
"""The last blocks at strides 4, 8 and 16, where the way back up looks again."""


@dataclass(frozen=True)
class LiteShape:
    """Widths of the way back up at strides 4, 8 and 16, and of the features that the head reads."""

    decoder: tuple[int, int, int] = (48, 64, 96)
    head: int = 64


class Depthwise(nn.Conv2d):
    """A convolution of each channel by itself.

    On CPUs oneDNN has no quick way back through 5x5 kernels or strides in bf16; going back by hand trains the whole
    network 1.3 times as fast.
    """

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        slow = self.kernel_size[0] > 3 or self.stride[0] > 1
        if slow and x.device.type == "cpu" and x.dtype == torch.bfloat16 and torch.is_grad_enabled():
            seen: Tensor = _Depthwise.apply(x, self.weight.bfloat16(), self.stride[0])  # type: ignore[no-untyped-call]
            return seen
        return super().forward(x)


class _Depthwise(torch.autograd.Function):
    """As functional.conv2d with padding that keeps the size, over the stride."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return functional.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,), (x, weight), stride = gradients, ctx.saved_tensors, ctx.stride
        reach, channels = weight.shape[-1] // 2, len(weight)
        spread = gradient
        if stride > 1:
            spread = torch.zeros_like(x)
            spread[:, :, ::stride, ::stride] = gradient
        to_x = functional.conv2d(spread, weight.flip(2, 3), None, 1, reach, 1, channels)
        _, to_weight, _ = torch.ops.aten.convolution_backward(
            gradient.float(), x.float(), weight.float(), None, [stride] * 2, [reach] * 2, [1, 1], False, [0, 0],
            channels, [False, True, False],
        )  # fmt: skip
        return to_x, to_weight.to(weight.dtype), None


def _norm(width: int) -> nn.BatchNorm2d:
    """With the constants under which the ImageNet weights were learned."""
    return nn.BatchNorm2d(width, eps=1e-3, momentum=0.01)


class Block(nn.Module):
    """An inverted residual: widen, look around in each channel, narrow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.widens = expansion > 1
        self.adds = stride == 1 and inputs == outputs
        if self.widens:
            self._expand_conv = nn.Conv2d(inputs, wide, 1, bias=False)
            self._bn0 = _norm(wide)
        self._depthwise_conv = Depthwise(wide, kernel, stride)
        self._bn1 = _norm(wide)
        self._project_conv = nn.Conv2d(wide, outputs, 1, bias=False)
        self._bn2 = _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu6(self._bn0(self._expand_conv(x))) if self.widens else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class Lite(nn.Module):
    """Images (B, 3, S, S), normalised -> maps (B, 3K, S/4, S/4)."""

    stride = 4

    def __init__(self, points: int, shape: LiteShape | None = None) -> None:
        super().__init__()
        shape = shape or LiteShape()
        width = 32
        self._conv_stem = nn.Conv2d(3, width, 3, 2, 1, bias=False)
        self._bn0 = _norm(width)
        widths: list[int] = []  # behind each block
        blocks = nn.ModuleList()
        for count, kernel, stride, expansion, outputs in STAGES:
            for number in range(count):
                blocks.append(Block(width, outputs, kernel, 1 if number else stride, expansion))
                width = outputs
                widths.append(width)
        self._blocks = blocks
        fine, middle, coarse = shape.decoder
        self.top = convolution(width, coarse, size=1)
        self.lateral = nn.ModuleList(
            convolution(widths[tap], out, size=1) for tap, out in zip(TAPS, shape.decoder, strict=True)
        )
        self.up = nn.ModuleList((convolution(middle, fine), convolution(coarse, middle)))
        self.join = nn.Sequential(convolution(fine, shape.head), nn.ReLU())
        self.head = SkpsHead(shape.head, points)

    def forward(self, images: Tensor) -> Tensor:
        x = functional.relu6(self._bn0(self._conv_stem(images)))
        seen = []
        for number, block in enumerate(self._blocks):
            x = block(x)
            if number in TAPS:
                seen.append(x)
        fine, middle, coarse = (lateral(x) for lateral, x in zip(self.lateral, seen, strict=True))
        x = functional.relu(coarse + _twice(self.top(x)))
        x = functional.relu(middle + _twice(self.up[1](x)))
        x = functional.relu(fine + _twice(self.up[0](x)))
        maps: Tensor = self.head(self.join(x))
        return maps


def _twice(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")
