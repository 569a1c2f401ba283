"""Write a video with the timestamps, the colors, the audio and the subtitles of its source."""

import contextlib
import logging
import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from numpy.typing import NDArray

from canthus.runtime.closeable import Closeable
from canthus.runtime.codecs import VIDEO_SUFFIXES, Encoding, codec_for, encoder_options, select_pixels
from canthus.runtime.errors import InputError
from canthus.runtime.files import Draft, check_output, commit_together
from canthus.runtime.fragments import (
    FRAGMENTED_FORMATS,
    FRAGMENTS,
    LATE_HEADER,
    OTHER_FORMATS,
    Fragments,
    before_path,
    count_packets,
    encoded_packets,
    videos_left,
)
from canthus.runtime.hardware import encoder_device
from canthus.runtime.interrupts import ctrl_c_deferred
from canthus.runtime.media import ROUNDED_DOWN, error_reason
from canthus.runtime.native_messages import native_messages_caught
from canthus.runtime.threads import thread_limit
from canthus.runtime.track_copies import AudioCopy, SubtitleCopy
from canthus.runtime.video_file import VideoFile

__all__ = ["VIDEO_SUFFIXES", "VideoSink", "check_video"]

_log = logging.getLogger(__name__)

RGB_TO_YUV_MATRIX = {1: 1, 2: 5, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}
"""FFmpeg's color space number -> its matrix number. Unspecified (2) is decoded as BT.601 (5), so it is encoded so."""

ONE_LEVEL = np.array([1.0, 1.0, 1.0, 0.0])
"""Added to the RGB of frames that were rounded down when they were decoded. OpenCV expects four channels."""

MAX_DURATION = 2**31 - 1
"""Longest frame that an .mp4 can store, in ticks. A damaged source may have a duration of days."""

MIN_TICKS, MAX_TICKS = 10_000, 1_000_000
"""Least and largest number of ticks per second of the written timestamps."""

RGB_FORMATS = ("bgra", "argb", "rgb24", "bgr0")
"""FFmpeg's names of formats of pixels without a color matrix."""


def check_video(path: Path, overwrite: bool, encoding: Encoding, pixels: str) -> None:
    """Raise InputError if `VideoSink` cannot write `path`. Call it before long work starts.

    pixels: FFmpeg's name of the format of pixels of the source.
    """
    codec_for(path, encoding, pixels)
    check_output(path, overwrite)


def ticks_of(source: Fraction | None) -> Fraction:
    """Return the seconds per tick of the written timestamps: those of the source, or a fraction of them."""
    ticks = (source or Fraction(1, 90_000)).denominator
    ticks *= max(math.ceil(MIN_TICKS / ticks), 1)
    return Fraction(1, ticks if ticks <= MAX_TICKS else 90_000)


class VideoSink(Closeable):
    """Writes frames at their own times, with the color tags, the audio and the subtitles of the source video.

    The file appears when the sink is closed. It is complete then, also after Ctrl-C. Without a frame no file is
    written. `commit_together` closes several sinks together.

    Args:
        path: The video to write. Its suffix must be one of VIDEO_SUFFIXES.
        source: Its size, pixel aspect, colors, audio and subtitles are used. An odd width or height is reduced by one,
            because most formats of pixels need even sides.
        encoding: The codec and its options.
        begin: Seconds from the first frame of the source to the first one that is written.
        draft: The draft of a stopped run, whose packets `copy` writes. None: a new one.

    Raises:
        InputError: If the format is unsupported or the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        source: VideoFile,
        encoding: Encoding | None = None,
        begin: float = 0.0,
        draft: Draft | None = None,
    ) -> None:
        self._encoding = encoding or Encoding()
        self._codec = codec_for(path, self._encoding, source.pixels)
        self._width, self._height = source.width // 2 * 2, source.height // 2 * 2
        self._last = -1  # timestamp of the last frame, in ticks
        self._pending: av.Packet | None = None  # written when the time of the next one is known
        self._failed = False
        self._source, self._begin = source, begin
        self._tick = ticks_of(source.stream.time_base)
        with contextlib.ExitStack() as cleanup:  # closes what is open if the rest fails
            self.draft = draft or Draft(path)
            cleanup.callback(self.draft.discard)
            self._before = encoded_packets(_set_aside(self.draft)) if draft else iter(())
            self._audio = cleanup.enter_context(AudioCopy(source, begin))
            try:
                self._open(source)
            except (av.error.FFmpegError, ValueError) as error:  # the audio may be the reason
                self._audio.stop(error_reason(error))
                self._open_without_audio(source)
            cleanup.pop_all()

    def _open_without_audio(self, source: VideoFile) -> None:
        try:
            self._open(source)
        except (av.error.FFmpegError, ValueError) as error:
            if isinstance(error, OSError):  # no space, no permission
                raise InputError(f"{self.draft.path}: cannot be written ({error_reason(error)})") from error
            raise InputError(
                f"{self.draft.path}: cannot write this video ({error_reason(error)}); try an .mp4 file"
            ) from error

    def _open(self, source: VideoFile) -> None:
        """Create the file with its streams and its header."""
        decoder = source.stream.codec_context
        pixels = self._pixels = select_pixels(self._codec, self._encoding, source.pixels)
        self._container = av.open(str(self.draft.file), "w")
        rate = Fraction(source.rate).limit_denominator(1001)
        stream = self._container.add_stream(self._codec.encoder, rate=rate, **encoder_device(self._codec.device))
        assert isinstance(stream, av.VideoStream), "its encoder is one of video"
        self._stream = stream
        stream.width, stream.height, stream.pix_fmt = self._width, self._height, pixels
        stream.codec_context.options = encoder_options(self._codec, self._encoding, source.is_large)
        encoder = self._stream.codec_context
        encoder.thread_count = thread_limit()  # 0: FFmpeg decides
        encoder.time_base, encoder.sample_aspect_ratio = self._tick, source.pixel_aspect
        if encoder.codec.canonical_name == "hevc" and self._is_fragmented:
            encoder.codec_tag = "hvc1"  # the only one that players of Apple accept
        self._matrix = self._set_colors(encoder, decoder, pixels)
        self._fragments = Fragments(self._container)
        self._audio.add_stream(self._container, self._fragments)
        self._lead = self._audio.lead
        self._subtitles = SubtitleCopy(source, self._begin, self._lead)
        self._subtitles.add_streams(self._container, self._fragments)
        self._container.container_options.update(self._muxer_options())
        with native_messages_caught() if self._codec.encoder == "libsvtav1" else contextlib.nullcontext():
            self._container.start_encoding()
        self._reformatter = VideoReformatter()
        rounded_down = source.device is None and not source.transfer and source.pixels in ROUNDED_DOWN
        self._too_dark = rounded_down and decoder.height % 2 == 0

    def _set_colors(self, encoder: av.VideoCodecContext, decoder: av.VideoCodecContext, pixels: str) -> int | None:
        """Set the color tags, and return the number of the matrix from RGB to YUV; None for RGB.

        With the tags of the source, a player shows the same colors. Without tags, it assumes the same for both.
        """
        if pixels in RGB_FORMATS:
            return None
        known = decoder.colorspace in RGB_TO_YUV_MATRIX and not self._encoding.alpha and not self._is_converted
        encoder.colorspace = decoder.colorspace if known else Colorspace.ITU709
        if not self._encoding.alpha:
            encoder.color_primaries, encoder.color_trc = self._tags
        encoder.color_range = ColorRange.MPEG
        return RGB_TO_YUV_MATRIX[encoder.colorspace]

    @property
    def _is_converted(self) -> bool:
        """Whether the source is HDR and the frames to write are SDR."""
        return bool(self._source.transfer) and self._encoding.tone_map

    @property
    def _tags(self) -> tuple[int, int]:
        """FFmpeg's numbers of the primaries and of the transfer characteristic."""
        tags = self._source.stream.codec_context
        return (1, 1) if self._is_converted else (tags.color_primaries, tags.color_trc)

    def _muxer_options(self) -> dict[str, str]:
        """Return options with which a killed process leaves a file that can be played."""
        if not self._is_fragmented:
            return OTHER_FORMATS
        if not self._audio.needs_late_header:
            return FRAGMENTS
        return FRAGMENTS | {"movflags": FRAGMENTS["movflags"] + LATE_HEADER}

    @property
    def _is_fragmented(self) -> bool:
        return self._container.format.name in FRAGMENTED_FORMATS

    @property
    def audio_error(self) -> str:
        """Why the audio is incomplete, or empty."""
        return self._audio.error

    @property
    def incomplete(self) -> str:
        """What is missing of the audio and the subtitles, or empty."""
        audio = f"the audio is incomplete ({self.audio_error})" if self.audio_error else ""
        codecs = ", ".join(sorted(set(self._subtitles.left_out)))
        subtitles = f"the subtitles are left out (the format does not store {codecs})" if codecs else ""
        return "; ".join(text for text in (audio, subtitles) if text)

    def write(self, image: NDArray[np.uint8] | NDArray[np.uint16], seconds: float) -> None:
        """Add a frame that is shown from `seconds` on.

        Args:
            image: (H, W, 3) RGB of 8 or 16 bits, or with `Encoding.alpha` (H, W, 4) RGBA of 8 bits. It is resized to
                the size of the video if it differs.
            seconds: A time that is not after the last frame's is moved to just after it.
        """
        height, width = (side // 2 * 2 for side in image.shape[:2])
        pixels: NDArray[Any] = np.ascontiguousarray(image[:height, :width])
        if self._too_dark and pixels.dtype == np.uint8 and pixels.shape[2] == 3:
            pixels = np.asarray(cv2.add(pixels, ONE_LEVEL), np.uint8)
        kind = "rgba" if pixels.shape[2] == 4 else "rgb24" if pixels.dtype == np.uint8 else "rgb48le"
        frame = av.VideoFrame.from_ndarray(pixels, format=kind)
        frame = self._reformatter.reformat(
            frame, self._width, self._height, format=self._pixels, dst_colorspace=self._matrix
        )
        if not self._encoding.alpha:  # the encoder of ProRes takes them from the frame
            frame.color_primaries, frame.color_trc = self._tags
        frame.pts, frame.time_base = self._next_tick(seconds), self._tick
        with self._writing(), ctrl_c_deferred():  # without a packet that was encoded, those after it are damaged
            self._mux(self._stream.encode(frame))
            self._write_other_tracks(seconds)

    def copy(self, seconds: float) -> None:
        """Add the next frame from the draft of the stopped run, shown from `seconds` on."""
        with self._writing(), ctrl_c_deferred():
            packet = next(self._before)
            packet.pts = packet.dts = self._next_tick(seconds)
            packet.time_base, packet.stream = self._tick, self._stream
            self._mux([packet])
            self._write_other_tracks(seconds)

    def _mux(self, packets: Iterable[av.Packet]) -> None:
        """Write packets of the video, each with the time until the next one as its duration."""
        for packet in packets:
            before, self._pending = self._pending, packet
            if before is not None:
                before.duration = min((packet.pts or 0) - (before.pts or 0), MAX_DURATION)
                self._fragments.mux(before)

    def _next_tick(self, seconds: float) -> int:
        self._last = max(round((seconds + self._lead) / self._tick), self._last + 1)
        return self._last

    def _write_other_tracks(self, until: float) -> None:
        self._audio.write(until=until)
        self._subtitles.write(until=until + self._lead)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Convert errors of FFmpeg and the system to InputError, and remember them: `close` discards the file then."""
        try:
            yield
        except (av.error.FFmpegError, OSError) as error:
            self._failed = True
            raise InputError(f"{self.draft.path}: cannot be written ({error_reason(error)})") from error

    @property
    def has_part(self) -> bool:
        """Whether the temporary file can be played, as far as it was written; call it after `finish`."""
        return self._last >= 0 and count_packets(self.draft.file) > 0

    def finish(self) -> bool:
        """Complete the temporary file. Return whether it is whole and contains a frame."""
        with self._writing(), contextlib.closing(self._container), self._audio, self._subtitles:
            if not self._failed:
                self._flush()
        whole = not self._failed and self._last >= 0
        if whole and self._is_fragmented:
            self._join()
        return whole

    def _join(self) -> None:
        """Write the complete file again, with its header at the start. If that fails, it is kept as it is."""
        joined = self.draft.folder / f"joined{self.draft.file.suffix}"
        try:
            self._fragments.join(self.draft.file, joined)
            joined.replace(self.draft.file)
        except (av.error.FFmpegError, OSError, LookupError) as error:  # such as a disk without space for a second file
            _log.warning("%s: its header is at its end (%s)", self.draft.path, error_reason(error))

    def close(self) -> None:
        """Finish the file and move it to its path."""
        commit_together([self])

    def _flush(self) -> None:
        """Write the frames that are still in the encoder, and the rest of the other tracks."""
        self._mux(self._stream.encode(None))
        end = None if self._source.end is None else self._source.end - self._begin
        if self._pending is not None:  # show the last frame as long as the source does
            last = float(self._last * self._tick) - self._lead
            shown = 1 / self._source.rate if end is None else end - last
            self._pending.duration = min(max(round(shown / self._tick), 1), MAX_DURATION)
            self._fragments.mux(self._pending)
        last = float(self._last * self._tick) - self._lead
        # If the whole source was read, its audio may go on after the last frame.
        self._audio.finish(until=last if end is None else math.inf)
        self._subtitles.write(until=last + self._lead if end is None else math.inf)


def _set_aside(draft: Draft) -> Path:
    """Rename the longer one of the videos in the draft of a stopped run, and return its path."""
    draft.delete_part()
    before = before_path(draft.folder, draft.file)
    longest = max(videos_left(draft.folder, draft.file), key=count_packets, default=before)
    if longest != before:
        longest.replace(before)
    return before
