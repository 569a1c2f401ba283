"""The `canthus view` command: opens the window, and ends its threads when it closes."""

import argparse
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from canthus.runtime.cli import main
from canthus.runtime.errors import BackendError, CanthusError
from canthus.runtime.options import add_landmarker_options, add_person_option, file_or_address

if TYPE_CHECKING:
    from PyQt6.QtWidgets import QApplication

    from canthus.gui.clock import Clock
    from canthus.gui.finder import TrackingControl
    from canthus.gui.media import Media
    from canthus.gui.sound import Sound
    from canthus.gui.stream import Stream

JOIN_SECONDS = 2.0
"""How long the threads may take to end after the window has closed."""

LIBRARIES = (
    "libegl1 libgl1 libglib2.0-0 libdbus-1-3 libfontconfig1 libx11-xcb1 libxkbcommon-x11-0 "
    "libxcb-cursor0 libxcb-icccm4 libxcb-keysyms1 libxcb-shape0"
)
"""Debian packages of the libraries that PyQt6's wheel links to but does not contain."""

EXAMPLES = """\
examples:
  canthus view                       show the first camera, or the start page if there is none
  canthus view --camera 1            show another camera
  canthus view clip.mp4 photos       play a video, and then the videos and images of a folder
  canthus view --loop clip.mp4       play it again and again
  canthus view rtsp://192.168.1.20/live   show a network stream
  canthus view --start-page          choose what to open
  canthus view --person me.json      expressions relative to the neutral face of `canthus calibrate`

keys:
  Space       pause or resume; play a finished file again
  , .         show the previous or the next frame
  Left Right  jump by 5 seconds
  L I M       switch the lines, the ids and the mirror view on or off
  F           full screen
  Ctrl+O      open files
  Ctrl+1 to 4 show the panels: tracking, performance, measures of a face, streams
  Ctrl+R      start or stop a recording
  Ctrl+S      save the frame
  H           show the keys in the window
  Q, Esc      close the window
"""


def command(arguments: list[str]) -> int:
    """Show a camera or videos live in a window, with points and ids on every face."""
    parser = _parser()
    args = parser.parse_args(arguments)
    if args.loop and not any(isinstance(source, Path) for source in args.sources + args.more):
        parser.error("--loop needs a file: canthus view --loop FILE")
    if args.person is not None:
        from canthus.runtime.person_file import read_person

        read_person(args.person)  # an error is printed before there is a window
    media = _media(args)
    application = _open_qt()
    from PyQt6.QtCore import QEvent

    exit_code = _show(application, args, media)
    application.sendPostedEvents()  # PyQt releases a slot only when it handles an event
    application.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    gc.collect()  # the application must be the last object of Qt: PyQt may crash if it deletes others with it
    return exit_code


def _show(application: "QApplication", args: argparse.Namespace, media: "list[Media]") -> int:
    """Show the window until it is closed. Returns the exit code, after all threads and the window are gone."""
    from PyQt6 import sip
    from PyQt6.QtGui import QIcon

    from canthus.gui.icons import ICON
    from canthus.gui.media import CameraMedia
    from canthus.gui.recent import remember
    from canthus.gui.tools import Tools
    from canthus.gui.window import Window

    application.setWindowIcon(QIcon(str(ICON)))
    threads = set(threading.enumerate())
    stderr = _duplicate_stderr()
    control = _control(args)
    stream = _stream(control)
    window = Window(stream)
    tools = Tools(window, control)
    reporter = _Reporter(stderr)
    window.failed.connect(reporter.report)

    def close() -> None:
        if not sip.isdeleted(window):
            window.close()

    with _close_on_signals(close) as signals, _close_on_errors(close) as errors:
        window.controls.loop.setChecked(args.loop)
        window.show()
        stream.start()
        if not media and not args.start_page:
            media = [CameraMedia(camera.number, camera.name) for camera in window.cameras.cameras[:1]]
        for source in reversed(args.sources + args.more):
            remember(str(source))
        if media:
            window.open(*media)
        else:
            window.show_start()
        try:
            application.exec()
        finally:
            stream.stop()
            tools.close()
            ended = _join(threads, JOIN_SECONDS)
    # After Ctrl-C, later errors may be caused by it, so only an error that the window has shown counts. If the user
    # closed the window, all errors are reported.
    failure = window.failure if signals else stream.failure or window.failure
    failure = next(iter(errors), None) or failure
    # A file that cannot be played does not end the viewer; a bug does.
    ended_by_user = signals and (failure is None or isinstance(failure, CanthusError))
    exit_code = 130 if ended_by_user else 1 if failure is not None else 0
    if failure is not None:
        reporter.report(failure)
    _forget_frames(errors)
    if not ended:
        # A library or a driver still holds a thread, for example while it loads a model. A normal exit could crash.
        sys.stdout.flush()
        os._exit(exit_code)
    if stderr is not None:
        os.close(stderr)
    sip.delete(window)
    return exit_code


def _join(others: set[threading.Thread], seconds: float) -> bool:
    """Wait up to `seconds` for all threads except `others`; return whether they have ended."""
    until = time.monotonic() + seconds
    # Python names a thread of a library "Dummy-1" once it has called Python code, and cannot wait for it.
    started = [t for t in threading.enumerate() if t not in others and not t.name.startswith("Dummy-")]
    for thread in started:
        thread.join(max(0.0, until - time.monotonic()))
    return not any(thread.is_alive() for thread in started)


def start_viewer() -> int:
    """Open the viewer without a console: the entry point `canthus-viewer` of desktops."""
    return main(["view", *(sys.argv[1:] or ["--start-page"])])


class _Reporter:
    """Prints each error on standard error when it is shown, once."""

    def __init__(self, stderr: int | None) -> None:
        """`stderr` is a second file descriptor: a thread may have redirected the first one, see `Detector`."""
        self._stderr = stderr
        self._reported: list[str] = []

    def report(self, error: BaseException) -> None:
        """Print one line for an error of the user, or the traceback of a bug."""
        is_mistake = isinstance(error, CanthusError) and not logging.getLogger("canthus").isEnabledFor(logging.DEBUG)
        text = f"canthus view: {error}\n" if is_mistake else "".join(traceback.format_exception(error))
        if text not in self._reported and self._stderr is not None:
            self._reported.append(text)
            with suppress(OSError):
                os.write(self._stderr, text.encode(errors="replace"))


def _duplicate_stderr() -> int | None:
    """Return a second file descriptor for stderr; None if stderr is closed."""
    with suppress(OSError):
        return os.dup(2)
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="canthus view",
        description="Show a camera or a video live in a window, with the points of every face: 98 with our models.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "sources",
        nargs="*",
        type=file_or_address,
        metavar="FILE|FOLDER|ADDRESS",
        help="videos, images or folders to play one after the other, or a stream by its address (rtsp://…, http://…)",
    )
    parser.add_argument("--camera", type=_camera_number, metavar="N", help="camera number (default: the first one)")
    parser.add_argument(
        "--source",
        action="append",
        dest="more",
        default=[],
        type=file_or_address,
        metavar="FILE|ADDRESS",
        help="the same as FILE|FOLDER|ADDRESS",
    )
    parser.add_argument("--start-page", action="store_true", help="show what can be opened, and open nothing")
    parser.add_argument("--loop", action="store_true", help="play each file again and again")
    add_landmarker_options(parser)
    add_person_option(parser)
    return parser


def _camera_number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a camera number (expected 0, 1, 2, …)")
    return int(text)


def _media(args: argparse.Namespace) -> "list[Media]":
    """Return what the options say to open."""
    from canthus.gui.media import AddressMedia, CameraMedia, media_of_paths

    if args.camera is not None:
        return [CameraMedia(args.camera)]
    sources = args.sources + args.more
    paths = [source for source in sources if isinstance(source, Path)]
    addresses = [AddressMedia(source) for source in sources if isinstance(source, str)]
    return [*(media_of_paths(paths) if paths else []), *addresses]


def _control(args: argparse.Namespace) -> "TrackingControl":
    """Return the settings of the tracking that the options select, or else those that were used last."""
    from canthus.gui.finder import Tracking, TrackingControl
    from canthus.gui.preferences import load_networks

    model, gpu = load_networks()
    tracking = Tracking(
        model=args.model or model,
        detector_model=args.detector_model,
        precision=args.precision,
        gpu=gpu and not args.cpu,
        max_faces=args.max_faces,
        smoothing=not args.no_smoothing,
        measures=args.person is not None,
        person=args.person,
    )
    return TrackingControl(tracking)


def _stream(control: "TrackingControl") -> "Stream":
    """Create the stream. OpenCV, FFmpeg and the networks are imported in its threads."""
    from canthus.gui.stream import Stream

    def open_sound(path: Path, start: float, clock: "Clock", is_muted: Callable[[], bool]) -> "Sound":
        from canthus.gui.sound import Sound

        return Sound(path, start, clock, is_muted)

    return Stream(control.open, open_sound)


def _open_qt() -> "QApplication":
    """Start Qt with PyQt6's own plugins.

    Prints one line and exits if no window can be opened. Raises BackendError if PyQt6 or one of its system libraries
    is missing.
    """
    # Importing OpenCV sets these to the plugins of the older Qt in its wheel.
    for name in ("QT_QPA_PLATFORM_PLUGIN_PATH", "QT_QPA_FONTDIR"):
        if "cv2" in Path(os.environ.get(name, "")).parts:
            del os.environ[name]
    try:
        from PyQt6.QtCore import QLoggingCategory, QtMsgType, qInstallMessageHandler
        from PyQt6.QtWidgets import QApplication
    except ImportError as missing:
        raise BackendError(
            f"the window needs PyQt6 and its system libraries ({missing}); on Debian or Ubuntu: apt install {LIBRARIES}"
        ) from missing

    def handle_message(kind: QtMsgType, _context: object, message: str | None) -> None:
        if kind is QtMsgType.QtFatalMsg:
            # Qt aborts the process after this message, so print the reason now.
            print(f"canthus view: {_explain_no_window(' '.join(messages))}", file=sys.stderr, flush=True)
            os._exit(1)
        messages.append(message or "")

    messages: list[str] = []
    QLoggingCategory.setFilterRules("qt.multimedia.*=false")  # it names each optional library that is missing
    qInstallMessageHandler(handle_message)
    application = QApplication(["canthus"])

    def print_message(_kind: QtMsgType, _context: object, message: str | None) -> None:
        if not (message or "").startswith("PulseAudioService"):  # no sound server runs: Sound says so if it is needed
            print(message, file=sys.stderr)

    qInstallMessageHandler(print_message)
    for message in messages:
        print(message, file=sys.stderr)
    with suppress(ImportError):  # without libpulse on Linux; Sound says so
        import PyQt6.QtMultimedia  # noqa: F401 - in this thread: PyQt crashes if a thread imports it while Qt runs
    application.setApplicationName("canthus")
    application.setDesktopFileName("canthus-viewer")
    application.setStyle("Fusion")
    return application


def _explain_no_window(messages: str) -> str:
    """Say why Qt cannot open a window, and what to do. `messages` is what Qt has printed before."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "no screen (DISPLAY is not set); use `canthus video` to write a video file instead"
    if "could not connect to display" in messages:
        return f"cannot connect to the screen {os.environ.get('DISPLAY')}; check DISPLAY"
    return f"cannot open a window; on Debian or Ubuntu: apt install {LIBRARIES}"


@contextmanager
def _close_on_errors(close: Callable[[], object]) -> Iterator[list[BaseException]]:
    """Close the window on an error in a handler of a Qt event. Yields a list, to which these errors are added.

    Without an exception hook, PyQt aborts the process after such an error.
    """
    from PyQt6.QtCore import QTimer

    errors: list[BaseException] = []

    def hook(_kind: type[BaseException], error: BaseException, _traceback: TracebackType | None) -> None:
        errors.append(error)
        QTimer.singleShot(0, close)

    previous, sys.excepthook = sys.excepthook, hook
    try:
        yield errors
    finally:
        sys.excepthook = previous


def _forget_frames(errors: list[BaseException]) -> None:
    """Release the frames in which the errors were raised. They hold the application.

    If the application still lives when Python exits, the clean-up of PyQt crashes now and then.
    """
    for error in errors:
        error.__traceback__ = None
    if errors:
        sys.last_type = sys.last_value = sys.last_traceback = None  # Python keeps the last error here


@contextmanager
def _close_on_signals(close: Callable[[], object]) -> Iterator[list[int]]:
    """Close the window on Ctrl-C and SIGTERM. Yields a list, to which the signals that arrive are added.

    Python runs a signal handler only when control returns from Qt's event loop. So each signal also writes to a socket
    that Qt watches.
    """
    from PyQt6.QtCore import QSocketNotifier, QTimer
    from PyQt6.sip import voidptr

    signals: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        signals.append(number)
        QTimer.singleShot(0, close)  # later, because the handler may interrupt a paint event

    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    notifier = QSocketNotifier(voidptr(reader.fileno()), QSocketNotifier.Type.Read)
    notifier.activated.connect(lambda: reader.recv(64))
    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    previous_wakeup = signal.set_wakeup_fd(writer.fileno())
    try:
        yield signals
    finally:
        signal.set_wakeup_fd(previous_wakeup)
        for number, handler in previous.items():
            signal.signal(number, handler)
        notifier.setEnabled(False)
        reader.close()
        writer.close()
