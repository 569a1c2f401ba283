"""What a run minimizes, and how fast: its loss and the schedule of its learning rate."""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from canthus.trainer.distil import Teacher
from canthus.trainer.faces.schemes import Scheme
from canthus.trainer.loss import LossWeight, SkpsLoss
from canthus.trainer.packs.batches import Batch
from canthus.trainer.recipe import Recipe

Loss = Callable[[Tensor, Batch, Tensor], Tensor]
"""Takes maps (B, 3K, H, W), the batch, and its normalized images (B, 3, S, S); returns a scalar."""


def learning_rate_factor(step: int, recipe: Recipe, total_steps: int) -> float:
    """Return the learning rate of a step, as a fraction of the highest.

    Linear warm-up, then a half cosine to 0, or a division by ten at each of the milestones.
    """
    warm_up = min(recipe.warm_up, total_steps // 4)
    if step < warm_up:
        return (step + 1) / warm_up
    match recipe.schedule:
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(total_steps - warm_up, 1)))
        case "step":
            return float(0.1 ** sum(step >= epoch / recipe.epochs * total_steps for epoch in recipe.milestones))


def make_loss(recipe: Recipe, scheme: Scheme, device: torch.device, compiled: bool) -> Loss:
    """Return the loss against the labels, mixed with the loss against the teacher if the recipe names one."""
    skps = SkpsLoss(
        recipe.stride, recipe.sigma, recipe.near_weight, offsets=recipe.offset_loss, offset_weight=recipe.offset_weight,
        point_weight=recipe.point_weight,
    )  # fmt: skip
    label_loss = torch.compile(skps.__call__) if compiled else skps
    if not recipe.teacher:
        return lambda maps, batch, _: label_loss(maps, batch.points, LossWeight(batch.weight, batch.point_weight))
    teacher = Teacher(Path(recipe.teacher), scheme, device)
    teacher_loss = torch.compile(skps.against_maps) if compiled else skps.against_maps

    def mixed_loss(maps: Tensor, batch: Batch, images: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            scores, offsets = teacher.maps(images, recipe.stride, recipe.sigma)
        from_labels = label_loss(maps, batch.points, LossWeight(batch.weight, batch.point_weight))
        # The teacher predicts every point, also where the label is missing.
        everything = LossWeight(torch.ones_like(batch.weight), torch.ones_like(batch.point_weight))
        from_teacher = teacher_loss(maps, scores, offsets, everything)
        return (1 - recipe.distillation_weight) * from_labels + recipe.distillation_weight * from_teacher

    return mixed_loss
