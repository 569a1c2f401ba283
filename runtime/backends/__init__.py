"""What runs a landmark network: uint8 crops in, points and scores out."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.errors import ModelError
from canthus.runtime.models import read_manifest
from canthus.runtime.types import Roi


class Backend(Protocol):
    """A network ready to run. It belongs to the thread that opened it."""

    @property
    def name(self) -> str:
        """What runs where, for a person: "OpenVINO on the CPU"."""
        ...

    @property
    def size(self) -> int:
        """Side of the crops it takes, pixels."""
        ...

    def predict(self, crops: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Crops (N, S, S, 3) RGB -> points (N, 98, 2) in crop pixels and scores (N, 98); N may be 0.

        A score is the chance that its point sits well, as far as the model was calibrated.
        """
        ...

    def close(self) -> None:
        """Free what it holds; a second call does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


@runtime_checkable
class RegionBackend(Backend, Protocol):
    """A backend that also takes the whole frame, and cuts the crops where it runs."""

    def predict_regions(
        self, image: NDArray[np.uint8], rois: Sequence[Roi]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """A frame (H, W, 3) RGB and regions -> points (N, 98, 2) in frame pixels and scores (N, 98)."""
        ...


def open_backend(model: Path) -> Backend:
    """Open a .onnx with OpenVINO on the CPU or a .engine with TensorRT on the GPU; the name decides."""
    match model.suffix:
        case ".onnx":
            from canthus.runtime.backends.cpu import OpenVINOBackend

            return OpenVINOBackend(model, read_manifest(model))
        case ".engine":
            from canthus.runtime.backends.trt import TensorRTBackend

            return TensorRTBackend(model)
        case _:
            raise ModelError(f"{model}: expected a .onnx or .engine file; `canthus export` makes one of a checkpoint")
