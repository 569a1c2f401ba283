"""Read the frames of a video file with PyAV."""

import contextlib
import itertools
import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import av
import numpy as np
from numpy.typing import NDArray

from canthus.runtime.closeable import Closeable
from canthus.runtime.damage import BARE_JPEGS, DamageCheck
from canthus.runtime.errors import InputError
from canthus.runtime.hardware import NONE, accelerator, select_device
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
from canthus.runtime.tone_mapping import TRANSFERS, ToneMapper, to_eight_bits
from canthus.runtime.types import Frame

NO_IMAGE: NDArray[np.uint8] = np.zeros((0, 0, 3), np.uint8)
"""The image of a frame that is skipped."""

DTS_FORMATS = ("avi",)
"""FFmpeg's names of the formats that store decoding times only. It guesses presentation times, which are wrong if a
video has B-frames."""

DOWNLOADED = {"nv12": "yuv420p", "p010le": "yuv420p10le", "p016le": "yuv420p12le"}
"""Formats of pixels in which devices return frames, and those that the CPU decodes the same videos to."""

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
        pixels: FFmpeg's name of the format of pixels.
        transfer, primaries: "pq", "hlg" or empty (SDR), and FFmpeg's number of the primaries.
        device: The kind of device that decodes, such as "cuda"; None is the CPU.
        rate: Frames per second, on average.
        start: The file's own timestamp of the first frame, in seconds.
        end: After the last frame: the time at which it is no longer shown. None before that.
        damaged: After the last frame: what is lost or could not be decoded, or empty.

    Args:
        path: The file.
        hwaccel: "none", or the device that decodes; see `hardware.select_device`.

    Raises:
        BackendError: If the device cannot decode it.
        InputError: If the file does not exist, is not a video, has frames of more than 36 megapixels, or no frame can
            be decoded. The environment variable CANTHUS_MAX_FRAME_MEGAPIXELS sets another limit.
    """

    def __init__(self, path: str | Path, hwaccel: str = NONE) -> None:
        self.path = Path(path)
        self.device: str | None = None
        if not self.path.is_file():
            problem = "is a folder or a pipe (expected a video file)" if self.path.exists() else "no such file"
            raise InputError(f"{path}: {problem}")
        self._container, self.stream = self._open()
        if hwaccel != NONE:
            self._container.close()
            self.device = select_device(self.path, hwaccel)
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
        self.pixels = DOWNLOADED.get(first.format.name, first.format.name)
        self.transfer = TRANSFERS.get(int(self.stream.codec_context.color_trc), "")
        self.primaries = int(self.stream.codec_context.color_primaries)
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
            container = open_media(self.path, **({"hwaccel": accelerator(self.device)} if self.device else {}))
        except (av.error.FFmpegError, ValueError) as error:
            raise InputError(f"{self.path}: {_describe_unreadable(self.path, error)}") from error
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
        if container.format.name in BARE_JPEGS:  # nothing but the decoder notices a hole
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

    def tone_mapper(self) -> ToneMapper | None:
        """Return a converter of the stored frames to SDR, for use in one thread; None if they are SDR."""
        return ToneMapper(self.transfer, self.primaries) if self.transfer else None

    def read(self, selection: Selection, skip: int = 0, deep: bool = False, tone_map: bool = False) -> Iterator[Frame]:
        """Iterate over a part of the frames. Their index and time are those in the whole video.

        Args:
            selection: Which frames. Those before its start are decoded too, because others depend on them.
            skip: How many of these frames have NO_IMAGE instead of their image, which takes less time.
            deep: Yield `DeepFrame` if the video has more than 8 bits or is HDR.
            tone_map: Let `DeepFrame.deep` be SDR too. `Frame.image` always is.
        """
        self.damaged, self.end, self._video_end = "", None, 0.0
        # A new container each time: a raw stream, as many cameras write, cannot be rewound.
        container, stream = self._open()
        mapper = self.tone_mapper()
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
                sdr = mapper.convert(stored) if mapper else None
                image = self._turn(to_rgb(stored) if sdr is None else to_eight_bits(sdr))
                if deep and (mapper or has_many_bits(stored.format.name)):
                    wide = self._turn(sdr if sdr is not None and tone_map else to_wide_rgb(stored))
                    del stored, sdr
                    yield DeepFrame(image, index, seconds, float(self.pixel_aspect), deep=wide)
                else:
                    del stored, sdr
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
                partial = _decode_in_part(packet) if container.format.name in BARE_JPEGS else None
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


def _describe_unreadable(path: Path, error: Exception) -> str:
    """Return what is wrong with a file that FFmpeg cannot open, and what to try."""
    try:
        size = path.stat().st_size
    except OSError as missing:  # since it was opened first
        return f"cannot be read any more ({missing.strerror})"
    if not size:
        return "not a readable video (it is empty); copy or record it again"
    copy = shlex.join(["ffmpeg", "-err_detect", "ignore_err", "-i", str(path), "-c", "copy", f"{path.stem}-copy.mkv"])
    return (
        f"not a readable video ({error_reason(error)}; expected .mp4, .mov, .mkv, .webm, .avi or another format of "
        f"FFmpeg); if a player shows it, try: {copy}"
    )


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
