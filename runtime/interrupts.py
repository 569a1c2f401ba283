"""Handle Ctrl-C and the other signals that end a command, so that its files are complete."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

CLOSING_SECONDS = 10.0
"""For this time after Ctrl-C, further ones are ignored: they would interrupt the cleanup."""


@contextlib.contextmanager
def ctrl_c_deferred() -> Iterator[None]:
    """Handle a Ctrl-C that arrives in the block after the block. Only the main thread receives it."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    received: list[FrameType | None] = []
    signal.signal(signal.SIGINT, lambda _, frame: received.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if received:
        handler(signal.SIGINT, received[0])


@contextlib.contextmanager
def signals_end_command() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and a closed terminal (SIGHUP) raise KeyboardInterrupt in the block, once.

    A terminal sends its signals twice, and people press Ctrl-C twice: the second signal must not interrupt the cleanup.
    A signal that is ignored already (`nohup`) stays ignored.
    """
    last = -CLOSING_SECONDS

    def stop(_number: int, frame: FrameType | None) -> None:
        nonlocal last
        if time.monotonic() - last >= CLOSING_SECONDS:
            last = time.monotonic()
            signal.default_int_handler(signal.SIGINT, frame)

    def forward(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        handler = signal.getsignal(signal.SIGINT)  # the command's own, or SIG_IGN in a background job
        (handler if callable(handler) else signal.default_int_handler)(signal.SIGINT, frame)

    before = {}
    if threading.current_thread() is threading.main_thread():
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            before[signal.SIGINT] = signal.signal(signal.SIGINT, stop)
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, forward)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
