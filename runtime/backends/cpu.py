"""OpenVINO on the CPU: runs exported models where no NVIDIA GPU is used."""

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.backends import Backend
from canthus.runtime.backends.compiled_models import EXACT, LATENCY, SMALL_CROP, compile_model, open_compiled
from canthus.runtime.backends.opening import Opening
from canthus.runtime.backends.openvino_without_telemetry import openvino
from canthus.runtime.calibration import apply_calibration
from canthus.runtime.closeable import Closeable
from canthus.runtime.errors import BackendError, ModelError
from canthus.runtime.models import Manifest, Model

BATCH = 4
"""Crops at a time of an 8-bit network, if there are as many. Each takes 0.7 to 0.85 of the time of a single one."""


def run_exactly(model: Path, crops: NDArray[np.uint8]) -> list[NDArray]:
    """Return every output of a model for crops (N, S, S, 3), computed in float32. For checks: it is slow."""
    result = compile_model(model, {**LATENCY, **EXACT}).create_infer_request().infer([crops])
    return [np.array(value) for value in result.values()]


class OpenVINOBackend(Closeable):
    """Runs an exported model (crops in, points and scores out) with OpenVINO, in the precision of the model.

    An 8-bit network runs on one crop at a time. A small one also runs on `BATCH` of them, as soon as a thread has
    compiled it for these: that begins with the first `BATCH` crops. The results are the same.

    batch: crops at a time of an 8-bit network.

    Raises ModelError if OpenVINO cannot load the model, or if its inputs or outputs are not those of its manifest.
    """

    name = "OpenVINO on the CPU"
    time_limit, time_limit_per_crop = 30.0, 2.0
    """Seconds after which a prediction counts as hanging: far more than a slow computer needs."""

    def __init__(self, model: Model, batch: int = 1) -> None:
        manifest = model.manifest
        self.size = manifest.size
        self._points, self._calibration, self.scheme = manifest.points, manifest.calibration, manifest.scheme
        # OpenVINO crashes with some 8-bit networks on CPUs with AMX if the number of crops is not fixed (issue 37577 of
        # openvinotoolkit/openvino).
        self._batch = batch if manifest.precision == "int8" else None
        if self._batch:
            self.name += ", 8 bits"
        # On CPUs with bf16, OpenVINO runs the network in bf16 and the decode after the last convolution in float32.
        # The points then differ by 0.02 crop pixels (median), and the run takes a third less time.
        compiled = open_compiled(model, self._batch)
        _check_ports(model.path, compiled, manifest)
        self._request: openvino.InferRequest | None = compiled.create_infer_request()
        self._input = np.zeros((batch, self.size, self.size, 3), np.uint8)
        if self._batch:  # to pass an array to each run takes 0.1 ms longer
            self._request.set_input_tensor(openvino.Tensor(self._input, shared_memory=True))
        # `accurate` would need 200 MB more.
        self._takes_several = self._batch == 1 and self.size <= SMALL_CROP
        self._open_several = partial(OpenVINOBackend, model, BATCH)
        self._opening: Opening | None = None  # of the network for `BATCH` crops

    def predict(self, crops: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Crops (N, S, S, 3) uint8 -> points (N, K, 2) in crop pixels and scores (N, K)."""
        assert self._request is not None, "the backend is closed"
        count, done = len(crops), 0
        points = np.empty((count, self._points, 2), np.float32)
        scores = np.empty((count, self._points), np.float32)
        if self._takes_several and count >= BATCH and (several := self._several()):
            done = count - count % BATCH
            points[:done], scores[:done] = several.predict(crops[:done])
        step = self._batch or max(count, 1)
        for start in range(done, count, step):
            part = slice(start, start + step)
            self._infer(self._request, crops[part])
            points[part], peaks = (self._request.get_output_tensor(port).data for port in (0, 1))
            scores[part] = apply_calibration(peaks, self._calibration)
        return points, scores

    def _infer(self, request: openvino.InferRequest, crops: NDArray[np.uint8]) -> None:
        """Run the network. Raises BackendError if OpenVINO fails or gives no result in time."""
        limit = self.time_limit + self.time_limit_per_crop * len(crops)
        try:
            if self._batch:
                self._input[:] = crops
                request.start_async()
            else:
                request.start_async([np.ascontiguousarray(crops)])
            finished = request.wait_for(round(1000 * limit))
        except (RuntimeError, ValueError) as error:  # ValueError: crops of another size
            raise BackendError(f"{self.name}: the network failed ({str(error).strip().splitlines()[-1]})") from error
        if not finished:
            raise BackendError(f"{self.name}: no result within {limit:.0f} s; use a smaller model, or restart")

    def _several(self) -> Backend | None:
        """Return the network for `BATCH` crops if it is open. The first call starts to open it, in a thread."""
        if self._opening is None:
            self._opening = Opening(self._open_several)
        if self._opening.running:
            return None
        try:
            return self._opening.take()
        except ModelError:  # OpenVINO cannot compile it for several crops
            return None

    def close(self) -> None:
        """Free the network."""
        self._request = None
        if self._opening is not None:
            self._opening.close()


def _check_ports(path: Path, compiled: openvino.CompiledModel, manifest: Manifest) -> None:
    """Raise ModelError if the model's inputs and outputs do not have the shapes of its manifest."""
    size, points = manifest.size, manifest.points
    for kind, ports, shapes in (
        ("input", compiled.inputs, [("N", size, size, 3)]),
        ("output", compiled.outputs, [("N", points, 2), ("N", points)]),
    ):
        if len(ports) == len(shapes) and all(map(_has_shape, ports, shapes)):
            continue
        found = " and ".join(port.partial_shape.to_string() for port in ports)
        expected = " and ".join(str(list(shape)).replace("'", "") for shape in shapes)
        raise ModelError(
            f"{path}: {kind}s have the shapes {found} (expected {expected}, from size {size} and points {points} in "
            f"{path.with_suffix('.json').name}); export the model again with `canthus export`"
        )


def _has_shape(port: openvino.ConstOutput, shape: tuple[str | int, ...]) -> bool:
    """Return whether an input or output may have a shape. The batch N and unknown dimensions fit any number."""
    found = list(port.partial_shape)
    return len(found) == len(shape) and all(
        expected == "N" or dimension.is_dynamic or dimension.get_length() == expected
        for dimension, expected in zip(found, shape, strict=True)
    )
