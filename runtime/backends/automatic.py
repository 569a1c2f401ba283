"""The CPU now, the GPU as soon as its engine is ready, and the CPU again if the GPU fails.

If no installed TensorRT supports the GPU, PyTorch runs the network on it, if a PyTorch with CUDA is installed.

If this machine has no NVIDIA driver, or neither TensorRT nor such a PyTorch, none of them is imported and nothing is
logged.
"""

import logging
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from canthus.runtime.backends import Backend, check_points, gpu_target, open_backend
from canthus.runtime.backends.engine_build import EngineBuild
from canthus.runtime.backends.opening import Opening
from canthus.runtime.backends.regions import predict_regions
from canthus.runtime.backends.trt import TensorRTBackend
from canthus.runtime.closeable import Closeable
from canthus.runtime.engine_files import mark_failed
from canthus.runtime.errors import BackendError, CanthusError, EngineError, ModelError
from canthus.runtime.models import (
    Model,
    Precision,
    find_gpu_model,
    find_int8,
    find_model,
    find_precision,
    read_model,
)
from canthus.runtime.schemes import Scheme
from canthus.runtime.types import Roi

_log = logging.getLogger(__name__)

Prediction = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Points (N, K, 2) and scores (N, K)."""


def open_automatic(
    name: str | Path | None = None,
    gpu: bool = True,
    points: int | None = None,
    precision: Precision | None = None,
) -> Backend:
    """Open a model on the best device of this machine.

    name: an included model's name or a file; None means the default of the CPU and the default of the GPU.
    gpu: use an NVIDIA GPU if there is one.
    points: the number of points that the caller can use; None accepts any.
    precision: which version of the model to run. None means 8 bits on a CPU that is faster with them, if the model has
        an 8-bit version, and float on a GPU.

    Returns the CPU backend alone if no GPU can be used, and the GPU backend alone for a .engine file.
    Raises ModelError if the model is missing, damaged, has other points, or has no version with the precision.
    """
    path = find_model(name)
    if path.suffix != ".onnx":
        return open_backend(path, points)
    model, cpu = _open_cpu(path, points, precision)
    if not (gpu and gpu_target.gpu_expected()):
        return cpu
    try:
        gpu_path = find_gpu_model(name)
        if precision is not None:
            gpu_path = find_precision(gpu_path, precision)
        return AutomaticBackend(cpu, model if gpu_path == model.path else gpu_path, points)
    except BaseException:
        cpu.close()
        raise


class _Opened(NamedTuple):
    """The file that was opened, and its backend."""

    model: Model
    backend: Backend


def _open_cpu(path: Path, points: int | None, precision: Precision | None) -> _Opened:
    """Open a .onnx model on the CPU; the arguments are those of `open_automatic`.

    Without a precision, the float model is opened if its 8-bit version is damaged or this CPU cannot run it.
    """
    if precision is not None:
        path = find_precision(path, precision)
    elif int8_is_faster():
        try:
            int8 = find_int8(path)
            if int8 is not None:
                model = read_model(int8)
                return _Opened(model, open_backend(model, points))
        except ModelError as error:
            _log.warning("%s; the float model is used", error)
    model = read_model(path)
    return _Opened(model, open_backend(model, points))


def int8_is_faster() -> bool:
    """Return whether OpenVINO computes faster in 8 bits on this CPU.

    Time of `fast` in 8 bits over float, one face: 0.44 with AVX-VNNI, 0.56 with AVX2, 0.46 and 0.67 with AVX-512 with
    and without VNNI, 0.79 with AMX (1.02 for four faces, 1.21 for 16). On ARM OpenVINO converts 8-bit networks to fp16.
    """
    return platform.machine().lower() in ("x86_64", "amd64", "x86", "i386", "i686")


class AutomaticBackend(Closeable):
    """Runs a model on the CPU until its GPU engine is ready, then on the GPU, and on the CPU again if the GPU fails.

    An engine in the cache is used from the start. Otherwise it is built in a background process, once, opened in a
    thread, and used from the first prediction after that. A prediction that fails on the GPU is repeated on the CPU, so
    callers see no error. Each change is logged once.

    cpu: the backend for the CPU. It is closed with this one.
    model: the model of the GPU. It may differ from the CPU's, and take crops of another size.
    points: the number of points that the caller can use.

    `name` and `size` are those of the backend in use. `size` may change with every prediction: `predict` resizes
    crops that were cut for the other backend, `predict_regions` always crops at the right size.
    """

    def __init__(self, cpu: Backend, model: Path | Model, points: int | None = None) -> None:
        self._cpu = cpu
        self._gpu: Backend | None = None
        self._build: EngineBuild | None = None
        self._opening: Opening | None = None
        self._engine: Path | None = None  # what `_opening` opens; None = PyTorch, which needs none
        try:
            self._model = model if isinstance(model, Model) else read_model(model)
            check_points(self._model.path, self._model.manifest.points, points)
            if self._model.manifest.scheme != cpu.scheme:
                raise ModelError(
                    f"{self._model.path}: its points are those of {self._model.manifest.scheme.name} (expected "
                    f"{cpu.scheme.name}, as the model of the CPU)"
                )
            self._open_or_build()
        except (CanthusError, OSError) as error:  # OSError: a cache or a disk that cannot be used
            _warn_no_engine(error)

    @property
    def name(self) -> str:
        """The library and the device in use."""
        return self._active.name

    @property
    def size(self) -> int:
        """Side of the crops of the backend in use, pixels."""
        return self._active.size

    @property
    def scheme(self) -> Scheme:
        """What the points are, on both devices."""
        return self._cpu.scheme

    @property
    def _active(self) -> Backend:
        return self._gpu or self._cpu

    def predict(self, crops: NDArray[np.uint8]) -> Prediction:
        """Crops (N, S, S, 3) RGB -> points (N, K, 2) in crop pixels and scores (N, K)."""
        return self._run(lambda backend: _predict_resized(backend, crops))

    def predict_regions(self, image: NDArray[np.uint8], rois: Sequence[Roi]) -> Prediction:
        """Frame (H, W, 3) RGB and regions -> points (N, K, 2) in frame pixels and scores (N, K)."""
        return self._run(lambda backend: predict_regions(backend, image, rois))

    def _run(self, predict: Callable[[Backend], Prediction]) -> Prediction:
        """Run one prediction on the backend in use, and again on the CPU if the GPU fails."""
        if self._build is not None and not self._build.running:
            self._open_built()
        if self._opening is not None and not self._opening.running:
            self._use_opened()
        if self._gpu is None:
            return predict(self._cpu)
        try:
            return predict(self._gpu)
        except (BackendError, RuntimeError) as error:  # RuntimeError: of libraries that a backend did not translate
            _log.warning("%s; the CPU is used from now on", error)
            gpu, self._gpu = self._gpu, None
            _close_failed(gpu)
            try:
                return predict(self._cpu)
            except BackendError as second:
                raise BackendError(f"{second}; {gpu.name} had failed before ({error})") from second

    def _open_or_build(self) -> None:
        """Open the engine in the cache, or start to build it if it is missing or damaged."""
        try:
            target = gpu_target.find_target()
        except BackendError as error:
            if not gpu_target.torch_has_cuda():
                raise
            _log.info("%s; PyTorch runs the network on the GPU, and the CPU is used until it is ready", error)
            self._opening = Opening(lambda: _open_torch(self._model))
            return
        engine = gpu_target.find_engine(self._model, target)
        if engine is not None:
            try:
                self._gpu = self._open(engine)
                return
            except EngineError as error:
                _log.warning("%s; the engine is built again", error)
        self._build = EngineBuild(self._model.path, target.flavour, overwrite=engine is not None)
        _log.info(
            "building the engine of %s for %s, once; the CPU is used until it is ready",
            self._model.path.stem,
            target.gpu.name,
        )

    def _open_built(self) -> None:
        """Start to open the engine of the build that has ended. If there is none, the CPU stays in use."""
        build, self._build = self._build, None
        assert build is not None
        try:
            with build:
                build.check()
            engine = gpu_target.find_engine(self._model, gpu_target.find_target())
            if engine is None:
                raise BackendError("the engine that was built is not in the cache")
        except (CanthusError, OSError) as error:  # OSError: a cache or a disk that cannot be used
            _warn_no_engine(error)
        else:
            self._opening, self._engine = Opening(lambda: self._open(engine)), engine

    def _use_opened(self) -> None:
        """Use the backend that the thread has opened. If it could not be opened, the CPU stays in use."""
        opening, self._opening = self._opening, None
        assert opening is not None
        try:
            try:
                gpu = self._gpu = opening.take()
            except EngineError as error:
                if self._engine is not None:
                    mark_failed(self._engine, str(error))  # otherwise it would be built again at every start
                raise
        except (CanthusError, RuntimeError, OSError) as error:  # RuntimeError: of the libraries of the GPU
            _warn_no_engine(error)
            return
        ready = "the engine is built" if self._engine is not None else "PyTorch is ready"
        _log.info("%s; %s is used from now on", ready, gpu.name)

    def _open(self, engine: Path) -> Backend:
        return TensorRTBackend(engine, calibration=self._model.manifest.calibration)

    def close(self) -> None:
        """Free both backends, and stop a build that is running."""
        build, self._build = self._build, None
        if build is not None:
            if build.running:
                _log.info("the engine build was stopped; `canthus engine build` builds it in advance")
            build.close()
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.close()
        if self._gpu is not None:
            self._gpu.close()
        self._cpu.close()


def _open_torch(model: Model) -> Backend:
    from canthus.runtime.backends.torch_gpu import TorchGpuBackend  # here: importing PyTorch takes seconds

    return TorchGpuBackend(model)


def _warn_no_engine(error: Exception) -> None:
    _log.warning("no engine for the GPU: %s; the CPU is used", error)


def _close_failed(gpu: Backend) -> None:
    """Free a backend after a failure of its GPU, which may make freeing fail too."""
    try:
        gpu.close()
    except (BackendError, RuntimeError) as error:
        _log.debug("%s: not freed: %s", gpu.name, error)


def _predict_resized(backend: Backend, crops: NDArray[np.uint8]) -> Prediction:
    """Run a backend on crops of any size; points in pixels of the given crops."""
    if not len(crops) or crops.shape[1] == backend.size:
        return backend.predict(crops)
    scale = crops.shape[1] / backend.size
    method = cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR
    side = (backend.size, backend.size)
    resized = [np.asarray(cv2.resize(crop, side, interpolation=method), np.uint8) for crop in crops]
    points, scores = backend.predict(np.stack(resized))
    return (points + np.float32(0.5)) * np.float32(scale) - np.float32(0.5), scores  # pixel centers are integers
