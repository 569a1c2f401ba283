"""A fake GPU: the kernels' arithmetic (face.cuh) compiled for the CPU, and a `Cuda` whose device memory is host memory.

With it the arithmetic of the kernels and all of FaceRunner are tested on every machine. Only the cooperation of GPU
threads is left to the tests with the mark `cuda`.
"""

import ctypes
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from canthus.runtime.cuda.compile import HEADER, source
from canthus.runtime.cuda.launch import Address, Cuda, Gpu
from canthus.runtime.cuda.runner import FaceRunner, RunnerSizes
from canthus.runtime.errors import BackendError

SHIM = f"""
#include <stddef.h>
#include "{HEADER}"

extern "C" void crop_regions(const View* view, const Region* regions, unsigned char* crops, int size, int faces) {{
    for (int face = 0; face < faces; ++face)
        for (int y = 0; y < size; ++y)
            for (int x = 0; x < size; ++x)
                crop_pixel(*view, regions[face], x, y, crops + (((size_t)face * size + y) * size + x) * 3);
}}

// In the order of decode.cu: a tree of pairs within each warp, then one warp after the other.
static WeightedSum block_sum(WeightedSum terms[256]) {{
    for (int warp = 0; warp < 256; warp += 32)
        for (int offset = 16; offset > 0; offset /= 2)
            for (int lane = 0; lane < offset; ++lane)
                terms[warp + lane] = add(terms[warp + lane], terms[warp + lane + offset]);
    WeightedSum total = terms[0];
    for (int warp = 32; warp < 256; warp += 32) total = add(total, terms[warp]);
    return total;
}}

template <typename Value>
static void decode(const Value* maps, const Region* regions, float* out, int points, int cells, int width, float stride,
                   int faces) {{
    static float columns[1024], rows[1024];
    const Place step = first_place(256, width);
    for (int face = 0; face < faces; ++face)
        for (int point = 0; point < points; ++point) {{
            const Value* scores = maps + ((size_t)face * 3 * points + point) * cells;
            const Value* x_offsets = scores + (size_t)points * cells;
            const Value* y_offsets = x_offsets + (size_t)points * cells;
            float top = as_float(scores[0]), four[GROUP], x[GROUP], y[GROUP];
            for (int cell = 0; cell < cells; ++cell) top = maximum(top, as_float(scores[cell]));
            WeightedSum terms[256];
            for (int thread = 0; thread < 256; ++thread) {{
                terms[thread] = WeightedSum{{0.0f, 0.0f, 0.0f}};
                Place place = first_place(thread, width);
                for (; place.cell < cells; place = next_place(place, step, width)) {{
                    load_group(scores + place.cell, four);
                    terms[thread] = add(terms[thread], center_terms(four, place, top));
                }}
            }}
            WeightedSum center = block_sum(terms);
            for (int column = 0; column < width; ++column)
                columns[column] = window_at(column, center.x / center.weight);
            for (int row = 0; row < cells / width; ++row) rows[row] = window_at(row, center.y / center.weight);
            for (int thread = 0; thread < 256; ++thread) {{
                terms[thread] = WeightedSum{{0.0f, 0.0f, 0.0f}};
                Place place = first_place(thread, width);
                for (; place.cell < cells; place = next_place(place, step, width)) {{
                    load_group(scores + place.cell, four);
                    load_group(x_offsets + place.cell, x);
                    load_group(y_offsets + place.cell, y);
                    terms[thread] =
                        add(terms[thread], point_terms(four, x, y, place, columns + place.column, rows[place.row]));
                }}
            }}
            WeightedSum sum = block_sum(terms);
            write_point(top, sum, stride, regions[face].back, out + ((size_t)face * points + point) * 3);
        }}
}}

extern "C" void decode_maps(const float* maps, const Region* regions, float* out, int points, int cells, int width,
                            float stride, int, int faces) {{
    decode(maps, regions, out, points, cells, width, stride, faces);
}}

extern "C" void decode_half_maps(const unsigned short* maps, const Region* regions, float* out, int points, int cells,
                                 int width, float stride, int, int faces) {{
    decode(maps, regions, out, points, cells, width, stride, faces);
}}

extern "C" void decode_constants(float constants[4]) {{
    constants[0] = CORE_THRESHOLD;
    constants[1] = WINDOW_SIGMA;
    constants[2] = MIN_WEIGHT;
    constants[3] = PADDING;
}}

extern "C" float half_to_float(unsigned short half) {{ return as_float(half); }}
"""


def compile_shim(folder: Path) -> ctypes.CDLL:
    """Compile the kernels' arithmetic as a host library. Skips the test if there is no C++ compiler."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler (g++ or clang++)")
    (folder / HEADER).write_text(source(HEADER))
    (folder / "shim.cpp").write_text(SHIM)
    library = folder / "shim.so"
    subprocess.run(
        [compiler, "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", library, "shim.cpp"],
        cwd=folder,
        check=True,
    )
    return ctypes.CDLL(str(library))


class HostCuda(Cuda):
    """Runs every operation at once on the CPU. During `capture` it records the operations instead."""

    def __init__(self, shim: ctypes.CDLL) -> None:
        self.gpu = Gpu("fake GPU", 86)
        self.shim = shim
        self.held: dict[int, ctypes.Array] = {}
        self.recorded: list | None = None
        self.replays = 0
        self.allocations = 0
        self.uploaded = 0  # bytes of all uploads
        self.refused: set[str] = set()  # kinds of memory that cannot be allocated: "device", "pinned"
        self.depth = 0  # of `active`
        self.hung = False
        self.closed = 0

    @contextmanager
    def active(self) -> Iterator[None]:
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    def allocate(self, size: int) -> int:
        self._refuse("device")
        buffer = (ctypes.c_uint8 * max(size, 1))()
        self.held[ctypes.addressof(buffer)] = buffer
        self.allocations += 1
        return ctypes.addressof(buffer)

    def free(self, address: int) -> None:
        del self.held[address]

    def allocate_pinned(self, size: int) -> np.ndarray:
        self._refuse("pinned")
        self.allocations += 1
        return np.zeros(max(size, 1), np.uint8)

    def _refuse(self, kind: str) -> None:
        if kind in self.refused:
            raise BackendError("CUDA: CUDA_ERROR_OUT_OF_MEMORY")

    def free_pinned(self, array: np.ndarray) -> None:
        pass

    def _do(self, action, *values) -> None:
        if self.recorded is None:
            action(*values)
        else:
            self.recorded.append((action, values))

    def upload(self, address: int, pinned: np.ndarray, size: int) -> None:
        assert self.depth, "the context is not current"
        self.uploaded += size
        self._do(ctypes.memmove, int(address), pinned.ctypes.data, size)

    def download(self, pinned: np.ndarray, address: int, size: int) -> None:
        self._do(ctypes.memmove, pinned.ctypes.data, int(address), size)

    def kernel(self, name: str, function: str):
        return getattr(self.shim, function)

    def launch(self, kernel, grid, block, *values, shared=0) -> None:
        faces = grid[2] if kernel.__name__ == "crop_regions" else grid[1]
        arguments = [
            ctypes.c_void_p(value)
            if isinstance(value, Address)
            else ctypes.c_float(value)
            if isinstance(value, float)
            else ctypes.c_int(value)
            for value in values
        ]
        self._do(kernel, *arguments, ctypes.c_int(faces))

    @contextmanager
    def capture(self) -> Iterator[list]:
        graphs: list = []
        self.recorded = recorded = []
        try:
            yield graphs
        finally:
            self.recorded = None
        graphs.append(recorded)

    def replay(self, graph: list) -> None:
        self.replays += 1
        for action, values in graph:
            action(*values)

    def measure_seconds(self, start) -> float:
        begin = time.perf_counter()
        start()
        return time.perf_counter() - begin

    def available_memory(self) -> int:
        return 2**30 - sum(len(buffer) for buffer in self.held.values())

    @property
    def stream(self) -> int:
        return 0

    def close(self) -> None:
        self.closed += 1

    def synchronize(self, limit: float = 0) -> None:
        assert self.recorded is None, "synchronized during a capture"


class MarkedMaps:
    """A fake network: the score map of every point is the crop's red channel, averaged over cells; offsets are 0.25.

    Callable as the network of its own `runner`. `graphs` allows CUDA graphs; `batches` records the calls.
    """

    def __init__(self, cuda: HostCuda, size: int, points: int, stride: int, max_batch: int, half: bool = False) -> None:
        self.cuda, self.size, self.points, self.stride = cuda, size, points, stride
        self.half = half
        self.graphs, self.batches = True, []
        with cuda.active():
            self.runner = FaceRunner(cuda, RunnerSizes(size, points, stride, max_batch, half), self)

    def __call__(self, faces: int) -> bool:
        self.batches.append(faces)
        self.cuda._do(self._compute, faces)
        return self.graphs

    def _compute(self, faces: int) -> None:
        crops = view_of(self.runner.crops, (faces, self.size, self.size, 3), np.uint8)
        width = self.size // self.stride
        kind = np.float16 if self.half else np.float32
        maps = view_of(self.runner.maps, (faces, 3, self.points, width, width), kind)
        maps[:] = self.maps_of(crops)

    def maps_of(self, crops: np.ndarray) -> np.ndarray:
        width = self.size // self.stride
        cells = crops[..., 0].reshape(len(crops), width, self.stride, width, self.stride).mean((2, 4)) / 255
        maps = np.full((len(crops), 3, self.points, width, width), 0.25, np.float32)
        maps[:, 0] = cells[:, None]
        return maps


def view_of(address: int, shape: tuple[int, ...], kind: type) -> np.ndarray:
    """Return memory as an array, without a copy."""
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address)).view(kind).reshape(shape)
