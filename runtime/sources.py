"""Read frames from a video file (PyAV) or a camera (OpenCV), and images from image files."""

import contextlib
import math
import queue
import threading
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import av
import cv2
import numpy as np
from av.stream import Disposition
from av.video.reformatter import Colorspace
from numpy.typing import NDArray

from canthus.runtime.closeable import Closeable
from canthus.runtime.errors import InputError
from canthus.runtime.types import Frame, describe_value

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

CAMERA_TIMEOUT = 3.0
"""Seconds without a frame after which a camera counts as disconnected."""

CONVERTIBLE_COLOR_SPACES = (0, 1, 2, 4, 5, 6, 7, 9)
"""Numbers of the colour spaces that FFmpeg can convert to RGB. Other frames are read as BT.709."""

AV_TIME_BASE = 1_000_000
"""Ticks per second of a container's duration and start time in FFmpeg."""

Track = TypeVar("Track", av.VideoStream, av.AudioStream)


def open_media(path: Path) -> av.container.InputContainer:
    """Open a file with FFmpeg. The path is made absolute, because FFmpeg takes "12:30.mp4" for a URL."""
    return av.open(str(path.absolute()))


def main_track(tracks: Sequence[Track]) -> Track | None:
    """Return the track that a player selects, or None if none can be decoded.

    That is the first one with the default flag, or else the first one. Cover images come last.
    """

    def priority(track: Track) -> int:
        return bool(track.disposition & Disposition.default) - bool(track.disposition & Disposition.attached_pic)

    return max((track for track in tracks if track.codec_context), key=priority, default=None)


def error_reason(error: Exception) -> str:
    """Return the message of an error of FFmpeg or the system, without its number and path."""
    return str(getattr(error, "strerror", None) or error).strip()


def to_rgb(decoded: av.VideoFrame) -> NDArray[np.uint8]:
    """Convert a decoded frame to (H, W, 3) RGB."""
    if decoded.colorspace not in CONVERTIBLE_COLOR_SPACES:
        decoded.colorspace = Colorspace.ITU709
    return np.asarray(decoded.to_ndarray(format="rgb24"), np.uint8)


class VideoFile(Closeable):
    """Iterates over the frames of a video file, upright as a player shows them, with their presentation times.

    Each iteration starts at the first frame. Its time is 0, and times always increase.

    Attributes:
        width, height: Size of the frames in pixels.
        pixel_aspect: Width of a pixel as shown, divided by its height.
        rate: Frames per second, on average.
        start: The file's own timestamp of the first frame, in seconds.
        end: After the last frame: the time at which it is no longer shown. None before that.
        damaged: After the last frame: what could not be decoded, or empty.

    Raises:
        InputError: If the file does not exist, is not a video, or no frame can be decoded.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            problem = "is a folder or a pipe (expected a video file)" if self.path.exists() else "no such file"
            raise InputError(f"{path}: {problem}")
        self._container, self.stream = self._open()
        self.damaged = ""
        self.end: float | None = None
        self._video_end = 0.0  # end of the last frame so far, as the file's own timestamp
        # Some files give the rate of the clock as the average; the guess is that of the densest frames.
        rates = [rate for rate in (self.stream.average_rate, self.stream.guessed_rate) if rate]
        self.rate = float(min(rates, default=30))
        first = next(self._decoded(self._container, self.stream), None)
        if first is None:
            self._container.close()
            raise InputError(f"{path}: no frame can be decoded")
        self._flipped, self._turns = _orientation(first)
        self.start = float(first.time or 0)
        self.width, self.height = first.width, first.height
        self.pixel_aspect = Fraction(self.stream.sample_aspect_ratio or 1)
        if self._turns % 2:
            self.width, self.height, self.pixel_aspect = self.height, self.width, 1 / self.pixel_aspect

    def _open(self) -> tuple[av.container.InputContainer, av.VideoStream]:
        try:
            container = open_media(self.path)
        except (av.error.FFmpegError, ValueError) as error:
            raise InputError(f"{self.path}: not a readable video ({error_reason(error)})") from error
        stream = main_track(container.streams.video)
        if stream is None:
            container.close()
            raise InputError(f"{self.path}: contains no video stream that can be decoded")
        stream.thread_type = "AUTO"
        return container, stream

    @property
    def frames(self) -> int:
        """The number of frames, estimated if the file does not contain it, or 0 if nothing is known."""
        shown = round((self._container.duration or 0) / AV_TIME_BASE * self.rate)
        # A clip trimmed without re-encoding contains more frames than are shown.
        return min(self.stream.frames or shown, shown or self.stream.frames)

    def __iter__(self) -> Iterator[Frame]:
        self.damaged, self.end, self._video_end = "", None, 0.0
        # A new container each time: a raw stream, as many cameras write, cannot be rewound.
        container, stream = self._open()
        with container:
            yield from self._upright(self._decoded(container, stream))

    def _decoded(self, container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
        """Yield all frames that can be decoded, also those after an error. Set `damaged`."""
        undecodable, file_end = 0, 0.0
        packets = container.demux()  # of the audio too: it shows whether the file ends where its header says
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError as error:
                self.damaged = error_reason(error)
                return
            if packet is None:
                break
            end = 0.0 if packet.pts is None else float((packet.pts + (packet.duration or 0)) * packet.time_base)
            file_end = max(file_end, end)
            if packet.stream.index == stream.index:
                self._video_end = max(self._video_end, end)
                try:
                    yield from stream.decode(packet)
                except av.error.FFmpegError:
                    undecodable += 1
        duration = (container.duration or 0) / AV_TIME_BASE
        found = file_end - (container.start_time or 0) / AV_TIME_BASE
        if undecodable:
            self.damaged = f"{undecodable} of its packets cannot be decoded"
        elif file_end and found < 0.98 * duration - 0.5:  # headers are a little inaccurate
            self.damaged = f"it ends after {found:.1f} of {duration:.1f} seconds"

    def _upright(self, decoded: Iterator[av.VideoFrame]) -> Iterator[Frame]:
        """Convert decoded frames to RGB, turn them upright, and give them increasing times."""
        last, last_pts, unordered = -1 / self.rate, -math.inf, False
        for index, stored in enumerate(decoded):
            ticks = stored.pts
            if ticks is not None:
                last_pts, unordered = ticks, unordered or ticks < last_pts
            if unordered:  # for example H.264 with B-frames in an .avi: decoding times are better
                ticks = stored.dts
            # A frame without a time, or with one that does not increase, follows after one frame period.
            expected = last + 1 / self.rate
            seconds = expected if ticks is None else float(ticks * (stored.time_base or 0)) - self.start
            last = seconds if seconds > last else expected
            image = to_rgb(stored)
            upright = np.rot90(image[:, ::-1] if self._flipped else image, self._turns)
            yield Frame(np.ascontiguousarray(upright), index, last, float(self.pixel_aspect))
        self.end = self._video_end - self.start
        if self.end <= last:  # the file has no durations
            self.end = last + 1 / self.rate

    def close(self) -> None:
        """Close the file."""
        self._container.close()


def _orientation(stored: av.VideoFrame) -> tuple[bool, int]:
    """Return whether a player flips the stored frame horizontally, and by how many quarter turns it then rotates it.

    Turns are counterclockwise, as in np.rot90.
    """
    side_data = stored.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return False, 0
    # The stubs do not declare side data as a buffer.
    matrix = np.frombuffer(side_data, np.int32).reshape(3, 3)  # type: ignore[call-overload]
    # The directions of the stored frame's x and y axes on the screen.
    (x_right, x_down), (y_right, y_down) = matrix[:2, :2].tolist()
    flipped = x_right * y_down < x_down * y_right
    return flipped, round(-2 * math.atan2(x_down, x_right) / math.pi + 2 * flipped) % 4


@contextlib.contextmanager
def _opencv_log_silenced() -> Iterator[None]:
    """Keep OpenCV's warnings off stderr. Errors are raised instead."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


class Camera(Closeable):
    """Iterates over the frames of a camera, always the newest one. Frames in between are dropped.

    OpenCV's read can block forever if a camera is unplugged. It runs in a daemon thread, which is abandoned then.

    Raises:
        InputError: If the camera cannot be opened, or while iterating if it sends no more frames.
    """

    def __init__(self, number: int = 0) -> None:
        if number not in range(2**31):  # OpenCV crashes on a negative number
            raise InputError(f"{number} is not a camera number (expected 0 for the first camera, 1 for the second, …)")
        self.number = number
        with _opencv_log_silenced():
            self._capture = cv2.VideoCapture(number)
        if not self._capture.isOpened():
            self._capture.release()
            raise InputError(
                f"camera {number} cannot be opened; check that it is plugged in, that no other program uses it, and "
                "that you have permission (group video on Linux, privacy settings on macOS and Windows)"
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
            success, image = self._capture.read()
            seconds = (cv2.getTickCount() - started) / cv2.getTickFrequency()
            while not self._newest.empty():
                try:
                    self._newest.get_nowait()
                except queue.Empty:
                    break
            if not success:
                self._newest.put(None)
                break
            self._newest.put((seconds, cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)))
        self._capture.release()

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        while not self._closing.is_set():
            try:
                newest = self._newest.get(timeout=CAMERA_TIMEOUT)
            except queue.Empty:
                newest = None
            if newest is None:
                raise InputError(f"camera {self.number} sends no more frames; check that it is plugged in")
            yield Frame(newest[1], index, newest[0])
            index += 1

    def close(self) -> None:
        """Stop reading. A reader thread that hangs in the driver is abandoned."""
        self._closing.set()
        self._reader.join(timeout=1)


def find_images(source: Path, output: Path | None = None) -> list[Path]:
    """Return the image files of a folder and its sub-folders, sorted by path, or `source` itself if it is a file.

    Files inside `output` are left out, so that a second run does not read what the first one wrote.

    Raises:
        InputError: If `source` does not exist or contains no image file.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise InputError(f"{source}: no such file or folder")
    images = sorted(path for path in source.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if output and source.resolve() in output.resolve().parents:
        images = [path for path in images if not path.resolve().is_relative_to(output.resolve())]
    if not images:
        raise InputError(f"{source}: contains no images ({', '.join(IMAGE_SUFFIXES)})")
    return images


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Read an image file as an array (H, W, 3) uint8 RGB.

    Raises:
        InputError: If the file cannot be read or decoded.
    """
    if not isinstance(path, str | Path):
        raise InputError(f"read_image expects the path of a file, got {describe_value(path)}")
    try:
        data = np.frombuffer(Path(path).read_bytes(), np.uint8)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        with _opencv_log_silenced():
            image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if data.size else None
    except cv2.error as error:  # for example a header with more pixels than OpenCV accepts
        raise InputError(f"{path}: not a readable image, or too large") from error
    if image is None:
        raise InputError(f"{path}: not a readable image")
    return image.astype(np.uint8, copy=False)
