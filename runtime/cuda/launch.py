"""CUDA driver calls: memory, streams, kernels and graphs. Only this file talks to the CUDA driver.

`Cuda` wraps the driver and owns the memory it allocates. `FaceRunner` runs a network on the faces of a frame: upload,
crop, network, decode and download, all on one stream, and from the second run on as one captured CUDA graph.
"""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.cuda.compile import cached_kernel
from canthus.runtime.errors import BackendError
from canthus.runtime.extras import install_command
from canthus.runtime.geometry import sampling, to_frame
from canthus.runtime.types import Roi

BUCKETS = (1, 2, 4, 8, 16)
"""Batch sizes with a captured graph. Other numbers of faces run as the next larger one."""

# The structs of face.cuh.
VIEW = np.dtype([("pixels", "<u8"), ("width", "<i4"), ("height", "<i4")])
REGION = np.dtype([("cut", "<f4", 6), ("back", "<f4", 6), ("taps", "<i4"), ("shrink", "<i4"), ("unused", "<i4", 2)])
REGIONS_OFFSET = 64  # bytes from the view to the regions, which are uploaded in one copy
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

TILE = 16  # threads per block along x and y, crop.cu
THREADS = 256  # threads per block, decode.cu


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
    """The first GPU, for use in this thread: its primary context, one stream, and the memory allocated through it."""

    def __init__(self) -> None:
        self._driver = _driver()
        self._device = _checked(self._driver.cuDeviceGet(0))
        self.gpu = _describe(self._driver, self._device)
        # The primary context is also PyTorch's, so both can use the same memory.
        context = _checked(self._driver.cuDevicePrimaryCtxRetain(self._device))
        _checked(self._driver.cuCtxSetCurrent(context))
        # A non-blocking stream does not wait for the legacy default stream.
        self._stream = _checked(self._driver.cuStreamCreate(self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
        self._memory: list[int] = []
        self._pinned: list[int] = []
        self._graphs: list[Any] = []
        self._modules: list[Any] = []
        self._events: tuple[Any, Any] | None = None  # created by measure_seconds
        self._closed = False

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
        self._memory.remove(address)
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
        self, kernel: Any, grid: tuple[int, int, int], block: tuple[int, int, int], *values: int | float
    ) -> None:
        """Launch a kernel. An `Address` is passed as a pointer, another int as int32, a float as float32."""
        types = tuple(_argument_type(value) for value in values)
        _checked(self._driver.cuLaunchKernel(kernel, *grid, *block, 0, self._stream, (values, types), 0))

    @contextmanager
    def capture(self) -> Iterator[list[Any]]:
        """Capture the work that the block starts in a CUDA graph, without running it. The list receives the graph."""
        graphs: list[Any] = []
        # Thread-local: CUDA calls of other threads neither break the capture nor are part of it.
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        _checked(self._driver.cuStreamBeginCapture(self._stream, mode))
        try:
            yield graphs
        finally:
            status, graph = self._driver.cuStreamEndCapture(self._stream)
        _checked((status, graph))
        graphs.append(_checked(self._driver.cuGraphInstantiate(graph, 0)))
        _checked(self._driver.cuGraphDestroy(graph))
        self._graphs += graphs

    def replay(self, graph: Any) -> None:
        """Launch a captured graph."""
        _checked(self._driver.cuGraphLaunch(graph, self._stream))

    def synchronize(self) -> None:
        """Wait until all work on the stream has finished."""
        _checked(self._driver.cuStreamSynchronize(self._stream))

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
        """Free all memory, the stream and the context. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
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
        driver.cuDevicePrimaryCtxRelease(self._device)


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


def to_region(roi: Roi, size: int) -> tuple[NDArray[np.float32], NDArray[np.float32], int, int]:
    """Return the fields of a `Region` in face.cuh: `cut`, `back`, and the taps and shrink that geometry.crop uses."""
    shrink, taps = sampling(roi, size)
    cut, back = to_frame(roi, size * taps), to_frame(roi, size)
    cut /= shrink
    cut[:, 2] += 0.5 / shrink - 0.5  # pixel centers are integers in the reduced frame too
    return cut.astype(np.float32).ravel(), back.astype(np.float32).ravel(), taps, shrink


class FaceRunner:
    """Runs a network on the faces of a frame, on the GPU. After the first runs it allocates no memory.

    max_batch: the largest number of faces per run. More faces are run in parts.
    network: a function that starts the network for a number of faces. It reads `crops` (faces, S, S, 3) uint8 and
        writes `maps` (faces, 3K, S/stride, S/stride) float32. It returns whether its work can be captured in a graph.
    """

    def __init__(
        self,
        cuda: Cuda,
        size: int,
        points: int,
        stride: int,
        max_batch: int,
        network: Callable[[int], bool],
    ) -> None:
        self.cuda, self._network = cuda, network
        self._size, self._points, self._stride = size, points, stride
        self._width = size // stride
        self.buckets = (*(bucket for bucket in BUCKETS if bucket < max_batch), max_batch)
        self._crop = cuda.kernel("crop.cu", "crop_regions")
        self._decode = cuda.kernel("decode.cu", "decode_maps")
        self._crop_bytes = size * size * 3
        self.crops = Address(cuda.allocate(max_batch * self._crop_bytes))
        self.maps = Address(cuda.allocate(max_batch * 3 * points * self._width**2 * 4))
        # The view and the regions are adjacent in memory, and are uploaded in one copy.
        input_bytes = REGIONS_OFFSET + max_batch * REGION.itemsize
        self._inputs = Address(cuda.allocate(input_bytes))
        self._inputs_pinned = cuda.allocate_pinned(input_bytes)
        self._inputs_pinned[:] = 0
        self._view = self._inputs_pinned[: VIEW.itemsize].view(VIEW)
        self._regions = self._inputs_pinned[REGIONS_OFFSET:].view(REGION)
        self._points_out = Address(cuda.allocate(max_batch * points * 3 * 4))
        self._crops_pinned = cuda.allocate_pinned(max_batch * self._crop_bytes)
        self._result = cuda.allocate_pinned(max_batch * points * 3 * 4).view(np.float32).reshape(max_batch, points, 3)
        self._frame = 0
        self._frame_pinned: NDArray[np.uint8] | None = None
        self._graphs: dict[tuple[int, bool], Any] = {}

    def predict(self, crops: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Crops (N, S, S, 3) -> points (N, K, 2) in crop pixels and scores (N, K)."""
        found = []
        for start in range(0, len(crops), self.buckets[-1]):
            part = crops[start : start + self.buckets[-1]]
            self._crops_pinned[: part.size] = part.reshape(-1)
            self.cuda.upload(self.crops, self._crops_pinned, part.size)
            self._regions["back"] = IDENTITY
            found.append(self.run(len(part), cut=False))
        return self._split(found)

    def predict_regions(
        self, image: NDArray[np.uint8], rois: Sequence[Roi]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Frame (H, W, 3) and regions -> points (N, K, 2) in frame pixels and scores (N, K)."""
        if rois:
            self.put_frame(image)
        found = []
        for start in range(0, len(rois), self.buckets[-1]):
            part = rois[start : start + self.buckets[-1]]
            self.put_regions(part)
            found.append(self.run(len(part), cut=True))
        return self._split(found)

    def put_regions(self, rois: Sequence[Roi]) -> None:
        """Set the regions of the next run, at most `max_batch`."""
        self._regions["taps"] = 0  # the other crops of the batch are black
        for index, roi in enumerate(rois):
            self._regions[index] = (*to_region(roi, self._size), 0)

    def put_frame(self, image: NDArray[np.uint8]) -> None:
        """Start to upload a frame (H, W, 3)."""
        if self._frame_pinned is None or len(self._frame_pinned) < image.size:
            if self._frame_pinned is not None:
                self.cuda.free(self._frame)
                self.cuda.free_pinned(self._frame_pinned)
            # Graphs stay valid: they read the frame's address from the view, which is uploaded with the regions.
            self._frame = self.cuda.allocate(image.size)
            self._frame_pinned = self.cuda.allocate_pinned(image.size)
        self._frame_pinned[: image.size].reshape(image.shape)[:] = image
        self.cuda.upload(self._frame, self._frame_pinned, image.size)
        self._view[0] = (self._frame, image.shape[1], image.shape[0])

    def run(self, faces: int, cut: bool, use_graph: bool = True) -> NDArray[np.float32]:
        """Run the first faces of the current regions or crops -> (faces, K, 3) x, y and score.

        cut: crop the regions from the frame. If not, `crops` must hold the crops already.
        """
        bucket = next(bucket for bucket in self.buckets if bucket >= faces)
        graph = self.graph(bucket, cut) if use_graph else None
        if graph is None:
            self.start(bucket, cut)
        else:
            self.cuda.replay(graph)
        self.cuda.synchronize()
        return self._result[:faces].copy()

    def graph(self, bucket: int, cut: bool) -> Any:
        """Return the graph of a batch size, captured on first use, or None if the network cannot be captured."""
        key = (bucket, cut)
        if key not in self._graphs:
            # One run without capture: TensorRT allocates memory on first use, which a graph cannot hold.
            capturable = self.start(bucket, cut)
            self.cuda.synchronize()
            self._graphs[key] = None
            if capturable:
                # Some versions of TensorRT do not report beforehand that they cannot be captured.
                with suppress(BackendError):
                    with self.cuda.capture() as graphs:
                        self.start(bucket, cut)
                    self._graphs[key] = graphs[0]
        return self._graphs[key]

    def start(self, bucket: int, cut: bool) -> bool:
        """Start all steps after the upload of the pixels. Returns whether they can be captured in a graph."""
        return False not in [step() for step in self.steps(bucket, cut).values()]

    def steps(self, bucket: int, cut: bool) -> dict[str, Callable[[], bool | None]]:
        """Return a function per step, in order, that starts it. The network's returns whether it can be captured."""
        cuda, regions = self.cuda, Address(self._inputs + REGIONS_OFFSET)
        input_bytes = REGIONS_OFFSET + bucket * REGION.itemsize
        tiles, cells = -(-self._size // TILE), self._width**2
        crop = (self._inputs, regions, self.crops, self._size)
        decode = (self.maps, regions, self._points_out, self._points, cells, self._width, float(self._stride))
        steps: dict[str, Callable[[], bool | None]] = {
            "upload regions": lambda: cuda.upload(self._inputs, self._inputs_pinned, input_bytes),
            "crop": lambda: cuda.launch(self._crop, (tiles, tiles, bucket), (TILE, TILE, 1), *crop),
            "network": lambda: self._network(bucket),
            "decode": lambda: cuda.launch(self._decode, (self._points, bucket, 1), (THREADS, 1, 1), *decode),
            "download points": lambda: cuda.download(self._result, self._points_out, bucket * self._points * 3 * 4),
        }
        if not cut:
            del steps["crop"]
        return steps

    def _split(self, found: list[NDArray[np.float32]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        points = np.concatenate(found) if found else np.zeros((0, self._points, 3), np.float32)
        return np.ascontiguousarray(points[..., :2]), np.ascontiguousarray(points[..., 2])
