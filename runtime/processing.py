"""Track, smooth and measure the faces of successive frames. Everything here can be repeated without pixels."""

import time
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.backends import Backend
from canthus.runtime.cuts import Shrink, thumbnail
from canthus.runtime.geometry import to_square_pixels, transform
from canthus.runtime.measures import KnownPerson, Measurer
from canthus.runtime.smooth import OneEuro, Smoother
from canthus.runtime.tracker import Detect, Tracker, TrackerSettings
from canthus.runtime.types import Faces, Frame


@dataclass(frozen=True)
class Processing:
    """How the faces are tracked, smoothed and measured."""

    tracker: TrackerSettings = field(default_factory=TrackerSettings)
    smoothing: OneEuro | None = field(default_factory=OneEuro)  # None: not smoothed
    measures: bool = False
    focal: float | None = None  # of the camera in pixels, for the measures; None = guessed
    person: KnownPerson | None = None  # whose face the measures expect; None = it is measured


@dataclass(frozen=True)
class Inputs:
    """The functions that look at pixels."""

    detect: Detect
    backend: Backend
    shrink: Shrink = thumbnail


class Processor:
    """Finds the faces of successive frames. `seconds` has the time that smoothing and measuring took."""

    def __init__(self, inputs: Inputs, processing: Processing) -> None:
        self.tracker = Tracker(inputs.detect, inputs.backend, processing.tracker, inputs.shrink)
        self.seconds = {"track": 0.0, "smooth": 0.0, "measure": 0.0}
        self._processing = processing
        self._smoother = Smoother(processing.smoothing) if processing.smoothing else None
        self._measurer = Measurer(processing.focal, processing.person) if processing.measures else None

    def update(self, frame: Frame) -> Faces:
        """Return the faces of the next frame of a video or camera."""
        began = time.perf_counter()
        # The networks were trained on square pixels.
        image, to_frame = to_square_pixels(frame.image, frame.pixel_aspect)
        faces = raw = self.tracker.update(image, frame.seconds)
        tracked = time.perf_counter()
        if self._smoother:
            faces = self._smoother.smooth(faces, frame.seconds)
        smoothed = time.perf_counter()
        if self._measurer:
            faces = measure(self._measurer, faces, frame.seconds, image, raw.points)
        self.seconds = {
            "track": tracked - began,
            "smooth": smoothed - tracked,
            "measure": time.perf_counter() - smoothed,
        }
        return faces if frame.pixel_aspect == 1 else replace(faces, points=transform(to_frame, faces.points))

    def restart(self) -> None:
        """Forget the faces, as after a jump to another time in a video."""
        self.tracker.restart()
        if self._smoother:
            self._smoother = Smoother(self._processing.smoothing)
        if self._measurer:
            self._measurer.restart()

    def change(self, processing: Processing) -> None:
        """Use other settings from the next frame on. Tracked faces keep their ids."""
        before, self._processing = self._processing, processing
        self.tracker.settings = processing.tracker
        if processing.smoothing != before.smoothing:
            self._smoother = Smoother(processing.smoothing) if processing.smoothing else None
        known = (before.measures, before.focal, before.person)
        if known != (processing.measures, processing.focal, processing.person):
            self._measurer = Measurer(processing.focal, processing.person) if processing.measures else None

    def calibrate(self) -> None:
        """Measure the neutral faces again."""
        if self._measurer:
            self._measurer.calibrate()

    def state(self) -> dict[str, dict[str, object]]:
        """Return what the next frame depends on, for `restore`."""
        state = {"tracker": self.tracker.state()}
        if self._smoother:
            state["smoother"] = self._smoother.state()
        if self._measurer:
            state["measurer"] = self._measurer.state()
        return state

    def restore(self, state: dict[str, dict[str, object]]) -> None:
        """Go on from a state of the same settings."""
        self.tracker.restore(state["tracker"])
        if self._smoother:
            self._smoother.restore(state.get("smoother", {}))
        if self._measurer:
            self._measurer.restore(state.get("measurer", {}))

    def people(self) -> dict[int, KnownPerson]:
        """Return what is known of the person of each visible face, by id of the face."""
        return self._measurer.people() if self._measurer else {}


def measure(
    measurer: Measurer,
    faces: Faces,
    seconds: float,
    image: NDArray[np.uint8],
    raw: NDArray[np.float32] | None = None,
) -> Faces:
    """Return the faces with their measures; the points are those of an image with square pixels."""
    height, width = image.shape[:2]
    measures = measurer.update(faces.points, faces.scores, faces.ids, seconds, (width, height), raw)
    return replace(faces, measures=measures)
