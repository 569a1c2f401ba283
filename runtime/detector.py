"""MediaPipe's face detector: finds face boxes in images. This is the only file that imports mediapipe.

The network takes 192 x 192 pixels. It misses a small face in a large image. It was trained on small faces, so it also
misses a face that fills half of the image. `detect` with `exhaustive` therefore also runs on overlapping tiles and on
the image with wide black borders; `detect_in_stream` does the same step by step, over successive frames.
"""

import contextlib
import importlib
import math
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from canthus.runtime.closeable import Closeable
from canthus.runtime.downloads import WHEEL, Download, find_downloads
from canthus.runtime.errors import InputError, ModelError
from canthus.runtime.geometry import crop, suppress_overlapping, to_frame
from canthus.runtime.native_messages import native_log_removed
from canthus.runtime.saved_state import Stateful
from canthus.runtime.types import FaceBox, Roi

_MODEL_NAME = "face_detection_full_range_sparse.tflite"
MODEL = Download(
    "the face detector's model",
    _MODEL_NAME,
    "2c3728e6da56f21e21a320433396fb06d40d9088f2247c05e5635a688d45dfe1",
    "canthus doctor --fetch",
    f"give a file with --detector-model: {_MODEL_NAME} from the wheel {WHEEL}",
)

MIN_SCORE = 0.5
MIN_SCORE_EXHAUSTIVE = 0.3
"""The minimum score of an exhaustive detection. Between this and `MIN_SCORE`, 40 % of the boxes are faces: dark,
occluded or rotated ones."""

INPUT_SIZE = 192
"""Side of the input of the network, pixels."""

MAX_SIDE = 4096
"""Images with a longer side are reduced to it. MediaPipe ends the process at 32767, and needs much memory before."""

PADDED_SCALE = 2.0
"""Side of the padded view, relative to the longer side of the image. The image is in its center, on black."""

PADDED_SCORE_FACTOR = 0.75
"""Scores from the padded view are multiplied by this: the network is overconfident there, for example on letters."""

QUARTER_TURN = math.radians(90)

SAME_FACE_OVERLAP = 0.4
"""Two boxes whose intersection over minimum is at least this are one face."""

TILE_OVERLAP = 0.25
MIN_TILED_SIDE = 512
"""Images are divided into tiles only if the tiles are larger than half of this, in pixels. Smaller tiles show nothing
that the whole image does not show."""

NATIVE_LOG_LINES = re.compile(rb"(?m)^(.*\.(cc|cpp|h):\d+\] .*|WARNING: Logging before .*|INFO: Created Tensor.*)$\n?")
"""What MediaPipe and the native libraries in it write to stderr."""


class _Tile(NamedTuple):
    """A square part of an image, in pixels."""

    x: int
    y: int
    side: int


def find_detector_model(model: str | Path | None = None, fetch: bool = True) -> Path:
    """Return the detector's model file: `model`, or the file in the cache, downloaded first if missing and `fetch`.

    Raises ModelError if there is no such file; the message says what to do.
    """
    if model is None:
        return find_downloads([MODEL], fetch)[0]
    path = Path(model)
    if not path.is_file():
        raise ModelError(f"{path}: no such detector model")
    return path


class Detector(Closeable, Stateful):
    """Finds faces in images. Use it only in the thread that created it."""

    FIXED = ("_detector", "_wrap", "_closed")

    def __init__(self, model: str | Path | None = None) -> None:
        path = find_detector_model(model)
        with native_log_removed(NATIVE_LOG_LINES):
            # This import takes 0.2 s, so only code that detects faces should wait for it.
            with _matplotlib_deferred():
                from mediapipe import Image, ImageFormat
                from mediapipe.tasks.python import BaseOptions, vision

            options = vision.FaceDetectorOptions(
                base_options=BaseOptions(model_asset_buffer=path.read_bytes()),
                min_detection_confidence=MIN_SCORE_EXHAUSTIVE,
            )
            try:
                self._detector = vision.FaceDetector.create_from_options(options)
                self._wrap = partial(Image, ImageFormat.SRGB)
                self._detector.detect(self._wrap(np.zeros((INPUT_SIZE, INPUT_SIZE, 3), np.uint8)))
            except (RuntimeError, ValueError) as error:
                raise ModelError(f"{path}: not a face detector that MediaPipe can load") from error
        self._padded_next, self._last_tile = False, -1
        self._closed = False

    def detect(self, image: NDArray[np.uint8], exhaustive: bool = False) -> list[FaceBox]:
        """Detect the faces in an RGB image (H, W, 3).

        Returns boxes in image pixels, highest score first; they may extend beyond the image. With `exhaustive`, small,
        large and rotated faces are found too, and boxes with scores from `MIN_SCORE_EXHAUSTIVE` on are returned, so the
        caller should verify them. Raises InputError for an empty image.
        """
        boxes = self._detect_once(image)
        if not exhaustive:
            return _suppress(_confident(boxes))
        for tile in _tiles(image.shape[1], image.shape[0]):
            boxes += self._detect_in_tile(image, tile)
        boxes += self._detect_padded(image)
        if not _confident(boxes):
            boxes += self._detect_padded(image, QUARTER_TURN) + self._detect_padded(image, -QUARTER_TURN)
        return _suppress(boxes)

    def detect_in_stream(self, image: NDArray[np.uint8]) -> list[FaceBox]:
        """Detect the faces in the next of successive frames, with at most two runs of the network.

        Runs on the whole frame and on one of its largest square tiles, the next one in each call. If this finds no
        face in the whole frame, the next call runs on the padded view instead.
        """
        if self._padded_next:
            self._padded_next = False
            return _suppress(_confident(self._detect_padded(image), PADDED_SCORE_FACTOR))
        boxes = _confident(self._detect_once(image))
        self._padded_next = not boxes
        tiles = list(_largest_tiles(image.shape[1], image.shape[0]))
        if len(tiles) > 1:
            self._last_tile = (self._last_tile + 1) % len(tiles)
            boxes += _confident(self._detect_in_tile(image, tiles[self._last_tile]))
        return _suppress(boxes)

    def _detect_padded(self, image: NDArray[np.uint8], angle: float = 0.0) -> list[FaceBox]:
        """Detect in a square around the image, rotated by `angle` radians."""
        height, width = image.shape[:2]
        region = Roi((width - 1) / 2, (height - 1) / 2, PADDED_SCALE * max(width, height), angle)
        back, step = to_frame(region, INPUT_SIZE), region.side / INPUT_SIZE
        boxes = []
        # Not reduced first: the minimum scores were chosen with 4 x 4 samples per pixel.
        for box in self._detect_once(crop(image, region, INPUT_SIZE, max_shrink=1)):
            x, y = (back @ [(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2, 1.0]).tolist()
            half_width, half_height = step * (box.x1 - box.x0) / 2, step * (box.y1 - box.y0) / 2
            boxes.append(
                FaceBox(
                    x0=x - half_width,
                    y0=y - half_height,
                    x1=x + half_width,
                    y1=y + half_height,
                    score=PADDED_SCORE_FACTOR * box.score,
                    roll=math.remainder(box.roll + angle, 2 * math.pi),
                )
            )
        return boxes

    def _detect_in_tile(self, image: NDArray[np.uint8], tile: _Tile) -> list[FaceBox]:
        """Detect in a tile, and drop the boxes that the tile cuts off."""
        x, y, side = tile
        boxes = self._detect_once(image[y : y + side, x : x + side], x, y)
        return [box for box in boxes if not _is_cut_off(box, tile, image.shape)]

    def _detect_once(self, image: NDArray[np.uint8], x: int = 0, y: int = 0) -> list[FaceBox]:
        """Run the network once, and shift the boxes by (x, y)."""
        height, width = image.shape[:2]
        if min(height, width) < 1:
            raise InputError("cannot detect faces in an empty image (at least 1 x 1 pixel was expected)")
        image = _reduce(image)
        step_x, step_y = width / image.shape[1], height / image.shape[0]
        # Any run may write a warning about an unaligned buffer.
        with native_log_removed(NATIVE_LOG_LINES):
            result = self._detector.detect(self._wrap(np.ascontiguousarray(image)))
        boxes = []
        for face in result.detections:
            box, (left_eye, right_eye) = face.bounding_box, face.keypoints[:2]  # the image's left and right
            boxes.append(
                FaceBox(
                    x0=box.origin_x * step_x + x,
                    y0=box.origin_y * step_y + y,
                    x1=(box.origin_x + box.width) * step_x + x,
                    y1=(box.origin_y + box.height) * step_y + y,
                    score=float(face.categories[0].score),
                    roll=math.atan2((right_eye.y - left_eye.y) * height, (right_eye.x - left_eye.x) * width),
                )
            )
        return boxes

    def close(self) -> None:
        """Free MediaPipe's resources; further calls do nothing."""
        if not self._closed:
            self._closed = True
            with native_log_removed(NATIVE_LOG_LINES):
                self._detector.close()


def _reduce(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image whose sides are `MAX_SIDE` or less, in the same proportions as far as whole pixels allow."""
    height, width = image.shape[:2]
    factor = MAX_SIDE / max(height, width)
    if factor >= 1:
        return image
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _confident(boxes: Iterable[FaceBox], factor: float = 1.0) -> list[FaceBox]:
    return [box for box in boxes if box.score >= MIN_SCORE * factor]


def _suppress(boxes: Iterable[FaceBox]) -> list[FaceBox]:
    return suppress_overlapping(boxes, SAME_FACE_OVERLAP)


def _tiles(width: int, height: int) -> Iterator[_Tile]:
    """Divide an image into overlapping tiles: half, then a third of its shorter side."""
    for divisor in (2, 3):
        side = math.ceil(min(width, height) * (1 + TILE_OVERLAP) / divisor)
        if side * 2 < MIN_TILED_SIDE:
            return
        for y in _starts(height, side):
            for x in _starts(width, side):
                yield _Tile(x, y, side)


def _largest_tiles(width: int, height: int) -> Iterator[_Tile]:
    """Divide an image into overlapping tiles as large as its shorter side."""
    side = min(width, height)
    if side * 2 >= MIN_TILED_SIDE:
        yield from (_Tile(x, y, side) for y in _starts(height, side) for x in _starts(width, side))


def _starts(length: int, side: int) -> list[int]:
    """Where tiles begin along an edge of `length` pixels."""
    count = max(math.ceil((length - side) / (side * (1 - TILE_OVERLAP))), 0) + 1
    return [round(start) for start in np.linspace(0, length - side, count)]


def _is_cut_off(box: FaceBox, tile: _Tile, shape: Sequence[int]) -> bool:
    """Whether a box reaches an edge of its tile that is not an edge of the image; another tile shows it whole."""
    x, y, side = tile
    return (
        (box.x0 <= x and x > 0)
        or (box.y0 <= y and y > 0)
        or (box.x1 >= x + side and x + side < shape[1])
        or (box.y1 >= y + side and y + side < shape[0])
    )


class _Deferred(ModuleType):
    """A module that is imported when an attribute of it is first used."""

    def __getattr__(self, name: str) -> object:
        module = sys.modules.get(self.__name__)
        if module is self:  # while mediapipe is imported
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


@contextlib.contextmanager
def _matplotlib_deferred() -> Iterator[None]:
    """Defer the import of matplotlib in the block: mediapipe imports it to draw, and it takes most of the time."""
    if "matplotlib" in sys.modules:
        yield
        return
    package, pyplot = _Deferred("matplotlib"), _Deferred("matplotlib.pyplot")
    package.__dict__["pyplot"] = pyplot
    deferred = {"matplotlib": package, "matplotlib.pyplot": pyplot}
    sys.modules.update(deferred)
    try:
        yield
    finally:
        for name, module in deferred.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
