"""Where frames come from: a video file (PyAV), a camera (OpenCV), a picture."""

import math
import queue
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from canthus.runtime.closing import Closing
from canthus.runtime.errors import InputError
from canthus.runtime.types import Frame

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
SILENCE = 3.0
"""Seconds without a frame after which a camera counts as lost."""


def open_media(path: Path) -> av.container.InputContainer:
    """Open a file with FFmpeg, which takes "12:30.mp4" for an address unless its folder stands before it."""
    return av.open(str(path.absolute()))


def reason(error: Exception) -> str:
    """The part of FFmpeg's or the system's message that a person needs."""
    return str(getattr(error, "strerror", None) or error).strip()


class VideoFile(Closing):
    """A video file's frames with their true presentation times, upright as a player shows them.

    `start` is the file's own time of its first frame, in seconds. `pixel_aspect` is how wide a pixel is shown over how
    high. `damaged` tells after the last frame why decoding ended early, or is empty.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(f"{path}: {'a folder or a pipe, no file' if self.path.exists() else 'no such file'}")
        self._container, self.stream = self._open()
        self.damaged = ""
        rate = self.stream.average_rate or self.stream.guessed_rate
        self.rate = float(rate) if rate else 30.0
        try:
            first = next(self._container.decode(self.stream))
        except (StopIteration, av.error.FFmpegError) as empty:
            self._container.close()
            raise InputError(f"{path}: no frame of the video can be decoded") from empty
        self._mirrored, self._turns = _orientation(first)
        self.start = float(first.time or 0)
        self.width, self.height = first.width, first.height
        self.pixel_aspect = Fraction(self.stream.sample_aspect_ratio or 1)
        if self._turns % 2:
            self.width, self.height, self.pixel_aspect = self.height, self.width, 1 / self.pixel_aspect

    def _open(self) -> tuple[av.container.InputContainer, av.VideoStream]:
        try:
            container = open_media(self.path)
        except (av.error.FFmpegError, ValueError) as unreadable:
            raise InputError(f"{self.path}: not a readable video ({reason(unreadable)})") from unreadable
        if not container.streams.video:
            container.close()
            raise InputError(f"{self.path}: the file holds no video stream")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        return container, stream

    @property
    def frames(self) -> int:
        """How many frames to expect; an estimate where the file does not tell, 0 where nothing is known."""
        if self.stream.frames:
            return self.stream.frames
        length = self._container.duration or 0
        return round(length / 1_000_000 * self.rate)

    def __iter__(self) -> Iterator[Frame]:
        """The frames from the start; seconds count from the first frame and always grow."""
        # Opened anew: a bare stream, as many cameras write, cannot be wound back.
        container, stream = self._open()
        with container:
            yield from self._upright(container.decode(stream))

    def _upright(self, decoded: Iterator[av.VideoFrame]) -> Iterator[Frame]:
        index, last, self.damaged = 0, -1 / self.rate, ""
        while True:
            try:
                picture = next(decoded)
            except StopIteration:
                # FFmpeg often takes a cut-off file for its end; the header knows better, give or take a frame or two.
                # Both must be amiss: a clip that was trimmed without coding it anew holds frames that none is shown,
                # and the last frame of a still scene may be shown for long.
                length = float((self.stream.duration or 0) * (self.stream.time_base or 0))
                if index < 0.98 * self.stream.frames and last + 1 / self.rate < 0.98 * length:
                    self.damaged = f"its header tells of {length:.1f} seconds"
                return
            except av.error.FFmpegError as broken:
                self.damaged = reason(broken)
                return
            # A frame without a time, or one that does not grow, takes its place by the rate.
            due = last + 1 / self.rate
            seconds = due if picture.time is None else float(picture.time) - self.start
            seconds = seconds if seconds > last else due
            image = np.asarray(picture.to_ndarray(format="rgb24"), np.uint8)
            upright = np.rot90(image[:, ::-1] if self._mirrored else image, self._turns)
            yield Frame(np.ascontiguousarray(upright), index, seconds)
            last, index = seconds, index + 1

    def close(self) -> None:
        """Release the file."""
        self._container.close()


def _orientation(picture: av.VideoFrame) -> tuple[bool, int]:
    """What a player does to a stored picture: mirrors it, left to right, then turns it left by so many quarters."""
    note = picture.side_data.get("DISPLAYMATRIX")
    if note is None:
        return False, 0
    matrix = np.frombuffer(note, np.int32).reshape(3, 3)  # type: ignore[call-overload]  # a buffer, unknown to the stubs
    # Where the stored picture's x and y axes point on the screen.
    (x_right, x_down), (y_right, y_down) = matrix[:2, :2].tolist()
    mirrored = x_right * y_down < x_down * y_right
    return mirrored, round(-2 * math.atan2(x_down, x_right) / math.pi + 2 * mirrored) % 4


class Camera(Closing):
    """A camera's frames, the newest always; InputError when it cannot be opened or stops giving frames.

    OpenCV's read can block for ever on a camera that was pulled out, so it happens in a thread that is left behind
    if need be.
    """

    def __init__(self, number: int = 0) -> None:
        if number not in range(2**31):  # OpenCV crashes where it is negative
            raise InputError(f"{number} is no camera's number; they are counted from 0")
        self.number = number
        level = cv2.utils.logging.getLogLevel()
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # told below, in one line
        try:
            self._capture = cv2.VideoCapture(number)
        finally:
            cv2.utils.logging.setLogLevel(level)
        if not self._capture.isOpened():
            self._capture.release()
            raise InputError(
                f"camera {number} cannot be opened: is it plugged in, free of other programs, and allowed to you "
                "(group video on Linux, privacy settings on macOS and Windows)?"
            )
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        self.width = int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        self.height = int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        self._newest: queue.Queue[tuple[float, NDArray[np.uint8]] | None] = queue.Queue(1)
        self._closing = threading.Event()
        self._reader = threading.Thread(target=self._read, name=f"camera {number}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        started = cv2.getTickCount()
        while not self._closing.is_set():
            arrived, picture = self._capture.read()
            seconds = (cv2.getTickCount() - started) / cv2.getTickFrequency()
            while not self._newest.empty():
                try:
                    self._newest.get_nowait()
                except queue.Empty:
                    break
            if not arrived:
                self._newest.put(None)
                break
            self._newest.put((seconds, cv2.cvtColor(picture, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)))
        self._capture.release()

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        while not self._closing.is_set():
            try:
                taken = self._newest.get(timeout=SILENCE)
            except queue.Empty:
                taken = None
            if taken is None:
                raise InputError(f"camera {self.number} gives no more pictures: was it unplugged?")
            yield Frame(taken[1], index, taken[0])
            index += 1

    def close(self) -> None:
        """Stop reading; a reader that hangs in the driver is left behind."""
        self._closing.set()
        self._reader.join(timeout=1)


def read_picture(path: str | Path) -> NDArray[np.uint8]:
    """A picture file as (H, W, 3) RGB."""
    try:
        data = np.frombuffer(Path(path).read_bytes(), np.uint8)
    except OSError as unreadable:
        raise InputError(f"{path}: cannot be read ({unreadable.strerror})") from unreadable
    try:
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if data.size else None
    except cv2.error as refused:  # its header tells of more pixels than OpenCV takes
        raise InputError(f"{path}: not a readable picture, or too large a one") from refused
    if picture is None:
        raise InputError(f"{path}: not a readable picture")
    return picture.astype(np.uint8, copy=False)
