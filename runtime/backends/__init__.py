"""Backends run a landmark network: uint8 crops in, points and scores out."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.engine_files import read_engine_manifest
from canthus.runtime.errors import ModelError
from canthus.runtime.models import Model, read_model
from canthus.runtime.schemes import Scheme
from canthus.runtime.types import Roi


class Backend(Protocol):
    """A network that is ready to run. It belongs to the thread that opened it."""

    @property
    def name(self) -> str:
        """The library and the device, for people: "OpenVINO on the CPU"."""
        ...

    @property
    def size(self) -> int:
        """Side of the crops that `predict` takes, pixels."""
        ...

    @property
    def scheme(self) -> Scheme:
        """What the points are."""
        ...

    def predict(self, crops: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Crops (N, S, S, 3) RGB -> points (N, K, 2) in crop pixels and scores (N, K). N may be 0.

        If the model was calibrated, a score is the probability that its point is accurate (see `Faces`).
        """
        ...

    def close(self) -> None:
        """Free the network. A second call does nothing."""
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
    """A backend that also accepts a whole frame and crops it on its own device."""

    def predict_regions(
        self, image: NDArray[np.uint8], rois: Sequence[Roi]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Frame (H, W, 3) RGB and regions -> points (N, K, 2) in frame pixels and scores (N, K)."""
        ...


def open_backend(model: Path | Model, points: int | None = None) -> Backend:
    """Open a .onnx model with OpenVINO on the CPU, or a .engine with TensorRT on the GPU; the suffix decides.

    points: the number of points that the caller can use; None accepts any.

    Raises ModelError if the model has another suffix or other points, or cannot be loaded.
    """
    path = model.path if isinstance(model, Model) else model
    match path.suffix:
        case ".onnx":
            from canthus.runtime.backends.cpu import OpenVINOBackend

            checked = model if isinstance(model, Model) else read_model(path)
            check_points(path, checked.manifest.points, points)
            return OpenVINOBackend(checked)
        case ".engine":
            from canthus.runtime.backends.trt import TensorRTBackend

            if points is not None:
                check_points(path, read_engine_manifest(path).points, points)
            return TensorRTBackend(path)
        case _:
            raise ModelError(f"{path}: expected a .onnx or .engine file; `canthus export` converts a checkpoint")


def check_points(path: Path, found: int, expected: int | None) -> None:
    """Raise ModelError if a model has another number of points than expected. None accepts any."""
    if expected not in (None, found):
        raise ModelError(f"{path}: has {found} points (expected {expected}); use a model of {expected} points")
