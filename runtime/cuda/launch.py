"""CUDA driver calls: memory, streams, kernels and graphs. Only this file talks to the CUDA driver.

`Cuda` wraps the driver and owns the memory it allocates. README.md in this folder says why it is as it is.
"""

import ctypes
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.cuda.compile import cached_kernel
from canthus.runtime.errors import BackendError
from canthus.runtime.extras import install_command

SYNC_LIMIT = 10.0
"""Seconds that the GPU may take for one frame. Far more than any needs: a GPU that hangs is given up."""

SPIN_SECONDS = 0.002
"""While this long, the end of a frame's work is asked for without a pause, which adds no latency; then every 0.2 ms."""


@dataclass(frozen=True)
class Gpu:
    """The name and compute capability of a GPU."""

    name: str
    capability: int  # 86 = compute capability 8.6


def find_gpu() -> Gpu | None:
    """Return the first NVIDIA GPU, or None if there is no GPU, no driver or no cuda-bindings."""
    try:
        driver = _driver()
    except BackendError:
        return None
    status, device = driver.cuDeviceGet(0)
    return None if status != driver.CUresult.CUDA_SUCCESS else _describe(driver, device)


def _describe(driver: ModuleType, device: Any) -> Gpu:
    kind = driver.CUdevice_attribute
    major, minor = (
        int(_checked(driver.cuDeviceGetAttribute(attribute, device)))
        for attribute in (
            kind.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            kind.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        )
    )
    name = _checked(driver.cuDeviceGetName(256, device))
    return Gpu(name.split(b"\0")[0].decode(), 10 * major + minor)


def _driver() -> ModuleType:
    try:
        from cuda.bindings import driver  # type: ignore[import-untyped, import-not-found]

        (status,) = driver.cuInit(0)
    except ImportError as missing:
        raise BackendError(
            f"an NVIDIA GPU needs cuda-bindings, which is not installed: {install_command('rtx')}"
        ) from missing
    except RuntimeError as absent:  # the driver's library is not installed
        raise BackendError("no NVIDIA driver on this machine; use a .onnx model, on the CPU") from absent
    if status != driver.CUresult.CUDA_SUCCESS:
        raise BackendError(f"no usable NVIDIA GPU ({status.name}); use a .onnx model, on the CPU")
    return cast(ModuleType, driver)


def _checked(result: tuple) -> Any:
    """Return the result of a driver call without its status. Raises BackendError if it failed."""
    status, *values = result
    if int(status):
        raise BackendError(f"CUDA: {status.name}")
    return values[0] if values else None


class Cuda:
    """The first GPU: its primary context, one stream, and the memory allocated through it.

    The first GPU is that of CUDA_VISIBLE_DEVICES. Every call, except `gpu` and `stream`, belongs into `with active()`.
    One thread at a time may use it.
    """

    def __init__(self) -> None:
        self._driver = _driver()
        self._device = _checked(self._driver.cuDeviceGet(0))
        self.gpu = _describe(self._driver, self._device)
        # The primary context is also PyTorch's, so both can use the same memory.
        self._context = _checked(self._driver.cuDevicePrimaryCtxRetain(self._device))
        with self.active():
            # A non-blocking stream does not wait for the legacy default stream.
            self._stream = _checked(self._driver.cuStreamCreate(self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
        self._memory: list[int] = []
        self._pinned: list[int] = []
        self._graphs: list[Any] = []
        self._modules: list[Any] = []
        self._events: tuple[Any, Any] | None = None  # created by measure_seconds
        self._closed = False
        self.hung = False  # whether the GPU gave no result in time

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make the context current in this thread; afterwards the one before is current again."""
        _checked(self._driver.cuCtxPushCurrent(self._context))
        try:
            yield
        finally:
            self._driver.cuCtxPopCurrent()

    @property
    def stream(self) -> int:
        """The handle of the stream, for TensorRT and PyTorch."""
        return int(self._stream)

    def allocate(self, size: int) -> int:
        """Allocate device memory of `size` bytes; return its address. It is freed by `close` or `free`."""
        address = int(_checked(self._driver.cuMemAlloc(max(size, 1))))
        self._memory.append(address)
        return address

    def free(self, address: int) -> None:
        """Free device memory before `close`."""
        self._memory.remove(address)  # first: an address is never freed twice
        _checked(self._driver.cuMemFree(address))

    def allocate_pinned(self, size: int) -> NDArray[np.uint8]:
        """Allocate page-locked host memory (size,) uint8, for asynchronous copies. Valid until `close`."""
        address = int(_checked(self._driver.cuMemHostAlloc(max(size, 1), 0)))
        self._pinned.append(address)
        return np.ctypeslib.as_array((ctypes.c_uint8 * max(size, 1)).from_address(address))

    def free_pinned(self, array: NDArray[np.uint8]) -> None:
        """Free page-locked memory before `close`."""
        self._pinned.remove(array.ctypes.data)
        _checked(self._driver.cuMemFreeHost(array.ctypes.data))

    def upload(self, address: int, pinned: NDArray, size: int) -> None:
        """Start to copy the first `size` bytes of page-locked memory to the device."""
        _checked(self._driver.cuMemcpyHtoDAsync(address, pinned.ctypes.data, size, self._stream))

    def download(self, pinned: NDArray, address: int, size: int) -> None:
        """Start to copy `size` bytes of device memory to page-locked memory."""
        _checked(self._driver.cuMemcpyDtoHAsync(pinned.ctypes.data, address, size, self._stream))

    def kernel(self, name: str, function: str) -> Any:
        """Return a function of a kernel file, compiled for this GPU."""
        module = _checked(self._driver.cuModuleLoadData(cached_kernel(name, self.gpu.capability)))
        self._modules.append(module)
        return _checked(self._driver.cuModuleGetFunction(module, function.encode()))

    def launch(
        self,
        kernel: Any,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        *values: int | float,
        shared: int = 0,
    ) -> None:
        """Launch a kernel. An `Address` is passed as a pointer, another int as int32, a float as float32.

        shared: bytes of dynamic shared memory.
        """
        types = tuple(_argument_type(value) for value in values)
        _checked(self._driver.cuLaunchKernel(kernel, *grid, *block, shared, self._stream, (values, types), 0))

    @contextmanager
    def capture(self) -> Iterator[list[Any]]:
        """Capture the work that the block starts in a CUDA graph, without running it. The list receives the graph.

        The graph is uploaded, so that its first launch takes no longer than the others.
        """
        graphs: list[Any] = []
        driver = self._driver
        # Thread-local: CUDA calls of other threads neither break the capture nor are part of it.
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        _checked(driver.cuStreamBeginCapture(self._stream, mode))
        try:
            yield graphs
        except BaseException:
            status, graph = driver.cuStreamEndCapture(self._stream)
            if not int(status) and int(graph):
                driver.cuGraphDestroy(graph)
            raise
        graph = _checked(driver.cuStreamEndCapture(self._stream))
        try:
            graphs.append(_checked(driver.cuGraphInstantiate(graph, 0)))
        finally:
            driver.cuGraphDestroy(graph)
        self._graphs += graphs
        _checked(driver.cuGraphUpload(graphs[0], self._stream))

    def replay(self, graph: Any) -> None:
        """Launch a captured graph."""
        _checked(self._driver.cuGraphLaunch(graph, self._stream))

    def synchronize(self, limit: float = SYNC_LIMIT) -> None:
        """Wait until all work on the stream has finished. Raises BackendError if that takes longer than `limit` s."""
        driver, begin = self._driver, time.perf_counter()
        while True:
            (status,) = driver.cuStreamQuery(self._stream)
            if status != driver.CUresult.CUDA_ERROR_NOT_READY:
                _checked((status,))
                return
            waited = time.perf_counter() - begin
            if waited > limit:
                self.hung = True
                raise BackendError(f"{self.gpu.name}: no result within {limit:g} s; restart, or use a .onnx model")
            if waited > SPIN_SECONDS:
                time.sleep(0.0002)

    def measure_seconds(self, start: Callable[[], object]) -> float:
        """Return the device time of the work that `start` starts, from CUDA events. Waits for its end."""
        driver = self._driver
        if self._events is None:
            first, last = (_checked(driver.cuEventCreate(driver.CUevent_flags.CU_EVENT_DEFAULT)) for _ in range(2))
            self._events = first, last
        first, last = self._events
        _checked(driver.cuEventRecord(first, self._stream))
        start()
        _checked(driver.cuEventRecord(last, self._stream))
        _checked(driver.cuEventSynchronize(last))
        return float(_checked(driver.cuEventElapsedTime(first, last))) / 1000

    def available_memory(self) -> int:
        """Return the bytes of device memory that are free."""
        status, free, _total = self._driver.cuMemGetInfo()
        _checked((status,))
        return int(free)

    def close(self) -> None:
        """Free all memory, the stream and the context. A second call does nothing.

        Nothing is freed if the GPU hangs: each of these calls would wait for it.
        """
        if self._closed:
            return
        self._closed = True
        if self.hung:
            return
        with self.active():
            self._free_all()
        self._driver.cuDevicePrimaryCtxRelease(self._device)

    def _free_all(self) -> None:
        driver = self._driver
        driver.cuStreamSynchronize(self._stream)
        for event in self._events or ():
            driver.cuEventDestroy(event)
        for graph in self._graphs:
            driver.cuGraphExecDestroy(graph)
        for module in self._modules:
            driver.cuModuleUnload(module)
        for address in self._memory:
            driver.cuMemFree(address)
        for address in self._pinned:
            driver.cuMemFreeHost(address)
        driver.cuStreamDestroy(self._stream)


class Address(int):
    """A device address among the arguments of a kernel."""


def _argument_type(value: int | float) -> type:
    match value:
        case Address():
            return ctypes.c_void_p
        case int():
            return ctypes.c_int
        case _:
            return ctypes.c_float
