"""Write an .mp4 of which a killed process leaves a part that can be played.

An ordinary .mp4 cannot be played without its header, which is written at the end. While ours is written, it consists of
fragments of a second. When it is complete, it is written again, with one header at the start.
"""

import contextlib
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import av
from av.bitstream import BitStreamFilterContext

from canthus.runtime.media import open_media

FRAGMENTED_FORMATS = ("mp4", "ipod", "mov")
"""FFmpeg's names of the formats of .mp4, .m4v and .mov."""

FRAGMENTS = {
    "movflags": "+hybrid_fragmented+empty_moov",
    "frag_duration": "1000000",
    "use_editlist": "1",
    "flush_packets": "1",
}
"""Options of FFmpeg's muxer: fragments of 1,000,000 microseconds, which become an ordinary file with its header at the
end. The first header is written at once. It has no edit list, so that audio and video start together."""

LATE_HEADER = "+delay_moov"
"""Added to `movflags`: write the first header after the first packet of each track. Until then FFmpeg keeps all packets
in memory."""

OTHER_FORMATS = {"flush_packets": "1", "cluster_time_limit": "1000"}
"""Options for other formats: write each packet at once, and in an .mkv each second (1000 milliseconds)."""


NO_TIME = -(2**63)
"""Stands for a time that a packet lacks, as in FFmpeg. The muxer has guessed one."""


class _Times(NamedTuple):
    """Times of the packets of a stream, in its ticks."""

    dts: "array[int]"
    pts: "array[int]"
    durations: "array[int]"


class Fragments:
    """Writes packets to a fragmented file, and remembers their times.

    The times of a fragmented file are wrong if a packet is longer than its duration says, after a gap for example.

    Args:
        container: The open file, with its options, before its header is written.
    """

    def __init__(self, container: av.container.OutputContainer) -> None:
        self._container = container
        self._times: dict[int, _Times] = {}

    def mux(self, packets: av.Packet | Iterable[av.Packet]) -> None:
        """Write packets."""
        for packet in [packets] if isinstance(packets, av.Packet) else packets:
            self._container.mux_one(packet)  # converts its times to the ticks of the stream
            times = self._times.setdefault(packet.stream.index, _Times(array("q"), array("q"), array("q")))
            times.dts.append(NO_TIME if packet.dts is None else packet.dts)
            times.pts.append(NO_TIME if packet.pts is None else packet.pts)
            times.durations.append(packet.duration or 0)

    def join(self, source: Path, target: Path) -> None:
        """Write the packets of the complete file `source` to `target`, with one header at its start.

        Raises:
            av.error.FFmpegError: If a file cannot be read or written.
            LookupError: If `source` contains more packets than were written.
        """
        # A parser would mark more key frames than the encoder did, and an edit list would hide packets.
        options = {"fflags": "+noparse", "ignore_editlist": "1"}
        with (
            open_media(source, options=options) as fragments,
            av.open(str(target), "w", container_options={"movflags": "+faststart"}) as joined,
        ):
            streams = [_add_copy(joined, stream) for stream in fragments.streams]
            places = [0] * len(streams)
            for packet in fragments.demux():
                if packet.dts is None:  # the end
                    continue
                index = packet.stream.index
                dts, pts, duration = (values[places[index]] for values in self._times[index])
                if NO_TIME not in (dts, pts):
                    packet.dts, packet.pts, packet.duration = dts, pts, duration
                packet.stream = streams[index]
                joined.mux(packet)
                places[index] += 1


def _add_copy(target: av.container.OutputContainer, stream: av.stream.Stream) -> av.stream.Stream:
    """Add a stream to which the packets of another one are copied."""
    name = stream.codec_context.name if stream.type == "video" and stream.codec_context else ""
    copied = target.add_stream_from_template(stream, opaque="av1" in name or "dav1d" in name or None)  # no encoder
    if name in ("hevc", "prores"):  # of several tags, FFmpeg would take the first
        copied.codec_context.codec_tag = stream.codec_context.codec_tag
    return copied


_TO_ENCODED = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}
"""Codec -> FFmpeg's filter that makes packets as an encoder returns them of those in an .mp4 or .mkv."""


def encoded_packets(path: Path) -> Iterator[av.Packet]:
    """Yield the packets of the video in the file that a stopped run has left, as an encoder returns them.

    The last one is left out: the process may have been killed while it was written. A file that cannot be read has
    none.
    """
    before: av.Packet | None = None
    with (
        contextlib.suppress(av.error.FFmpegError),
        open_media(path, options={"fflags": "+noparse", "ignore_editlist": "1"}) as file,
    ):
        for stream in file.streams.video[:1]:
            name = _TO_ENCODED.get(stream.codec_context.name if stream.codec_context else "")
            bits = BitStreamFilterContext(name, stream) if name else None
            for packet in file.demux(stream):
                if packet.dts is None or packet.is_corrupt:
                    break
                if before is not None:
                    yield from bits.filter(before) if bits else [before]
                before = packet


def count_packets(path: Path) -> int:
    """Return how many packets `encoded_packets` yields."""
    return sum(1 for _ in encoded_packets(path))


def before_path(folder: Path, target: Path) -> Path:
    """Return where the video of a stopped run is kept while another run goes on with it."""
    return folder / f"before{target.suffix}"


def videos_left(folder: Path, target: Path) -> list[Path]:
    """Return the videos that stopped runs have left in the folder of a draft: the last one, and the one before it."""
    return [path for path in (folder / target.name, before_path(folder, target)) if path.is_file()]
