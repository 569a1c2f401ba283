"""MediaPipe's face detector: image in, face boxes in image pixels out. The only file that imports mediapipe.

Its network looks at a square of 192 pixels, so a face that is small in a large picture escapes it; and it was trained
on small faces, so one that fills half of what it sees escapes it too. `thorough` looks at overlapping tiles and from
afar as well; `glance` does by turns, one larger part at a time.
"""

import contextlib
import math
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.closing import Closing
from canthus.runtime.errors import InputError, ModelError
from canthus.runtime.geometry import crop, to_frame
from canthus.runtime.models import WHEEL, Fetched, find_fetched
from canthus.runtime.types import FaceBox, Roi

_MODEL_NAME = "face_detection_full_range_sparse.tflite"
MODEL = Fetched(
    "the face detector's model",
    _MODEL_NAME,
    "2c3728e6da56f21e21a320433396fb06d40d9088f2247c05e5635a688d45dfe1",
    "canthus doctor --fetch",
    f"give a file with --detector-model: {_MODEL_NAME} from the wheel {WHEEL}",
)

MIN_SCORE = 0.5
DIM_SCORE = 0.3
"""A thorough look gives what scores this too: four in ten are faces, dim, covered or turned, and six are not."""

SIDE = 192
"""Pixels along an edge of what the network sees."""

AFAR = 2.0
"""Side of what is looked at from afar over the longer side of the picture, which lies in its middle on black."""

AFAR_TRUST = 0.75
"""What a score from afar counts: there the network finds more of everything, letters of a title among it."""

LYING = math.radians(90)

SAME_FACE = 0.4
"""Two boxes that overlap by this share of the smaller one are one face."""

NOTES = re.compile(rb"(?m)^(.*\.(cc|cpp|h):\d+\] .*|WARNING: Logging before .*|INFO: Created Tensor.*)$\n?")
"""What MediaPipe and the libraries in it write."""

TILE_OVERLAP = 0.25
TILE_WORTH = 512
"""Tiles below half of this many pixels show nothing that the whole picture does not."""


def find_detector_model(given: str | Path | None = None, fetch: bool = True) -> Path:
    """The detector's model file: the given one, the one in the cache, or, with `fetch`, a freshly fetched one.

    Raises ModelError, saying what to do.
    """
    if given is None:
        return find_fetched([MODEL], fetch)[0]
    path = Path(given)
    if not path.is_file():
        raise ModelError(f"{path}: no such detector model")
    return path


class Detector(Closing):
    """Finds faces. It belongs to the thread that opened it."""

    def __init__(self, model: str | Path | None = None) -> None:
        path = find_detector_model(model)
        with _SILENCE:
            # Imported here: it takes a second, and only who detects should wait for it.
            from mediapipe import Image, ImageFormat
            from mediapipe.tasks.python import BaseOptions, vision

            options = vision.FaceDetectorOptions(
                base_options=BaseOptions(model_asset_buffer=path.read_bytes()),
                min_detection_confidence=DIM_SCORE,
            )
            try:
                self._detector = vision.FaceDetector.create_from_options(options)
                self._wrap = partial(Image, ImageFormat.SRGB)
                self._detector.detect(self._wrap(np.zeros((SIDE, SIDE, 3), np.uint8)))
            except (RuntimeError, ValueError) as refused:
                raise ModelError(f"{path}: not a face detector that MediaPipe can load") from refused
        self._afar, self._turn = False, -1
        self._closed = False

    def glance(self, image: NDArray[np.uint8]) -> list[FaceBox]:
        """As a plain `detect`, for frames in a row: after one that found nothing, the next looks from afar.

        A plain look goes with a closer one at a square part of the frame, the next in turn.
        """
        if self._afar:
            self._afar = False
            return suppress(_sure(self._look_afar(image), AFAR_TRUST))
        found = _sure(self._look(image))
        self._afar = not found
        parts = list(_parts(image.shape[1], image.shape[0]))
        if len(parts) > 1:
            self._turn = (self._turn + 1) % len(parts)
            found += _sure(self._look_inside(image, *parts[self._turn]))
        return suppress(found)

    def detect(self, image: NDArray[np.uint8], thorough: bool = False) -> list[FaceBox]:
        """Faces in an RGB image (H, W, 3), best first, boxes in its pixels; they may reach beyond its edges.

        `thorough` also gives boxes that score `DIM_SCORE` to `MIN_SCORE`, for another judge to look at.
        """
        found = self._look(image)
        if not thorough:
            return suppress(_sure(found))
        for tile in _tiles(image.shape[1], image.shape[0]):
            found += self._look_inside(image, *tile)
        found += self._look_afar(image)
        if not _sure(found):
            found += self._look_afar(image, LYING) + self._look_afar(image, -LYING)
        return suppress(found)

    def _look_afar(self, image: NDArray[np.uint8], angle: float = 0.0) -> list[FaceBox]:
        """Look at a square around the picture, turned by `angle`."""
        height, width = image.shape[:2]
        region = Roi((width - 1) / 2, (height - 1) / 2, AFAR * max(width, height), angle)
        back, step = to_frame(region, SIDE), region.side / SIDE
        boxes = []
        for box in self._look(crop(image, region, SIDE)):
            x, y = (back @ [(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2, 1.0]).tolist()
            right, down = step * (box.x1 - box.x0) / 2, step * (box.y1 - box.y0) / 2
            roll = math.remainder(box.roll + angle, 2 * math.pi)
            boxes.append(FaceBox(x - right, y - down, x + right, y + down, AFAR_TRUST * box.score, roll))
        return boxes

    def _look_inside(self, image: NDArray[np.uint8], x: int, y: int, side: int) -> list[FaceBox]:
        """Look at a tile; a face that it cuts off is none."""
        found = self._look(image[y : y + side, x : x + side], x, y)
        return [box for box in found if not _cut_off(box, x, y, side, image.shape)]

    def _look(self, image: NDArray[np.uint8], right: int = 0, down: int = 0) -> list[FaceBox]:
        if min(image.shape[:2]) < 1:
            raise InputError("cannot look for faces in an empty image")
        # It may remark at any look that a buffer lies at an odd address.
        with _SILENCE:
            answer = self._detector.detect(self._wrap(np.ascontiguousarray(image)))
        boxes = []
        for face in answer.detections:
            box, (left_eye, right_eye) = face.bounding_box, face.keypoints[:2]
            across = (right_eye.x - left_eye.x) * image.shape[1]
            below = (right_eye.y - left_eye.y) * image.shape[0]
            boxes.append(
                FaceBox(
                    x0=box.origin_x + right,
                    y0=box.origin_y + down,
                    x1=box.origin_x + box.width + right,
                    y1=box.origin_y + box.height + down,
                    score=float(face.categories[0].score),
                    roll=math.atan2(below, across),
                )
            )
        return boxes

    def close(self) -> None:
        """Free what MediaPipe holds; a second call does nothing."""
        if not self._closed:
            self._closed = True
            with _SILENCE:
                self._detector.close()


def _sure(boxes: Iterable[FaceBox], trust: float = 1.0) -> list[FaceBox]:
    return [box for box in boxes if box.score >= MIN_SCORE * trust]


def suppress(boxes: Iterable[FaceBox]) -> list[FaceBox]:
    """Keep the best of the boxes that show the same face."""
    kept: list[FaceBox] = []
    for box in sorted(boxes, key=lambda box: -box.score):
        if all(overlap(box, other) < SAME_FACE for other in kept):
            kept.append(box)
    return kept


def overlap(one: FaceBox, other: FaceBox) -> float:
    """Shared area over the area of the smaller box."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    smaller = min((box.x1 - box.x0) * (box.y1 - box.y0) for box in (one, other))
    return max(width, 0.0) * max(height, 0.0) / smaller if smaller > 0 else 0.0


def _tiles(width: int, height: int) -> Iterator[tuple[int, int, int]]:
    """Overlapping squares (x, y, side), half and then a third of the picture's shorter side."""
    for share in (2, 3):
        side = math.ceil(min(width, height) * (1 + TILE_OVERLAP) / share)
        if side * 2 < TILE_WORTH:
            return
        for y in _starts(height, side):
            for x in _starts(width, side):
                yield x, y, side


def _parts(width: int, height: int) -> Iterator[tuple[int, int, int]]:
    """Overlapping squares (x, y, side) as large as the picture allows."""
    side = min(width, height)
    if side * 2 >= TILE_WORTH:
        yield from ((x, y, side) for y in _starts(height, side) for x in _starts(width, side))


def _starts(length: int, side: int) -> list[int]:
    count = max(math.ceil((length - side) / (side * (1 - TILE_OVERLAP))), 0) + 1
    return [round(place) for place in np.linspace(0, length - side, count)]


def _cut_off(box: FaceBox, x: int, y: int, side: int, shape: Sequence[int]) -> bool:
    """Does the box touch an edge of its tile that is no edge of the picture? Another tile shows it whole."""
    return (
        (box.x0 <= x and x > 0)
        or (box.y0 <= y and y > 0)
        or (box.x1 >= x + side and x + side < shape[1])
        or (box.y1 >= y + side and y + side < shape[0])
    )


class _Silence:
    """While a thread is in it, MediaPipe's native code is not heard, which writes a page of notes to file descriptor 2.

    The descriptor is the whole process's, so the first thread to come turns it away and the last to go brings it back,
    and then says what others said meanwhile.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._kept: int | None = None
        self._heard: IO[bytes] | None = None

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside > 1 or sys.stderr is None:
                return
            with contextlib.suppress(OSError):  # where descriptor 2 is closed, there is nothing to turn away
                sys.stderr.flush()
                self._heard = tempfile.TemporaryFile()
                self._kept = os.dup(2)
                os.dup2(self._heard.fileno(), 2)

    def __exit__(self, error: object, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside or self._heard is None:
                return
            heard, self._heard = self._heard, None
            with heard:
                if self._kept is None:
                    return
                os.dup2(self._kept, 2)
                os.close(self._kept)
                self._kept = None
                heard.seek(0)
                # Of what fails, MediaPipe writes a stack trace too; the error itself tells enough.
                others = b"" if error else NOTES.sub(b"", heard.read())
            with contextlib.suppress(OSError):
                os.write(2, others)


_SILENCE = _Silence()
