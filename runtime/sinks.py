"""Write a video with the timestamps, the colors and the audio of its source."""

import contextlib
import itertools
import logging
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from numpy.typing import NDArray

from canthus.runtime.closeable import Closeable
from canthus.runtime.errors import InputError
from canthus.runtime.files import Draft, check_output, check_suffix, commit_together
from canthus.runtime.fragments import FRAGMENTED_FORMATS, FRAGMENTS, LATE_HEADER, OTHER_FORMATS, Fragments
from canthus.runtime.interrupts import ctrl_c_deferred
from canthus.runtime.media import AV_TIME_BASE, ROUNDED_DOWN, demux, error_reason, main_track, open_media
from canthus.runtime.sources import VideoFile

_log = logging.getLogger(__name__)

TIME_BASE = Fraction(1, 90_000)
"""Seconds per tick of the written timestamps: fine enough for every common frame rate."""

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".ts", ".flv")
"""Formats that store a timestamp for each frame. In an .avi or .mpg frames would change their order."""

COPIED_CODECS = ("aac", "mp3", "ac3", "eac3", "alac", "opus")
"""Audio codecs that .mp4 and .mkv store unchanged. Other audio is re-encoded as AAC, which every format stores."""

LATE_HEADER_CODECS = ("ac3", "eac3")
"""Audio codecs whose header in an .mp4 contains values of the first packet."""

LATE_AUDIO = 10.0
"""Seconds. Such audio is re-encoded if it starts later: until then, FFmpeg would keep all frames in memory."""

AAC_LAYOUTS = ("mono", "stereo", "2.1", "3.0", "4.0", "quad", "5.0", "5.1")
"""Channel layouts that are the same after AAC. FFmpeg's encoder crashes with eight channels."""

AAC_LAYOUT_OF_CHANNELS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0"}
"""The layout of a number of channels in another layout, such as 5.1(side), or an unknown one."""

RGB_TO_YUV_MATRIX = {1: 1, 2: 5, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}
"""FFmpeg's color space number -> its matrix number. Unspecified (2) is decoded as BT.601 (5), so it is encoded so."""

ONE_LEVEL = np.array([1.0, 1.0, 1.0, 0.0])
"""Added to the RGB of frames that were rounded down when they were decoded. OpenCV expects four channels."""

MAX_DURATION = 2**31 - 1
"""Longest frame that an .mp4 can store, in ticks. A damaged source may have a duration of days."""


def check_video(path: Path, overwrite: bool) -> None:
    """Raise InputError if `VideoSink` cannot write `path`. Call it before long work starts."""
    check_suffix(path, VIDEO_SUFFIXES, "output format")
    check_output(path, overwrite)


class VideoSink(Closeable):
    """Writes frames as H.264 at their own times, with the color tags and the audio of the source video.

    The file appears when the sink is closed. It is complete then, also after Ctrl-C. Without a frame no file is
    written. `commit_together` closes several sinks together.

    Args:
        path: The video to write. Its suffix must be one of VIDEO_SUFFIXES.
        source: Its size, pixel aspect, colors and audio are used. An odd width or height is reduced by one, because
            H.264 needs even sides.

    Raises:
        InputError: If the format is unsupported or the file cannot be written.
    """

    def __init__(self, path: Path, source: VideoFile) -> None:
        check_suffix(path, VIDEO_SUFFIXES, "output format")
        self._width, self._height = source.width // 2 * 2, source.height // 2 * 2
        self._last = -1  # timestamp of the last frame, in ticks
        self._failed = False
        self._source = source
        with contextlib.ExitStack() as cleanup:  # closes what is open if the rest fails
            self.draft = Draft(path)
            cleanup.callback(self.draft.discard)
            self._audio = cleanup.enter_context(_AudioCopy(source))
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
            raise InputError(
                f"{self.draft.path}: cannot write this video ({error_reason(error)}); try an .mp4 file"
            ) from error

    def _open(self, source: VideoFile) -> None:
        """Create the file with its streams and its header."""
        self._container = av.open(str(self.draft.file), "w")
        self._stream = self._container.add_stream("libx264", rate=Fraction(source.rate).limit_denominator(1001))
        self._stream.width, self._stream.height = self._width, self._height
        self._stream.pix_fmt = "yuv420p"
        # With B-frames, which are stored out of order, the header's duration of the last frame would be wrong.
        self._stream.options = {"crf": "20", "preset": "veryfast", "bf": "0"}
        if source.is_large:  # x264 would hold 20 frames of an 8K video, and four filtered copies of each: 2 GB
            self._stream.options |= {"tune": "zerolatency", "subq": "0"}
        encoder, decoder = self._stream.codec_context, source.stream.codec_context
        encoder.time_base, encoder.sample_aspect_ratio = TIME_BASE, source.pixel_aspect
        # With the tags of the source, a player shows the same colors. Without tags, it assumes the same for both.
        known = decoder.colorspace in RGB_TO_YUV_MATRIX
        encoder.colorspace = decoder.colorspace if known else Colorspace.ITU709
        encoder.color_primaries, encoder.color_trc = decoder.color_primaries, decoder.color_trc
        encoder.color_range = ColorRange.MPEG
        self._fragments = Fragments(self._container)
        self._audio.add_stream(self._container, self._fragments)
        self._lead = self._audio.lead
        self._container.container_options.update(self._muxer_options())
        self._container.start_encoding()
        self._matrix, self._reformatter = RGB_TO_YUV_MATRIX[encoder.colorspace], VideoReformatter()
        self._too_dark = decoder.pix_fmt in ROUNDED_DOWN and decoder.height % 2 == 0

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

    def write(self, image: NDArray[np.uint8], seconds: float) -> None:
        """Add a frame that is shown from `seconds` on.

        Args:
            image: (H, W, 3) RGB. It is resized to the size of the video if it differs.
            seconds: A time that is not after the last frame's is moved to just after it.
        """
        height, width = (side // 2 * 2 for side in image.shape[:2])
        pixels = np.ascontiguousarray(image[:height, :width])
        if self._too_dark:
            pixels = np.asarray(cv2.add(pixels, ONE_LEVEL), np.uint8)
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame = self._reformatter.reformat(
            frame, self._width, self._height, format="yuv420p", dst_colorspace=self._matrix
        )
        self._last = max(round((seconds + self._lead) / TIME_BASE), self._last + 1)
        frame.pts, frame.time_base = self._last, TIME_BASE
        with self._writing(), ctrl_c_deferred():  # without a packet that was encoded, those after it are damaged
            self._fragments.mux(self._stream.encode(frame))
            self._audio.write(until=seconds)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Convert errors of FFmpeg and the system to InputError, and remember them: `close` discards the file then."""
        try:
            yield
        except (av.error.FFmpegError, OSError) as error:
            self._failed = True
            raise InputError(f"{self.draft.path}: cannot be written ({error_reason(error)})") from error

    def finish(self) -> bool:
        """Complete the temporary file. Return whether it is whole and contains a frame."""
        with self._writing(), contextlib.closing(self._container), self._audio:
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
        """Write the frames that are still in the encoder, and the rest of the audio."""
        packets, end = self._stream.encode(None), self._source.end
        if packets and end is not None:  # show the last frame as long as the source does
            packets[-1].duration = min(max(round((end + self._lead) / TIME_BASE) - self._last, 1), MAX_DURATION)
        self._fragments.mux(packets)
        # If the whole source was read, its audio may go on after the last frame.
        self._audio.finish(until=float(self._last * TIME_BASE) - self._lead if end is None else math.inf)


class _AudioCopy(Closeable):
    """Copies the source's main audio track to a video, as far as the written frames reach.

    An audio error does not affect the frames: copying stops, and `error` is the reason.

    Attributes:
        needs_late_header: Whether the header of the target contains values of the first packet.
        lead: Seconds of audio before the first frame. The frames are written later by as much: players do not play
            audio before the time 0.
    """

    def __init__(self, source: VideoFile) -> None:
        self._start = source.start
        self._source = open_media(source.path)
        self._track = main_track(self._source.streams.audio)
        self.error = "no decoder for its codec" if self._source.streams.audio and self._track is None else ""
        self._packets = demux(self._source, self._track) if self._track else iter(())
        self._last_dts: int | None = None  # of the packet before, in ticks of the track
        self._next = self._read()
        self._copied = self.needs_late_header = False

    def add_stream(self, target: av.container.OutputContainer, fragments: Fragments) -> None:
        """Add an audio stream to a container whose header is not written yet. Its packets go through `fragments`."""
        self._target, self.lead = fragments, 0.0
        if self._track is None or self._next is None:
            self._track = None
            return
        begin = math.inf if self._next.pts is None else float(self._next.pts * self._next.time_base)
        # The samples before the start of the file prepare the decoder and are not played.
        self.lead = max(self._start - max(begin, (self._source.start_time or 0) / AV_TIME_BASE), 0.0)
        name, fragmented = self._track.codec_context.codec.canonical_name, target.format.name in FRAGMENTED_FORMATS
        self._copied = name == "aac" or (target.format.name in ("mp4", "matroska") and name in COPIED_CODECS)
        if fragmented and name in LATE_HEADER_CODECS:
            self._copied &= begin < self._start + LATE_AUDIO
            self.needs_late_header = self._copied
        if self._copied:
            self._stream = target.add_stream_from_template(self._track)
            if fragmented and name == "aac" and not self._track.codec_context.extradata:
                self._move_headers(self._track)
        else:
            rates = av.Codec("aac", "w").audio_rates or []
            rate = self._track.rate if self._track.rate in rates else 48_000
            self._stream = target.add_stream("aac", rate=rate, layout=self._layout(self._track))

    def _move_headers(self, track: av.AudioStream) -> None:
        """Move the header of each AAC packet of a stream such as .ts to the header of the file.

        FFmpeg does this by itself, but not for fragments.
        """
        to_file = BitStreamFilterContext("aac_adtstoasc", track)
        packets = itertools.chain([self._next], self._packets)
        self._packets = (moved for packet in packets if packet for moved in to_file.filter(packet))
        self._next = self._read()
        if self._next is not None and self._next.has_sidedata("new_extradata"):
            self._stream.codec_context.extradata = bytes(self._next.get_sidedata("new_extradata"))

    def _layout(self, track: av.AudioStream) -> str:
        """Return the layout for a track's channels in AAC; `error` says if that has fewer of them."""
        name, channels = track.layout.name, track.layout.nb_channels
        layout = name if name in AAC_LAYOUTS else AAC_LAYOUT_OF_CHANNELS.get(channels, "5.1")
        if av.AudioLayout(layout).nb_channels < channels:
            self.error = f"its {channels} channels are mixed down to {layout}"
        return layout

    def stop(self, reason: str) -> None:
        """Copy no more audio."""
        self.error = reason
        self._track = self._next = None

    def _read(self) -> av.Packet | None:
        try:
            return next(self._packets, None)
        except av.error.FFmpegError:
            return None

    def write(self, until: float) -> None:
        """Copy the audio before `until`, in seconds from the first frame."""
        with self._stopping():
            while self._next is not None:
                packet = self._next
                if packet.pts is not None and float(packet.pts * packet.time_base) - self._start > until:
                    return
                self._copy(packet)
                self._next = self._read()

    @contextlib.contextmanager
    def _stopping(self) -> Iterator[None]:
        """Stop copying after an error of the audio. An error of the disk concerns the frames too and is raised."""
        try:
            yield
        except av.error.FFmpegError as error:
            if isinstance(error, OSError):
                raise
            self.stop(error_reason(error))

    def _copy(self, packet: av.Packet) -> None:
        if packet.dts is not None:
            if self._last_dts is not None and packet.dts <= self._last_dts:
                self.error = "its timestamps go back"
                return
            self._last_dts = packet.dts
        if self._copied:
            if packet.dts is None:
                return
            shift = round((self._start - self.lead) / packet.time_base)
            packet.dts -= shift
            packet.pts = packet.dts if packet.pts is None else packet.pts - shift
            packet.stream = self._stream
            self._target.mux(packet)
            return
        try:
            decoded = packet.decode()
        except av.error.FFmpegError:
            return
        for samples in decoded:
            assert isinstance(samples, av.AudioFrame), "the packets are of an audio track"
            if samples.pts is not None and samples.time_base:
                samples.pts -= round((self._start - self.lead) / samples.time_base)
            self._target.mux(self._stream.encode(samples))

    def finish(self, until: float) -> None:
        """Copy the audio before `until`, and write the samples that are still in the encoder."""
        self.write(until)
        if self._track is not None and not self._copied:
            with self._stopping():
                self._target.mux(self._stream.encode(None))

    def close(self) -> None:
        """Close the source."""
        self._source.close()
