"""Read frames from a camera with OpenCV."""

import contextlib
import logging
import math
import queue
import threading
import time
from collections.abc import Iterator
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from canthus.runtime.cameras import CameraMode
from canthus.runtime.closeable import Closeable
from canthus.runtime.errors import InputError, UsageError
from canthus.runtime.image_files import opencv_log_silenced
from canthus.runtime.media import error_reason
from canthus.runtime.types import Frame

OPEN_TIMEOUT = 20.0
"""Seconds that a camera may take to open. Some take 10."""

CAMERA_TIMEOUT = 3.0
"""Seconds without a frame after which a camera counts as disconnected."""

FROZEN_TIMEOUT = 5.0
"""Seconds with the same image after which a camera is opened again. The images of a sensor differ by their noise."""

MAX_HANGING = 2
"""Reads of one camera that may hang in its driver at a time. More are not started."""

_log = logging.getLogger(__name__)


class Camera(Closeable):
    """Iterates over the frames of a camera, always the newest one. Frames in between are dropped.

    A camera that sends the same image for `FROZEN_TIMEOUT` is opened again. A driver can block forever, while it opens
    the camera or when the camera is unplugged. It is called in a daemon thread, which is abandoned then. At most
    `MAX_HANGING` such threads of a camera exist at a time.

    mode: the size and rate to ask for, one of `list_cameras`; None = what the driver prefers.

    Raises:
        InputError: If the camera cannot be opened, or while iterating if it sends no more frames.
    """

    _hanging: ClassVar[dict[int, list[threading.Thread]]] = {}  # camera number -> abandoned threads

    def __init__(self, number: int = 0, mode: CameraMode | None = None) -> None:
        if number not in range(2**31):  # OpenCV crashes on a negative number
            raise UsageError(f"{number} is not a camera number (expected 0 for the first camera, 1 for the second, …)")
        self.number, self.mode = number, mode
        self._check_hanging()
        self.width = self.height = 0
        self.reopened = 0  # how often it was opened again because it sent the same image
        self._opened = threading.Event()  # or cannot be opened
        self._open_error: Exception | None = None
        self._newest: queue.Queue[tuple[float, NDArray[np.uint8]] | None] = queue.Queue(1)
        self._error: Exception | None = None  # why the thread has ended
        self._closing = threading.Event()
        self._reader = threading.Thread(target=self._read, name=f"camera {number}", daemon=True)
        self._reader.start()
        if not self._opened.wait(OPEN_TIMEOUT):
            self.close()
            raise InputError(
                f"camera {number} did not open within {OPEN_TIMEOUT:.0f} s; unplug the camera and plug it in again"
            )
        if self._open_error is not None:
            raise self._open_error

    def _check_hanging(self) -> None:
        """Raise InputError if too many threads still wait for the driver of this camera."""
        hanging = [thread for thread in self._hanging.get(self.number, []) if thread.is_alive()]
        self._hanging[self.number] = hanging
        if len(hanging) >= MAX_HANGING:
            raise InputError(
                f"camera {self.number}: its driver does not answer; unplug the camera and plug it in again"
            )

    def _read(self) -> None:
        """Pass on frames until the camera fails or is closed. Runs in the thread."""
        try:
            self._capture = _open_camera(self.number, self.mode)
        except Exception as error:  # noqa: BLE001 - a driver may raise anything; the consumer raises it
            self._open_error = error
            self._opened.set()
            return
        try:
            self.width = int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH))
            self.height = int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
            self._opened.set()
            self._pass_on_frames()
        except Exception as error:  # noqa: BLE001 - as above
            self._error = error
        self._opened.set()
        self._offer(None)
        with contextlib.suppress(cv2.error):
            self._capture.release()

    def _pass_on_frames(self) -> None:
        started = time.perf_counter()
        changes = _ChangeDetector()
        while not self._closing.is_set():
            success, image = self._capture.read()
            seconds = time.perf_counter() - started
            if not success or image is None:
                return
            if changes.is_frozen(image, seconds):
                _log.warning(
                    "camera %d has sent the same image for %.0f s; it is opened again", self.number, FROZEN_TIMEOUT
                )
                self._capture.release()
                self._capture = _open_camera(self.number, self.mode)
                self.reopened += 1
            self._offer((seconds, cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)))

    def _offer(self, newest: tuple[float, NDArray[np.uint8]] | None) -> None:
        """Replace the frame that the consumer has not taken yet."""
        while not self._newest.empty():
            try:
                self._newest.get_nowait()
            except queue.Empty:
                break
        self._newest.put(newest)

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        while not self._closing.is_set():
            try:
                newest = self._newest.get(timeout=CAMERA_TIMEOUT)
            except queue.Empty:
                newest = None
            if newest is None:
                raise self._failure()
            yield Frame(newest[1], index, newest[0])
            index += 1

    def _failure(self) -> InputError:
        if isinstance(self._error, InputError):
            return self._error
        problem = f" ({error_reason(self._error).splitlines()[-1]})" if self._error and str(self._error) else ""
        error = InputError(f"camera {self.number} sends no more frames{problem}; check that it is plugged in")
        error.__cause__ = self._error
        return error

    def close(self) -> None:
        """Stop reading. A reader thread that hangs in the driver is abandoned."""
        self._closing.set()
        self._reader.join(timeout=1)
        if self._reader.is_alive():
            self._hanging[self.number].append(self._reader)


def _open_camera(number: int, mode: CameraMode | None) -> cv2.VideoCapture:
    """Open a camera whose driver keeps one frame only, in a mode if one is given. Raises InputError if that fails."""
    with opencv_log_silenced():
        capture = cv2.VideoCapture(number)
    if not capture.isOpened():
        capture.release()
        raise InputError(
            f"camera {number} cannot be opened; check that it is plugged in, that no other program uses it, and "
            "that you have permission (group video on Linux, privacy settings on macOS and Windows)"
        )
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    if mode is not None:
        if mode.format:
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*mode.format))
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, mode.width)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, mode.height)
        capture.set(cv2.CAP_PROP_FPS, mode.rate)
    return capture


class _ChangeDetector:
    """Detects that a camera sends the same image again and again."""

    def __init__(self) -> None:
        self._image: NDArray | None = None
        self._since = 0.0  # when the image was first sent; infinity after it was reported

    def is_frozen(self, image: NDArray, seconds: float) -> bool:
        """Whether the image has been the same for FROZEN_TIMEOUT. Reported once: some sources show a still image."""
        if self._image is None or not _is_same(image, self._image):
            self._image, self._since = image.copy(), seconds
        if seconds - self._since < FROZEN_TIMEOUT:
            return False
        self._since = math.inf
        return True


def _is_same(image: NDArray, other: NDArray) -> bool:
    """Whether two images are equal. A few pixels are compared first, as those of a sensor always differ."""
    if image.shape != other.shape or not np.array_equal(image[::32, ::32], other[::32, ::32]):
        return False
    return np.array_equal(image, other)
