"""Where frames come from: a video file (PyAV), a camera (OpenCV), a picture."""

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
from canthus.runtime.types import Frame

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
SILENCE = 3.0
"""Seconds without a frame after which a camera counts as lost."""

READABLE = (0, 1, 2, 4, 5, 6, 7, 9)
"""FFmpeg's colour spaces that it makes RGB of; it refuses the reserved ones and the rare ones."""

Track = TypeVar("Track", av.VideoStream, av.AudioStream)


def open_media(path: Path) -> av.container.InputContainer:
    """Open a file with FFmpeg, which takes "12:30.mp4" for an address unless its folder stands before it."""
    return av.open(str(path.absolute()))


def main_track(tracks: Sequence[Track]) -> Track | None:
    """The track that a player takes: the first one marked so, a cover last; None where none can be decoded."""

    def marked(track: Track) -> int:
        return bool(track.disposition & Disposition.default) - bool(track.disposition & Disposition.attached_pic)

    return max((track for track in tracks if track.codec_context), key=marked, default=None)


def reason(error: Exception) -> str:
    """The part of FFmpeg's or the system's message that a person needs."""
    return str(getattr(error, "strerror", None) or error).strip()


class VideoFile(Closeable):
    """A video file's frames with their true presentation times, upright as a player shows them.

    `start` is the file's own time of its first frame, in seconds. `pixel_aspect` is how wide a pixel is shown over how
    high. After the last frame, `end` is when it ceases to be shown, and `damaged` tells what could not be decoded, or
    is empty; until then `end` is None.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(f"{path}: {'a folder or a pipe, no file' if self.path.exists() else 'no such file'}")
        self._container, self.stream = self._open()
        self.damaged = ""
        self.end: float | None = None
        self._reached = 0.0  # the file's own time up to which its frames are shown
        # The mean may be of the clock's ticks instead of the frames, the guess is of the densest frames.
        rates = [rate for rate in (self.stream.average_rate, self.stream.guessed_rate) if rate]
        self.rate = float(min(rates, default=30))
        first = next(self._decoded(self._container, self.stream), None)
        if first is None:
            self._container.close()
            raise InputError(f"{path}: no frame of the video can be decoded")
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
        stream = main_track(container.streams.video)
        if stream is None:
            container.close()
            raise InputError(f"{self.path}: the file holds no video stream that can be decoded")
        stream.thread_type = "AUTO"
        return container, stream

    @property
    def frames(self) -> int:
        """How many frames to expect; an estimate where the file does not tell, 0 where nothing is known."""
        shown = round((self._container.duration or 0) / 1_000_000 * self.rate)
        # Of a clip that was trimmed without coding it anew, the file holds more than are shown.
        return min(self.stream.frames or shown, shown or self.stream.frames)

    def __iter__(self) -> Iterator[Frame]:
        """The frames from the start; seconds count from the first frame and always grow."""
        self.damaged, self.end, self._reached = "", None, 0.0
        # Opened anew: a bare stream, as many cameras write, cannot be wound back.
        container, stream = self._open()
        with container:
            yield from self._upright(self._decoded(container, stream))

    def _decoded(self, container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
        """All that can be decoded; as players do, go on behind what cannot, and keep note of it in `damaged`."""
        broken, reached = 0, 0.0
        packets = container.demux()  # of the sound too: it tells whether the file ends where its header says
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError as unreadable:
                self.damaged = reason(unreadable)
                return
            if packet is None:
                break
            ends = 0.0 if packet.pts is None else float((packet.pts + (packet.duration or 0)) * packet.time_base)
            reached = max(reached, ends)
            if packet.stream.index == stream.index:
                self._reached = max(self._reached, ends)
                try:
                    yield from stream.decode(packet)
                except av.error.FFmpegError:
                    broken += 1
        told = (container.duration or 0) / 1_000_000
        if broken:
            self.damaged = f"{broken} of its packets cannot be decoded"
        elif reached and reached - (container.start_time or 0) / 1_000_000 < 0.98 * told - 0.5:  # headers err a little
            self.damaged = f"its header tells of {told:.1f} seconds"

    def _upright(self, decoded: Iterator[av.VideoFrame]) -> Iterator[Frame]:
        last, before, back = -1 / self.rate, -math.inf, False
        for index, picture in enumerate(decoded):
            ticks = picture.pts
            if ticks is not None:
                before, back = ticks, back or ticks < before
            if back:  # as those of B-frames in an .avi do; the order of decoding has better times
                ticks = picture.dts
            # A frame without a time, or one that does not grow, takes its place by the rate.
            due = last + 1 / self.rate
            seconds = due if ticks is None else float(ticks * (picture.time_base or 0)) - self.start
            last = seconds if seconds > last else due
            if picture.colorspace not in READABLE:
                picture.colorspace = Colorspace.ITU709
            image = np.asarray(picture.to_ndarray(format="rgb24"), np.uint8)
            upright = np.rot90(image[:, ::-1] if self._mirrored else image, self._turns)
            yield Frame(np.ascontiguousarray(upright), index, last, float(self.pixel_aspect))
        self.end = self._reached - self.start
        if self.end <= last:  # the file does not tell
            self.end = last + 1 / self.rate

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


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """OpenCV says nothing of its own on stderr; what goes wrong is told in one line."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


class Camera(Closeable):
    """A camera's frames, the newest always; InputError when it cannot be opened or stops giving frames.

    OpenCV's read can block for ever on a camera that was pulled out, so it happens in a thread that is left behind
    if need be.
    """

    def __init__(self, number: int = 0) -> None:
        if number not in range(2**31):  # OpenCV crashes where it is negative
            raise InputError(f"{number} is no camera's number; they are counted from 0")
        self.number = number
        with _silent():
            self._capture = cv2.VideoCapture(number)
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
    try:
        data = np.frombuffer(Path(path).read_bytes(), np.uint8)
    except OSError as unreadable:
        raise InputError(f"{path}: cannot be read ({unreadable.strerror})") from unreadable
    try:
        with _silent():
            picture = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if data.size else None
    except cv2.error as refused:  # its header tells of more pixels than OpenCV takes
        raise InputError(f"{path}: not a readable picture, or too large a one") from refused
    if picture is None:
        raise InputError(f"{path}: not a readable picture")
    return picture.astype(np.uint8, copy=False)
