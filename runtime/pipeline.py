"""The wiring, and the public Python API: `follow` a video, camera or any frames; `landmark` one picture."""

import dataclasses
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.backends import Backend, open_backend
from canthus.runtime.channel import Stage
from canthus.runtime.closeable import Closeable
from canthus.runtime.detector import Detector
from canthus.runtime.engine_files import read_engine_manifest
from canthus.runtime.errors import BackendError, InputError, ModelError
from canthus.runtime.geometry import to_square_pixels, transform
from canthus.runtime.landmarks import Landmarks, average_views, predict_landmarks
from canthus.runtime.models import find_gpu_model, find_model, read_manifest
from canthus.runtime.smooth import Smoother
from canthus.runtime.sources import Camera, VideoFile
from canthus.runtime.tracker import Tracker, TrackerSettings
from canthus.runtime.types import FaceBox, Faces, Frame, check_image, describe_value
from canthus.runtime.wflw import POINTS

if TYPE_CHECKING:
    from canthus.runtime.backends.first_use import FirstUse


@dataclass(frozen=True)
class Settings:
    """What a user may choose."""

    model: str | Path | None = None  # a shipped model's name or a file; None = the default
    detector_model: str | Path | None = None  # None = the one in the cache, fetched once
    max_faces: int = 8
    smoothing: bool = True
    gpu: bool = True  # use an NVIDIA GPU where there is one with a TensorRT

    def __post_init__(self) -> None:
        if not (isinstance(self.max_faces, int) and self.max_faces >= 1):
            raise InputError(f"max_faces must be a whole number from 1 on, not {describe_value(self.max_faces)}")


class Landmarker(Closeable):
    """Detector, network, tracker and smoother as one. It belongs to the thread that opened it.

    `seconds` holds what each stage took for the last frame. Where a GPU can serve, it does as soon as its engine is
    there; until then, and when it fails, the CPU does, and a line on stderr says so.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        settings = Settings() if settings is None else settings
        if not isinstance(settings, Settings):
            raise InputError(f"settings are Settings(model=..., max_faces=...), not {describe_value(settings)}")
        model = find_model(settings.model)
        if (points := _points_of(model)) != POINTS:
            raise ModelError(f"{model}: gives {points} points; following and drawing are made for the {POINTS} of WFLW")
        self._cpu = open_backend(model)
        self._gpu: Backend | None = None
        self._first_use: FirstUse | None = None
        try:
            self._detector = Detector(settings.detector_model)
            if settings.gpu and model.suffix == ".onnx":
                self._first_use = _first_use(settings.model)
        except BaseException:
            self._cpu.close()
            raise
        self.seconds = {"detect": 0.0, "landmark": 0.0, "smooth": 0.0}
        # Not a method of its own: MediaPipe's detector hangs where the garbage collector, not its last owner, frees it.
        detect = partial(_timed_detection, self._detector, self.seconds)
        self.tracker = Tracker(detect, self._cpu, TrackerSettings(settings.max_faces))
        self._smoother = Smoother() if settings.smoothing else None

    @property
    def backend(self) -> Backend:
        """What runs the network now."""
        return self.tracker.backend

    @property
    def runs(self) -> str:
        """What runs the network now, for a person: "OpenVINO on the CPU"."""
        return self.backend.name

    def update(self, frame: Frame) -> Faces:
        """The faces of the next frame of a video or camera; InputError for what is no Frame."""
        if not isinstance(frame, Frame):
            raise InputError(f"update wants Frame(image, index, seconds), not {describe_value(frame)}")
        self.seconds["detect"] = 0.0
        began = time.perf_counter()
        # Faces are looked for as they are shown: squeezed ones, as of DV tapes, lie far off what the network learned.
        image, back = (
            to_square_pixels(frame.image, frame.pixel_aspect) if frame.pixel_aspect != 1 else (frame.image, None)
        )
        faces = self._run(self.tracker, lambda: self.tracker.update(image, frame.seconds))
        located = time.perf_counter()
        if self._smoother:
            faces = self._smoother.smooth(faces, frame.seconds)
        self.seconds["landmark"] = located - began - self.seconds["detect"]
        self.seconds["smooth"] = time.perf_counter() - located
        return faces if back is None else dataclasses.replace(faces, points=transform(back, faces.points))

    def landmark(self, image: NDArray[np.uint8]) -> Faces:
        """The faces of one picture (H, W, 3) uint8 RGB that stands alone; small faces are looked for too.

        Raises InputError for anything else, such as a grey picture or one with transparency.
        """
        check_image(image)
        alone = Tracker(
            lambda picture: self._detector.detect(picture, exhaustive=True),
            self.backend,
            self.tracker.settings,
        )

        def looked() -> Faces:
            faces = alone.update(image, 0.0)
            found = Landmarks(faces.points, faces.scores)
            points, scores = average_views(partial(predict_landmarks, alone.backend, image), found)
            return dataclasses.replace(faces, points=points, scores=scores)

        return self._run(alone, looked)

    def _run(self, tracker: Tracker, work: Callable[[], Faces]) -> Faces:
        """What `work` finds with a tracker, by the GPU from when it is ready until it fails."""
        if self._first_use is not None and self._gpu is None:
            self._gpu = self._first_use.take()
            self.tracker.backend = tracker.backend = self._gpu or self._cpu
        try:
            return work()
        except BackendError as error:
            if self._gpu is None or self._first_use is None:
                raise
            tell(f"{error}; the CPU is used from here on")
            for part in (self._first_use, self._gpu):
                part.close()
            self._gpu = self._first_use = None
            self.tracker.backend = tracker.backend = self._cpu
            return work()

    def restart(self) -> None:
        """Forget the faces, as after a jump to another place of a video."""
        self.tracker.restart()
        if self._smoother:
            self._smoother = Smoother()

    def close(self) -> None:
        """Free the detector and the network, and end the building of an engine."""
        self._detector.close()
        for part in (self._first_use, self._gpu, self._cpu):
            if part is not None:
                part.close()


def _timed_detection(detector: Detector, seconds: dict[str, float], image: NDArray[np.uint8]) -> list[FaceBox]:
    began = time.perf_counter()
    boxes = detector.detect_in_stream(image)
    seconds["detect"] = time.perf_counter() - began
    return boxes


def _points_of(model: Path) -> int:
    """How many points a model or engine gives, by its manifest."""
    match model.suffix:
        case ".onnx":
            return read_manifest(model).points
        case ".engine":
            return read_engine_manifest(model).points
        case _:
            return POINTS  # no backend opens it


def _first_use(name: str | Path | None) -> "FirstUse | None":
    from canthus.runtime.backends.first_use import FirstUse, gpu_expected

    if not gpu_expected():
        return None
    return FirstUse(find_gpu_model(name), tell)


def tell(text: str) -> None:
    """A line on stderr, above a progress bar if there is one."""
    from tqdm import tqdm

    tqdm.write(f"canthus: {text}", file=sys.stderr)


def follow(
    source: str | Path | int | Iterable[Frame], settings: Settings | None = None
) -> Iterator[tuple[Frame, Faces]]:
    """Each frame of a video file, a camera (by number) or an iterable of frames, with its faces.

        for frame, faces in follow("clip.mp4"):
            print(frame.seconds, faces.ids, faces.points.shape)

    Files and iterables are read in a thread of their own, and no frame is lost; of a camera comes the newest, and what
    came while you were busy is left out. Raises CanthusError: InputError for a source that cannot be read, ModelError
    for a model that cannot be found.
    """
    with Landmarker(settings) as landmarker, _open(source) as frames:
        for frame in frames:
            yield frame, landmarker.update(frame)


def _open(source: str | Path | int | Iterable[Frame]) -> AbstractContextManager[Iterable[Frame]]:
    match source:
        case int() | np.integer():
            return Camera(int(source))
        case str() | Path():
            return Stage(lambda: _read(source), "decode")
        case Iterable():
            return Stage(lambda: _checked(source), "decode")
    raise InputError(f"follow wants a video's path, a camera's number or Frames, not {describe_value(source)}")


def _read(path: str | Path) -> Iterator[Frame]:
    with VideoFile(path) as video:
        yield from video


def _checked(frames: Iterable[Frame]) -> Iterator[Frame]:
    for frame in frames:
        if not isinstance(frame, Frame):
            raise InputError(f"follow wants each picture as Frame(image, index, seconds), not {describe_value(frame)}")
        yield frame
