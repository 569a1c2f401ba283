"""Distillation: a student learns from the maps of a teacher, resampled to the student's grid."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from canthus.runtime.errors import InputError
from canthus.trainer.faces.schemes import Scheme, describe_difference, same_order
from canthus.trainer.networks.checkpoint import load_network
from canthus.trainer.networks.head import split_maps
from canthus.trainer.networks.network import scheme_from_metadata


class Teacher:
    """A trained network that predicts maps for the crops of a student.

    Raises InputError if it predicts other points.
    """

    def __init__(self, path: Path, scheme: Scheme, device: torch.device) -> None:
        network, metadata = load_network(path)
        if not same_order(own := scheme_from_metadata(metadata), scheme):
            raise InputError(
                f"{path}: the teacher predicts {own.points} points of {own.name}, the faces have {scheme.points} of "
                f"{scheme.name} (different: {describe_difference(own, scheme)})"
            )
        self.size, self.stride = int(metadata["size"]), int(metadata.get("stride", 4))
        self.width = (
            float(metadata.get("sigma", 0)) * self.stride / self.size
        )  # sigma of its maps, in crops; 0 = unknown
        self._network: nn.Module = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def maps(self, images: Tensor, stride: int, sigma: float) -> tuple[Tensor, Tensor]:
        """Return scores (B, K, S/stride, S/stride) and offsets (B, 2, K, S/stride, S/stride) in the student's cells.

        images: normalized (B, 3, S, S). Scores lie in [0, 1]; each peak gets the student's width, `sigma` cells.
        """
        size = images.shape[-1]
        inputs = images
        if size != self.size:
            resized = functional.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
            inputs = resized.contiguous(memory_format=torch.channels_last)
        scores, offsets = resample_maps(
            split_maps(self._network(inputs).float()), self.stride, size // stride, stride, self.size / size
        )
        scores = scores.clamp(0, 1)
        if self.width:
            peak = scores.amax((2, 3), keepdim=True).clamp(min=1e-3)
            scores = peak * (scores / peak) ** ((self.width * size / (stride * sigma)) ** 2)
        return scores, offsets


def resample_maps(
    maps: tuple[Tensor, Tensor], teacher_stride: int, cells: int, stride: int, ratio: float
) -> tuple[Tensor, Tensor]:
    """Resample a teacher's scores (B, K, H, W) and offsets (B, 2, K, H, W) to a student's grid of `cells`.

    ratio: side of the teacher's crop over the side of the student's. Pixel centers are integers, so x in the
    student's crop is (x + 0.5) * ratio - 0.5 in the teacher's.
    """
    scores, offsets = maps
    if (cells, stride, ratio) == (scores.shape[-1], teacher_stride, 1):
        return scores, offsets
    batch, points, height, _ = scores.shape
    centers = torch.arange(cells, device=scores.device) * stride  # of the student's cells, in pixels of its crop
    places = ((centers + 0.5) * ratio - 0.5) / teacher_stride  # in the teacher's cells
    line = 2 * places / (height - 1) - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    grid = torch.stack([x, y], -1).expand(batch, -1, -1, -1)
    both = torch.cat([scores, offsets.flatten(1, 2)], 1)
    both = functional.grid_sample(both, grid, padding_mode="border", align_corners=True)
    resampled = both[:, points:].view(batch, 2, points, cells, cells)
    return both[:, :points], resampled * (teacher_stride / (stride * ratio))  # teacher's cells -> student's cells
