"""Notice that frames of a video file are lost: cut, damaged or missing parts."""

from collections import Counter

import av

from canthus.runtime.media import AV_TIME_BASE

COUNTED_FORMATS = ("avi",)
"""FFmpeg's names of the formats whose header counts the frames that are stored. The count of an .mp4 includes frames
that an edit list hides."""

STEADY_FORMATS = ("matroska,webm", "mpegts", "mpeg", "flv", "avi", "asf")
"""Formats in which a damaged part leaves a gap in the times. In an .mp4 and a .gif a long frame is ordinary."""

STEADY_SHARE = 0.95
"""Gaps count only if at least this share of the frames lasts equally long. Screen recordings, for example, pause."""

MIN_STEADY_FRAMES = 10

SAME_PERIOD = 0.002
"""Two frame periods that differ by less, in seconds, are equal. An .mkv rounds its times to milliseconds."""


class DamageCheck:
    """Compares what is read from a file with its header, and looks for errors and for gaps in the times.

    Args:
        container: The open file.
        clock: "pts" or "dts", the timestamps of the file that are used.
    """

    def __init__(self, container: av.container.InputContainer, clock: str) -> None:
        self._container, self._clock = container, clock
        self._packets = self._undecodable = self._corrupt = 0
        self._file_end = 0.0  # end of the last packet of any stream, in seconds
        self._last: float | None = None  # time of the last frame
        self._periods: Counter[int] = Counter()  # milliseconds from frame to frame
        self._longest: tuple[float, float] = (0.0, 0.0)  # the longest period and its start, in seconds
        self._error = ""

    def add_packet(self, packet: av.Packet, end: float, of_video: bool) -> None:
        """Count a packet that ends at `end` seconds, of the video stream or of another one."""
        self._file_end = max(self._file_end, end)
        if of_video and packet.size:
            self._packets += 1
            self._corrupt += packet.is_corrupt

    def add_undecodable(self) -> None:
        """Count a packet of the video that cannot be decoded."""
        self._undecodable += 1

    def add_error(self, reason: str) -> None:
        """Record why the rest of the file cannot be read."""
        self._error = reason

    def add_frame(self, frame: av.VideoFrame) -> None:
        """Count a decoded frame. Call it in the order of presentation."""
        self._corrupt += frame.is_corrupt
        ticks = getattr(frame, self._clock)
        if ticks is None or not frame.time_base:
            self._last = None
            return
        seconds = float(ticks * frame.time_base)
        if self._last is not None:
            period = seconds - self._last
            self._periods[round(period * 1000)] += 1
            self._longest = max(self._longest, (period, self._last))
        self._last = seconds

    def describe(self, stream: av.VideoStream) -> str:
        """Return what is wrong, or an empty string. Call it after the last packet."""
        found = [self._error, self._decoding_errors(), self._missing_at_the_end(stream) or self._gap()]
        return ", ".join(problem for problem in found if problem)

    def _decoding_errors(self) -> str:
        if self._undecodable:
            return f"{self._undecodable} of its packets cannot be decoded"
        return f"{self._corrupt} of its frames are corrupt" if self._corrupt else ""

    def _missing_at_the_end(self, stream: av.VideoStream) -> str:
        if self._container.format.name in COUNTED_FORMATS and self._packets < stream.frames:
            return f"its header says {stream.frames} frames, but it contains {self._packets}"
        duration = (self._container.duration or 0) / AV_TIME_BASE
        found = self._file_end - (self._container.start_time or 0) / AV_TIME_BASE
        if self._file_end and found < 0.98 * duration - 0.5:  # headers are a little inaccurate
            return f"it ends after {found:.1f} of {duration:.1f} seconds"
        return ""

    def _gap(self) -> str:
        """Describe the longest gap of a video whose frames are otherwise evenly spaced."""
        total = self._periods.total()
        if self._container.format.name not in STEADY_FORMATS or total < MIN_STEADY_FRAMES:
            return ""
        usual = self._periods.most_common(1)[0][0]
        steady = sum(count for period, count in self._periods.items() if abs(period - usual) <= SAME_PERIOD * 1000)
        longest, start = self._longest
        if steady < STEADY_SHARE * total or longest < 1.5 * usual / 1000 + SAME_PERIOD:
            return ""
        start -= (self._container.start_time or 0) / AV_TIME_BASE
        return f"it has no frames between {start:.2f} and {start + longest:.2f} seconds"
