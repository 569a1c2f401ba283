"""PyTorch: runs a network in float32, on the CPU or an NVIDIA GPU."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from canthus.runtime.calibration import IDENTITY, Calibration, apply_calibration
from canthus.runtime.closeable import Closeable
from canthus.runtime.errors import BackendError
from canthus.runtime.schemes import WFLW, Scheme


class TorchBackend(Closeable):
    """Runs a network that its caller built, with calibrated scores. `runtime` defines no architecture.

    network: crops (N, S, S, 3) uint8 -> points (N, K, 2) in crop pixels and map peaks (N, K), both float32. So the
        network normalizes the crops and decodes its maps itself, as an exported model does. It is moved to the device.
    size: side of the crops, pixels.
    scheme: of the points.
    device: "cpu" or "cuda". Raises BackendError if PyTorch finds no GPU.
    """

    def __init__(
        self,
        network: nn.Module,
        size: int,
        calibration: Calibration = IDENTITY,
        device: str = "cpu",
        scheme: Scheme = WFLW,
    ) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise BackendError("this PyTorch finds no NVIDIA GPU; use the CPU")
        self.size, self.scheme = size, scheme
        self._calibration, self._device = calibration, torch.device(device)
        self._network = network.eval().to(self._device)
        where = torch.cuda.get_device_name(self._device) if device == "cuda" else "the CPU"
        self.name = f"PyTorch {torch.__version__} on {where}"

    @torch.inference_mode()
    def predict(self, crops: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Crops (N, S, S, 3) uint8 -> points (N, K, 2) in crop pixels and scores (N, K)."""
        try:
            outputs = self._network(torch.from_numpy(np.ascontiguousarray(crops)).to(self._device))
            points, scores = (output.cpu().numpy() for output in outputs)
        except RuntimeError as error:
            raise BackendError(f"{self.name}: the network failed ({str(error).strip().splitlines()[0]})") from error
        return points, apply_calibration(scores, self._calibration)

    def close(self) -> None:
        """Do nothing: Python frees the network with the backend."""
