"""A backend for a PyTorch network that outputs raw maps. Engines are compared with it in accuracy and speed.

On the CPU the maps are decoded with NumPy, on a GPU with the CUDA kernels that the TensorRT backend uses.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from canthus.runtime.backends.torch_gpu import as_tensor
from canthus.runtime.closeable import Closeable
from canthus.runtime.cuda.launch import Cuda
from canthus.runtime.cuda.runner import FaceRunner, RunnerSizes
from canthus.runtime.decode import decode
from canthus.runtime.errors import BackendError
from canthus.runtime.geometry import crop_all, transform
from canthus.runtime.schemes import guess_scheme
from canthus.runtime.types import Roi

Network = Callable[[Tensor], Tensor]
"""From crops (N, S, S, 3) uint8 to raw maps (N, 3K, S/stride, S/stride) float32, including the normalization."""

MAX_BATCH = 16


class RawMapsBackend(Closeable):
    """Runs a network from crops to raw maps and decodes them, on the CPU or the first GPU.

    The scores are the peaks of the maps and are not calibrated. Use `runtime.backends.torch.TorchBackend` for anything
    but comparisons.
    """

    def __init__(self, network: Network, size: int, points: int, stride: int, device: str = "cpu") -> None:
        self.size, self._points, self._stride = size, points, stride
        self.scheme = guess_scheme(points)
        self._network = network
        self._cuda: Cuda | None = None
        self.name = f"PyTorch {torch.__version__} on the CPU"
        if device == "cuda":
            if not torch.cuda.is_available():
                raise BackendError("this PyTorch finds no NVIDIA GPU; use the CPU")
            self._cuda = Cuda()
            self.name = f"PyTorch {torch.__version__} on {self._cuda.gpu.name}"
            self._stream = torch.cuda.ExternalStream(self._cuda.stream)  # type: ignore[no-untyped-call]
            with self._cuda.active():
                self.runner = FaceRunner(self._cuda, RunnerSizes(size, points, stride, MAX_BATCH), self._run)
            self._crops = as_tensor(self.runner.crops, (MAX_BATCH, size, size, 3), "|u1")
            width = size // stride
            self._maps = as_tensor(self.runner.maps, (MAX_BATCH, 3 * points, width, width), "<f4")

    def predict(self, crops: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return points (N, K, 2) in crop pixels and peaks (N, K) for crops (N, S, S, 3) uint8."""
        if self._cuda is not None:
            return self.runner.predict(crops)
        found = [self._on_cpu(crops[start : start + MAX_BATCH]) for start in range(0, len(crops), MAX_BATCH)]
        if not found:
            return (
                np.zeros((0, self._points, 2), np.float32),
                np.zeros((0, self._points), np.float32),
            )
        points, scores = zip(*found, strict=True)
        return np.concatenate(points), np.concatenate(scores)

    def predict_regions(
        self, image: NDArray[np.uint8], rois: Sequence[Roi]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return points (N, K, 2) in frame pixels and peaks (N, K) for regions of a frame (H, W, 3) uint8."""
        if self._cuda is not None:
            return self.runner.predict_regions(image, rois)
        crops = crop_all(image, rois, self.size)
        points, scores = self.predict(crops.images)
        return transform(crops.to_frame, points), scores

    @torch.inference_mode()
    def _on_cpu(self, crops: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        maps = self._network(torch.from_numpy(np.ascontiguousarray(crops))).float().numpy()
        parts = maps.reshape(len(maps), 3, self._points, *maps.shape[2:])
        return decode(parts[:, 0], parts[:, 1:], self._stride)

    @torch.inference_mode()
    def _run(self, faces: int) -> bool:
        with torch.cuda.stream(self._stream):
            self._maps[:faces] = self._network(self._crops[:faces]).float()
        return False  # eager PyTorch allocates memory while it runs, so a CUDA graph cannot capture it

    def close(self) -> None:
        if self._cuda is not None:
            cuda, self._cuda = self._cuda, None
            cuda.close()
