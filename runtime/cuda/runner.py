"""Run a network on the faces of a frame, on the GPU: upload, crop, network, decode and download.

All steps are on one stream. For each batch size they are captured once as one CUDA graph.
"""

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.cuda.launch import Address, Cuda
from canthus.runtime.errors import BackendError
from canthus.runtime.geometry import MAX_SHRINK, sampling, to_frame
from canthus.runtime.types import Roi

_log = logging.getLogger(__name__)

BUCKETS = (1, 2, 4, 6, 8, 12, 16)
"""Batch sizes with a captured graph. Other numbers of faces run as the next larger one."""

# The structs of face.cuh.
VIEW = np.dtype([("pixels", "<u8"), ("width", "<i4"), ("height", "<i4")])
REGION = np.dtype([("cut", "<f4", 6), ("back", "<f4", 6), ("taps", "<i4"), ("shrink", "<i4"), ("unused", "<i4", 2)])
REGIONS_OFFSET = 64  # bytes from the view to the regions, which are uploaded in one copy
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

TILE = 16  # threads per block along x and y, crop.cu
THREADS = 256  # threads per block, decode.cu
GROUP = 4  # cells that are read at once, face.cuh
PADDING = 8  # bytes behind the frame that crop.cu may read, face.cuh
SHARED_BYTES = 47 * 1024  # dynamic shared memory of a block: every GPU has 48 KB, less what decode.cu has of its own

FRAME_BYTES = 32 * 1024 * 1024
"""Memory for frames up to this size (one of 4K has 25 MB) is allocated once, so that a face that comes closer needs no
more. For larger ones it grows with the part that is uploaded, to twice its size or more each time."""

FIRST_RUN_LIMIT = 60.0
"""Seconds that the first run of a batch size may take: libraries load and compile their kernels in it."""


class RunnerSizes(NamedTuple):
    """The sizes of a network and its maps."""

    size: int  # side of a crop, pixels
    points: int
    stride: int  # crop pixels per map cell
    max_batch: int  # largest number of faces per run; more faces are run in parts
    half: bool = False  # the maps are fp16 instead of float32


class Part(NamedTuple):
    """The part of a frame that is uploaded, in frame pixels."""

    x: int
    y: int
    width: int
    height: int


ORIGIN = Part(0, 0, 0, 0)


def to_region(roi: Roi, size: int, part: Part = ORIGIN) -> tuple[NDArray[np.float32], NDArray[np.float32], int, int]:
    """Return the fields of a `Region` in face.cuh: `cut`, `back`, and the taps and shrink that geometry.crop uses.

    `cut` leads to pixels of the uploaded part of the frame, `back` to those of the whole frame.
    """
    shrink, taps = sampling(roi, size)
    cut, back = to_frame(roi, size * taps), to_frame(roi, size)
    cut[:, 2] -= (part.x, part.y)
    cut /= shrink
    cut[:, 2] += 0.5 / shrink - 0.5  # pixel centers are integers in the reduced frame too
    return cut.astype(np.float32).ravel(), back.astype(np.float32).ravel(), taps, shrink


def needed_part(rois: Sequence[Roi], width: int, height: int) -> Part:
    """Return the part of a frame that holds all pixels which the crops of some regions read.

    It begins at multiples of MAX_SHRINK, so that the blocks of a reduced frame are the same as in the whole frame.
    """
    reach = [roi.side * (abs(math.cos(roi.angle)) + abs(math.sin(roi.angle))) / 2 + 2 * MAX_SHRINK for roi in rois]
    sides = []
    for centers, length in (([roi.x for roi in rois], width), ([roi.y for roi in rois], height)):
        low = min((center - far for center, far in zip(centers, reach, strict=True)), default=0)
        high = max((center + far for center, far in zip(centers, reach, strict=True)), default=length)
        if not (math.isfinite(low) and math.isfinite(high)):  # a region that is no number: it is black
            low, high = 0, length
        start = min(max(int(low), 0), length - 1) // MAX_SHRINK * MAX_SHRINK
        stop = min(-(-max(int(high), start + 1) // MAX_SHRINK) * MAX_SHRINK, length)
        sides.append((start, stop))
    (x0, x1), (y0, y1) = sides
    return Part(x0, y0, x1 - x0, y1 - y0)


class FaceRunner:
    """Runs a network on the faces of a frame. After the first runs, or `prepare`, it allocates no memory.

    network: a function that starts the network for a number of faces. It reads `crops` (faces, S, S, 3) uint8 and
        writes `maps` (faces, 3K, S/stride, S/stride). It returns whether its work can be captured in a graph.

    `predict` and `predict_regions` make the context current themselves; the other methods belong into `cuda.active()`.
    """

    def __init__(self, cuda: Cuda, sizes: RunnerSizes, network: Callable[[int], bool]) -> None:
        self.cuda, self._network = cuda, network
        self._size, self._points, self._stride, max_batch, half = sizes
        size, points = sizes.size, sizes.points
        self._width = size // sizes.stride
        if self._width % GROUP:
            raise BackendError(f"maps of {self._width} cells (expected a multiple of {GROUP}); use a .onnx model")
        self.buckets = (*(bucket for bucket in BUCKETS if bucket < max_batch), max_batch)
        self._crop = cuda.kernel("crop.cu", "crop_regions")
        self._decode = cuda.kernel("decode.cu", "decode_half_maps" if half else "decode_maps")
        self._crop_bytes = size * size * 3
        self.crops = Address(cuda.allocate(max_batch * self._crop_bytes))
        self.maps = Address(cuda.allocate(max_batch * 3 * points * self._width**2 * (2 if half else 4)))
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
        self._part = ORIGIN
        self._graphs: dict[tuple[int, bool], Any] = {}

    def prepare(self) -> None:
        """Run every batch size once, capture its graph and run that once, so that no frame has to wait for it."""
        self.put_regions([])
        for bucket in self.buckets:
            graph = self.graph(bucket, cut=True)
            if graph is not None:
                self.cuda.replay(graph)  # PyTorch's graphs are uploaded by their first launch
        self.cuda.synchronize(FIRST_RUN_LIMIT)

    def predict(self, crops: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Crops (N, S, S, 3) -> points (N, K, 2) in crop pixels and scores (N, K)."""
        found = []
        with self.cuda.active():
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
        found = []
        with self.cuda.active():
            if rois:
                self.put_frame(image, rois)
            for start in range(0, len(rois), self.buckets[-1]):
                part = rois[start : start + self.buckets[-1]]
                self.put_regions(part)
                found.append(self.run(len(part), cut=True))
        return self._split(found)

    def put_regions(self, rois: Sequence[Roi]) -> None:
        """Set the regions of the next run, at most `max_batch`; they must lie in the part that `put_frame` uploaded."""
        self._regions["taps"] = 0  # the other crops of the batch are black
        for index, roi in enumerate(rois):
            self._regions[index] = (*to_region(roi, self._size, self._part), 0)

    def put_frame(self, image: NDArray[np.uint8], rois: Sequence[Roi] | None = None) -> None:
        """Start to upload a frame (H, W, 3), or only the part of it that some regions need."""
        height, width = image.shape[:2]
        part = self._part = Part(0, 0, width, height) if rois is None else needed_part(rois, width, height)
        size = part.width * part.height * 3
        self._reserve_frame(size, height * width * 3)
        assert self._frame_pinned is not None
        pixels = image[part.y : part.y + part.height, part.x : part.x + part.width]
        self._frame_pinned[:size].reshape(pixels.shape)[:] = pixels
        self.cuda.upload(self._frame, self._frame_pinned, size)
        self._view[0] = (self._frame, part.width, part.height)

    def _reserve_frame(self, size: int, whole: int) -> None:
        """Allocate memory for `size` bytes of a frame of `whole` bytes, or more, see FRAME_BYTES.

        If that fails, there is none, and the next call tries again.
        """
        present = 0 if self._frame_pinned is None else len(self._frame_pinned)
        if present >= size:
            return
        size = max(size, min(whole, max(FRAME_BYTES, 2 * present)))
        address, pinned = self._frame, self._frame_pinned
        self._frame, self._frame_pinned, self._view[0] = 0, None, (0, 0, 0)
        if address:
            self.cuda.free(address)
        if pinned is not None:
            self.cuda.free_pinned(pinned)
        # Graphs stay valid: they read the frame's address from the view, which is uploaded with the regions.
        self._frame = self.cuda.allocate(size + PADDING)
        self._frame_pinned = self.cuda.allocate_pinned(size)

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
        """Return the graph of a batch size, captured on first use, or None if it cannot be captured."""
        key = (bucket, cut)
        if key not in self._graphs:
            # One run without capture: TensorRT allocates memory on first use, which a graph cannot hold.
            capturable = self.start(bucket, cut)
            self.cuda.synchronize(FIRST_RUN_LIMIT)
            if not capturable:
                _log.info(
                    "no CUDA graph for %d faces: the network cannot be captured; their frames take longer", bucket
                )
            self._graphs[key] = self._capture(bucket, cut) if capturable else None
        return self._graphs[key]

    def _capture(self, bucket: int, cut: bool) -> Any:
        """Return a new graph. If it fails, log why and return None: the steps are then launched one by one."""
        try:
            with self.cuda.capture() as graphs:
                self.start(bucket, cut)
        except BackendError as error:  # some versions of TensorRT do not report beforehand that they cannot be captured
            _log.warning("no CUDA graph for %d faces (%s); their frames take longer", bucket, error)
            return None
        return graphs[0]

    def start(self, bucket: int, cut: bool) -> bool:
        """Start all steps after the upload of the pixels. Returns whether they can be captured in a graph."""
        return False not in [step() for step in self.steps(bucket, cut).values()]

    def steps(self, bucket: int, cut: bool) -> dict[str, Callable[[], bool | None]]:
        """Return a function per step, in order, that starts it. The network's returns whether it can be captured."""
        cuda, regions = self.cuda, Address(self._inputs + REGIONS_OFFSET)
        input_bytes = REGIONS_OFFSET + bucket * REGION.itemsize
        tiles, cells = -(-self._size // TILE), self._width**2
        crop = (self._inputs, regions, self.crops, self._size)
        windows = 2 * self._width * 4
        keep = windows + cells * 4 <= SHARED_BYTES
        shared = windows + cells * 4 * keep
        decode = (
            self.maps,
            regions,
            self._points_out,
            self._points,
            cells,
            self._width,
            float(self._stride),
            int(keep),
        )
        steps: dict[str, Callable[[], bool | None]] = {
            "upload regions": lambda: cuda.upload(self._inputs, self._inputs_pinned, input_bytes),
            "crop": lambda: cuda.launch(self._crop, (tiles, tiles, bucket), (TILE, TILE, 1), *crop),
            "network": lambda: self._network(bucket),
            "decode": lambda: cuda.launch(
                self._decode, (self._points, bucket, 1), (THREADS, 1, 1), *decode, shared=shared
            ),
            "download points": lambda: cuda.download(self._result, self._points_out, bucket * self._points * 3 * 4),
        }
        if not cut:
            del steps["crop"]
        return steps

    def _split(self, found: list[NDArray[np.float32]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        points = np.concatenate(found) if found else np.zeros((0, self._points, 3), np.float32)
        return np.ascontiguousarray(points[..., :2]), np.ascontiguousarray(points[..., 2])
