"""HRNetV2-w18 (Wang et al., "Deep High-Resolution Representation Learning", TPAMI 2020) with the skps head.

Four branches at strides 4, 8, 16 and 32 run side by side and exchange what they see after every module.
Modules are named as in the authors' code, so that backbone weights trained on ImageNet fit by name; as in the
network that learnt those, a coarse branch is enlarged by repetition where it is added to a finer one.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from canthus.trainer.networks.head import SkpsHead

WIDTHS = (18, 36, 72, 144)
MODULES = (1, 4, 3)
"""How many modules stages 2, 3 and 4 hold."""


class Unit(nn.Module):
    """A residual unit; `convolutions` are (kernel size, outputs), named conv1, bn1, conv2, bn2 and so on."""

    def __init__(self, inputs: int, *convolutions: tuple[int, int]) -> None:
        super().__init__()
        self.depth = len(convolutions)
        width = inputs
        for number, (size, outputs) in enumerate(convolutions, 1):
            self.add_module(f"conv{number}", nn.Conv2d(width, outputs, size, 1, size // 2, bias=False))
            self.add_module(f"bn{number}", nn.BatchNorm2d(outputs))
            width = outputs
        if width != inputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C', H, W)
        kept = self.downsample(x) if hasattr(self, "downsample") else x
        for number in range(1, self.depth + 1):
            x = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(x))
            if number < self.depth:
                x = functional.relu(x)
        return functional.relu(kept + x)


def bottleneck(inputs: int, width: int) -> Unit:
    """The unit of the stem's stage: narrow, convolve, widen to four times the width."""
    return Unit(inputs, (1, width), (3, width), (1, 4 * width))


def basic(width: int) -> Unit:
    """The unit of the branches."""
    return Unit(width, (3, width), (3, width))


def _step(inputs: int, outputs: int, stride: int = 1, active: bool = True) -> nn.Sequential:
    parts = [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*parts, *([nn.ReLU()] if active else []))


class Module(nn.Module):
    """One unit of exchange: four residual units on every branch, then each branch receives all others."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*(basic(width) for _ in range(4))) for width in widths)
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(self._exchange(widths, source, target) for source in range(len(widths)))
            for target in range(len(widths))
        )

    @staticmethod
    def _exchange(widths: tuple[int, ...], source: int, target: int) -> nn.Module:
        """What brings the branch `source` to the size and width of the branch `target`."""
        given, wanted = widths[source], widths[target]
        if source == target:
            return nn.Identity()
        if source > target:
            return nn.Sequential(
                nn.Conv2d(given, wanted, 1, bias=False),
                nn.BatchNorm2d(wanted),
                nn.Upsample(scale_factor=float(2 ** (source - target)), mode="nearest"),
            )
        halvings = [_step(given, given, 2) for _ in range(target - source - 1)]
        return nn.Sequential(*halvings, _step(given, wanted, 2, active=False))

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        seen = [branch(x) for branch, x in zip(self.branches, inputs, strict=True)]
        outputs = []
        for layers in self.fuse_layers:
            assert isinstance(layers, nn.ModuleList)
            parts = [layer(x) for layer, x in zip(layers, seen, strict=True)]
            outputs.append(functional.relu(sum(parts[1:], parts[0])))
        return outputs


class HRNet(nn.Module):
    """Images (B, 3, S, S), normalised -> maps (B, 3K, S/4, S/4); S is a multiple of 32."""

    stride = 4

    def __init__(self, points: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(bottleneck(64, 64), *(bottleneck(256, 64) for _ in range(3)))
        self.transition1 = nn.ModuleList([_step(256, WIDTHS[0]), nn.Sequential(_step(256, WIDTHS[1], 2))])
        self.transition2 = _new_branch(2)
        self.transition3 = _new_branch(3)
        self.stage2, self.stage3, self.stage4 = (
            nn.Sequential(*(Module(WIDTHS[: number + 2]) for _ in range(count))) for number, count in enumerate(MODULES)
        )
        self.head = SkpsHead(sum(WIDTHS), points)

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


def _new_branch(number: int) -> nn.ModuleList:
    """The transition that adds branch `number`, half the size of the last; the others pass as they are."""
    kept = [nn.Identity() for _ in range(number)]
    return nn.ModuleList([*kept, nn.Sequential(_step(WIDTHS[number - 1], WIDTHS[number], 2))])
