"""Plays the audio of a clip beside its video. The clock of the playback follows what is heard."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Protocol

import av

from canthus.gui.clock import Clock
from canthus.runtime.closeable import Closeable
from canthus.runtime.errors import BackendError
from canthus.runtime.media import AV_TIME_BASE, channel_layout, demux, main_track, open_media

if TYPE_CHECKING:
    from PyQt6.QtCore import QIODevice

RATE, CHANNELS, SAMPLE_BYTES = 48_000, 2, 2
BYTES_PER_SECOND = RATE * CHANNELS * SAMPLE_BYTES

BUFFER_SECONDS = 0.2
"""Audio that the system keeps. More delays a pause, less leads to gaps."""

START_SECONDS = 2.0
"""After this time without a sample that was heard, the clip goes on without sound."""

PIECE_BYTES = 4096
"""What is written at a time: less than the system keeps."""

PAUSE_SECONDS = 0.01
"""Between two looks at the speaker and the clock."""

_log = logging.getLogger(__name__)


class Speaker(Protocol):
    """An output of 16-bit stereo audio at `RATE`. It belongs to the thread that opened it."""

    def restart(self) -> None:
        """Discard what was written; the time that was heard begins at 0 again."""
        ...

    def free(self) -> int:
        """Return how many bytes can be written now."""
        ...

    def write(self, samples: bytes) -> None: ...

    def heard(self) -> float:
        """Return the seconds that were heard since `restart`."""
        ...

    def close(self) -> None: ...


class QtSpeaker:
    """The default output of the system, by Qt. Raises BackendError if there is none."""

    def __init__(self) -> None:
        try:
            from PyQt6.QtMultimedia import QAudioFormat, QAudioSink, QMediaDevices
        except ImportError as missing:
            raise BackendError(f"no sound: {missing}; on Debian or Ubuntu: apt install libpulse0") from missing
        device = QMediaDevices.defaultAudioOutput()
        if device.isNull():
            raise BackendError("no sound: the system has no audio output")
        wanted = QAudioFormat()
        wanted.setSampleRate(RATE)
        wanted.setChannelCount(CHANNELS)
        wanted.setSampleFormat(QAudioFormat.SampleFormat.Int16)
        self._sink = QAudioSink(device, wanted)
        self._sink.setBufferSize(round(BUFFER_SECONDS * BYTES_PER_SECOND))
        self._device: QIODevice | None = None

    def restart(self) -> None:
        """Discard what was written."""
        self._device = None  # before Qt deletes it: a new device may get its address, and PyQt takes it for the old one
        self._sink.reset()
        self._device = self._sink.start()

    def free(self) -> int:
        """Return how many bytes can be written now."""
        return self._sink.bytesFree()

    def write(self, samples: bytes) -> None:
        """Write samples that fit into what is free."""
        if self._device is not None:
            self._device.write(samples)

    def heard(self) -> float:
        """Return the seconds that were heard since `restart`."""
        return self._sink.processedUSecs() / 1e6

    def close(self) -> None:
        """Stop at once."""
        self._device = None
        self._sink.reset()


class Sound(Closeable):
    """Plays the audio track of a file in a thread, while the clock of the playback runs at normal speed.

    start: the file's own time of second 0 of the clock. A file without audio, or a machine without an output, is
    silent.
    """

    def __init__(
        self,
        path: Path,
        start: float,
        clock: Clock,
        is_muted: Callable[[], bool],
        open_speaker: Callable[[], Speaker] = QtSpeaker,
    ) -> None:
        self._path, self._start, self._clock, self._is_muted = path, start, clock, is_muted
        self._open_speaker = open_speaker
        self._closing = Event()
        self._thread = Thread(target=self._run, name="sound", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop at once, and wait for the thread up to a second."""
        self._closing.set()
        self._thread.join(timeout=1)

    def _run(self) -> None:
        try:
            with contextlib.closing(self._open_speaker()) as speaker:
                while not self._closing.wait(PAUSE_SECONDS):
                    if self._is_audible():
                        self._play(speaker)
        except BackendError as error:
            _log.info("%s", error)
        except av.error.FFmpegError as error:
            _log.warning("%s: the audio cannot be decoded (%s)", self._path, error)

    def _is_audible(self) -> bool:
        return not (self._closing.is_set() or self._clock.paused or self._is_muted()) and self._clock.speed == 1

    def _play(self, speaker: Speaker) -> None:
        """Play from the position of the clock until it jumps or stops, and the end of the track."""
        changes, first = self._clock.changes, self._clock.position()
        speaker.restart()
        began = time.monotonic()

        def goes_on() -> bool:
            return self._is_audible() and self._clock.changes == changes

        for samples in decode_audio(self._path, self._start + first):
            while goes_on() and speaker.free() < len(samples):
                heard = speaker.heard()
                if not heard and time.monotonic() - began > START_SECONDS:
                    raise BackendError("no sound: the audio output takes no samples")
                self._clock.follow(first + heard)  # the video waits until the output has started
                time.sleep(PAUSE_SECONDS)
            if not goes_on():
                break
            speaker.write(samples)
        while goes_on():  # the track is over, or shorter than the video
            time.sleep(PAUSE_SECONDS)
        speaker.restart()


def decode_audio(path: Path, start: float) -> Iterator[bytes]:
    """Yield the audio track of a file from a time of the file on, as pieces of 16-bit stereo samples at `RATE`.

    A track that begins later is preceded by silence.
    """
    with open_media(path) as container:
        track = main_track(container.streams.audio)
        if track is None:
            return
        container.seek(max(0, round(start * AV_TIME_BASE)))
        if channel_layout(track) is None:
            return
        resampler = av.AudioResampler("s16", "stereo", RATE)
        skipped: int | None = None  # bytes before the start that are still to come
        for packet in demux(container, track):
            with contextlib.suppress(av.error.InvalidDataError):
                for frame in (frame for decoded in track.decode(packet) for frame in resampler.resample(decoded)):
                    samples = bytes(frame.planes[0])[: frame.samples * SAMPLE_BYTES * CHANNELS]
                    if skipped is None:
                        skipped = round((start - float(frame.time or 0)) * RATE) * SAMPLE_BYTES * CHANNELS
                        samples = bytes(max(0, -skipped)) + samples
                    yield from _pieces(samples[max(0, skipped) :])
                    skipped = max(0, skipped - len(samples))


def _pieces(samples: bytes) -> Iterator[bytes]:
    for begin in range(0, len(samples), PIECE_BYTES):
        yield samples[begin : begin + PIECE_BYTES]
