"""Where results go: a video with the source's times and sound, a table."""

import contextlib
import csv
import math
import signal
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import FrameType

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from numpy.typing import NDArray

from canthus.runtime.closeable import Closeable
from canthus.runtime.errors import InputError
from canthus.runtime.files import Draft
from canthus.runtime.sources import VideoFile, main_track, open_media, reason
from canthus.runtime.types import Faces
from canthus.runtime.wflw import POINTS

TICK = Fraction(1, 90_000)
"""Seconds of a time stamp in the written video: fine enough for every usual rate."""

VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".ts", ".flv")
"""Files whose frames have times of their own; in an .avi or .mpg they would come out of order."""

COPIED_SOUND = ("aac", "mp3", "ac3", "eac3", "alac", "opus")
"""Codecs that an .mp4 and an .mkv take as they are; other sound becomes AAC, which every file takes."""

MATRICES = {1: 1, 2: 5, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}
"""FFmpeg's colour space -> the matrix that makes it of RGB. An untagged one (2) is read as BT.601, and so written."""

FACE_COLUMNS = [
    "face", "box_x0", "box_y0", "box_x1", "box_y1", "face_score",
    *(f"{name}_{point}" for point in range(POINTS) for name in ("x", "y", "score")),
]  # fmt: skip
FRAME_COLUMNS = ["frame", "seconds", *FACE_COLUMNS]
IMAGE_COLUMNS = ["picture", *FACE_COLUMNS]


class VideoSink(Closeable):
    """Writes pictures as H.264, each at its own time, with the colours' tags and the sound of the source.

    The file appears under its name when the sink closes, whole, also after Ctrl-C.
    """

    def __init__(self, path: Path, source: VideoFile) -> None:
        if path.suffix.lower() not in VIDEOS:
            raise InputError(f"{path}: no such video is written; take a name ending in {', '.join(VIDEOS)}")
        # H.264 wants even sides; an odd source loses its last row or column.
        self._width, self._height = source.width // 2 * 2, source.height // 2 * 2
        self._last = -1
        self._failed = False
        self._source = source
        self._draft = Draft(path)
        self._sound = _Sound(source)
        try:
            try:
                self._open(source)
            except (av.error.FFmpegError, ValueError) as unfit:  # perhaps only the sound is
                self._sound.end(reason(unfit))
                self._open(source)
        except (av.error.FFmpegError, ValueError) as refused:
            self._sound.close()
            self._draft.discard()
            raise InputError(
                f"{path}: cannot write such a video ({reason(refused)}); take a name ending in .mp4"
            ) from refused

    def _open(self, source: VideoFile) -> None:
        """Begin the file: its streams and its header."""
        self._container = av.open(str(self._draft.file), "w", container_options={"movflags": "+faststart"})
        self._stream = self._container.add_stream("libx264", rate=Fraction(source.rate).limit_denominator(1001))
        self._stream.width, self._stream.height = self._width, self._height
        self._stream.pix_fmt = "yuv420p"
        # Without B-frames, which stand out of order, the header tells rightly how long the last picture is shown.
        self._stream.options = {"crf": "20", "preset": "veryfast", "bf": "0"}
        coder, told = self._stream.codec_context, source.stream.codec_context
        coder.time_base, coder.sample_aspect_ratio = TICK, source.pixel_aspect
        # What holds for the source's numbers holds for these; a player guesses the same where nothing is told.
        coder.colorspace = told.colorspace if told.colorspace in MATRICES else Colorspace.ITU709
        coder.color_primaries, coder.color_trc = told.color_primaries, told.color_trc
        coder.color_range = ColorRange.MPEG
        self._matrix, self._reformatter = MATRICES[coder.colorspace], VideoReformatter()
        self._sound.begin(self._container)
        self._container.start_encoding()

    @property
    def sound_lost(self) -> str:
        """Why the sound is not carried over whole, or empty."""
        return self._sound.lost

    def write(self, image: NDArray[np.uint8], seconds: float) -> None:
        """Add a picture (H, W, 3) RGB shown from `seconds` on; one of another size is brought to the video's."""
        height, width = (side // 2 * 2 for side in image.shape[:2])
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
        picture = self._reformatter.reformat(
            picture, self._width, self._height, format="yuv420p", dst_colorspace=self._matrix
        )
        self._last = max(round(seconds / TICK), self._last + 1)
        picture.pts, picture.time_base = self._last, TICK
        with self._writing(), _at_once():
            self._container.mux(self._stream.encode(picture))
            self._sound.write(until=seconds)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Convert errors of FFmpeg and the system to an InputError. The file is discarded on `close` then."""
        try:
            yield
        except (av.error.FFmpegError, OSError) as error:
            self._failed = True
            raise InputError(f"{self._draft.path}: cannot be written ({reason(error)})") from error

    def close(self) -> None:
        """Finish the file and give it its name."""
        try:
            with self._writing(), contextlib.closing(self._container), self._sound:
                if not self._failed:
                    self._finish()
        finally:
            if self._failed or self._last < 0:  # without a frame there is nothing to keep
                self._draft.discard()
            else:
                self._draft.commit()

    def _finish(self) -> None:
        """Write what the encoders still hold."""
        packets, end = self._stream.encode(None), self._source.end
        if packets and end is not None:  # the last picture is shown as long as the source's
            # At most what an .mp4 takes; a damaged file may tell of days.
            packets[-1].duration = min(max(round(end / TICK) - self._last, 1), 2**31 - 1)
        self._container.mux(packets)
        # A sound may go on behind the pictures, as may their last one.
        self._sound.finish(until=float(self._last * TICK) if end is None else math.inf)


@contextlib.contextmanager
def _at_once() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the block: a packet that is coded and not written spoils a dozen behind it."""
    former = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(former):
        yield
        return
    heard: list[FrameType | None] = []
    signal.signal(signal.SIGINT, lambda _, frame: heard.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)
    if heard:
        former(signal.SIGINT, heard[0])


class _Sound(Closeable):
    """The source's main sound track, carried over up to the time that the pictures have reached.

    What can be carried over is: a picture is not lost for a sound. `lost` tells why it is not all, or is empty.
    """

    def __init__(self, source: VideoFile) -> None:
        self._start = source.start
        self._source = open_media(source.path)
        self._track = main_track(self._source.streams.audio)
        self.lost = "no decoder knows it" if self._source.streams.audio and self._track is None else ""
        self._packets = self._source.demux(self._track) if self._track else iter(())
        self._last: int | None = None  # the time of the packet before, in ticks of the track
        self._waiting = self._next()

    def begin(self, target: av.container.OutputContainer) -> None:
        """Add the sound to a file that has no header yet."""
        self._target = target
        if self._track is None:
            return
        name = self._track.codec_context.codec.canonical_name
        self._copied = name == "aac" or (target.format.name in ("mp4", "matroska") and name in COPIED_SOUND)
        if self._copied:
            self._stream = target.add_stream_from_template(self._track)
        else:
            rates = av.Codec("aac", "w").audio_rates or []
            self._stream = target.add_stream("aac", rate=self._track.rate if self._track.rate in rates else 48_000)

    def end(self, lost: str) -> None:
        """Carry no more over."""
        self.lost = lost
        self._track = self._waiting = None

    def _next(self) -> av.Packet | None:
        try:
            return next(self._packets, None)
        except av.error.FFmpegError:
            return None

    def write(self, until: float) -> None:
        """Carry over what is heard before `until`, in seconds of the pictures."""
        with self._trying():
            while self._waiting is not None:
                packet = self._waiting
                if packet.pts is not None and float(packet.pts * packet.time_base) - self._start > until:
                    return
                self._carry(packet)
                self._waiting = self._next()

    @contextlib.contextmanager
    def _trying(self) -> Iterator[None]:
        try:
            yield
        except av.error.FFmpegError as broken:
            if isinstance(broken, OSError):  # the disk's, so the pictures' too
                raise
            self.end(reason(broken))

    def _carry(self, packet: av.Packet) -> None:
        if packet.dts is not None:
            if self._last is not None and packet.dts <= self._last:
                self.lost = "its times go back"
                return
            self._last = packet.dts
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
        """Carry the rest that belongs to the last picture."""
        self.write(until)
        if self._track is not None and not self._copied:
            with self._trying():
                self._target.mux(self._stream.encode(None))

    def close(self) -> None:
        """Release the source."""
        self._source.close()


class TableSink(Closeable):
    """Writes one row a face: where it is from, its id, box and score, then x, y and score of each point.

    The file appears under its name when the sink closes, with every row that was written.
    """

    def __init__(self, path: Path, columns: list[str]) -> None:
        self._draft = Draft(path)
        self._failed = False
        with self._writing():
            # A picture's name need not be text: Python's stand-ins become its bytes again.
            self._file = self._draft.file.open("w", newline="", encoding="utf-8", errors="surrogateescape")
        self._rows = csv.writer(self._file)
        self._rows.writerow(columns)

    def write(self, index: int, seconds: float, faces: Faces) -> None:
        """Add the faces of one frame."""
        self._add([[index, f"{seconds:.6f}", *row] for row in rows(faces)])

    def write_image(self, name: str, faces: Faces) -> None:
        """Add the faces of one picture, under its name in place of frame and seconds."""
        self._add([[name, *row] for row in rows(faces)])

    def _add(self, lines: list[list[int | str]]) -> None:
        with self._writing():
            self._rows.writerows(lines)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with self._draft.writing():
                yield
        except InputError:
            self._failed = True
            raise

    def close(self) -> None:
        """Finish the file and give it its name."""
        try:
            with self._writing():
                self._file.close()
        finally:
            if self._failed:
                self._draft.discard()
            else:
                self._draft.commit()


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
