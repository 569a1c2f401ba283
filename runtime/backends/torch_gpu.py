"""PyTorch on an NVIDIA GPU, between our CUDA kernels: where no installed TensorRT supports the GPU."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from canthus.runtime.backends.onnx_network import OnnxNetwork
from canthus.runtime.calibration import apply_calibration
from canthus.runtime.closeable import Closeable
from canthus.runtime.cuda.launch import Cuda
from canthus.runtime.cuda.runner import FaceRunner, RunnerSizes
from canthus.runtime.errors import BackendError
from canthus.runtime.models import Model
from canthus.runtime.types import Roi

MAX_BATCH = 16


@contextlib.contextmanager
def translated_errors(what: str) -> Iterator[None]:
    """Raise BackendError for errors of PyTorch."""
    try:
        yield
    except RuntimeError as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0][:300]
        raise BackendError(f"{what}: PyTorch failed ({reason})") from error


class TorchCuda(Cuda):
    """Captures with PyTorch, so that the memory of its operations belongs to the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.torch_stream = torch.cuda.ExternalStream(self.stream)  # type: ignore[no-untyped-call]
        self._pool: Any = None  # of all graphs: they never run at the same time

    @contextlib.contextmanager
    def capture(self) -> Iterator[list[Any]]:
        """Capture the work that the block starts, ours and PyTorch's. The list receives the graph."""
        graphs: list[Any] = []
        graph = torch.cuda.CUDAGraph()
        mode = "thread_local"  # CUDA calls of other threads do not break the capture
        with (
            translated_errors("capture"),
            torch.cuda.graph(graph, self._pool, self.torch_stream, capture_error_mode=mode),
        ):
            yield graphs
        self._pool = self._pool or graph.pool()
        graphs.append(graph)

    def replay(self, graph: Any) -> None:
        """Launch a captured graph."""
        with torch.cuda.stream(self.torch_stream):
            graph.replay()


class TorchGpuBackend(Closeable):
    """Runs an exported model with PyTorch in fp16 on the first GPU, between the CUDA kernels crop.cu and decode.cu.

    All steps of a batch size are one CUDA graph, which the constructor captures. One thread at a time may use the
    backend. Raises BackendError if this PyTorch cannot use the GPU, ModelError if it cannot run the model.
    """

    def __init__(self, model: Model) -> None:
        if not torch.cuda.is_available():
            raise BackendError(
                f"PyTorch {torch.__version__} finds no NVIDIA GPU; install one with CUDA, or use the CPU"
            )
        manifest = model.manifest
        self.size, self._calibration, self.scheme = manifest.size, manifest.calibration, manifest.scheme
        self._cuda: TorchCuda | None = TorchCuda()
        self.name = f"PyTorch {torch.__version__} on {self._cuda.gpu.name}"
        try:
            with self._cuda.active(), translated_errors(str(model.path)):
                self._network = OnnxNetwork(model.path, half=True).eval().cuda()
                sizes = RunnerSizes(manifest.size, manifest.points, manifest.stride, MAX_BATCH, half=True)
                self.runner: FaceRunner = FaceRunner(self._cuda, sizes, self._run)
                width = manifest.size // manifest.stride
                self._crops = as_tensor(self.runner.crops, (MAX_BATCH, manifest.size, manifest.size, 3), "|u1")
                self._maps = as_tensor(self.runner.maps, (MAX_BATCH, 3 * manifest.points, width, width), "<f2")
                self.runner.prepare()
        except BaseException:
            self.close()
            raise

    @torch.inference_mode()
    def _run(self, faces: int) -> bool:
        assert self._cuda is not None
        with torch.cuda.stream(self._cuda.torch_stream):
            self._maps[:faces].copy_(self._network(self._crops[:faces]))
        return True

    def predict(self, crops: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Crops (N, S, S, 3) uint8 -> points (N, K, 2) in crop pixels and scores (N, K)."""
        with translated_errors(self.name):
            points, scores = self.runner.predict(crops)
        return points, apply_calibration(scores, self._calibration)

    def predict_regions(
        self, image: NDArray[np.uint8], rois: Sequence[Roi]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Frame (H, W, 3) and regions -> points (N, K, 2) in frame pixels and scores (N, K)."""
        with translated_errors(self.name):
            points, scores = self.runner.predict_regions(image, rois)
        return points, apply_calibration(scores, self._calibration)

    def close(self) -> None:
        """Free the network and the graphs. A second call does nothing."""
        if self._cuda is None:
            return
        cuda, self._cuda = self._cuda, None
        if cuda.hung:
            return
        with cuda.active():
            for name in ("_network", "runner", "_crops", "_maps"):
                self.__dict__.pop(name, None)
            with contextlib.suppress(RuntimeError):  # a GPU that failed frees nothing
                torch.cuda.empty_cache()  # else PyTorch keeps the memory until the process ends
        cuda.close()


def as_tensor(address: int, shape: tuple[int, ...], kind: str) -> Tensor:
    """Return device memory as a tensor, without a copy. kind: as NumPy names data types, such as "<f4"."""

    class Memory:
        __cuda_array_interface__ = {  # noqa: RUF012
            "shape": shape,
            "typestr": kind,
            "data": (int(address), False),
            "version": 3,
        }

    return torch.as_tensor(Memory(), device="cuda")
