"""The public Python API, wired from the parts: `follow` a source of frames, or `Landmarker.landmark` an image."""

import math
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.addresses import is_address
from canthus.runtime.backends import Backend
from canthus.runtime.backends.automatic import open_automatic
from canthus.runtime.background_detector import BackgroundDetector
from canthus.runtime.camera_frames import Camera
from canthus.runtime.channel import Stage
from canthus.runtime.closeable import Closeable
from canthus.runtime.detector import Detector
from canthus.runtime.engine_files import read_engine_manifest
from canthus.runtime.errors import InputError
from canthus.runtime.landmarks import Landmarks, average_views, predict_landmarks
from canthus.runtime.measures import KnownPerson, Measurer
from canthus.runtime.models import PRECISIONS, Precision, find_model, parse_manifest
from canthus.runtime.network_stream import NetworkStream
from canthus.runtime.person_file import read_person
from canthus.runtime.processing import Inputs, Processing, Processor, measure
from canthus.runtime.saved_state import load_state, save_state
from canthus.runtime.schemes import WFLW, Scheme
from canthus.runtime.smooth import OneEuro
from canthus.runtime.tracker import Tracker, TrackerSettings
from canthus.runtime.types import FaceBox, Faces, Frame, check_image, describe_value
from canthus.runtime.video_file import VideoFile

if TYPE_CHECKING:
    from canthus.runtime.trace import Recorder

FRAME_BYTES = 3840 * 2160 * 3
"""Bytes of a 4K frame. Larger ones count as several when frames are read ahead."""


@dataclass(frozen=True)
class Settings:
    """Options of `Landmarker` and `follow`."""

    model: str | Path | None = None  # an included model's name or a file; None = the default
    detector_model: str | Path | None = None  # a file; None = the one in the cache, downloaded once
    max_faces: int = 8
    smoothing: bool = True
    gpu: bool = True  # use an NVIDIA GPU if there is one and TensorRT or TensorRT-RTX is installed
    precision: Precision | None = None  # "float" or "int8"; None = 8 bits on a CPU if the model has them, else float
    measures: bool = False  # measure head pose, gaze and expressions, as `faces.measures`
    focal: float | None = None  # focal length of the camera in pixels, for the measures; None = guessed
    person: str | Path | None = None  # a file of `canthus calibrate`, for the measures; None = measured at the start

    def __post_init__(self) -> None:
        for name in ("model", "detector_model", "person"):
            value = getattr(self, name)
            if not isinstance(value, str | Path | None):
                raise InputError(f"{name} must be a name or a path, got {describe_value(value)}")
        if not (type(self.max_faces) is int and self.max_faces >= 1):
            raise InputError(f"max_faces must be an int of at least 1, got {describe_value(self.max_faces)}")
        if not (self.focal is None or (isinstance(self.focal, int | float) and 0 < self.focal < math.inf)):
            raise InputError(f"focal must be a number of pixels above 0 or None, got {describe_value(self.focal)}")
        for name in ("smoothing", "gpu", "measures"):
            if not isinstance(value := getattr(self, name), bool):
                raise InputError(f"{name} must be True or False, got {describe_value(value)}")
        if self.precision not in (None, *PRECISIONS):
            raise InputError(f"precision must be float, int8 or None, got {describe_value(self.precision)}")


class Landmarker(Closeable):
    """Detects, tracks, landmarks and smooths faces. It belongs to the thread that opened it.

        with Landmarker() as landmarker:
            faces = landmarker.landmark(read_image("face.jpg"))

    With `live` the detector runs in a thread of its own, and no frame waits for it: a new face appears one or a few
    frames later. How many depends on the speed of the machine, so the points of a file are found without it: they are
    the same in each run.

    `seconds` is the time that each stage took for the last frame. `backend` runs the network. It starts on the CPU
    and moves to the GPU when an engine is ready, if the machine has both; `canthus.runtime` logs each change.

    `recorder` records what the networks found, so that `canthus replay` can repeat the rest.

    Raises InputError if the settings are wrong, ModelError if a model is missing or damaged, and BackendError if a
    network fails on all devices. A face for which a network gives impossible values is left out.
    """

    def __init__(
        self, settings: Settings | None = None, *, live: bool = False, recorder: "Recorder | None" = None
    ) -> None:
        self._thread = threading.current_thread()
        settings = Settings() if settings is None else settings
        if not isinstance(settings, Settings):
            raise InputError(f"settings must be Settings(model=..., max_faces=...), got {describe_value(settings)}")
        processing = processing_from_settings(settings)
        self.backend: Backend = open_automatic(settings.model, settings.gpu, None, settings.precision)
        try:
            self._check_measurable(settings)
            self._detector: Detector | BackgroundDetector = (
                BackgroundDetector(partial(Detector, settings.detector_model))
                if live
                else Detector(settings.detector_model)
            )
        except BaseException:
            self.backend.close()
            raise
        self._closed = False
        self.seconds = {"detect": 0.0, "landmark": 0.0, "smooth": 0.0, "measure": 0.0}
        # Not a bound method: MediaPipe hangs if the garbage collector frees its detector as part of a reference cycle.
        self._inputs = Inputs(partial(_timed_detection, self._detector, self.seconds), self.backend)
        self._recorder = recorder
        inputs = self._inputs
        if recorder:
            recorder.start(processing, self.backend.name, self.backend.scheme)
            inputs = recorder.watch(inputs)
        self._processor = Processor(inputs, processing)
        self._processing = processing

    @property
    def tracker(self) -> Tracker:
        """The tracker of the frames."""
        return self._processor.tracker

    @property
    def backend_name(self) -> str:
        """The library and the device that run the network now: "OpenVINO on the CPU"."""
        return self.backend.name

    def update(self, frame: Frame) -> Faces:
        """Return the faces of the next frame of a video or camera.

        Raises InputError if it is no `Frame`, or in another thread than the one that opened the landmarker.
        """
        self._check_thread()
        if not isinstance(frame, Frame):
            raise InputError(f"update expects Frame(image, index, seconds), got {describe_value(frame)}")
        self._check_open()
        self.seconds["detect"] = 0.0
        if self._recorder:
            self._recorder.start_frame(frame)
        faces = self._processor.update(frame)
        if self._recorder:
            self._recorder.end_frame(faces)
        seconds = self._processor.seconds
        self.seconds["landmark"] = seconds["track"] - self.seconds["detect"]
        self.seconds["smooth"], self.seconds["measure"] = seconds["smooth"], seconds["measure"]
        return faces

    def landmark(self, image: NDArray[np.uint8]) -> Faces:
        """Return the faces of a single image (H, W, 3) uint8 RGB. Small faces are searched for too.

        Raises InputError for any other value, for example a gray image or one with an alpha channel, and in another
        thread than the one that opened the landmarker.
        """
        self._check_thread()
        check_image(image)
        self._check_open()
        tracker = Tracker(partial(self._detector.detect, exhaustive=True), self.backend, self.tracker.settings)
        faces = tracker.update(image, 0.0)
        predict = partial(predict_landmarks, self.backend, image)
        points, scores = average_views(predict, Landmarks(faces.points, faces.scores), self.backend.scheme.roll)
        faces = replace(faces, points=points, scores=scores)
        if not self._processing.measures:
            return faces
        return measure(Measurer(self._processing.focal, self._processing.person), faces, 0.0, image)

    @property
    def can_measure(self) -> bool:
        """Whether the model has the points that measures need, those of WFLW."""
        return can_measure(self.backend.scheme)

    def _check_measurable(self, settings: Settings) -> None:
        if settings.measures and not self.can_measure:
            scheme = self.backend.scheme
            raise InputError(
                f"measures need the {WFLW.points} points of {WFLW.name}; this model has {scheme.points} "
                f"({scheme.name}): use it without measures"
            )

    def _check_thread(self) -> None:
        current = threading.current_thread()
        if current is not self._thread:
            raise InputError(
                f"this Landmarker was opened in the thread {self._thread.name!r} and is used in {current.name!r}; open "
                "one Landmarker in each thread"
            )

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Landmarker cannot be pickled or copied; open one in each process or thread")

    def restart(self) -> None:
        """Forget the faces. Call it after a jump to another time in a video."""
        self._processor.restart()
        if self._recorder:
            self._recorder.add_restart()

    def change(self, settings: Settings) -> None:
        """Use other settings from the next frame on, without opening the networks again. Tracked faces keep their ids.

        `model`, `detector_model`, `gpu` and `precision` are not looked at: open another landmarker to change them.
        """
        if self._recorder:
            raise InputError("the settings cannot be changed while a trace is recorded; close the recorder first")
        self._check_measurable(settings)
        self._processing = processing_from_settings(settings)
        self._processor.change(self._processing)

    def record(self, recorder: "Recorder | None") -> None:
        """Record from the next frame on, also in the middle of a video; with None, record no more.

        Raises InputError if the trace cannot be written.
        """
        self._check_thread()
        state = self._processor.state()
        processing = replace(self._processing, tracker=self.tracker.settings)
        inputs = self._inputs
        if recorder:
            recorder.start(processing, self.backend.name, self.backend.scheme, save_state(state))
            inputs = recorder.watch(inputs)
        self._recorder = recorder
        self._processor = Processor(inputs, processing)
        self._processor.restore(state)

    def state(self) -> bytes:
        """Return the state after the last frame. A Landmarker with the same settings goes on with it by `restore`.

        With `live` a detection that is in progress is not a part of it.
        """
        return save_state({"detector": self._detector.state(), **self._processor.state()})

    def restore(self, state: bytes) -> None:
        """Go on after the frame at which `state` was called. Raises InputError if it is damaged."""
        values = load_state(state)
        self._detector.restore(values.pop("detector", {}))
        self._processor.restore(values)

    def calibrate(self) -> None:
        """Measure the neutral faces again, in the next two seconds. People should look calmly into the camera."""
        self._processor.calibrate()
        if self._recorder:
            self._recorder.add_calibration()

    def people(self) -> dict[int, KnownPerson]:
        """Return what was measured of the person of each visible face, by id of the face; see `canthus calibrate`."""
        return self._processor.people()

    def close(self) -> None:
        """Free the detector and the network, and stop an engine build that is running."""
        self._closed = True
        self._detector.close()
        self.backend.close()

    def _check_open(self) -> None:
        if self._closed:
            raise InputError("this Landmarker is closed; use it inside its `with` block, or open another one")


def can_measure(scheme: Scheme) -> bool:
    """Return whether these are the points that measures need: those of WFLW, which are on the 3D head."""
    return scheme == WFLW


def scheme_of_model(name: str | Path | None) -> Scheme:
    """Return what the points of a model are, without opening it. Raises ModelError or EngineError if it is damaged."""
    path = find_model(name)
    return read_engine_manifest(path).scheme if path.suffix == ".engine" else parse_manifest(path).scheme


def processing_from_settings(settings: Settings) -> Processing:
    """Return how faces are tracked, smoothed and measured. Raises InputError if the person's file is damaged."""
    return Processing(
        TrackerSettings(settings.max_faces),
        OneEuro() if settings.smoothing else None,
        settings.measures,
        settings.focal,
        None if settings.person is None else read_person(Path(settings.person)),
    )


def _timed_detection(
    detector: Detector | BackgroundDetector, seconds: dict[str, float], image: NDArray[np.uint8]
) -> list[FaceBox] | None:
    began = time.perf_counter()
    boxes = detector.detect_in_stream(image)
    seconds["detect"] = time.perf_counter() - began
    return boxes


def follow(
    source: str | Path | int | Iterable[Frame] | Iterable[NDArray[np.uint8]],
    settings: Settings | None = None,
    *,
    frame_rate: float | None = None,
) -> Iterator[tuple[Frame, Faces]]:
    """Iterate over the frames of a source, each with its faces.

        for frame, faces in follow("clip.mp4"):
            print(frame.seconds, faces.ids, faces.points.shape)

    source: the path of a video file, the number of a camera, the address of a stream ("rtsp://…", "http://…"), an
        iterable of `Frame`, or an iterable of arrays (H, W, 3) uint8 RGB.
    settings: the model and other options.
    frame_rate: frames per second of the arrays. Only for arrays, which have no times of their own.

    No frame of a file or an iterable is lost: both are read ahead in a thread. Arrays are not copied, so do not write
    to them afterwards. Cameras and streams yield the newest frame; frames that arrive while the caller is busy are
    dropped.

    Raises InputError if the source cannot be read, and ModelError if a model is missing or damaged.
    """
    live = isinstance(source, int | np.integer) or (isinstance(source, str) and is_address(source))
    with Landmarker(settings, live=live) as landmarker, _open(source, frame_rate) as frames:
        for frame in frames:
            yield frame, landmarker.update(frame)


def _open(source: object, frame_rate: float | None) -> AbstractContextManager[Iterable[Frame]]:
    if frame_rate is not None and not (isinstance(frame_rate, int | float) and frame_rate > 0):
        raise InputError(f"frame_rate must be a number above 0, got {describe_value(frame_rate)}")
    if frame_rate is not None and isinstance(source, int | np.integer | str | Path):
        raise InputError(f"frame_rate is only for arrays: {describe_value(source)} has its own times")
    match source:
        case int() | np.integer():
            return Camera(int(source))
        case str() if is_address(source):
            return NetworkStream(source)
        case str() | Path():
            return Stage(lambda: _read(source), "decode", weight=_frame_weight)
        case np.ndarray() if source.ndim < 4:
            raise InputError(
                f"follow expects several images, got {describe_value(source)}; Landmarker.landmark takes a single image"
            )
        case Iterable():
            return Stage(lambda: _to_frames(source, frame_rate), "decode")
    raise InputError(
        "follow expects the path of a video, the number of a camera, an address, frames or arrays, "
        f"got {describe_value(source)}"
    )


def _frame_weight(frame: Frame) -> float:
    """Return the capacity that a frame takes: four of 4K are read ahead, and one of 8K, which has 100 MB."""
    return max(1.0, frame.image.nbytes / FRAME_BYTES)


def _read(path: str | Path) -> Iterator[Frame]:
    with VideoFile(path) as video:
        yield from video


def _to_frames(images: Iterable[object], frame_rate: float | None) -> Iterator[Frame]:
    """Yield frames as they are, and arrays as frames with the times of the frame rate."""
    for index, image in enumerate(images):
        if isinstance(image, Frame):
            yield image
        elif not isinstance(image, np.ndarray):
            raise InputError(f"follow expects frames or arrays in an iterable, got {describe_value(image)}")
        elif frame_rate is None:
            raise InputError("follow needs the frame rate of arrays: follow(arrays, frame_rate=30)")
        else:
            yield Frame(image, index, index / frame_rate)
