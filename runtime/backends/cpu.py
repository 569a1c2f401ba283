"""OpenVINO on the CPU: the default where no NVIDIA GPU is used."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.backends.openvino_without_telemetry import core, openvino
from canthus.runtime.calibration import apply_calibration
from canthus.runtime.closeable import Closeable
from canthus.runtime.errors import ModelError
from canthus.runtime.models import Manifest


def run_exactly(model: Path, crops: NDArray[np.uint8]) -> list[NDArray]:
    """Every output of a model for crops (N, S, S, 3), computed in float32; for checks, not for speed."""
    result = _compile(model, INFERENCE_PRECISION_HINT="f32").create_infer_request().infer([crops])
    return [np.array(value) for value in result.values()]


def _compile(model: Path, **options: str) -> openvino.CompiledModel:
    try:
        return core().compile_model(core().read_model(model), "CPU", {"PERFORMANCE_HINT": "LATENCY", **options})
    except RuntimeError as refused:
        reason = str(refused).strip().splitlines()[-1]
        raise ModelError(f"{model}: OpenVINO cannot load it: {reason}") from refused


class OpenVINOBackend(Closeable):
    """Runs an exported model (crops in, points and scores out) with OpenVINO."""

    name = "OpenVINO on the CPU"

    def __init__(self, model: Path, manifest: Manifest) -> None:
        self.size = manifest.size
        self._points, self._calibration = manifest.points, manifest.calibration
        # On a CPU with bf16 OpenVINO runs the network in it, and what follows the last convolution, the
        # decode, in float32: points move by 0.02 crop pixels at the median, and it takes a third less time.
        compiled = _compile(model)
        inputs = [tuple(port.partial_shape.to_string() for port in compiled.inputs)]
        if len(compiled.inputs) != 1 or len(compiled.outputs) != 2:
            raise ModelError(f"{model}: expected one input (crops) and two outputs (points, scores), got {inputs}")
        self._request: openvino.InferRequest | None = compiled.create_infer_request()

    def predict(self, crops: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        assert self._request is not None, "the backend is closed"
        if not len(crops):
            return (
                np.zeros((0, self._points, 2), np.float32),
                np.zeros((0, self._points), np.float32),
            )
        result = self._request.infer([np.ascontiguousarray(crops)])
        points, scores = (result[port] for port in (0, 1))
        return points.astype(np.float32), apply_calibration(scores.astype(np.float32), self._calibration)

    def close(self) -> None:
        self._request = None
