"""What a network takes between the two kernels on a GPU: times by step, equality, growth. `gpu_bench` asks for them."""

import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from canthus.engines.verify import sample_scene
from canthus.runtime.backends.trt import last_words, load_flavour, quiet_log
from canthus.runtime.cuda.launch import Cuda, FaceRunner
from canthus.runtime.engine_files import Flavour
from canthus.runtime.errors import BackendError, EngineError
from canthus.runtime.types import Roi

IN_A_ROW = 10
"""Of one step in a recording, so that the recording's own launch weighs little."""
WARM = 20
"""Runs before anything is timed."""

Start = Callable[[], object]
Network = Callable[[int], bool | None]
"""Starts a network for so many faces; False where it must not be recorded."""


def measure(runner: FaceRunner, times: int, frames: int) -> dict[str, Any]:
    """Everything about one runner: times for each bucket, the recording beside plain launches, a long run."""
    image, rois = sample_scene()
    rois = rois[: runner.buckets[-1]]
    return {
        "faces": {
            str(faces): latency(runner, image, rois[:faces], times)
            for faces in tqdm(runner.buckets, "faces at once", unit="size", leave=False, disable=None)
        },
        "recording equals plain launches": equal(runner, image, rois),
        "long run": long_run(runner, image, rois, frames),
    }


def latency(runner: FaceRunner, image: NDArray[np.uint8], rois: list[Roi], times: int) -> dict[str, Any]:
    """ms from a frame on the device to points on the host, whole and by step; `rois` fill a bucket."""
    cuda, faces = runner.cuda, len(rois)
    runner.put_frame(image)
    runner.put_regions(rois)
    for _ in range(WARM):
        runner.run(faces, cut=True)
    plain = timing(cuda, times, lambda: runner.start(faces, True), lambda: runner.run(faces, True, plain=True))
    graph, recorded = runner.graph(faces, True), None
    if graph is not None:
        recorded = timing(cuda, times, lambda: cuda.replay(graph), lambda: runner.run(faces, True))
    steps = {"frame up": lambda: runner.put_frame(image), **runner.steps(faces, True)}
    return {
        "whole": {"plain": plain, "recorded": recorded},
        "steps": {
            name: {"plain": timing(cuda, times, step), "recorded_ms": record_ms(cuda, step, times)}
            for name, step in steps.items()
        },
    }


def timing(cuda: Cuda, times: int, start: Start, whole: Start | None = None) -> dict[str, float]:
    """Median and p99, ms: of the device over what `start` starts, and of the clock until `whole` has ended."""
    device = [cuda.seconds_of(start) for _ in range(times)]
    clock = []
    for _ in range(times):
        began = time.perf_counter()
        (whole or start)()
        cuda.synchronise()
        clock.append(time.perf_counter() - began)
    return {
        f"{name}_{kind}": round(1000 * float(np.quantile(seconds, share)), 5)
        for name, seconds in (("device", device), ("clock", clock))
        for kind, share in (("median", 0.5), ("p99", 0.99))
    }


def record_ms(cuda: Cuda, start: Start, times: int) -> float | None:
    """Median ms of the device over one of many in one recording; None where it cannot be recorded."""
    recordable = start() is not False
    cuda.synchronise()
    if not recordable:
        return None
    try:
        with cuda.capture() as graphs:
            for _ in range(IN_A_ROW):
                start()
    except BackendError:  # not every TensorRT tells beforehand what it cannot record
        return None
    taken = [cuda.seconds_of(lambda: cuda.replay(graphs[0])) for _ in range(times)]
    return round(1000 * float(np.median(taken)) / IN_A_ROW, 5)


def equal(runner: FaceRunner, image: NDArray[np.uint8], rois: list[Roi]) -> bool | None:
    """Whether the recording gives bit for bit what plain launches give; None where nothing is recorded."""
    if runner.graph(1, True) is None:
        return None
    runner.put_frame(image)
    found = []
    for faces in range(1, len(rois) + 1):
        runner.put_regions(rois[:faces])
        for cut in (True, False):
            pair = [runner.run(faces, cut, plain) for plain in (True, False)]
            found.append(np.array_equal(pair[0].view(np.uint32), pair[1].view(np.uint32)))
    return all(found)


def long_run(runner: FaceRunner, image: NDArray[np.uint8], rois: list[Roi], frames: int) -> dict[str, Any]:
    """Frames of changing numbers of faces: growth of memory in bytes, and whether results stay the same."""
    counts = range(1, min(5, len(rois)) + 1)
    wanted = {faces: runner.predict_regions(image, rois[:faces])[0] for faces in counts}
    free, host, began = [runner.cuda.free_memory()], resident(), time.perf_counter()
    same = True
    for half in (range(frames // 2), range(frames // 2, frames)):
        for frame in tqdm(half, "long run", unit="frame", leave=False, disable=None):
            faces = counts[frame % len(counts)]
            same &= np.array_equal(runner.predict_regions(image, rois[:faces])[0], wanted[faces])
        free.append(runner.cuda.free_memory())
    now = resident()
    return {
        "frames": frames,
        "seconds": round(time.perf_counter() - began, 2),
        "device growth": [before - after for before, after in pairwise(free)],  # of each half
        "host growth": None if host is None or now is None else now - host,
        "same results": bool(same),
    }


def resident() -> int | None:
    """Bytes of memory that this process occupies (Linux); None elsewhere."""
    told = Path("/proc/self/statm")
    return int(told.read_text().split()[1]) * 4096 if told.is_file() else None


def beside(runner: FaceRunner, decoding: Network, times: int) -> dict[str, dict[str, float]]:
    """For each bucket, ms of the network with decode.cu after it and of a network that decodes by itself."""
    found = {}
    for faces in runner.buckets:
        steps = runner.steps(faces, False)
        found[str(faces)] = {
            "network and decode.cu": _ms(runner.cuda, [steps["network"], steps["decode"]], times),
            "network that decodes": _ms(runner.cuda, [lambda: decoding(faces)], times),  # noqa: B023 - run at once
        }
    return found


def _ms(cuda: Cuda, steps: Iterable[Start], times: int) -> float:
    steps = list(steps)

    def start() -> bool:
        return False not in [step() for step in steps]

    recorded = record_ms(cuda, start, times)
    return recorded if recorded is not None else timing(cuda, times, start)["device_median"]


class DecodingEngine:
    """An engine from crops to points and scores, over a runner's crops; a `Network`."""

    def __init__(self, runner: FaceRunner, flavour: Flavour, data: bytes) -> None:
        trt = load_flavour(flavour)
        self._cuda, self._log = runner.cuda, quiet_log(trt)
        self._runtime = trt.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            raise EngineError(f"{flavour} refuses the engine that decodes: {last_words(self._log)}")
        self._settings: tuple[Any, ...] = ()
        if flavour == "tensorrt-rtx":  # as in the backend: the kernels of the first run stay
            settings = self._engine.create_runtime_config()
            settings.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            self._settings = (settings,)
        shapes = {name: tuple(self._engine.get_tensor_shape(name))[1:] for name in ("points", "scores")}
        most = runner.buckets[-1]
        self._places = {name: runner.cuda.memory(4 * most * int(np.prod(shape))) for name, shape in shapes.items()}
        self._places["crops"] = int(runner.crops)
        self._crop = tuple(self._engine.get_tensor_shape("crops"))[1:]
        self._contexts: dict[int, Any] = {}

    def __call__(self, faces: int) -> bool:
        if faces not in self._contexts:
            context = self._contexts[faces] = self._engine.create_execution_context(*self._settings)
            context.set_input_shape("crops", (faces, *self._crop))
            for name, place in self._places.items():
                context.set_tensor_address(name, place)
        if not self._contexts[faces].execute_async_v3(self._cuda.stream):
            raise BackendError(f"the engine that decodes did not run: {last_words(self._log)}")
        return True
