"""HRNetV2-w18 (Wang et al., "Deep High-Resolution Representation Learning", TPAMI 2020) with the skps head.

Four branches at strides 4, 8, 16 and 32 run in parallel and are fused after every module. The modules have the names
of the authors' code, so that their backbone weights, trained on ImageNet, can be loaded by name. As in that network, a
coarse branch is upsampled with nearest-neighbor interpolation when it is added to a finer one; the published skps
recipe does it bilinearly (`HRNetSkps`).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from canthus.trainer.networks.head import SkpsHead

WIDTHS = (18, 36, 72, 144)
MODULES = (1, 4, 3)
"""Number of modules in stages 2, 3 and 4."""


class ResidualUnit(nn.Module):
    """A residual unit. Its `convolutions`, given as (kernel size, outputs), are named conv1, bn1, conv2, bn2, ..."""

    def __init__(self, inputs: int, *convolutions: tuple[int, int]) -> None:
        super().__init__()
        self.depth = len(convolutions)
        width = inputs
        for index, (size, outputs) in enumerate(convolutions, 1):
            self.add_module(f"conv{index}", nn.Conv2d(width, outputs, size, 1, size // 2, bias=False))
            self.add_module(f"bn{index}", nn.BatchNorm2d(outputs))
            width = outputs
        if width != inputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C', H, W)
        identity = self.downsample(x) if hasattr(self, "downsample") else x
        for index in range(1, self.depth + 1):
            x = getattr(self, f"bn{index}")(getattr(self, f"conv{index}")(x))
            if index < self.depth:
                x = functional.relu(x)
        return functional.relu(identity + x)


def bottleneck(inputs: int, width: int) -> ResidualUnit:
    """Return a unit of the first stage: 1x1 to `width`, 3x3, 1x1 to four times `width`."""
    return ResidualUnit(inputs, (1, width), (3, width), (1, 4 * width))


def basic(width: int) -> ResidualUnit:
    """Return a unit of the branches: two 3x3 convolutions."""
    return ResidualUnit(width, (3, width), (3, width))


def _convolution(inputs: int, outputs: int, stride: int = 1, activation: bool = True) -> nn.Sequential:
    parts = [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*parts, *([nn.ReLU()] if activation else []))


class HighResolutionModule(nn.Module):
    """Four residual units on each branch, then the fusion: each branch becomes the sum of all branches at its size."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*(basic(width) for _ in range(4))) for width in widths)
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(self._resampler(widths, source, target) for source in range(len(widths)))
            for target in range(len(widths))
        )

    @staticmethod
    def _resampler(widths: tuple[int, ...], source: int, target: int) -> nn.Module:
        """Return the layers from the branch `source` to the size and width of the branch `target`."""
        inputs, outputs = widths[source], widths[target]
        if source == target:
            return nn.Identity()
        if source > target:
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.Upsample(scale_factor=float(2 ** (source - target)), mode="nearest"),
            )
        halvings = [_convolution(inputs, inputs, 2) for _ in range(target - source - 1)]
        return nn.Sequential(*halvings, _convolution(inputs, outputs, 2, activation=False))

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        features = [branch(x) for branch, x in zip(self.branches, inputs, strict=True)]
        outputs = []
        for layers in self.fuse_layers:
            assert isinstance(layers, nn.ModuleList)
            parts = [layer(x) for layer, x in zip(layers, features, strict=True)]
            outputs.append(functional.relu(sum(parts[1:], parts[0])))
        return outputs


class HRNet(nn.Module):
    """Normalized images (B, 3, S, S) -> maps (B, 3K, S/4, S/4). S is a multiple of 32.

    widths: channels of the four branches, those published or more (padding.py).
    """

    stride = 4

    def __init__(self, points: int, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(bottleneck(64, 64), *(bottleneck(256, 64) for _ in range(3)))
        self.transition1 = nn.ModuleList([_convolution(256, widths[0]), nn.Sequential(_convolution(256, widths[1], 2))])
        self.transition2 = _transition(2, widths)
        self.transition3 = _transition(3, widths)
        self.stage2, self.stage3, self.stage4 = (
            nn.Sequential(*(HighResolutionModule(widths[: stage + 2]) for _ in range(count)))
            for stage, count in enumerate(MODULES)
        )
        self.head = SkpsHead(sum(widths), points)

    def forward(self, images: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(images)))
        x = self.layer1(functional.relu(self.bn2(self.conv2(x))))
        branches = self.stage2([layer(x) for layer in self.transition1])
        branches = self.stage3([*branches, self.transition2[-1](branches[-1])])
        branches = self.stage4([*branches, self.transition3[-1](branches[-1])])
        fine = branches[0].shape[-2:]
        coarse = (functional.interpolate(x, fine, mode="bilinear", align_corners=False) for x in branches[1:])
        maps: Tensor = self.head(torch.cat([branches[0], *coarse], 1))
        return maps


class HRNetSkps(HRNet):
    """HRNet as in the published skps recipe: bilinear upsampling in the fusions, and a head with larger weights."""

    def __init__(self, points: int) -> None:
        super().__init__(points)
        upsample_bilinearly(self)
        for part in self.head:
            if isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, std=0.01)
                assert part.bias is not None
                nn.init.zeros_(part.bias)


def upsample_bilinearly(network: HRNet) -> None:
    """Change the interpolation of the fusions, which has no weights."""
    for part in network.modules():
        if isinstance(part, nn.Upsample):
            part.mode, part.align_corners = "bilinear", False


def _transition(index: int, widths: tuple[int, ...]) -> nn.ModuleList:
    """Return the layers that add branch `index`, made from the last branch at half its size. The others stay."""
    unchanged = [nn.Identity() for _ in range(index)]
    return nn.ModuleList([*unchanged, nn.Sequential(_convolution(widths[index - 1], widths[index], 2))])
