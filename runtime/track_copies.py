"""Copy the audio and the subtitles of a source to the video that is written."""

import contextlib
import itertools
import math
from collections.abc import Iterator

import av
from av.bitstream import BitStreamFilterContext

from canthus.runtime.closeable import Closeable
from canthus.runtime.errors import InputError
from canthus.runtime.fragments import FRAGMENTED_FORMATS, Fragments
from canthus.runtime.media import AV_TIME_BASE, channel_layout, demux, error_reason, main_track, open_media
from canthus.runtime.video_file import VideoFile

COPIED_CODECS = {
    "aac": ("mp4", "ipod", "mov", "matroska", "mpegts", "flv"),
    "mp3": ("mp4", "mov", "matroska", "mpegts"),
    "mp2": ("matroska", "mpegts"),
    **dict.fromkeys(("ac3", "eac3", "alac"), ("mp4", "matroska")),
    "opus": ("mp4", "matroska", "webm"),
    "vorbis": ("matroska", "webm"),
    "flac": ("matroska",),
    "pcm_s16le": ("mov", "matroska"),
    "pcm_s24le": ("mov", "matroska"),
}
"""Audio codecs, and FFmpeg's names of the formats that store them unchanged. Other audio is re-encoded: as Opus in a
.webm, else as AAC."""

LATE_HEADER_CODECS = ("ac3", "eac3")
"""Audio codecs whose header in an .mp4 contains values of the first packet."""

LATE_AUDIO = 10.0
"""Seconds. Such audio is re-encoded if it starts later: until then, FFmpeg would keep all frames in memory."""

AAC_LAYOUTS = ("mono", "stereo", "2.1", "3.0", "4.0", "quad", "5.0", "5.1")
"""Channel layouts that are the same after AAC. FFmpeg's encoder crashes with eight channels."""

AAC_LAYOUT_OF_CHANNELS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0"}
"""The layout of a number of channels in another layout, such as 5.1(side), or an unknown one."""


def _open_again(source: VideoFile) -> av.container.InputContainer:
    """Open the file of a video again, to read its other tracks."""
    try:
        return open_media(source.path)
    except av.error.FFmpegError as error:
        raise InputError(
            f"{source.path}: was changed while it was read ({error_reason(error)}); run the command again"
        ) from error


class AudioCopy(Closeable):
    """Copies the source's main audio track to a video, as far as the written frames reach.

    begin: seconds from the first frame of the source to the first frame that is written. Audio before it is left out.

    An audio error does not affect the frames: copying stops, and `error` is the reason.

    Raises InputError if the file cannot be opened again.

    Attributes:
        needs_late_header: Whether the header of the target contains values of the first packet.
        lead: Seconds of audio before the first frame. The frames are written later by as much: players do not play
            audio before the time 0.
    """

    def __init__(self, source: VideoFile, begin: float = 0.0) -> None:
        self._start, self._begin = source.start + begin, begin
        self._source = _open_again(source)
        self._track = main_track(self._source.streams.audio)
        self.error = "no decoder for its codec" if self._source.streams.audio and self._track is None else ""
        self._packets = demux(self._source, self._track) if self._track else iter(())
        self._last_dts: int | None = None  # of the packet before, in ticks of the track
        self._next = _next_packet(self._packets)
        while begin and self._next is not None and _seconds(self._next) < self._start:
            self._next = _next_packet(self._packets)
        self._copied = self.needs_late_header = False

    def add_stream(self, target: av.container.OutputContainer, fragments: Fragments) -> None:
        """Add an audio stream to a container whose header is not written yet. Its packets go through `fragments`."""
        self._target, self.lead = fragments, 0.0
        if self._track is None or self._next is None:
            self._track = None
            return
        begin = math.inf if self._next.pts is None else float(self._next.pts * self._next.time_base)
        # The samples before the start of the file prepare the decoder and are not played.
        if not self._begin:
            self.lead = max(self._start - max(begin, (self._source.start_time or 0) / AV_TIME_BASE), 0.0)
        name, fragmented = self._track.codec_context.codec.canonical_name, target.format.name in FRAGMENTED_FORMATS
        formats = COPIED_CODECS.get(name, ())
        self._copied = target.format.name in formats
        if fragmented and name in LATE_HEADER_CODECS:
            self._copied &= begin < self._start + LATE_AUDIO
            self.needs_late_header = self._copied
        if self._copied:
            self._stream = target.add_stream_from_template(self._track)
            if fragmented and name == "aac" and not self._track.codec_context.extradata:
                self._move_headers(self._track)
        elif (layout := channel_layout(self._track)) is None:
            self.stop("the order of its channels is not supported")
        else:
            encoder = "libopus" if target.format.name == "webm" else "aac"
            rates = av.Codec(encoder, "w").audio_rates or []
            rate = self._track.rate if self._track.rate in rates else 48_000
            stream = target.add_stream(encoder, rate=rate, layout=self._encoded_layout(layout))
            assert isinstance(stream, av.AudioStream), "its encoder is one of audio"
            self._stream = stream

    def _move_headers(self, track: av.AudioStream) -> None:
        """Move the header of each AAC packet of a stream such as .ts to the header of the file.

        FFmpeg does this by itself, but not for fragments.
        """
        to_file = BitStreamFilterContext("aac_adtstoasc", track)
        packets = itertools.chain([self._next], self._packets)
        self._packets = (moved for packet in packets if packet for moved in to_file.filter(packet))
        self._next = _next_packet(self._packets)
        if self._next is not None and self._next.has_sidedata("new_extradata"):
            self._stream.codec_context.extradata = bytes(self._next.get_sidedata("new_extradata"))

    def _encoded_layout(self, source: av.AudioLayout) -> str:
        """Return the layout for the source's channels in AAC; `error` says if that has fewer of them."""
        name, channels = source.name, source.nb_channels
        layout = name if name in AAC_LAYOUTS else AAC_LAYOUT_OF_CHANNELS.get(channels, "5.1")
        if av.AudioLayout(layout).nb_channels < channels:
            self.error = f"its {channels} channels are mixed down to {layout}"
        return layout

    def stop(self, reason: str) -> None:
        """Copy no more audio."""
        self.error = reason
        self._track = self._next = None

    def write(self, until: float) -> None:
        """Copy the audio before `until`, in seconds from the first frame."""
        with self._stopping():
            while self._next is not None:
                packet = self._next
                if packet.pts is not None and float(packet.pts * packet.time_base) - self._start > until:
                    return
                self._copy(packet)
                self._next = _next_packet(self._packets)

    @contextlib.contextmanager
    def _stopping(self) -> Iterator[None]:
        """Stop copying after an error of the audio. An error of the disk concerns the frames too and is raised."""
        try:
            yield
        except av.error.FFmpegError as error:
            if isinstance(error, OSError):
                raise
            self.stop(error_reason(error))
        except ValueError:  # of PyAV's resampler
            self.stop("its format changes in the middle")

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


def _next_packet(packets: Iterator[av.Packet]) -> av.Packet | None:
    """Return the next packet; None at the end and after an error: the rest of a damaged track is left out."""
    try:
        return next(packets, None)
    except av.error.FFmpegError:
        return None


def _seconds(packet: av.Packet) -> float:
    """Return the time of a packet in the file; infinity if it has none."""
    return math.inf if packet.pts is None else float(packet.pts * packet.time_base)


SUBTITLE_CODECS = {
    "mov_text": ("mp4", "ipod", "mov"),
    "webvtt": ("matroska", "webm"),
    **dict.fromkeys(("subrip", "ass", "hdmv_pgs_subtitle", "dvd_subtitle"), ("matroska",)),
}
"""Subtitle codecs, and FFmpeg's names of the formats that store them. They are copied or left out."""


class SubtitleCopy(Closeable):
    """Copies the subtitles of a source to a video. `left_out` names the codecs that the format does not store."""

    def __init__(self, source: VideoFile, begin: float, lead: float) -> None:
        self._shift = source.start + begin - lead
        self._source = _open_again(source)
        self.left_out: list[str] = []

    def add_streams(self, target: av.container.OutputContainer, fragments: Fragments) -> None:
        """Add the streams to a container whose header is not written yet. Their packets go through `fragments`."""
        self._target = fragments
        self._streams: dict[int, av.stream.Stream] = {}
        for stream in self._source.streams.subtitles:
            name = stream.codec_context.codec.canonical_name if stream.codec_context else "unknown"
            if target.format.name in SUBTITLE_CODECS.get(name, ()):
                self._streams[stream.index] = target.add_stream_from_template(stream)
                language = stream.language
                if language:
                    self._streams[stream.index].metadata["language"] = language
            else:
                self.left_out.append(name)
        tracks = [stream for stream in self._source.streams.subtitles if stream.index in self._streams]
        self._packets = iter(self._source.demux(tracks)) if tracks else iter(())
        self._next = _next_packet(self._packets)

    def write(self, until: float) -> None:
        """Copy the subtitles that begin before `until`, in seconds of the written video."""
        while (packet := self._next) is not None:
            start = _seconds(packet) - self._shift
            if packet.dts is not None and start > until:
                return
            if packet.dts is not None and start >= 0:
                shift = round(self._shift / packet.time_base)
                packet.pts = packet.dts = (packet.pts or 0) - shift
                packet.stream = self._streams[packet.stream.index]
                self._target.mux(packet)
            self._next = _next_packet(self._packets)

    def close(self) -> None:
        """Close the source."""
        self._source.close()
