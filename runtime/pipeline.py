"""The wiring, and the public Python API: `follow` a video, camera or any frames; `landmark` one picture."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.backends import open_backend
from canthus.runtime.channel import Stage
from canthus.runtime.detector import Detector
from canthus.runtime.models import find_model
from canthus.runtime.smooth import Smoother
from canthus.runtime.sources import Camera, VideoFile
from canthus.runtime.tracker import Following, Tracker
from canthus.runtime.types import FaceBox, Faces, Frame


@dataclass(frozen=True)
class Settings:
    """What a user may choose."""

    model: str | None = None  # a shipped model's name or a file; None = the default
    detector_model: Path | None = None  # None = the one in the cache, fetched once
    max_faces: int = 8
    smoothing: bool = True


class Landmarker:
    """Detector, network, tracker and smoother as one. It belongs to the thread that opened it.

    `seconds` holds what each stage took for the last frame.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        settings = settings or Settings()
        self.backend = open_backend(find_model(settings.model))
        try:
            self._detector = Detector(settings.detector_model)
        except BaseException:
            self.backend.close()
            raise
        self.tracker = Tracker(self._detect, self.backend, Following(settings.max_faces))
        self._smoother = Smoother() if settings.smoothing else None
        self.seconds = {"detect": 0.0, "landmark": 0.0, "smooth": 0.0}

    def _detect(self, image: NDArray[np.uint8]) -> list[FaceBox]:
        began = time.perf_counter()
        boxes = self._detector.detect(image)
        self.seconds["detect"] = time.perf_counter() - began
        return boxes

    def update(self, frame: Frame) -> Faces:
        """The faces of the next frame of a video or camera."""
        self.seconds["detect"] = 0.0
        began = time.perf_counter()
        faces = self.tracker.update(frame.image, frame.seconds)
        located = time.perf_counter()
        if self._smoother:
            faces = self._smoother.smooth(faces, frame.seconds)
        self.seconds["landmark"] = located - began - self.seconds["detect"]
        self.seconds["smooth"] = time.perf_counter() - located
        return faces

    def landmark(self, image: NDArray[np.uint8]) -> Faces:
        """The faces of one picture (H, W, 3) RGB that stands alone; small faces are looked for too."""
        alone = Tracker(
            lambda picture: self._detector.detect(picture, thorough=True),
            self.backend,
            self.tracker.following,
        )
        return alone.update(image, 0.0)

    def restart(self) -> None:
        """Forget the faces, as after a jump to another place of a video."""
        self.tracker.restart()
        if self._smoother:
            self._smoother = Smoother()

    def close(self) -> None:
        """Free the detector and the network."""
        self._detector.close()
        self.backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def follow(
    source: str | Path | int | Iterable[Frame], settings: Settings | None = None
) -> Iterator[tuple[Frame, Faces]]:
    """Each frame of a video file, a camera (by number) or an iterable of frames, with its faces.

        for frame, faces in follow("clip.mp4"):
            print(frame.seconds, faces.ids, faces.points.shape)

    Decoding runs in a thread of its own. Raises CanthusError: InputError for a source that cannot be read,
    ModelError for a model that cannot be found.
    """
    with Landmarker(settings) as landmarker, Stage(lambda: _frames(source), "decode") as frames:
        for frame in frames:
            yield frame, landmarker.update(frame)


def _frames(source: str | Path | int | Iterable[Frame]) -> Iterator[Frame]:
    match source:
        case int():
            with Camera(source) as camera:
                yield from camera
        case str() | Path():
            with VideoFile(source) as video:
                yield from video
        case _:
            yield from source
