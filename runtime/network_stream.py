"""Read frames from a network stream: RTSP, HTTP, RTMP, UDP and others, with FFmpeg."""

import threading
import time
from collections.abc import Iterator

import av

from canthus.runtime.addresses import SCHEMES, is_address, without_password
from canthus.runtime.channel import Channel
from canthus.runtime.closeable import Closeable
from canthus.runtime.errors import InputError, UsageError
from canthus.runtime.media import decode, error_reason, main_track, open_media, to_rgb
from canthus.runtime.types import Frame

OPEN_TIMEOUT = 10.0
"""Seconds that a stream has to answer and to send its first frame."""

READ_TIMEOUT = 3.0
"""Seconds without data after which a stream counts as disconnected."""


class NetworkStream(Closeable):
    """The frames of a network stream, read in a thread. If the caller is slow, it gets the newest frame.

    A file on a web server is read at its own frame rate, and iteration ends with it.

        with NetworkStream("rtsp://192.168.1.20/live") as frames:
            for frame in frames: ...

    Raises:
        InputError: If the stream sends no frame within `OPEN_TIMEOUT`, has no video, or is silent for `READ_TIMEOUT`.
    """

    def __init__(self, address: str) -> None:
        self.name = without_password(address)
        if not is_address(address):
            raise UsageError(f"{self.name}: not an address of a stream (expected one of {', '.join(SCHEMES)}://…)")
        self._address = address
        self._frames: Channel[Frame] = Channel(1, newest_wins=True)
        self._count = 0
        self._ready = threading.Event()  # the first frame was read, or there will be none
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)
        self._thread.start()
        # FFmpeg applies the timeout itself, but not while the system resolves the name of the host.
        if not self._ready.wait(OPEN_TIMEOUT + 2):
            self.close()
            raise InputError(self._silent(OPEN_TIMEOUT))
        if not self._count:
            self._frames.raise_error()

    def _silent(self, seconds: float) -> str:
        return f"{self.name}: no data for {seconds:.0f} s; check the address and the network"

    def _run(self) -> None:
        """Pass frames on until the stream ends, fails or is closed. Runs in the thread."""
        error: InputError | None = None
        began = time.monotonic()
        try:
            for frame in self._read():
                self._count += 1
                self._frames.put(frame)
                self._ready.set()
                if self._closing.is_set():
                    break
            if not self._count:
                error = InputError(f"{self.name}: the stream contains no frame")
        except (av.error.FFmpegError, ValueError) as unreadable:
            # Not every protocol of FFmpeg reports a timeout as one.
            late = not self._count and time.monotonic() - began >= OPEN_TIMEOUT
            if late or isinstance(unreadable, av.error.ExitError):
                error = InputError(self._silent(READ_TIMEOUT if self._count else OPEN_TIMEOUT))
            else:
                error = InputError(f"{self.name}: the stream cannot be read ({error_reason(unreadable)})")
        self._frames.close(error)
        self._ready.set()

    def _read(self) -> Iterator[Frame]:
        # Over UDP, RTP packets are lost easily, and firewalls block them.
        options = {"rtsp_transport": "tcp"} if self._address.lower().startswith("rtsp") else {}
        with open_media(self._address, options=options, timeout=(OPEN_TIMEOUT, READ_TIMEOUT)) as container:
            stream = main_track(container.streams.video)
            if stream is None:
                raise ValueError("no video that can be decoded")
            start: float | None = None  # the stream's time of its first frame
            began, last = time.monotonic(), -1.0
            for index, decoded in enumerate(decode(container, stream)):
                elapsed = time.monotonic() - began
                start = decoded.time if start is None else start
                seconds = elapsed if decoded.time is None or start is None else decoded.time - start
                if container.duration and seconds > elapsed:  # a file on a server; live streams have no duration
                    self._closing.wait(seconds - elapsed)
                last = max(seconds, last + 1e-3)  # times must increase
                yield Frame(to_rgb(decoded), index, last, float(stream.sample_aspect_ratio or 1))

    def __iter__(self) -> Iterator[Frame]:
        return iter(self._frames)

    def close(self) -> None:
        """Stop reading. If the thread waits for the network, it ends after its timeout."""
        self._closing.set()
        self._frames.leave()
        self._thread.join(timeout=1)
