"""Where results go: a video with the source's times and sound, a table."""

import csv
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from canthus.runtime.closing import Closing
from canthus.runtime.errors import InputError
from canthus.runtime.sources import VideoFile
from canthus.runtime.types import Faces
from canthus.runtime.wflw import POINTS

TICK = Fraction(1, 90_000)
"""Seconds of a time stamp in the written video: fine enough for every usual rate."""

COPIED_SOUND = ("aac", "mp3", "ac3", "eac3", "alac", "opus")
"""Codecs that an .mp4 takes as they are; other sound becomes AAC."""

FACE_COLUMNS = [
    "face", "box_x0", "box_y0", "box_x1", "box_y1", "face_score",
    *(f"{name}_{point}" for point in range(POINTS) for name in ("x", "y", "score")),
]  # fmt: skip
FRAME_COLUMNS = ["frame", "seconds", *FACE_COLUMNS]
PICTURE_COLUMNS = ["picture", *FACE_COLUMNS]


def check_output(path: Path, overwrite: bool) -> Path:
    """The path, if a file can be written there; InputError before any work is done."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give a file name")
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists already; give --overwrite to replace it")
    try:
        with _draft(path).open("wb"):
            pass
        _draft(path).unlink()
    except OSError as refused:
        raise InputError(f"{path}: cannot be written ({refused.strerror})") from refused
    return path


def _draft(path: Path) -> Path:
    return path.with_name(f".{path.stem}.part{path.suffix}")


class VideoSink(Closing):
    """Writes pictures as H.264, each at its own time, with the sound of the source.

    The file appears under its name when the sink closes, whole, also after Ctrl-C.
    """

    def __init__(self, path: Path, source: VideoFile) -> None:
        self.path = path
        # H.264 wants even sides; an odd source loses its last row or column.
        self._width, self._height = source.width // 2 * 2, source.height // 2 * 2
        try:
            self._container = av.open(str(_draft(path)), "w", options={"movflags": "+faststart"})
        except (av.error.FFmpegError, ValueError) as refused:
            raise InputError(f"{path}: cannot write such a video; take a name ending in .mp4") from refused
        self._stream = self._container.add_stream("libx264", rate=Fraction(source.rate).limit_denominator(1001))
        self._stream.width, self._stream.height = self._width, self._height
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"crf": "20", "preset": "veryfast"}
        self._stream.codec_context.time_base = TICK
        self._last = -1
        self._sound = _Sound(self._container, source)

    def write(self, image: NDArray[np.uint8], seconds: float) -> None:
        """Add a picture (H, W, 3) RGB shown from `seconds` on."""
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[: self._height, : self._width]), format="rgb24")
        self._last = max(round(seconds / TICK), self._last + 1)
        picture.pts, picture.time_base = self._last, TICK
        self._container.mux(self._stream.encode(picture))
        self._sound.write(until=seconds)

    def close(self) -> None:
        """Finish the file and give it its name."""
        self._container.mux(self._stream.encode(None))
        self._sound.finish(until=float(self._last * TICK))
        self._container.close()
        if self._last < 0:  # ended before the first picture: there is nothing to keep
            _draft(self.path).unlink()
        else:
            _draft(self.path).replace(self.path)


class _Sound:
    """The source's first sound track, carried over up to the time that the pictures have reached.

    Where the track is damaged, what can be read of it is carried over: a picture is not lost for a sound.
    """

    def __init__(self, target: av.container.OutputContainer, source: VideoFile) -> None:
        self._target = target
        self._start = source.start
        self._source = av.open(str(source.path))
        tracks = self._source.streams.audio
        self._packets = self._source.demux(tracks[0]) if tracks else iter(())
        self._waiting = self._next()
        self._copied = bool(tracks) and tracks[0].codec_context.codec.canonical_name in COPIED_SOUND
        if not tracks:
            return
        if self._copied:
            self._stream = target.add_stream_from_template(tracks[0])
        else:
            self._stream = target.add_stream("aac", rate=tracks[0].rate)

    def _next(self) -> av.Packet | None:
        try:
            return next(self._packets, None)
        except av.error.FFmpegError:
            return None

    def write(self, until: float) -> None:
        """Carry over what is heard before `until`, in seconds of the pictures."""
        while self._waiting is not None:
            packet = self._waiting
            if packet.pts is not None and float(packet.pts * packet.time_base) - self._start > until:
                return
            self._carry(packet)
            self._waiting = self._next()

    def _carry(self, packet: av.Packet) -> None:
        if self._copied:
            if packet.dts is None:
                return
            shift = round(self._start / packet.time_base)
            packet.dts -= shift
            packet.pts = packet.dts if packet.pts is None else packet.pts - shift
            packet.stream = self._stream
            self._target.mux(packet)
            return
        try:
            decoded = packet.decode()
        except av.error.FFmpegError:
            return
        for sound in decoded:
            assert isinstance(sound, av.AudioFrame), "the packets are of a sound track"
            if sound.pts is not None and sound.time_base:
                sound.pts -= round(self._start / sound.time_base)
            self._target.mux(self._stream.encode(sound))

    def finish(self, until: float) -> None:
        """Carry the rest that belongs to the last picture, then close."""
        self.write(until)
        if self._source.streams.audio and not self._copied:
            self._target.mux(self._stream.encode(None))
        self._source.close()


class TableSink(Closing):
    """Writes one row a face: where it is from, its id, box and score, then x, y and score of each point.

    The file appears under its name when the sink closes, with every row that was written.
    """

    def __init__(self, path: Path, columns: list[str]) -> None:
        self.path = path
        self._file = _draft(path).open("w", newline="")
        self._rows = csv.writer(self._file)
        self._rows.writerow(columns)

    def write(self, index: int, seconds: float, faces: Faces) -> None:
        """Add the faces of one frame."""
        for row in rows(faces):
            self._rows.writerow([index, f"{seconds:.6f}", *row])

    def write_picture(self, name: str, faces: Faces) -> None:
        """Add the faces of one picture, under its name in place of frame and seconds."""
        for row in rows(faces):
            self._rows.writerow([name, *row])

    def close(self) -> None:
        """Finish the file and give it its name."""
        self._file.close()
        _draft(self.path).replace(self.path)


def rows(faces: Faces) -> list[list[int | str]]:
    """The columns of each face: id, box, face score, then x, y and score of each point."""
    written: list[list[int | str]] = []
    for place, face in enumerate(faces.ids):
        box = [f"{edge:.2f}" for edge in faces.boxes[place]]
        points = [
            text
            for (x, y), score in zip(faces.points[place], faces.scores[place], strict=True)
            for text in (f"{x:.2f}", f"{y:.2f}", f"{score:.3f}")
        ]
        written.append([int(face), *box, f"{faces.face_scores[place]:.3f}", *points])
    return written
