"""Read frames from a video file (PyAV) or a camera (OpenCV)."""

import contextlib
import itertools
import logging
import math
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import ClassVar, TypeVar

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from canthus.runtime.cameras import CameraMode
from canthus.runtime.closeable import Closeable
from canthus.runtime.damage import BARE_JPEGS, DamageCheck
from canthus.runtime.errors import InputError
from canthus.runtime.image_files import opencv_log_silenced
from canthus.runtime.limits import FRAME_LIMIT, check_size, current_limit
from canthus.runtime.media import (
    AV_TIME_BASE,
    demux,
    error_reason,
    has_many_bits,
    main_track,
    open_media,
    orientation,
    to_rgb,
    to_wide_rgb,
)
from canthus.runtime.threads import thread_limit
from canthus.runtime.types import Frame

NO_IMAGE: NDArray[np.uint8] = np.zeros((0, 0, 3), np.uint8)
"""The image of a frame that is skipped."""

OPEN_TIMEOUT = 20.0
"""Seconds that a camera may take to open. Some take 10."""

CAMERA_TIMEOUT = 3.0
"""Seconds without a frame after which a camera counts as disconnected."""

FROZEN_TIMEOUT = 5.0
"""Seconds with the same image after which a camera is opened again. The images of a sensor differ by their noise."""

MAX_HANGING = 2
"""Reads of one camera that may hang in its driver at a time. More are not started."""

_log = logging.getLogger(__name__)

DTS_FORMATS = ("avi",)
"""FFmpeg's names of the formats that store decoding times only. It guesses presentation times, which are wrong if a
video has B-frames."""

LARGE_FRAME = 16_000_000
"""Pixels from which on memory matters more than speed: two frames are decoded at the same time, and none ahead."""

TIME_TOLERANCE = 1e-6
"""Seconds. Times are computed from ticks, so that a frame at a given start may be a rounding error before it."""

Depth = TypeVar("Depth", np.uint8, np.uint16)

CLOCK_FRAMES = 16
"""Number of frames whose presentation times are checked before the first one is returned."""


@dataclass(frozen=True)
class Selection:
    """The part of a video that is read: the frames from `start` on and before `end`, and of these each `every`-th."""

    start: float = 0.0  # seconds from the first frame
    end: float = math.inf
    every: int = 1


@dataclass(frozen=True, eq=False, kw_only=True)
class DeepFrame(Frame):
    """A frame of a video with more than 8 bits."""

    deep: NDArray[np.uint16] = field(repr=False)  # (H, W, 3) RGB of 16 bits


class VideoFile(Closeable):
    """Iterates over the frames of a video file, upright as a player shows them, with their presentation times.

    Each iteration starts at the first frame. Its time is 0, and times always increase.

    Attributes:
        width, height: Size of the frames in pixels.
        pixel_aspect: Width of a pixel as shown, divided by its height.
        rate: Frames per second, on average.
        start: The file's own timestamp of the first frame, in seconds.
        end: After the last frame: the time at which it is no longer shown. None before that.
        damaged: After the last frame: what is lost or could not be decoded, or empty.

    Raises:
        InputError: If the file does not exist, is not a video, has frames of more than 36 megapixels, or no frame can
            be decoded. The environment variable CANTHUS_MAX_FRAME_MEGAPIXELS sets another limit.
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
        self._clock = "dts" if self._container.format.name in DTS_FORMATS else "pts"
        decoded = self._decoded(self._container, self.stream)
        first = next(decoded, None)
        if first is None:
            self._container.close()
            raise InputError(f"{path}: no frame can be decoded")
        self._flipped, self._turns = orientation(first)
        if self._clock == "pts" and self.stream.codec_context.has_b_frames and not _increase(first, decoded):
            self._clock = "dts"
        self.start = self._start(first)
        self.width, self.height = first.width, first.height
        self.pixel_aspect = Fraction(self.stream.sample_aspect_ratio or 1)
        if self._turns % 2:
            self.width, self.height, self.pixel_aspect = self.height, self.width, 1 / self.pixel_aspect
        if self.is_large:  # free the frames of the decoder
            self._container.close()
            self._container, self.stream = self._open()

    def _open(self) -> tuple[av.container.InputContainer, av.VideoStream]:
        try:
            container = open_media(self.path)
        except (av.error.FFmpegError, ValueError) as error:
            raise InputError(f"{self.path}: not a readable video ({error_reason(error)})") from error
        stream = main_track(container.streams.video)
        if stream is None:
            container.close()
            raise InputError(f"{self.path}: contains no video stream that can be decoded")
        limit = current_limit(FRAME_LIMIT)
        try:
            check_size(self.path, (stream.width, stream.height), limit)
        except InputError:
            container.close()
            raise
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = thread_limit()  # 0: FFmpeg decides
        if stream.width * stream.height >= LARGE_FRAME:
            stream.codec_context.thread_count = 2
        # The size may change in the middle. FFmpeg does not decode larger frames then. It counts padding.
        stream.codec_context.options = {"max_pixels": str(round(1.1 * limit.pixels) + 2**16)}
        if container.format.name == BARE_JPEGS:  # nothing but the decoder notices a hole
            stream.codec_context.options |= {"err_detect": "explode"}
            stream.thread_type = "SLICE"
        return container, stream

    def _start(self, first: av.VideoFrame) -> float:
        """Return the file's own time of the first frame, in seconds."""
        if self._clock == "dts":  # the first frame is decoded after the packets of later ones
            return float((self.stream.start_time or 0) * (self.stream.time_base or 0))
        return float(first.time or 0)

    @property
    def is_large(self) -> bool:
        """Whether the frames are so large that none should be read ahead."""
        return self.width * self.height >= LARGE_FRAME

    @property
    def frames(self) -> int:
        """The number of frames, estimated if the file does not contain it, or 0 if nothing is known."""
        shown = round((self._container.duration or 0) / AV_TIME_BASE * self.rate)
        # A clip trimmed without re-encoding contains more frames than are shown.
        return min(self.stream.frames or shown, shown or self.stream.frames)

    def count(self, selection: Selection) -> int:
        """Return the number of frames of a selection, estimated, or 0 if nothing is known."""
        whole = self.frames
        first = round(selection.start * self.rate)
        last = whole if math.isinf(selection.end) else min(whole, round(selection.end * self.rate))
        return max(-(-(last - first) // selection.every), 0)

    def __iter__(self) -> Iterator[Frame]:
        return self.read(Selection())

    def read(self, selection: Selection, skip: int = 0, deep: bool = False) -> Iterator[Frame]:
        """Iterate over a part of the frames. Their index and time are those in the whole video.

        Args:
            selection: Which frames. Those before its start are decoded too, because others depend on them.
            skip: How many of these frames have NO_IMAGE instead of their image, which takes less time.
            deep: Yield `DeepFrame` if the video has more than 8 bits.
        """
        self.damaged, self.end, self._video_end = "", None, 0.0
        # A new container each time: a raw stream, as many cameras write, cannot be rewound.
        container, stream = self._open()
        with container:
            count = 0
            for index, stored, seconds in self._timed(self._decoded(container, stream)):
                if seconds >= selection.end:
                    self.end = None
                    return
                if seconds < selection.start - TIME_TOLERANCE:
                    continue
                count += 1
                if (count - 1) % selection.every:
                    continue
                if (count - 1) // selection.every < skip:
                    yield Frame(NO_IMAGE, index, seconds, float(self.pixel_aspect))
                    continue
                image = self._turn(to_rgb(stored))
                if deep and has_many_bits(stored.format.name):
                    wide = self._turn(to_wide_rgb(stored))
                    del stored
                    yield DeepFrame(image, index, seconds, float(self.pixel_aspect), deep=wide)
                else:
                    del stored
                    yield Frame(image, index, seconds, float(self.pixel_aspect))

    def _decoded(self, container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
        """Yield all frames that can be decoded, also those after an error. Set `damaged`."""
        check = DamageCheck(container, stream, self._clock)
        for packet in self._packets(container, check):  # of the audio too: its end is compared with the header's
            ticks = packet.dts if self._clock == "dts" else packet.pts
            end = 0.0 if ticks is None else float((ticks + (packet.duration or 0)) * packet.time_base)
            check.add_packet(packet, end)
            if packet.stream.index != stream.index:
                continue
            self._video_end = max(self._video_end, end)
            try:
                for frame in stream.decode(packet):
                    check.add_frame(frame)
                    yield frame
            except av.error.FFmpegError:
                partial = _decode_in_part(packet) if container.format.name == BARE_JPEGS else None
                if partial is None:
                    check.add_undecodable()
                    continue
                check.add_corrupt()
                check.add_frame(partial)
                yield partial
        self.damaged = check.describe()

    def _packets(self, container: av.container.InputContainer, check: DamageCheck) -> Iterator[av.Packet]:
        """Yield the packets of all streams, up to the end or an error."""
        try:
            yield from demux(container)
        except av.error.FFmpegError as error:
            check.add_error(error_reason(error))

    def _timed(self, decoded: Iterator[av.VideoFrame]) -> Iterator[tuple[int, av.VideoFrame, float]]:
        """Yield the index, the stored frame and its time of each decoded frame. Times always increase."""
        last, first = -1 / self.rate, None
        for index, stored in enumerate(decoded):
            ticks = stored.dts if self._clock == "dts" else stored.pts
            # A frame without a time, or with one that does not increase, follows after one frame period.
            expected = last + 1 / self.rate
            if ticks is None:
                last = expected
            else:
                seconds = float(ticks * (stored.time_base or 0))
                first = seconds - expected if first is None else first
                last = seconds - first if seconds - first > last else expected
            yield index, stored, last
        self.end = self._video_end - self.start
        if self.end <= last:  # the file has no durations
            self.end = last + 1 / self.rate

    def _turn(self, image: NDArray[Depth]) -> NDArray[Depth]:
        """Return a stored image as a player shows it."""
        return np.ascontiguousarray(np.rot90(image[:, ::-1] if self._flipped else image, self._turns))

    def close(self) -> None:
        """Close the file."""
        self._container.close()


def _decode_in_part(packet: av.Packet) -> av.VideoFrame | None:
    """Decode a damaged JPEG as far as possible; None if nothing can be decoded."""
    decoder = av.CodecContext.create("mjpeg", "r")
    assert isinstance(decoder, av.VideoCodecContext), "a decoder of images"
    with contextlib.suppress(av.error.FFmpegError):
        for frame in [*decoder.decode(packet), *decoder.decode(None)]:
            frame.pts, frame.dts, frame.time_base = packet.pts, packet.dts, packet.time_base
            return frame
    return None


def _increase(first: av.VideoFrame, decoded: Iterator[av.VideoFrame]) -> bool:
    """Return whether the presentation times of the next decoded frames increase. A missing one does not matter."""
    frames = itertools.chain([first], itertools.islice(decoded, CLOCK_FRAMES - 1))
    times = [frame.pts for frame in frames if frame.pts is not None]
    return all(one < other for one, other in itertools.pairwise(times))


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
            raise InputError(f"{number} is not a camera number (expected 0 for the first camera, 1 for the second, …)")
        self.number, self.mode = number, mode
        self._check_hanging()
        self.width = self.height = 0
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
