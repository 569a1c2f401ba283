"""The small networks for CPUs: residual encoder-decoders with the same head as HRNet."""

from typing import Literal, NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from canthus.trainer.networks.head import SkpsHead

WIDTHS = (48, 80, 160, 256)  # channels at strides 4, 8, 16 and 32


class Layout(NamedTuple):
    """The depth of a student, and the stride of its maps."""

    encoder_blocks: tuple[int, int, int, int]  # residual blocks at strides 4, 8, 16 and 32
    decoder_blocks: tuple[int, int, int]  # at strides 4, 8 and 16; with maps of stride 8 the first is not used
    head_width: int  # channels
    finest: int  # where the decoder ends: 0 = at stride 4, 1 = at stride 8


StudentName = Literal["student", "student_stride8", "student_lean"]

LAYOUTS: dict[StudentName, Layout] = {
    "student": Layout((1, 1, 2, 2), (0, 1, 1), 64, 0),
    "student_stride8": Layout((1, 1, 2, 2), (0, 1, 1), 96, 1),
    "student_lean": Layout((0, 1, 1, 1), (0, 1, 1), 96, 1),
}
"""`student` is the network of `fast` in version 0.2.0, `student_stride8` that of `fast` and `accurate`, and
`student_lean` that of `tiny`.

With maps of stride 8 instead of 4, the offsets alone carry the precision. The last convolution and the decode then take
a quarter of their time, and a training step half of its time. Layers have the same names in all students and, but for
`join` and `head`, the same shapes. So one student can start from a checkpoint of another."""


def convolution(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    """Return a convolution with batch normalization, without activation."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False), nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """A residual block of two 3x3 convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = convolution(width, width)
        self.second = convolution(width, width)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        return functional.relu(x + self.second(functional.relu(self.first(x))))


class Student(nn.Module):
    """Normalized images (B, 3, S, S) -> maps (B, 3K, S/stride, S/stride). S is a multiple of 32."""

    def __init__(self, points: int, layout: Layout = LAYOUTS["student"]) -> None:
        super().__init__()
        self.stride = 4 << layout.finest
        first = WIDTHS[0]
        self.stem = nn.Sequential(
            convolution(3, first // 2, stride=2),
            nn.ReLU(),
            convolution(first // 2, first, stride=2),
            nn.ReLU(),
        )
        down = []
        for level, (width, count) in enumerate(zip(WIDTHS, layout.encoder_blocks, strict=True)):
            halving: list[nn.Module] = []
            if level:
                halving += [convolution(WIDTHS[level - 1], width, stride=2), nn.ReLU()]
            down.append(nn.Sequential(*halving, *(Residual(width) for _ in range(count))))
        self.down = nn.ModuleList(down)
        # By level. In a checkpoint the layers have the names that a list would give them, as in version 0.2.0.
        self.lateral, self.up = nn.ModuleDict(), nn.ModuleDict()
        for level in range(layout.finest, len(WIDTHS) - 1):
            fine, coarse = WIDTHS[level], WIDTHS[level + 1]
            self.lateral[str(level)] = convolution(coarse, fine, size=1)
            self.up[str(level)] = nn.Sequential(*(Residual(fine) for _ in range(layout.decoder_blocks[level])))
        self.join = nn.Sequential(convolution(WIDTHS[layout.finest], layout.head_width), nn.ReLU())
        self.head = SkpsHead(layout.head_width, points)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        features = []
        for stage in self.down:
            x = stage(x)
            features.append(x)
        x = features.pop()
        for level in reversed(list(self.lateral)):
            coarse = functional.interpolate(self.lateral[level](x), scale_factor=2.0, mode="nearest")
            x = self.up[level](functional.relu(features.pop() + coarse))
        maps: Tensor = self.head(self.join(x))
        return maps
