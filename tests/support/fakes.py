"""Fakes of a network, a detector and a camera."""

import threading
import time

import numpy as np

from canthus.runtime.saved_state import Stateful
from canthus.runtime.schemes import WFLW
from canthus.runtime.types import FaceBox
from support.shape import SHAPE


class FakeBackend:
    """A backend that predicts SHAPE, scaled to the bright part of a crop, with score 0.9; score 0 without one."""

    name = "fake"
    size = 64
    scheme = WFLW

    def __init__(self) -> None:
        self.batches: list[int] = []

    def predict(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.batches.append(len(crops))
        points = np.zeros((len(crops), self.scheme.points, 2), np.float32)
        scores = np.zeros((len(crops), self.scheme.points), np.float32)
        for place, crop in enumerate(crops):
            rows, columns = np.nonzero(crop[..., 0] > 128)
            if len(rows) > 100:
                low = np.array([columns.min(), rows.min()])
                points[place] = low + SHAPE[: self.scheme.points] * (np.array([columns.max(), rows.max()]) - low)
                scores[place] = 0.9
        return points, scores

    def close(self) -> None:
        pass

    def __enter__(self) -> "FakeBackend":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def bright_boxes(image: np.ndarray) -> list[FaceBox]:
    """Return the bounding box of the bright pixels in each half of the image."""
    boxes = []
    half = image.shape[1] // 2
    for left in (0, half):
        rows, columns = np.nonzero(image[:, left : left + half, 0] > 128)
        if len(rows):
            boxes.append(FaceBox(columns.min() + left, rows.min(), columns.max() + left + 1, rows.max() + 1, 0.9))
    return boxes


class FakeDetector(Stateful):
    """A detector that finds bright areas."""

    def detect(self, image: np.ndarray, exhaustive: bool = False) -> list[FaceBox]:
        return bright_boxes(image)

    detect_in_stream = detect

    def close(self) -> None:
        pass


def scene(*places, side=70, size=(240, 640)):
    """Return a dark frame with a bright square at each (x, y): a face for the fakes."""
    image = np.zeros((*size, 3), np.uint8)
    for x, y in places:
        image[max(y - side // 2, 0) : y + side // 2, max(x - side // 2, 0) : x + side // 2] = 255
    return image


class FakeCapture:
    """A fake of `cv2.VideoCapture`: a few frames, then the end of the stream, or no answer for 5 s ("silence")."""

    def __init__(self, frames=5, then="end"):
        self.left, self.then = frames, then

    def isOpened(self):  # noqa: N802
        return True

    def get(self, _):
        return 64

    def set(self, *_):
        return True

    def read(self):
        if self.left:
            self.left -= 1
            time.sleep(0.01)
            return True, np.full((64, 64, 3), (255, 0, 0), np.uint8)
        if self.then == "silence":
            threading.Event().wait(5)
        return False, None

    def release(self):
        pass
