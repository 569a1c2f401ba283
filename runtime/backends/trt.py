"""TensorRT and TensorRT-RTX on an NVIDIA GPU. Only this file imports them."""

import contextlib
import hashlib
import importlib
import importlib.util
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.calibration import IDENTITY, Calibration, apply_calibration
from canthus.runtime.closeable import Closeable
from canthus.runtime.cuda.launch import Cuda, Gpu, find_gpu
from canthus.runtime.cuda.runner import FaceRunner, RunnerSizes
from canthus.runtime.engine_files import FLAVOURS, Flavour, find_mismatch, read_engine, read_kernels, write_kernels
from canthus.runtime.errors import BackendError, EngineError
from canthus.runtime.extras import install_command
from canthus.runtime.schemes import guess_scheme
from canthus.runtime.types import Roi

_log = logging.getLogger(__name__)

MODULES: dict[Flavour, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
EXTRAS: dict[Flavour, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "rtx"}

BINDING_ERRORS = (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError, MemoryError)
"""What TensorRT's bindings raise: C++ exceptions, and calls that a version does not know."""

PRECISIONS = {"HALF": True, "FLOAT": False}
"""Data type of the maps of an engine: whether it is fp16."""


@contextlib.contextmanager
def translated_errors(what: str) -> Iterator[None]:
    """Raise BackendError for errors of TensorRT's bindings, so that callers know only our own."""
    try:
        yield
    except BINDING_ERRORS as error:
        reason = " ".join(str(error).split())[:300]
        raise BackendError(f"{what}: TensorRT failed ({type(error).__name__}: {reason})") from error


class ErrorLog(Protocol):
    """A TensorRT logger that collects error messages instead of printing them."""

    errors: list[str]


def installed_flavours() -> tuple[Flavour, ...]:
    """Return the flavours of TensorRT that are installed."""
    return tuple(flavour for flavour in FLAVOURS if importlib.util.find_spec(MODULES[flavour]))


def load_flavour(flavour: Flavour) -> ModuleType:
    """Import a flavour of TensorRT. Raises BackendError if it is not installed."""
    try:
        return importlib.import_module(MODULES[flavour])
    except (ImportError, OSError) as missing:
        raise BackendError(
            f"{flavour} is not installed or does not load ({missing}): {install_command(EXTRAS[flavour])}"
        ) from missing


def flavour_version(flavour: Flavour) -> str:
    """Return the version of an installed flavour."""
    return str(load_flavour(flavour).__version__)


def capability_name(gpu: Gpu) -> str:
    """Return the compute capability as TensorRT-RTX names it: "sm86"."""
    return f"sm{gpu.capability}"


def rtx_targets() -> tuple[str, ...]:
    """Return the compute capabilities that the installed TensorRT-RTX supports."""
    names = load_flavour("tensorrt-rtx").ComputeCapability.__members__
    return tuple(name.lower() for name in names if name.startswith("SM"))


def select_flavour() -> Flavour:
    """Return TensorRT-RTX if it is installed and supports the GPU, or if there is no GPU. Otherwise TensorRT.

    Raises BackendError if neither can be used.
    """
    installed, gpu = installed_flavours(), find_gpu()
    if not installed:
        raise BackendError(f"TensorRT is not installed: {install_command('rtx')} (or the extra 'tensorrt')")
    if "tensorrt-rtx" in installed:
        if gpu is None or capability_name(gpu) in rtx_targets():
            return "tensorrt-rtx"
        if "tensorrt" not in installed:
            raise BackendError(
                f"TensorRT-RTX does not support {gpu.name} ({capability_name(gpu)}), but TensorRT does: "
                f"{install_command('tensorrt')}"
            )
    return "tensorrt"


def make_logger(trt: ModuleType) -> Any:
    """Return a logger for TensorRT that is an `ErrorLog`."""

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(trt.ILogger.Severity.ERROR):
                self.errors.append(" ".join(message.split()))

    return Logger()


def last_error(log: ErrorLog) -> str:
    """Return the last error message of TensorRT, shortened."""
    return log.errors[-1][:300] if log.errors else "no reason given"


class Engine:
    """A deserialized engine, with the sizes that its bindings define."""

    def __init__(self, path: Path, gpu: Gpu, trust: bool = False, skip_check: bool = False) -> None:
        """Load an engine file for a GPU.

        trust: load an engine without a manifest, whose origin is unknown.
        skip_check: load an engine that was built for another GPU or version. TensorRT itself then refuses it.

        Raises EngineError if the engine is damaged or does not fit, BackendError if TensorRT is missing or fails.
        """
        data, manifest = read_engine(path, trust)
        installed = installed_flavours()
        if manifest is None and not installed:
            raise BackendError(f"a .engine needs TensorRT, which is not installed: {install_command('rtx')}")
        self.path = path
        self.flavour = manifest.recipe.flavour if manifest else installed[-1]
        self.trt = load_flavour(self.flavour)
        rebuild = manifest.rebuild_command if manifest else "canthus engine build"
        if manifest and not skip_check:
            why = find_mismatch(manifest.recipe, str(self.trt.__version__), gpu.name, capability_name(gpu))
            if why:
                raise EngineError(f"{path}: {why}; rebuild it: {rebuild}")
        self.log = make_logger(self.trt)
        try:
            self._runtime = self.trt.Runtime(self.log)
        except TypeError as refused:  # raised by TensorRT if CUDA does not start
            raise BackendError(f"{self.flavour} does not start: {last_error(self.log)}") from refused
        self.engine = self._runtime.deserialize_cuda_engine(data)
        if self.engine is None:
            raise EngineError(f"{path}: {self.flavour} refuses it: {last_error(self.log)}; rebuild it: {rebuild}")
        names = [self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)]
        if sorted(names) != ["crops", "maps"]:
            raise EngineError(f"{path}: its bindings are {names}, expected crops and maps; rebuild it: {rebuild}")
        _, self.size, _, _ = self.engine.get_tensor_shape("crops")
        _, channels, cells, _ = self.engine.get_tensor_shape("maps")
        self.points, self.stride = channels // 3, self.size // cells
        self.max_batch = self.engine.get_tensor_profile_shape("crops", 0)[2][0]
        kind = self.engine.get_tensor_dtype("maps").name
        if kind not in PRECISIONS:
            raise EngineError(f"{path}: its maps are {kind}, expected HALF or FLOAT; rebuild it: {rebuild}")
        self.half_maps = PRECISIONS[kind]
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.calibration = manifest.calibration if manifest else IDENTITY
        self.scheme = manifest.scheme if manifest else guess_scheme(self.points)

    def describe_layers(self) -> str:
        """Return the layers of the engine as JSON, from TensorRT's inspector."""
        inspector = self.engine.create_engine_inspector()
        return str(inspector.get_engine_information(self.trt.LayerInformationFormat.JSON))


class TensorRTBackend(Closeable):
    """Runs an engine (crops in, maps out) with TensorRT, between the CUDA kernels crop.cu and decode.cu.

    All batch sizes are run once and captured before the constructor returns. One thread at a time may use the backend.

    trust, skip_check: see `Engine`.
    calibration: the model's, if it is known. The engine's manifest may be older.
    """

    def __init__(
        self, engine: Path, trust: bool = False, skip_check: bool = False, calibration: Calibration | None = None
    ) -> None:
        self._cuda: Cuda | None = Cuda()
        try:
            with self._cuda.active(), translated_errors(str(engine)):
                self._open(Engine(engine, self._cuda.gpu, trust, skip_check), self._cuda, calibration)
        except BaseException:
            self.close()
            raise

    def _open(self, engine: Engine, cuda: Cuda, calibration: Calibration | None) -> None:
        self._engine = engine
        self.size, self.scheme = engine.size, engine.scheme
        self._calibration = engine.calibration if calibration is None else calibration
        self.name = f"{engine.flavour} {engine.trt.__version__} on {cuda.gpu.name}"
        self._contexts: dict[int, Any] = {}
        self._capturable: dict[int, bool] = {}
        self._scratch = cuda.allocate(engine.engine.device_memory_size_v2)
        self._configuration, self._kernels = self._configure()
        sizes = RunnerSizes(engine.size, engine.points, engine.stride, engine.max_batch, engine.half_maps)
        self.runner: FaceRunner = FaceRunner(cuda, sizes, self._network)
        self.runner.prepare()

    def predict(self, crops: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Crops (N, S, S, 3) uint8 -> points (N, K, 2) in crop pixels and scores (N, K)."""
        assert self._cuda is not None, "the backend is closed"
        with translated_errors(self.name):
            points, scores = self.runner.predict(crops)
        return points, apply_calibration(scores, self._calibration)

    def predict_regions(
        self, image: NDArray[np.uint8], rois: Sequence[Roi]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Frame (H, W, 3) and regions -> points (N, K, 2) in frame pixels and scores (N, K)."""
        assert self._cuda is not None, "the backend is closed"
        with translated_errors(self.name):
            points, scores = self.runner.predict_regions(image, rois)
        return points, apply_calibration(scores, self._calibration)

    def _configure(self) -> tuple[Any, Any]:
        """Return the runtime configuration and the kernel cache of TensorRT-RTX, or (None, None) for TensorRT.

        TensorRT-RTX compiles kernels when an engine first runs. `close` saves them beside the engine.
        """
        if self._engine.flavour == "tensorrt":
            return None, None
        trt = self._engine.trt
        configuration = self._engine.engine.create_runtime_config()
        configuration.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        # Compile at once, not in the background: a CUDA graph keeps the kernels that it was captured with.
        configuration.dynamic_shapes_kernel_specialization_strategy = (
            trt.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        kernels = configuration.create_runtime_cache()
        saved = read_kernels(self._engine.path, self._engine.sha256)
        if saved is not None:
            kernels.deserialize(saved)  # that of another GPU or version is ignored
        configuration.set_runtime_cache(kernels)
        return configuration, kernels

    def _context(self, faces: int) -> Any:
        """Return the execution context of a batch size. Each has its own: a captured graph needs constant shapes."""
        if faces in self._contexts:
            return self._contexts[faces]
        engine, trt = self._engine.engine, self._engine.trt
        context = engine.create_execution_context(
            self._configuration or trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        if context is None:
            raise BackendError(f"{self._engine.path}: cannot be run ({last_error(self._engine.log)})")
        # All contexts share one scratch memory, because they run one after the other on one stream.
        context.set_device_memory(self._scratch, engine.device_memory_size_v2)
        context.set_input_shape("crops", (faces, self.size, self.size, 3))
        context.set_tensor_address("crops", self.runner.crops)
        context.set_tensor_address("maps", self.runner.maps)
        self._contexts[faces] = context
        return context

    def _network(self, faces: int) -> bool:
        assert self._cuda is not None
        context = self._context(faces)
        if not context.execute_async_v3(self._cuda.stream):
            raise BackendError(f"{self._engine.path}: did not run: {last_error(self._engine.log)}")
        if faces not in self._capturable:  # read once, outside a capture; only TensorRT-RTX has this method
            is_capturable: Callable[[int], bool] | None = getattr(context, "is_stream_capturable", None)
            self._capturable[faces] = is_capturable is None or is_capturable(self._cuda.stream)
        return self._capturable[faces]

    def close(self) -> None:
        """Save the compiled kernels and free the engine. A second call does nothing."""
        if self._cuda is None:
            return
        cuda, self._cuda = self._cuda, None
        if cuda.hung:  # each of the calls below would wait for the GPU
            return
        with cuda.active():
            if getattr(self, "_contexts", None) and self._kernels is not None:
                self._save_kernels()
            for name in ("_contexts", "_configuration", "_kernels", "_engine", "runner"):
                self.__dict__.pop(name, None)
        cuda.close()

    def _save_kernels(self) -> None:
        try:
            with translated_errors(self.name):
                content = self._kernels.serialize()
        except BackendError as error:
            _log.warning("the compiled kernels are not saved, so the next start takes longer: %s", error)
            return
        if content is not None:  # None after a device failure
            write_kernels(self._engine.path, self._engine.sha256, bytes(content))
