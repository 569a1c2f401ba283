"""Run any backend on regions of a frame."""

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.backends import Backend, RegionBackend
from canthus.runtime.geometry import crop_all, transform
from canthus.runtime.types import Roi


def predict_regions(
    backend: Backend, image: NDArray[np.uint8], rois: Sequence[Roi]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Run any backend on regions of a frame (H, W, 3) RGB -> points (N, K, 2) in frame pixels and scores (N, K)."""
    if hasattr(backend, "predict_regions"):  # isinstance with a protocol takes 0.05 ms
        return cast(RegionBackend, backend).predict_regions(image, rois)
    crops = crop_all(image, rois, backend.size)
    points, scores = backend.predict(crops.images)
    return transform(crops.to_frame, points), scores
