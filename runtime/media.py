"""Open media files with FFmpeg (PyAV), and convert decoded frames.

Optional metadata never decides whether a file can be read: tags that are not UTF-8 and side data that PyAV does not
know are accepted.
"""

import ctypes
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar, cast

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.stream import Disposition
from av.video.reformatter import Colorspace
from numpy.typing import NDArray

CONVERTIBLE_COLOR_SPACES = (0, 1, 2, 4, 5, 6, 7, 9)
"""Numbers of the color spaces that FFmpeg can convert to RGB. Other frames are read as BT.709."""

ROUNDED_DOWN = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv420p10le", "yuv422p10le")
"""FFmpeg's names of the formats whose frames of even height it rounds down in `to_rgb`: by 1.3 levels of brightness on
average, 0.85 in full range. An exact conversion takes three times as long, which made `canthus bench` a quarter slower,
and points do not need it. Overlay videos do: see VideoSink."""

AV_TIME_BASE = 1_000_000
"""Ticks per second of a container's duration and start time in FFmpeg."""

Track = TypeVar("Track", av.VideoStream, av.AudioStream)


def open_media(source: Path | str, **options: object) -> av.container.InputContainer:
    """Open a file or an address with FFmpeg; `options` are those of `av.open`.

    A path is made absolute, because FFmpeg takes "12:30.mp4" for a URL.
    """
    name = str(source.absolute() if isinstance(source, Path) else source)
    opened = av.open(name, metadata_errors="replace", **options)  # type: ignore[call-overload]
    return cast(av.container.InputContainer, opened)


def demux(container: av.container.InputContainer, *tracks: av.VideoStream | av.AudioStream) -> Iterator[av.Packet]:
    """Yield the packets of tracks, or of all if none is given, and an empty one for each at the end."""
    try:
        yield from container.demux(*tracks)
    except IndexError:  # PyAV does not expect tracks that appear after the header. They are the last ones at the end.
        return


def decode(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """Yield the frames of a stream, up to the end or the first error."""
    for packet in demux(container, stream):
        yield from stream.decode(packet)


def main_track(tracks: Sequence[Track]) -> Track | None:
    """Return the track that a player selects, or None if none can be decoded.

    That is the first one with the default flag, or else the first one. Cover images come last.
    """

    def priority(track: Track) -> int:
        return bool(track.disposition & Disposition.default) - bool(track.disposition & Disposition.attached_pic)

    return max((track for track in tracks if track.codec_context), key=priority, default=None)


def channel_layout(track: av.AudioStream) -> av.AudioLayout | None:
    """Return the channel layout of an audio track; None if it is a list of channels, as of some .mov files with 7.1.

    PyAV and FFmpeg both free such a list, which ends the process. So its layout is never freed here, and such a track
    must not be decoded.
    """
    layout = track.layout
    if " channels (" not in layout.name:
        return layout
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(layout))
    return None


def error_reason(error: Exception) -> str:
    """Return the message of an error of FFmpeg or the system, without its number and path."""
    return str(getattr(error, "strerror", None) or error).strip()


def to_rgb(decoded: av.VideoFrame) -> NDArray[np.uint8]:
    """Convert a decoded frame to (H, W, 3) RGB, up to 3 levels too dark; see ROUNDED_DOWN."""
    if decoded.colorspace not in CONVERTIBLE_COLOR_SPACES:
        decoded.colorspace = Colorspace.ITU709
    return np.asarray(decoded.to_ndarray(format="rgb24"), np.uint8)


def to_wide_rgb(decoded: av.VideoFrame) -> NDArray[np.uint16]:
    """Convert a decoded frame of more than 8 bits to (H, W, 3) RGB of 16 bits."""
    if decoded.colorspace not in CONVERTIBLE_COLOR_SPACES:
        decoded.colorspace = Colorspace.ITU709
    return np.asarray(decoded.to_ndarray(format="rgb48le"), np.uint16)


def has_many_bits(pixels: str) -> bool:
    """Return whether a format of pixels has more than 8 bits for each component."""
    return max(component.bits for component in av.VideoFormat(pixels).components) > 8


def orientation(stored: av.VideoFrame) -> tuple[bool, int]:
    """Return whether a player flips the stored frame horizontally, and by how many quarter turns it then rotates it.

    Turns are counterclockwise, as in np.rot90.
    """
    side_data = _side_data(stored).get("DISPLAYMATRIX")
    if side_data is None:
        return False, 0
    # The stubs do not declare side data as a buffer.
    matrix = np.frombuffer(side_data, np.int32).reshape(3, 3)  # type: ignore[call-overload]
    # The directions of the stored frame's x and y axes on the screen.
    (x_right, x_down), (y_right, y_down) = matrix[:2, :2].tolist()
    flipped = x_right * y_down < x_down * y_right
    return flipped, round(-2 * math.atan2(x_down, x_right) / math.pi + 2 * flipped) % 4


def _side_data(frame: av.VideoFrame) -> Mapping[str, object]:
    """Return a frame's side data by name. PyAV raises ValueError if its enum lacks one of the types."""
    try:
        return frame.side_data  # type: ignore[return-value]
    except ValueError:
        Type._missing_ = classmethod(_unnamed_type)  # type: ignore[method-assign, assignment]
        return frame.side_data  # type: ignore[return-value]


def _unnamed_type(kind: type[Type], value: int) -> Type:
    """Return a member of PyAV's enum for a type of side data that FFmpeg has and PyAV does not, such as EXIF."""
    member = object.__new__(kind)
    member._name_, member._value_ = f"UNNAMED_{value}", value  # type: ignore[assignment]
    return member
