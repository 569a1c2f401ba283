"""The `canthus view` command: opens the window, and sees that nothing of it is left when it closes."""

import argparse
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from canthus.runtime.errors import BackendError, InputError
from canthus.runtime.options import add_landmarking, settings_from_args

if TYPE_CHECKING:
    from PyQt6.QtWidgets import QApplication

    from canthus.gui.stream import Stream

END_SECONDS = 2.0
"""How long the threads may take to end after the window has closed."""

LIBRARIES = (
    "libegl1 libgl1 libglib2.0-0 libdbus-1-3 libfontconfig1 libx11-xcb1 libxkbcommon-x11-0 "
    "libxcb-cursor0 libxcb-icccm4 libxcb-keysyms1 libxcb-shape0"
)
"""Debian's names of what PyQt6's wheel links to and does not carry."""

EXAMPLES = """\
examples:
  canthus view                       the first camera
  canthus view --camera 1            another camera
  canthus view --source clip.mp4     a video file, at its own pace

keys: Space pause, L lines, I ids, M mirror, F full screen, H shows the keys, Q or Esc closes
"""


def command(arguments: list[str]) -> int:
    """Show a camera or a video live in a window, with points and ids on every face."""
    parser = _parser()
    args = parser.parse_args(arguments)
    if args.loop and args.source is None:
        parser.error("--loop plays a file again and again: give it with --source FILE")
    if args.source is not None and not args.source.exists():
        raise InputError(f"{args.source}: no such file")
    application = _open_qt()
    from canthus.gui.window import Window

    stream = _stream(args)
    name = f"camera {args.camera}" if args.source is None else args.source.name
    window = Window(stream, name)
    with _interruptible(lambda: window.close()) as interrupted:
        window.show()
        stream.start()
        try:
            application.exec()
        finally:
            stream.stop()
            ended = stream.join(END_SECONDS)
    if not ended:
        # A library or a driver holds a thread, and tearing Python down around it could crash.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130 if interrupted else 1 if window.failure else 0)
    if window.failure is not None:
        raise window.failure
    return 130 if interrupted else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="canthus view",
        description="Show a camera or a video live, with 98 points on every face.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--camera", type=_number, default=0, metavar="N", help="number of the camera (default: 0)")
    source.add_argument("--source", type=Path, metavar="FILE", help="a video file instead of a camera")
    parser.add_argument("--loop", action="store_true", help="play the file again and again")
    add_landmarking(parser)
    return parser


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no camera's number; they are counted from 0")
    return int(text)


def _stream(args: argparse.Namespace) -> "Stream":
    """The stream that the options describe. OpenCV, FFmpeg and the networks are imported in its threads."""
    from canthus.gui.stream import FaceFinder, Source, Stream

    def open_source() -> AbstractContextManager[Source]:
        from canthus.runtime.sources import Camera, VideoFile

        return Camera(args.camera) if args.source is None else VideoFile(args.source)

    def open_finder() -> AbstractContextManager[FaceFinder]:
        from canthus.runtime.pipeline import Landmarker

        return Landmarker(settings_from_args(args))

    return Stream(open_source, open_finder, live=args.source is None, loop=args.loop)


def _open_qt() -> "QApplication":
    """Start Qt with PyQt6's own plugins; one clear line where no window can be opened.

    Raises BackendError when PyQt6 or a system library that it needs is missing.
    """
    # OpenCV's wheel points these at its own, older Qt as soon as it is imported.
    for name in ("QT_QPA_PLATFORM_PLUGIN_PATH", "QT_QPA_FONTDIR"):
        if "cv2" in Path(os.environ.get(name, "")).parts:
            del os.environ[name]
    try:
        from PyQt6.QtCore import QtMsgType, qInstallMessageHandler
        from PyQt6.QtWidgets import QApplication
    except ImportError as missing:
        raise BackendError(
            f"the window needs PyQt6 and its system libraries ({missing}); on Debian or Ubuntu: apt install {LIBRARIES}"
        ) from missing

    def say(kind: QtMsgType, _context: object, message: str | None) -> None:
        if kind is QtMsgType.QtFatalMsg:
            # Qt aborts the process after this message, so it is the last chance to speak.
            print(f"canthus view: {_no_window(' '.join(said))}", file=sys.stderr, flush=True)
            os._exit(1)
        said.append(message or "")

    said: list[str] = []
    before = qInstallMessageHandler(say)
    application = QApplication(["canthus"])
    qInstallMessageHandler(before)
    for message in said:
        print(message, file=sys.stderr)
    application.setApplicationName("canthus")
    application.setStyle("Fusion")
    return application


def _no_window(said: str) -> str:
    """What to tell where Qt cannot open a window, from what it said before."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "there is no screen here (DISPLAY is not set); `canthus video` writes to a file instead"
    if "could not connect to display" in said:
        return f"the screen {os.environ.get('DISPLAY')} cannot be reached; is DISPLAY right?"
    return f"no window can be opened; on Debian or Ubuntu: apt install {LIBRARIES}"


@contextmanager
def _interruptible(close: Callable[[], object]) -> Iterator[list[int]]:
    """Ctrl-C and a polite kill close the window; the list that is given tells afterwards which of them came.

    Python runs a handler only when Qt's loop comes back to it, so a signal also writes to a socket that Qt
    watches.
    """
    from PyQt6.QtCore import QSocketNotifier, QTimer
    from PyQt6.sip import voidptr

    came: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        QTimer.singleShot(0, close)  # not at once: Python may be in the middle of painting

    here, there = socket.socketpair()
    here.setblocking(False)
    there.setblocking(False)
    notifier = QSocketNotifier(voidptr(here.fileno()), QSocketNotifier.Type.Read)
    notifier.activated.connect(lambda: here.recv(64))
    kept = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    waker = signal.set_wakeup_fd(there.fileno())
    try:
        yield came
    finally:
        signal.set_wakeup_fd(waker)
        for number, handler in kept.items():
            signal.signal(number, handler)
        notifier.setEnabled(False)
        here.close()
        there.close()
