"""Measure a network on the GPU: time per step, CUDA graph against single launches, memory over a long run."""

import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from canthus.engines.verify import sample_scene
from canthus.runtime.backends.trt import last_error, load_flavour, make_logger
from canthus.runtime.cuda.launch import Cuda
from canthus.runtime.cuda.runner import FaceRunner
from canthus.runtime.engine_files import Flavour
from canthus.runtime.errors import BackendError, EngineError
from canthus.runtime.types import Roi

REPEATS_IN_GRAPH = 10
"""How often a step is captured in one graph, so that the launch of the graph itself adds little to the time."""
WARM_UP_RUNS = 20

Start = Callable[[], object]
"""Starts work on the GPU and returns without waiting. Returning False means: do not capture it in a CUDA graph."""
Network = Callable[[int], bool | None]
"""Starts a network for this number of faces. Returning False means: do not capture it in a CUDA graph."""


def measure(runner: FaceRunner, repeats: int, frames: int) -> dict[str, Any]:
    """Measure one network: times for each batch size, CUDA graph against launches, and a run over many frames.

    `repeats` is the number of measurements behind each median and p99.
    """
    with runner.cuda.active():
        return _measure(runner, repeats, frames)


def _measure(runner: FaceRunner, repeats: int, frames: int) -> dict[str, Any]:
    image, rois = sample_scene()
    rois = rois[: runner.buckets[-1]]
    return {
        "faces": {
            str(faces): latency(runner, image, rois[:faces], repeats)
            for faces in tqdm(runner.buckets, "batch sizes", unit="size", leave=False, disable=None)
        },
        "graph equals launches": graph_equals_launches(runner, image, rois),
        "long run": long_run(runner, image, rois, frames),
    }


def latency(runner: FaceRunner, image: NDArray[np.uint8], rois: list[Roi], repeats: int) -> dict[str, Any]:
    """Measure ms from a frame on the device to points on the host, in total and by step.

    The number of `rois` must be one of the runner's batch sizes.
    """
    cuda, faces = runner.cuda, len(rois)
    runner.put_frame(image)
    runner.put_regions(rois)
    for _ in range(WARM_UP_RUNS):
        runner.run(faces, cut=True)
    run = partial(runner.run, faces, cut=True)
    launches = time_ms(cuda, repeats, lambda: runner.start(faces, True), partial(run, use_graph=False))
    graph, replays = runner.graph(faces, True), None
    if graph is not None:
        replays = time_ms(cuda, repeats, lambda: cuda.replay(graph), run)
    steps = {
        "upload part": lambda: runner.put_frame(image, rois),  # what the backend does
        "upload frame": lambda: runner.put_frame(image),  # last, because the regions are those of the whole frame
        **runner.steps(faces, True),
    }
    return {
        "total": {"launches": launches, "graph": replays},
        "steps": {
            name: {"launches": time_ms(cuda, repeats, step), "graph_ms": graph_ms(cuda, step, repeats)}
            for name, step in steps.items()
        },
    }


def time_ms(cuda: Cuda, repeats: int, start: Start, run: Start | None = None) -> dict[str, float]:
    """Return median and p99 in ms: "device" is the GPU time of `start`, "clock" the wall time of `run`.

    `run` defaults to `start`. The clock stops when the GPU has finished.
    """
    device = [cuda.measure_seconds(start) for _ in range(repeats)]
    clock = []
    for _ in range(repeats):
        begin = time.perf_counter()
        (run or start)()
        cuda.synchronize()
        clock.append(time.perf_counter() - begin)
    return {
        f"{timer}_{statistic}": round(1000 * float(np.quantile(seconds, quantile)), 5)
        for timer, seconds in (("device", device), ("clock", clock))
        for statistic, quantile in (("median", 0.5), ("p99", 0.99))
    }


def graph_ms(cuda: Cuda, start: Start, repeats: int) -> float | None:
    """Return the median GPU time of a step inside a CUDA graph, in ms; None if it cannot be captured."""
    capturable = start() is not False
    cuda.synchronize()
    if not capturable:
        return None
    try:
        with cuda.capture() as graphs:
            for _ in range(REPEATS_IN_GRAPH):
                start()
    except BackendError:  # some versions of TensorRT do not report beforehand that they cannot be captured
        return None
    seconds = [cuda.measure_seconds(lambda: cuda.replay(graphs[0])) for _ in range(repeats)]
    return round(1000 * float(np.median(seconds)) / REPEATS_IN_GRAPH, 5)


def graph_equals_launches(runner: FaceRunner, image: NDArray[np.uint8], rois: list[Roi]) -> bool | None:
    """Return whether the CUDA graph returns the same bits as single launches; None if there is no graph."""
    if runner.graph(1, True) is None:
        return None
    runner.put_frame(image)
    equal = []
    for faces in range(1, len(rois) + 1):
        runner.put_regions(rois[:faces])
        for cut in (True, False):
            launches, graph = (runner.run(faces, cut, use_graph) for use_graph in (False, True))
            equal.append(np.array_equal(launches.view(np.uint32), graph.view(np.uint32)))
    return all(equal)


def long_run(runner: FaceRunner, image: NDArray[np.uint8], rois: list[Roi], frames: int) -> dict[str, Any]:
    """Run many frames with 1 to 5 faces; return the growth of memory in bytes and whether the results stay equal."""
    counts = range(1, min(5, len(rois)) + 1)
    expected = {faces: runner.predict_regions(image, rois[:faces])[0] for faces in counts}
    free, host, begin = [runner.cuda.available_memory()], resident_bytes(), time.perf_counter()
    same = True
    for half in (range(frames // 2), range(frames // 2, frames)):
        for frame in tqdm(half, "long run", unit="frame", leave=False, disable=None):
            faces = counts[frame % len(counts)]
            same &= np.array_equal(runner.predict_regions(image, rois[:faces])[0], expected[faces])
        free.append(runner.cuda.available_memory())
    host_end = resident_bytes()
    return {
        "frames": frames,
        "seconds": round(time.perf_counter() - begin, 2),
        "device growth": [before - after for before, after in pairwise(free)],  # first half, second half
        "host growth": None if host is None or host_end is None else host_end - host,
        "same results": bool(same),
    }


def resident_bytes() -> int | None:
    """Return the resident memory of this process in bytes; None if the system is not Linux."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * 4096 if statm.is_file() else None


def compare_decodes(runner: FaceRunner, network_with_decode: Network, repeats: int) -> dict[str, dict[str, float]]:
    """Return ms for each batch size: the network followed by decode.cu, and a network that contains the decode."""
    times = {}
    with runner.cuda.active():
        for faces in runner.buckets:
            steps = runner.steps(faces, False)
            times[str(faces)] = {
                "network + decode.cu": _ms(runner.cuda, [steps["network"], steps["decode"]], repeats),
                "network with decode": _ms(runner.cuda, [lambda: network_with_decode(faces)], repeats),  # noqa: B023
            }
    return times


def _ms(cuda: Cuda, steps: Iterable[Start], repeats: int) -> float:
    steps = list(steps)

    def start() -> bool:
        return False not in [step() for step in steps]

    captured = graph_ms(cuda, start, repeats)
    return captured if captured is not None else time_ms(cuda, repeats, start)["device_median"]


class DecodingEngine:
    """An engine from crops to points and scores that reads the crops of a runner. It is a `Network`."""

    def __init__(self, runner: FaceRunner, flavour: Flavour, data: bytes) -> None:
        trt = load_flavour(flavour)
        self._cuda, self._log = runner.cuda, make_logger(trt)
        self._runtime = trt.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            raise EngineError(f"{flavour} refuses the engine with decode: {last_error(self._log)}")
        self._settings: tuple[Any, ...] = ()
        if flavour == "tensorrt-rtx":  # compile kernels at once and keep them, as the backend does
            settings = self._engine.create_runtime_config()
            settings.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            self._settings = (settings,)
        shapes = {name: tuple(self._engine.get_tensor_shape(name))[1:] for name in ("points", "scores")}
        max_batch = runner.buckets[-1]
        self._addresses = {
            name: runner.cuda.allocate(4 * max_batch * int(np.prod(shape))) for name, shape in shapes.items()
        }
        self._addresses["crops"] = int(runner.crops)
        self._crop_shape = tuple(self._engine.get_tensor_shape("crops"))[1:]
        self._contexts: dict[int, Any] = {}

    def __call__(self, faces: int) -> bool:
        if faces not in self._contexts:
            context = self._contexts[faces] = self._engine.create_execution_context(*self._settings)
            context.set_input_shape("crops", (faces, *self._crop_shape))
            for name, address in self._addresses.items():
                context.set_tensor_address(name, address)
        if not self._contexts[faces].execute_async_v3(self._cuda.stream):
            raise BackendError(f"the engine with decode did not run: {last_error(self._log)}")
        return True
