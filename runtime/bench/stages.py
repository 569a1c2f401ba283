"""`canthus bench stages`: the time of each stage, for models, numbers of faces and sizes of frames."""

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.bench.machine import describe_machine
from canthus.runtime.models import PRECISIONS
from canthus.runtime.options import command_parser, positive_int

if TYPE_CHECKING:
    from canthus.runtime.backends import Backend
    from canthus.runtime.models import Model, Precision
    from canthus.runtime.types import FaceBox, Faces, Frame, Roi

DESCRIPTION = """Measure the time of each stage, from the decoding of a frame to the encoding of an overlay.

The frames show the portrait of the sample clip, once or several times side by side. The faces are given to the tracker,
so that their number is always the same; the detector runs on the same frames, and its boxes are not used. *measure* is
head pose and expressions, *stream* sends them by VMC, or by OpenSeeFace without the extra `stream`. Latency is
the time from a decoded frame to its points, without the detector. Throughput is that of `canthus video` with an
overlay, where the stages overlap. Writes stages.json, stages.md (one page) and stages.svg. Only the CPU is measured."""

EXAMPLES = """examples:
  canthus bench stages -o report                                     fast and accurate, all faces and sizes; minutes
  canthus bench stages -o report --model fast --faces 1 --size 720p  one case
  canthus bench stages -o report --smoke                             a few frames, only to see that it works"""

SIZES = {"720p": (1280, 720), "1080p": (1920, 1080), "4k": (3840, 2160)}
FACES = (1, 4, 16)
STAGES = ("decode", "detect", "crop", "network", "maps", "track", "smooth", "measure", "stream", "draw", "encode")
RATE = 30


class Case(NamedTuple):
    """One combination to measure."""

    model: str  # name or path
    precision: "Precision"
    size: str  # key of SIZES
    faces: int


@dataclass(frozen=True)
class Time:
    """Milliseconds per frame, of all faces together."""

    median_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Result:
    """The times of one case."""

    model: str
    precision: str  # of the model file
    computed_in: str  # in which OpenVINO spends most of the time of the network: "bf16"
    size: str
    faces: int
    frames: int
    stages: dict[str, Time]
    latency: Time  # from the decoded frame to its points, without the detector
    throughput_fps: float  # of `canthus video` with an overlay; frames per second


def command(arguments: list[str]) -> int:
    """Measure the time of each stage, for models, numbers of faces and sizes of frames."""
    args = _parser().parse_args(arguments)
    from canthus.runtime.bench.stages_report import check_folder, write_report
    from canthus.runtime.bench.startup import measure_startup

    check_folder(args.output, args.overwrite)
    machine = describe_machine()  # first: OpenVINO may pin this process to some cores
    frames, repeats = (6, 1) if args.smoke else (args.frames, 3)
    models = [(model, precision) for model in args.model for precision in _precisions(model, args.precision)]
    cases = [Case(*model, size, faces) for model in models for size in args.size for faces in args.faces]
    results = [asdict(result) for result in measure(cases, frames)]
    report = {"machine": machine, "startup": asdict(measure_startup(repeats)), "results": results}
    print(write_report(report, args.output))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("canthus bench stages", DESCRIPTION, EXAMPLES)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="folder for the report")
    parser.add_argument(
        "--model", nargs="+", default=["fast", "accurate"], help="names or .onnx files (default: fast accurate)"
    )
    parser.add_argument(
        "--precision", nargs="+", choices=PRECISIONS, metavar="P", help="float, int8 (default: those that a model has)"
    )
    parser.add_argument(
        "--size", nargs="+", choices=list(SIZES), default=list(SIZES), help="sizes of the frames (default: all)"
    )
    parser.add_argument(
        "--faces", nargs="+", type=positive_int, default=list(FACES), metavar="N", help="numbers (default: 1 4 16)"
    )
    parser.add_argument(
        "--frames", type=positive_int, default=120, metavar="N", help="frames of each case (default: 120)"
    )
    parser.add_argument("--smoke", action="store_true", help="measure a few frames only, to check that it works")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing report")
    return parser


def _precisions(model: str, args: "Sequence[Precision] | None") -> "Sequence[Precision]":
    """Return the given precisions, or those that a model has."""
    from canthus.runtime.models import find_int8, find_model

    return args or (("float", "int8") if find_int8(find_model(model)) else ("float",))


def measure(cases: Sequence[Case], frames: int) -> Iterator[Result]:
    """Yield the times of each case."""
    from tqdm import tqdm

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        bar = stack.enter_context(tqdm(cases, "stages", unit="case", disable=None, leave=False))
        for case in bar:
            clip = Path(folder) / f"{case.size}-{case.faces}.mp4"
            if not clip.exists():
                make_clip(clip, SIZES[case.size], case.faces, frames)
            yield _measure_case(case, clip)


def make_clip(path: Path, size: tuple[int, int], faces: int, frames: int) -> None:
    """Write a clip that shows the portrait of the sample clip `faces` times, in a grid that moves a little."""
    import av
    import cv2

    portrait = _portrait()
    side = int(np.ceil(np.sqrt(faces)))
    tile = cv2.resize(portrait, (size[0] // side, size[1] // side), interpolation=cv2.INTER_AREA)
    still = np.zeros((size[1], size[0], 3), np.uint8)
    for index in range(faces):
        y, x = (index // side) * tile.shape[0], (index % side) * tile.shape[1]
        still[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast", "crf": "20"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(frames):
            image = np.roll(still, round(4 * np.sin(number / 5)), axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def _portrait() -> NDArray[np.uint8]:
    from canthus.runtime import sample
    from canthus.runtime.video_file import VideoFile

    with VideoFile(sample.CLIP) as video:
        return next(iter(video)).image


class _Clock:
    """Collects the seconds of each stage, for each frame."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {stage: [] for stage in STAGES}

    @contextlib.contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[stage].append(time.perf_counter() - began)

    def last(self, *stages: str) -> float:
        return sum(self.seconds[stage][-1] for stage in stages)

    def time(self, seconds: Sequence[float]) -> Time:
        """Return median and 99th percentile, without the first tenth of the frames."""
        measured = 1000 * np.array(seconds[len(seconds) // 10 :])
        return Time(*(round(float(value), 3) for value in np.percentile(measured, (50, 99))))


class _TimedBackend:
    """Runs a backend on regions and times its parts. Only for backends that take crops."""

    def __init__(self, backend: "Backend", clock: _Clock, maps_share: float) -> None:
        self.backend, self.clock, self.maps_share = backend, clock, maps_share
        self.name, self.size, self.scheme = backend.name, backend.size, backend.scheme
        self.predict = backend.predict

    def predict_regions(
        self, image: NDArray[np.uint8], rois: Sequence["Roi"]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        from canthus.runtime.geometry import crop_all, transform

        with self.clock.measure("crop"):
            crops = crop_all(image, rois, self.size)
        began = time.perf_counter()
        points, scores = self.backend.predict(crops.images)
        seconds = time.perf_counter() - began
        self.clock.seconds["network"].append((1 - self.maps_share) * seconds)
        self.clock.seconds["maps"].append(self.maps_share * seconds)
        return transform(crops.to_frame, points), scores


class _Parts(NamedTuple):
    precision: str  # of most of the time: "bf16"
    maps_share: float  # of the decode of the maps, which is part of the exported network


def _profile(model: "Model", faces: int) -> _Parts:
    """Measure the layers of a network with OpenVINO's counters."""
    from canthus.runtime.backends.compiled_models import LATENCY, compile_model

    batch = 1 if model.manifest.precision == "int8" else None  # see cpu.py
    options = {**LATENCY, "PERF_COUNT": "YES"}
    request = compile_model(model.path, options, batch, model.manifest).create_infer_request()
    faces, size = batch or faces, model.manifest.size
    for _ in range(3):
        request.infer([np.zeros((faces, size, size, 3), np.uint8)])
    layers = [layer for layer in request.profiling_info if layer.real_time.total_seconds() > 0]
    seconds = np.array([layer.real_time.total_seconds() for layer in layers])
    # The decode begins with the highest scores; the convolutions of the offsets may come after them.
    first = next((index for index, layer in enumerate(layers) if layer.node_type == "ReduceMax"), len(layers))
    decode = [index for index in range(first, len(layers)) if layers[index].node_type != "Convolution"]
    precisions: dict[str, float] = {}
    for layer, spent in zip(layers, seconds.tolist(), strict=True):
        name = layer.exec_type.rpartition("_")[2].lower()
        precisions[name] = precisions.get(name, 0.0) + spent
    share = float(seconds[decode].sum() / seconds.sum()) if len(seconds) else 0.0
    return _Parts(max(precisions, key=lambda name: precisions[name], default=""), share)


def _measure_case(case: Case, clip: Path) -> Result:
    from canthus.runtime.backends import open_backend
    from canthus.runtime.detector import Detector
    from canthus.runtime.models import find_model, find_precision, read_model
    from canthus.runtime.video_file import VideoFile
    from canthus.runtime.wflw import POINTS

    model = read_model(find_precision(find_model(case.model), case.precision))
    parts = _profile(model, case.faces)
    clock = _Clock()
    latency: list[float] = []
    with VideoFile(clip) as video, open_backend(model, POINTS) as opened, Detector() as detector:
        update = _follow(_TimedBackend(opened, clock, parts.maps_share), case.faces, clock)
        with _open_output(clip, video) as write, _open_measures(clock) as send:
            frames = iter(video)
            while True:
                began = time.perf_counter()
                frame = next(frames, None)
                if frame is None:
                    break
                clock.seconds["decode"].append(time.perf_counter() - began)
                with clock.measure("detect"):
                    detector.detect_in_stream(frame.image)
                began = time.perf_counter()
                faces = update(frame)
                latency.append(time.perf_counter() - began)
                write(frame, send(frame, faces), clock)
    stages = {stage: clock.time(seconds) for stage, seconds in clock.seconds.items()}
    return Result(
        model=case.model,
        precision=case.precision,
        computed_in=parts.precision,
        size=case.size,
        faces=case.faces,
        frames=len(latency),
        stages=stages,
        latency=clock.time(latency),
        throughput_fps=_throughput(clip, case, len(latency)),
    )


def _follow(backend: _TimedBackend, faces: int, clock: _Clock) -> "Callable[[Frame], Faces]":
    """Return a function that tracks and smooths the faces of the next frame. It gets the boxes of the faces."""
    from canthus.runtime.smooth import Smoother
    from canthus.runtime.tracker import Tracker, TrackerSettings

    settings = TrackerSettings(max_faces=faces, detection_interval_when_full=1e9)
    tracker, smoother = Tracker(_given_boxes(faces), backend, settings), Smoother()  # type: ignore[arg-type]

    def update(frame: "Frame") -> "Faces":
        began = time.perf_counter()
        found = tracker.update(frame.image, frame.seconds)
        parts = clock.last("crop", "network", "maps")
        clock.seconds["track"].append(max(time.perf_counter() - began - parts, 0.0))
        with clock.measure("smooth"):
            return smoother.smooth(found, frame.seconds)

    return update


def _given_boxes(faces: int) -> "Callable[[NDArray[np.uint8]], list[FaceBox]]":
    """Return a detector that knows where the faces of `make_clip` are."""
    from canthus.runtime.detector import Detector
    from canthus.runtime.types import FaceBox

    portrait = _portrait()
    with Detector() as detector:
        (box,) = detector.detect(portrait)[:1]
    side = int(np.ceil(np.sqrt(faces)))

    def detect(image: NDArray[np.uint8]) -> list[FaceBox]:
        width, height = image.shape[1] // side, image.shape[0] // side
        x, y = width / portrait.shape[1], height / portrait.shape[0]
        corners = [((index % side) * width, (index // side) * height) for index in range(faces)]
        return [
            FaceBox(left + x * box.x0, top + y * box.y0, left + x * box.x1, top + y * box.y1, box.score, box.roll)
            for left, top in corners
        ]

    return detect


@contextlib.contextmanager
def _open_measures(clock: _Clock) -> "Iterator[Callable[[Frame, Faces], Faces]]":
    """Yield a function that measures the faces of a frame and sends them, and times both."""
    from importlib.util import find_spec

    from canthus.runtime.measures import Measurer
    from canthus.runtime.processing import measure
    from canthus.runtime.streams import open_stream

    measurer = Measurer()
    with open_stream("vmc" if find_spec("pythonosc") else "openseeface") as stream:

        def send(frame: "Frame", faces: "Faces") -> "Faces":
            with clock.measure("measure"):
                measured = measure(measurer, faces, frame.seconds, frame.image)
            with clock.measure("stream"):
                stream.send(frame, measured)
            return measured

        yield send


@contextlib.contextmanager
def _open_output(clip: Path, video: object) -> "Iterator[Callable[[Frame, Faces, _Clock], None]]":
    """Yield a function that draws the faces of a frame and encodes it, and times both."""
    from canthus.runtime.draw import draw
    from canthus.runtime.sinks import VideoSink

    with VideoSink(clip.with_name("overlay.mp4"), video) as sink:  # type: ignore[arg-type]

        def write(frame: "Frame", faces: "Faces", clock: _Clock) -> None:
            with clock.measure("draw"):
                drawn = draw(frame.image, faces)
            with clock.measure("encode"):
                sink.write(drawn, frame.seconds)

        yield write


def _throughput(clip: Path, case: Case, frames: int) -> float:
    """Return frames per second of `canthus video` with an overlay, the opening of the model included."""
    from canthus.runtime.options import Outputs
    from canthus.runtime.pipeline import Settings
    from canthus.runtime.video_run import process_video

    settings = Settings(model=case.model, max_faces=case.faces, gpu=False, precision=case.precision)
    began = time.perf_counter()
    process_video(clip, Outputs(clip.with_name("video.mp4"), None, overwrite=True), settings)
    return round(frames / (time.perf_counter() - began), 1)
