"""Old names of recipe keys and of checkpoint metadata, so that files of earlier versions can still be read."""

from collections.abc import Mapping
from typing import Any

from canthus.runtime.errors import InputError

RENAMED_KEYS = {
    "mirrored": "flip_tta",
    "boosts": "dataset_weights",
    "aside": "profile_weight",
    "faceless": "negative_fraction",
    "trust": "spread_half_weight",
    "taught": "distillation_weight",
    "like": "extends",
    "drops": "milestones",
    "clip": "clip_grad_norm",
    "average": "ema_decay",
    "augmentation.even": "augmentation.uniform",
    "augmentation.squeeze": "augmentation.squeeze_min",
    "augmentation.cover_p": "augmentation.occluder_p",
    "augmentation.black": "augmentation.black_fill",
    "augmentation.exposure_p": "augmentation.brightness_contrast_p",
    "augmentation.hue_p": "augmentation.hsv_p",
    "augmentation.colour_p": "augmentation.color_p",
    "augmentation.grey_p": "augmentation.gray_p",
    "augmentation.blur": "augmentation.blur_sigma",
    "augmentation.shrink_p": "augmentation.downscale_p",
    "augmentation.compress_p": "augmentation.jpeg_p",
    "augmentation.holes_p": "augmentation.dropout_p",
    "augmentation.holes": "augmentation.dropout_holes",
    "augmentation.hole": "augmentation.dropout_size",
}
"""Old name: new name, since version 0.2. Keys of the augmentation are written `augmentation.NAME`."""


def rename_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values under their new names, in the same order.

    Raises InputError if a value is given under its old and its new name.
    """
    for old, new in RENAMED_KEYS.items():
        if old in values and new in values:
            raise InputError(f"{new}: given twice, also under its old name {old}; keep one of them")
    return {RENAMED_KEYS.get(name, name): value for name, value in values.items()}
