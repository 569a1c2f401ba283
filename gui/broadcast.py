"""Sends the faces that the viewer finds to other programs. Each stream has a thread of its own."""

import time
from dataclasses import dataclass
from threading import Thread
from typing import Literal

from canthus.gui.stream import Result
from canthus.runtime.channel import Channel
from canthus.runtime.errors import CanthusError
from canthus.runtime.streams import Kind, Stream, StreamOptions

Phase = Literal["off", "opening", "on"]


@dataclass(frozen=True)
class StreamState:
    """What a stream does."""

    phase: Phase = "off"
    name: str = ""  # of the stream, with its address
    sent: int = 0  # frames
    readers: int | None = None  # None: that cannot be known
    problem: str = ""  # what ended the stream, or what goes on; in words
    unmeasured: bool = False  # the last faces had no measures


class Broadcast:
    """Sends results by the streams that were started. All methods but `join` return at once, in any thread."""

    def __init__(self) -> None:
        self._senders: dict[Kind, _Sender] = {}

    def start(self, kind: Kind, where: str, options: StreamOptions) -> None:
        """Open a stream, in a thread. `where` is an address or a device, as for `open_stream`."""
        before = self._senders.get(kind)
        if before is not None:
            before.stop()
        # A new dictionary, because another thread may iterate over the old one.
        self._senders = {**self._senders, kind: _Sender(kind, where, options, before)}

    def stop(self, kind: Kind) -> None:
        """Close a stream."""
        if kind in self._senders:
            self._senders[kind].stop()

    def add(self, result: Result) -> None:
        """Send a result. A stream that is still busy loses the result that waits."""
        for sender in self._senders.values():
            sender.add(result)

    def state(self, kind: Kind) -> StreamState:
        """Return what a stream does now."""
        sender = self._senders.get(kind)
        return StreamState() if sender is None else sender.state

    def close(self) -> None:
        """Close all streams."""
        for sender in self._senders.values():
            sender.stop()

    def join(self, seconds: float) -> bool:
        """Wait up to `seconds` until all streams are closed; return whether they are."""
        until = time.monotonic() + seconds
        ended = [sender.join(max(0.0, until - time.monotonic())) for sender in self._senders.values()]
        return all(ended)


class _Sender:
    """A stream that is opened, used and closed in a thread, after `before` has left its address."""

    def __init__(self, kind: Kind, where: str, options: StreamOptions, before: "_Sender | None") -> None:
        self._kind, self._where, self._options = kind, where, options
        self._stream: Stream | None = None
        self._results: Channel[Result] = Channel(1, newest_wins=True)
        self._stopped = self._unmeasured = False
        self._sent = 0
        self._problem = ""
        self._thread = Thread(target=self._run, args=(before,), name="broadcast", daemon=True)
        self._thread.start()

    def add(self, result: Result) -> None:
        self._results.put(result)

    def stop(self) -> None:
        self._stopped = True
        self._results.close()
        self._results.leave()

    def join(self, seconds: float | None = None) -> bool:
        self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def state(self) -> StreamState:
        stream, problem = self._stream, self._problem
        if self._stopped or not self._thread.is_alive():
            return StreamState(problem=problem)
        if stream is None:
            return StreamState("opening")
        return StreamState("on", stream.name, self._sent, stream.readers, stream.problem, self._unmeasured)

    def _run(self, before: "_Sender | None") -> None:
        from canthus.runtime.streams import open_stream

        if before is not None:
            before.join()
        try:
            with open_stream(self._kind, self._where, self._options) as self._stream:
                for result in self._results:
                    self._stream.send(result.frame, result.faces)
                    self._unmeasured = len(result.faces) > 0 and result.faces.measures is None
                    self._sent += 1
        except CanthusError as error:
            self._problem = str(error)
        except Exception as error:  # noqa: BLE001 - shown in the panel
            self._problem = f"{type(error).__name__}: {error}"
        finally:
            self._results.leave()
