"""The small network for CPUs: a residual encoder-decoder with the same head as HRNet."""

from torch import Tensor, nn
from torch.nn import functional

from canthus.trainer.networks.head import SkpsHead

WIDTHS = (48, 80, 160, 256)  # channels at strides 4, 8, 16 and 32
ENCODER_BLOCKS = (1, 1, 2, 2)  # residual blocks, at the same strides
DECODER_BLOCKS = (0, 1, 1)  # at strides 4, 8 and 16
HEAD_WIDTH = 64  # channels


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
    """Normalized images (B, 3, S, S) -> maps (B, 3K, S/4, S/4). S is a multiple of 32."""

    stride = 4

    def __init__(self, points: int) -> None:
        super().__init__()
        first = WIDTHS[0]
        self.stem = nn.Sequential(
            convolution(3, first // 2, stride=2),
            nn.ReLU(),
            convolution(first // 2, first, stride=2),
            nn.ReLU(),
        )
        down, up, lateral = [], [], []
        for level, (width, count) in enumerate(zip(WIDTHS, ENCODER_BLOCKS, strict=True)):
            halving: list[nn.Module] = []
            if level:
                halving += [convolution(WIDTHS[level - 1], width, stride=2), nn.ReLU()]
            down.append(nn.Sequential(*halving, *(Residual(width) for _ in range(count))))
        for level, count in enumerate(DECODER_BLOCKS):
            fine, coarse = WIDTHS[level], WIDTHS[level + 1]
            lateral.append(convolution(coarse, fine, size=1))
            up.append(nn.Sequential(*(Residual(fine) for _ in range(count))))
        self.down = nn.ModuleList(down)
        self.lateral = nn.ModuleList(lateral)
        self.up = nn.ModuleList(up)
        self.join = nn.Sequential(convolution(first, HEAD_WIDTH), nn.ReLU())
        self.head = SkpsHead(HEAD_WIDTH, points)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        features = []
        for stage in self.down:
            x = stage(x)
            features.append(x)
        x = features.pop()
        for lateral, up in reversed(list(zip(self.lateral, self.up, strict=True))):
            fine = features.pop()
            coarse = functional.interpolate(lateral(x), scale_factor=2.0, mode="nearest")
            x = up(functional.relu(fine + coarse))
        maps: Tensor = self.head(self.join(x))
        return maps
