"""The window, its threads and the `canthus view` command."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PyQt6.QtCore import QSize, Qt, QTranslator
from PyQt6.QtTest import QSignalSpy
from PyQt6.QtWidgets import QApplication

from canthus.gui import playback
from canthus.gui.app import command
from canthus.gui.mailbox import Mailbox
from canthus.gui.status_bar import FrameRateMeter
from canthus.gui.stream import Result
from canthus.gui.window import Window
from canthus.runtime.errors import InputError, ModelError
from canthus.runtime.types import Faces, Frame
from support.viewer import FakeFinder, FakeSource, FakeStream, application, fake_stream, frame, wait_for

qt = pytest.fixture(scope="session")(application)


@pytest.fixture
def open_window(qt: QApplication) -> Iterator[Callable[[FakeStream], Window]]:
    windows: list[Window] = []

    def opened(stream: FakeStream) -> Window:
        windows.append(Window(stream))
        windows[-1].show()
        stream.start()
        windows[-1].open(stream.media)
        return windows[-1]

    yield opened
    for window in windows:
        window.close()
    assert wait_for(lambda: not stream_threads())


def stream_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name in ("capture", "process")]


def test_mailbox_signals_once_and_keeps_the_newest_item(qt: QApplication) -> None:
    mailbox: Mailbox[int] = Mailbox()
    signals = QSignalSpy(mailbox.filled)
    poster = threading.Thread(target=lambda: [mailbox.post(number) for number in range(100)])
    poster.start()
    poster.join()
    assert mailbox.take() == 99
    assert mailbox.take() is None
    assert mailbox.overwritten == 99
    mailbox.post(100)
    assert wait_for(lambda: len(signals) == 2)


def test_window_shows_camera_and_faces(open_window: Callable[[FakeStream], Window]) -> None:
    window = open_window(fake_stream())
    assert wait_for(lambda: window.view.message == "" and "1 face " in window.status)
    assert window.view.overlay_style.mirrored
    window.resize(1200, 600)
    assert wait_for(lambda: "detect 1.0  landmark 2.0 ms" in window.status)
    window.resize(640, 400)
    assert wait_for(lambda: "·  3.0 ms" in window.status)
    window.setStyleSheet("QLabel#status { font-size: 40px; }")  # as with a large system font
    assert wait_for(lambda: window.status.endswith(("fps", "face")))


def test_frames_are_converted_outside_the_thread_of_the_window(
    open_window: Callable[[FakeStream], Window], monkeypatch: pytest.MonkeyPatch
) -> None:
    convert, threads = cv2.cvtColor, set()

    def recorded(*args: Any) -> Any:
        threads.add(threading.current_thread())
        return convert(*args)

    monkeypatch.setattr(cv2, "cvtColor", recorded)
    window = open_window(fake_stream())
    assert wait_for(lambda: "1 face " in window.status)
    assert threads
    assert threading.main_thread() not in threads


def test_menus_and_messages_are_translated(open_window: Callable[[FakeStream], Window]) -> None:
    class Marking(QTranslator):
        def translate(self, _context: str | None, text: str | None, *_rest: Any) -> str:
            return f"§{text}"

    translator = Marking()
    QApplication.installTranslator(translator)
    try:
        window = open_window(fake_stream(source=lambda: FakeSource(count=0, error=InputError("gone"))))
        assert wait_for(lambda: window.view.card.choices != [])
    finally:
        QApplication.removeTranslator(translator)
    actions = [action for action in window.actions() if action.text()]
    texts = [*(menu.title() for menu in window.menus.all), *(action.text() for action in actions)]
    tips = [action.toolTip() for action in actions]
    assert len(actions) > 20
    assert [text for text in [*texts, *tips, *window.view.card.choices] if not text.startswith("§")] == []


def test_initial_window_fits_the_screen(open_window: Callable[[FakeStream], Window]) -> None:
    window = open_window(fake_stream())
    screen = window.screen()
    assert screen is not None
    available = screen.availableSize()  # 800 x 800 on the offscreen platform
    assert window.width() <= available.width()
    assert window.height() <= available.height()


@pytest.mark.parametrize("user_size", [None, QSize(700, 500)])
def test_window_takes_the_shape_of_the_video_unless_the_user_resized_it(
    open_window: Callable[[FakeStream], Window], user_size: QSize | None
) -> None:
    loaded = threading.Event()

    def slow() -> FakeFinder:
        assert loaded.wait(3)
        return FakeFinder()

    window = open_window(fake_stream(finder=slow))
    wait_for(lambda: False, 0.05)
    if user_size:
        window.resize(user_size)
    loaded.set()
    assert wait_for(lambda: "1 face " in window.status)
    if user_size:
        assert window.size() == user_size
    else:
        assert window.view.width() / window.view.height() == pytest.approx(64 / 48, abs=0.35)
        assert window.view.width() < 960


def test_buttons_are_hidden_in_full_screen_and_return_after_it(open_window: Callable[[FakeStream], Window]) -> None:
    window = open_window(fake_stream())
    assert wait_for(lambda: window.view.message == "")
    window._toggle_full_screen()
    assert wait_for(lambda: window._bar.isHidden() and "Esc to exit" in window.view.hint)
    window.setWindowState(Qt.WindowState.WindowNoState)  # as a desktop shortcut does
    assert wait_for(lambda: not window._bar.isHidden() and window.view.hint == "")
    assert window.view.cursor().shape() == Qt.CursorShape.ArrowCursor


@pytest.mark.parametrize("seconds_to_load", [0.0, 0.4])
def test_closing_while_playing_leaves_no_thread(
    open_window: Callable[[FakeStream], Window], seconds_to_load: float
) -> None:
    def slow() -> FakeFinder:
        time.sleep(seconds_to_load)
        return FakeFinder()

    stream = fake_stream(finder=slow)
    window = open_window(stream)
    wait_for(lambda: False, 0.2)
    assert stream_threads()
    window.close()
    assert stream.join(2.0)
    assert not stream_threads()


def test_closing_a_paused_file_leaves_no_thread(open_window: Callable[[FakeStream], Window]) -> None:
    stream = fake_stream(live=False, source=lambda: FakeSource([0.0, 100.0]))
    window = open_window(stream)
    window.controls.toggle_pause()
    wait_for(lambda: False, 0.1)
    window.close()
    assert stream.join(2.0)


def test_disconnected_camera_shows_a_message_and_reconnects(
    open_window: Callable[[FakeStream], Window], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(playback, "RETRY_SECONDS", 0.15)
    plugged_in = threading.Event()
    finder = FakeFinder()

    def camera() -> FakeSource:
        if not plugged_in.is_set():
            raise InputError("camera 5 cannot be opened")
        return FakeSource(count=20, error=InputError("camera 5 is gone"))

    window = open_window(fake_stream(source=camera, finder=lambda: finder))
    assert wait_for(lambda: "Camera 5 cannot be opened" in window.view.message)
    assert "Camera not available" in window.view.message
    plugged_in.set()
    assert wait_for(lambda: window.view.message == "")
    plugged_in.clear()
    assert wait_for(lambda: "Camera 5 is gone" in window.view.message)
    assert "Camera disconnected" in window.view.message
    assert "Retrying" in window.view.message
    assert wait_for(lambda: "Camera 5 cannot be opened" in window.view.message)
    plugged_in.set()
    assert wait_for(lambda: window.view.message == "")
    assert finder.restarts >= 2


def test_missing_model_is_shown_in_the_window(open_window: Callable[[FakeStream], Window]) -> None:
    def missing() -> FakeFinder:
        raise ModelError("no detector model: connect once to fetch it")

    window = open_window(fake_stream(finder=missing))
    assert wait_for(lambda: "connect once to fetch it" in window.view.message)
    assert isinstance(window.failure, ModelError)
    assert wait_for(lambda: "capture" not in stream_threads())


def test_unreadable_file_is_shown_in_the_window(open_window: Callable[[FakeStream], Window]) -> None:
    def text() -> FakeSource:
        raise InputError("/a/notes.mp4: not a readable video")

    window = open_window(fake_stream(live=False, source=text))
    assert wait_for(lambda: "not a readable video" in window.view.message)


def test_unexpected_error_is_shown_in_the_window(open_window: Callable[[FakeStream], Window]) -> None:
    class Broken(FakeFinder):
        def update(self, frame: Frame) -> Faces:
            raise ZeroDivisionError("of the frame")

    window = open_window(fake_stream(finder=Broken))
    assert wait_for(lambda: "ZeroDivisionError: of the frame" in window.view.message)
    assert window.view.message.startswith("Internal error")
    assert isinstance(window.failure, ZeroDivisionError)
    assert window.isVisible()


def test_file_plays_at_its_frame_rate_and_can_be_played_again(
    open_window: Callable[[FakeStream], Window],
) -> None:
    finder = FakeFinder()
    times = [0.0, 0.1, 0.2, 0.4]
    window = open_window(fake_stream(live=False, source=lambda: FakeSource(times), finder=lambda: finder))
    assert wait_for(lambda: "End of video" in window.view.hint)
    assert wait_for(lambda: len(finder.seen) == len(times))
    delays = [when - finder.seen[0][0] for when, _ in finder.seen]
    assert np.allclose(delays, times, atol=0.08)
    assert wait_for(lambda: window.status == "1 face")  # rates and times are those of the past
    window.controls.toggle_pause()
    assert wait_for(lambda: len(finder.seen) == 2 * len(times))
    assert finder.restarts == 2


def test_looping_file_shows_its_last_frame_in_full(qt: QApplication) -> None:
    class Slow(FakeSource):
        rate = 5.0

    finder = FakeFinder()
    stream = fake_stream(live=False, source=lambda: Slow([0.0, 0.1]), finder=lambda: finder)
    stream.start()
    stream.open(stream.media).loop = True
    assert wait_for(lambda: len(finder.seen) >= 3)
    stream.stop()
    assert stream.join(2.0)
    assert [seconds for _, seconds in finder.seen[:3]] == [0.0, 0.1, 0.0]
    assert finder.seen[2][0] - finder.seen[1][0] > 0.15


def test_pause_stops_the_clock_of_a_file(open_window: Callable[[FakeStream], Window]) -> None:
    finder = FakeFinder()
    times = [0.1 * index for index in range(6)]
    window = open_window(fake_stream(live=False, source=lambda: FakeSource(times), finder=lambda: finder))
    assert wait_for(lambda: len(finder.seen) >= 2)
    window.controls.toggle_pause()
    seen = len(finder.seen)
    wait_for(lambda: False, 0.6)
    assert len(finder.seen) <= seen + 1
    assert "Paused" in window.view.hint
    window.controls.toggle_pause()
    assert wait_for(lambda: "End of video" in window.view.hint)
    # No frame was skipped, and playback did not speed up after the pause.
    assert wait_for(lambda: len(finder.seen) == len(times))
    gaps = np.diff([when for when, _ in finder.seen])
    assert gaps.min() > 0.05


def test_meter_shows_frames_per_second() -> None:
    meter = FrameRateMeter()
    assert meter.text() == ""
    for index in range(100):
        meter.add(Result(frame(), Faces.none(), {"landmark": 0.004}, 3), now=index / 25)
    assert meter.text(now=4.0).split("  ·  ") == ["25.0 fps", "0 faces", "landmark 4.0 ms", "3 dropped"]
    assert "25.0" not in meter.text(now=9.0)


def test_status_line_names_the_backend_if_there_is_room() -> None:
    meter = FrameRateMeter()
    meter.add(Result(frame(), Faces.none(), {"landmark": 0.004}, 0, "OpenVINO on the CPU"))
    assert meter.text().endswith("OpenVINO on the CPU")
    assert "OpenVINO" not in meter.text(short=True)


def test_window_shows_a_hint_when_the_backend_changes(open_window: Callable[[FakeStream], Window]) -> None:
    class Moving(FakeFinder):
        def update(self, frame: Frame) -> Faces:
            if len(self.seen) == 5:
                self.backend_name = "another"
            return super().update(frame)

    window = open_window(fake_stream(finder=Moving))
    assert wait_for(lambda: window.view.hint == "Now using another")


RUN = """
import sys
from canthus.gui import app
from canthus.gui.stream import Stream
from canthus.runtime.errors import CanthusError
sys.path.insert(0, {folder!r})
from support.viewer import FakeFinder, FakeMedia
class Announcing(FakeFinder):
    def update(self, frame):
        if len(self.seen) == 5:
            print("running", flush=True)
        return super().update(frame)
app._stream = lambda control: Stream(lambda live: Announcing())
app._media = lambda args: [FakeMedia()]
try:
    sys.exit(app.command([]))
except CanthusError as error:
    sys.exit(str(error))
"""


DAMAGED = """
import sys, time
from PyQt6.QtCore import QTimer
from canthus.gui import app
from canthus.runtime import pipeline
from canthus.runtime.cli import main
from canthus.runtime.native_messages import native_messages_caught
class Slow:
    def __init__(self, settings, live=False):
        with native_messages_caught():  # redirects stderr, as while MediaPipe loads
            time.sleep(30)  # longer than the viewer waits for its threads
pipeline.Landmarker = Slow
open_qt = app._open_qt
def open_and_close():
    application = open_qt()
    QTimer.singleShot({close_ms}, application.closeAllWindows)
    return application
app._open_qt = open_and_close
sys.exit(main(["view", "--source", {source!r}]))
"""


def start_command(script: str = "", **environment: str) -> subprocess.Popen[str]:
    folder = str(Path(__file__).parent.parent)
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("QT_") and name not in ("DISPLAY", "WAYLAND_DISPLAY")
    }
    return subprocess.Popen(
        [sys.executable, "-c", script or RUN.format(folder=folder)],
        env=inherited | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_closes_the_window_and_prints_nothing() -> None:
    # Importing cv2 sets this plugin path; the viewer must ignore it.
    command = start_command(QT_QPA_PLATFORM="offscreen", QT_QPA_PLATFORM_PLUGIN_PATH="/x/cv2/qt/plugins")
    assert command.stdout is not None
    assert command.stdout.readline() == "running\n"
    command.send_signal(signal.SIGINT)
    start = time.monotonic()
    _, errors = command.communicate(timeout=10)
    assert (command.returncode, errors) == (130, "")
    assert time.monotonic() - start < 2.5


@pytest.mark.parametrize("close_ms", [0, 1000])
def test_error_of_a_damaged_file_is_printed_when_the_window_closes_early(tmp_path: Path, close_ms: int) -> None:
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(b"not a video" * 1000)
    script = DAMAGED.format(close_ms=close_ms, source=str(damaged))
    command = start_command(script, QT_QPA_PLATFORM="offscreen")
    output, errors = command.communicate(timeout=20)
    assert (command.returncode, output) == (1, "")
    assert errors.count("\n") == 1
    assert errors.startswith(f"canthus view: {damaged}: ")


def test_ctrl_c_after_a_damaged_file_was_shown_ends_as_ctrl_c(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(b"not a video" * 1000)
    script = DAMAGED.format(close_ms=1000, source=str(damaged))
    script = script.replace("application.closeAllWindows", "lambda: signal.raise_signal(signal.SIGINT)")
    command = start_command(f"import signal{script}", QT_QPA_PLATFORM="offscreen")
    _, errors = command.communicate(timeout=20)
    assert command.returncode == 130
    assert errors.startswith(f"canthus view: {damaged}: ")


ENDING = """
import gc, sys
from PyQt6 import sip
from PyQt6.QtCore import QCoreApplication, QObject, QTimer
from canthus.gui import app
from canthus.gui.stream import Stream
from canthus.runtime.cli import main
from canthus.runtime.errors import InputError
sys.path.insert(0, {folder!r})
from support.viewer import FakeFinder, FakeMedia
app._stream = lambda control: Stream(lambda live: FakeFinder())
app._media = lambda args: [FakeMedia()]
open_qt = app._open_qt
applications = []
def end():
    {end}
def open_and_end():
    application = open_qt()
    if {keep}:
        applications.append(application)
    QTimer.singleShot(100, end)
    return application
app._open_qt = open_and_end
code = main(["view"])
for item in gc.get_objects():
    if isinstance(item, QObject) and not sip.isdeleted(item) and item not in applications:
        print("still there:", item)
assert {keep} or QCoreApplication.instance() is None, "something holds the application"
sys.exit(code)
"""


def ending(end: str, keep: bool = False) -> str:
    """Return a script that opens the window, runs `end` and prints the objects of Qt that outlive the command."""
    return ENDING.format(folder=str(Path(__file__).parent.parent), end=end, keep=keep)


@pytest.mark.parametrize(
    ("error", "last_line"),
    [("InputError('no such face')", "canthus view: no such face"), ("ValueError('x')", "ValueError: x")],
)
def test_error_in_the_handler_of_an_event_ends_the_command_with_its_message(error: str, last_line: str) -> None:
    command = start_command(ending(f"raise {error}"), QT_QPA_PLATFORM="offscreen")
    output, errors = command.communicate(timeout=20)
    assert (command.returncode, output) == (1, "")
    assert errors.strip().splitlines()[-1] == last_line


def test_nothing_of_the_window_outlives_the_command() -> None:
    # If PyQt deletes a window with the application, it crashes now and then.
    command = start_command(ending("applications[0].closeAllWindows()", keep=True), QT_QPA_PLATFORM="offscreen")
    assert command.communicate(timeout=20) == ("", "")
    assert command.returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="other systems always have a screen")
def test_missing_screen_is_reported_in_one_line() -> None:
    _, errors = start_command().communicate(timeout=10)
    assert errors.count("\n") == 1
    assert "no screen" in errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--camera", "abc"], "'abc' is not a camera number (expected 0, 1, 2, …)"),
        (["--camera", "-1"], "'-1' is not a camera number"),
        (["--loop"], "--loop needs a file"),
    ],
)
def test_invalid_options_are_reported(capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as ended:
        command(options)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
