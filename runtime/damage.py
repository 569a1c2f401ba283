"""Detect lost frames of a video file: cut, damaged or missing parts."""

from collections import Counter
from pathlib import Path

import av

from canthus.runtime.cut_files import MP4, describe_cut
from canthus.runtime.elementary import FrameNumbers, has_hole
from canthus.runtime.media import AV_TIME_BASE

COUNTED_FORMATS = ("avi", "mxf")
"""FFmpeg's names of the formats whose header counts the frames that are stored. The count of an .mp4 includes frames
that an edit list hides."""

STEADY_FORMATS = ("matroska,webm", "mpegts", "mpeg", "flv", "avi", "asf", "ogg")
"""Formats in which a damaged part leaves a gap in the times. In an .mp4 and a .gif a long frame is ordinary."""

STEADY_SHARE = 0.9
"""Gaps count only if at least this share of the frames lasts equally long. Screen recordings, for example, pause."""

MIN_STEADY_FRAMES = 10

ONE_FRAME_CODECS = ("h264", "hevc", "mjpeg", "mpeg2video")
"""Codecs whose packets give one frame each, unless the video is interlaced. An .mp4 may hide some with an edit list."""

EXACT_FORMATS = ("matroska,webm", "flv", "mxf")
"""Formats whose header has the exact duration. Others are a little inaccurate."""

BARE_JPEGS = ("mjpeg", "jpeg_pipe")
"""FFmpeg's names of the formats of JPEGs without a container, as .mjpeg files have it."""

SAME_PERIOD = 0.002
"""Two frame periods that differ by less, in seconds, are equal. An .mkv rounds its times to milliseconds."""


class DamageCheck:
    """Compares what is read from a file with its header, and looks for errors and for gaps in the times.

    Args:
        container: The open file.
        stream: Its video stream.
        clock: "pts" or "dts", the timestamps of the file that are used.
    """

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream, clock: str) -> None:
        self._stream, self._clock = stream, clock
        self._format, self._codec = container.format.name, stream.codec_context.codec.canonical_name
        self._duration = (container.duration or 0) / AV_TIME_BASE
        self._start = (container.start_time or 0) / AV_TIME_BASE
        self._packets = self._frames = self._undecodable = self._corrupt = 0
        self._interlaced = False
        self._file_end = self._video_end = 0.0  # end of the last packet, of any stream and of the video, in seconds
        self._last: float | None = None  # time of the last frame that has one
        self._untimed = 0  # number of frames after it
        self._periods: Counter[int] = Counter()  # milliseconds from frame to frame
        self._longest: tuple[float, float] = (0.0, 0.0)  # the longest period and its start, in seconds
        self._error = ""
        self._path = Path(container.name)
        self._stored = _stored_frames(stream, self._format)
        self._numbers, self._missing = FrameNumbers(), 0  # missing frames of a bare H.264 stream

    def add_packet(self, packet: av.Packet, end: float) -> None:
        """Count a packet of any stream. It ends at `end` seconds."""
        if end <= self._start + self._duration + 1 or not self._duration:  # otherwise the time is damaged
            self._file_end = max(self._file_end, end)
        if packet.stream.index != self._stream.index or not packet.size:
            return
        self._packets += 1
        self._video_end = max(self._video_end, end)
        if self._codec == "mjpeg":
            content = bytes(packet)
            is_bare = self._format in BARE_JPEGS
            self._corrupt += packet.is_corrupt or _is_cut_jpeg(content) or (is_bare and has_hole(content))
        else:
            self._corrupt += packet.is_corrupt
        if self._format == "h264":
            self._missing += self._numbers.missing(bytes(packet))

    def add_undecodable(self) -> None:
        """Count a packet of the video that cannot be decoded."""
        self._undecodable += 1

    def add_corrupt(self) -> None:
        """Count a packet of the video that can be decoded in part."""
        self._corrupt += 1

    def add_error(self, reason: str) -> None:
        """Record why the rest of the file cannot be read."""
        self._error = reason

    def add_frame(self, frame: av.VideoFrame) -> None:
        """Count a decoded frame. Call it in the order of presentation."""
        self._frames += 1
        self._interlaced |= frame.interlaced_frame
        self._corrupt += frame.is_corrupt
        ticks = getattr(frame, self._clock)
        if ticks is None or not frame.time_base:
            self._untimed += 1
            return
        seconds = float(ticks * frame.time_base)
        if self._last is not None:
            period = (seconds - self._last) / (1 + self._untimed)
            self._periods[round(period * 1000)] += 1
            self._longest = max(self._longest, (period, self._last))
        self._last, self._untimed = seconds, 0

    def describe(self) -> str:
        """Return what is wrong, or an empty string. Call it after the last packet."""
        found = [self._error, self._decoding_errors(), self._missing_at_the_end() or self._gap()]
        return ", ".join(problem for problem in found if problem)

    def _decoding_errors(self) -> str:
        undecodable = self._undecodable
        if self._codec in ONE_FRAME_CODECS and self._format != MP4 and not self._interlaced:
            undecodable = max(undecodable, self._packets - self._frames)
        if undecodable:
            return f"{undecodable} of its packets cannot be decoded"
        if self._corrupt:
            return f"{self._corrupt} of its frames are corrupt"
        return f"at least {self._missing} of its frames are missing" if self._missing else ""

    def _missing_at_the_end(self) -> str:
        if self._packets < self._stored and (self._format in COUNTED_FORMATS or self._ends_early()):
            return f"its header says {self._stored} frames, but it contains {self._packets}"
        if cut := describe_cut(self._path, self._format):
            return cut
        found = self._file_end - self._start
        # The last packet may have no duration. Its frame lasts as long as the longest one, at most.
        exact = self._format in EXACT_FORMATS
        tolerance = 0.05 + self._longest[0] if exact else 0.02 * self._duration + 0.5
        if self._file_end and found < self._duration - tolerance:
            return f"it ends after {found:.1f} of {self._duration:.1f} seconds"
        return ""

    def _ends_early(self) -> bool:
        """Whether the video of an .mp4 ends more than a frame before its header says."""
        duration = float((self._stream.duration or 0) * (self._stream.time_base or 0))
        start = float((self._stream.start_time or 0) * (self._stream.time_base or 0))
        return self._format == MP4 and self._video_end < start + duration - self._longest[0] - SAME_PERIOD

    def _gap(self) -> str:
        """Describe the longest gap of a video whose frames are otherwise evenly spaced."""
        total = self._periods.total()
        if self._format not in STEADY_FORMATS or total < MIN_STEADY_FRAMES:
            return ""
        usual = self._periods.most_common(1)[0][0]
        steady = sum(count for period, count in self._periods.items() if abs(period - usual) <= SAME_PERIOD * 1000)
        longest, start = self._longest
        if steady < STEADY_SHARE * total or longest < 1.5 * usual / 1000 + SAME_PERIOD:
            return ""
        start -= self._start
        return f"it has no frames between {start:.2f} and {start + longest:.2f} seconds"


def _stored_frames(stream: av.VideoStream, format_name: str) -> int:
    """Return the number of frames that a file says it contains; 0 if it does not.

    The header of an .avi counts frames that are only repeated too, and its index does not. The index of a file that is
    cut is missing, or ends earlier.
    """
    rate, index = stream.average_rate or 0, stream.index_entries
    if format_name == "avi" and index and index[-1].timestamp >= stream.frames - rate:
        return min(stream.frames, len(index))
    if format_name == "mxf" and rate and stream.time_base == 1 / rate:
        return stream.duration or 0
    return stream.frames


def _is_cut_jpeg(content: bytes) -> bool:
    """Whether a JPEG lacks its end marker. Padding may follow it."""
    return not content.rstrip(b"\0\xff").endswith(b"\xff\xd9")
