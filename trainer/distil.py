"""Learning from another network: its maps, as a student of any crop size would have them, and where it takes points."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from canthus.runtime.errors import InputError
from canthus.trainer.networks.checkpoint import load_network
from canthus.trainer.networks.head import split_maps


class Teacher:
    """A trained network that shows a student its maps of the very crops that the student sees."""

    def __init__(self, path: Path, points: int, device: torch.device) -> None:
        network, facts = load_network(path)
        if facts["points"] != points:
            raise InputError(f"{path}: the teacher knows {facts['points']} points, the faces have {points}")
        self.size, self.stride = int(facts["size"]), int(facts.get("stride", 4))
        self.width = float(facts.get("sigma", 0)) * self.stride / self.size  # of its score maps, in crops; 0 = untold
        self._network: nn.Module = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def maps(self, images: Tensor, stride: int, sigma: float) -> tuple[Tensor, Tensor]:
        """Normalised images (B, 3, S, S) -> scores (B, K, S/stride, S/stride) and offsets (B, 2, K, ...) in cells.

        Scores lie in 0 to 1, and are as wide around their peak as `sigma` (in cells of the student) has it.
        """
        size = images.shape[-1]
        seen = images
        if size != self.size:
            larger = functional.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
            seen = larger.contiguous(memory_format=torch.channels_last)
        scores, offsets = split_maps(self._network(seen).float())
        ratio = self.size / size
        scores, offsets = on_grid(scores, offsets, size // stride, ratio, self.stride, stride)
        scores = scores.clamp(0, 1)
        if self.width:
            peak = scores.amax((2, 3), keepdim=True).clamp(min=1e-3)
            scores = peak * (scores / peak) ** ((self.width * size / (stride * sigma)) ** 2)
        return scores, offsets


def on_grid(scores: Tensor, offsets: Tensor, cells: int, ratio: float, theirs: int, ours: int) -> tuple[Tensor, Tensor]:
    """Maps of a teacher as a student's grid of `cells` has them.

    scores (B, K, H, W), offsets (B, 2, K, H, W). ratio: side of the teacher's crop over the student's; `theirs` and
    `ours`: their strides. A pixel's centre is an integer, so x of the student is (x + 0.5) ratio - 0.5 of the teacher.
    """
    if (cells, ratio, ours) == (scores.shape[-1], 1, theirs):
        return scores, offsets
    batch, points, height, _ = scores.shape
    place = ((torch.arange(cells, device=scores.device) * ours + 0.5) * ratio - 0.5) / theirs  # in the teacher's cells
    line = 2 * place / (height - 1) - 1
    down, across = torch.meshgrid(line, line, indexing="ij")
    grid = torch.stack([across, down], -1).expand(batch, -1, -1, -1)
    both = torch.cat([scores, offsets.flatten(1, 2)], 1)
    both = functional.grid_sample(both, grid, padding_mode="border", align_corners=True)
    # The place that an offset tells: theirs * (place + offset) in the teacher's pixels.
    told = both[:, points:].view(batch, 2, points, cells, cells) * (theirs / (ours * ratio))
    return both[:, :points], told
