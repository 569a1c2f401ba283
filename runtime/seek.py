"""Read a video file from any time on, for players."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import av

from canthus.runtime.media import AV_TIME_BASE, demux, to_rgb
from canthus.runtime.tone_mapping import to_eight_bits
from canthus.runtime.types import Frame
from canthus.runtime.video_file import VideoFile

MARGIN = 0.5
"""Seconds before the wanted frame to which a file is moved. Some files have no key frame exactly where they say."""

ROUNDING = 1e-4
"""Seconds by which a frame may be later than the wanted time."""


Timed = TypeVar("Timed")


class SeekableVideo(VideoFile):
    """A video file whose frames can be read from any time on. Raises InputError as `VideoFile` does.

    The times are those of `VideoFile`. The index of a frame after a jump is an estimate: its time multiplied by the
    rate.
    """

    separate = False  # for players: each frame is the next one of a video

    @property
    def duration(self) -> float:
        """Seconds, as the header of the file says, or estimated; 0 if nothing is known."""
        if self.stream.duration and self.stream.time_base:
            return float(self.stream.duration * self.stream.time_base)
        return (self._container.duration or 0) / AV_TIME_BASE or self.frames / self.rate

    @property
    def audio(self) -> tuple[Path, float] | None:
        """The file, and its own time of second 0, if it has audio."""
        return (self.path, self.start) if self._container.streams.audio else None

    def frames_from(self, seconds: float, cancelled: Callable[[], bool] = lambda: False) -> Iterator[Frame]:
        """Yield the frame that is shown at `seconds`, and those after it; after the end, the last frame.

        Ends early if `cancelled` becomes true. A file that cannot be moved is decoded from its start.
        """
        if seconds > 0 and self._clock == "pts":
            container, stream = self._open()
            with container:
                mapper = self.tone_mapper()
                decoded = _decoded_near(container, stream, self.start + seconds)
                first = next(decoded, None)
                if first is not None and self._time(first) <= seconds + ROUNDING:
                    for stored in _shown_from(seconds, itertools.chain([first], decoded), self._time, cancelled):
                        time = self._time(stored)
                        image = to_eight_bits(mapper.convert(stored)) if mapper else to_rgb(stored)
                        yield Frame(self._turn(image), round(time * self.rate), time, float(self.pixel_aspect))
                    return
        yield from _shown_from(seconds, iter(self), lambda frame: frame.seconds, cancelled)

    def _time(self, stored: av.VideoFrame) -> float:
        return float(stored.time or 0) - self.start


def _decoded_near(
    container: av.container.InputContainer, stream: av.VideoStream, seconds: float
) -> Iterator[av.VideoFrame]:
    """Move to a key frame before a time of the file, and yield the frames from there on that can be decoded."""
    with contextlib.suppress(av.error.FFmpegError):
        container.seek(round((seconds - MARGIN) / (stream.time_base or 1)), stream=stream)
        for packet in demux(container, stream):
            with contextlib.suppress(av.error.FFmpegError):
                yield from (frame for frame in stream.decode(packet) if frame.pts is not None)


def _shown_from(
    seconds: float, frames: Iterator[Timed], time: Callable[[Timed], float], cancelled: Callable[[], bool]
) -> Iterator[Timed]:
    """Skip the frames that are no longer shown at `seconds`."""
    shown: Timed | None = None
    for frame in frames:
        if cancelled():
            return
        if time(frame) > seconds + ROUNDING:
            if shown is not None:
                yield shown
            yield frame
            break
        shown = frame
    else:
        if shown is not None:
            yield shown
    yield from frames
