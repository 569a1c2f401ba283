import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PyQt6.QtCore import QSize, Qt
from PyQt6.QtTest import QSignalSpy
from PyQt6.QtWidgets import QApplication

from canthus.gui import stream as streams
from canthus.gui.app import command
from canthus.gui.mailbox import Mailbox
from canthus.gui.meter import FrameRateMeter
from canthus.gui.stream import Result, Stream
from canthus.gui.window import Window
from canthus.runtime.errors import InputError, ModelError
from canthus.runtime.types import Faces, Frame
from support.viewer import FakeFinder, FakeSource, application, fake_stream, frame, wait_for

qt = pytest.fixture(scope="session")(application)


@pytest.fixture
def open_window(qt: QApplication) -> Iterator[Callable[[Stream], Window]]:
    windows: list[Window] = []

    def opened(stream: Stream) -> Window:
        windows.append(Window(stream, "fake"))
        windows[-1].show()
        stream.start()
        return windows[-1]

    yield opened
    for window in windows:
        window.close()
    assert wait_for(lambda: not our_threads())


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name in ("capture", "process")]


def test_many_posts_are_one_signal_and_the_newest_wins(qt: QApplication) -> None:
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


def test_the_window_shows_a_camera_with_its_faces(open_window: Callable[[Stream], Window]) -> None:
    window = open_window(fake_stream())
    assert wait_for(lambda: window.view.message == "" and "1 face " in window.status)
    assert window.view.look.mirrored
    window.resize(1200, 600)
    assert wait_for(lambda: "detect 1.0  landmark 2.0 ms" in window.status)
    window.resize(window.minimumSize())
    assert wait_for(lambda: "·  3.0 ms" in window.status)
    window.setStyleSheet("QLabel#status { font-size: 40px; }")  # as where the user's font is large
    assert wait_for(lambda: window.status.endswith(("fps", "face")))


def test_the_window_begins_no_larger_than_the_screen(open_window: Callable[[Stream], Window]) -> None:
    window = open_window(fake_stream())
    screen = window.screen()
    assert screen is not None
    room = screen.availableSize()  # 800 x 800, as Qt makes it where there is none
    assert window.width() <= room.width()
    assert window.height() <= room.height()


@pytest.mark.parametrize("chosen", [None, QSize(700, 500)])
def test_the_window_takes_the_shape_of_the_picture_unless_the_user_has_chosen_one(
    open_window: Callable[[Stream], Window], chosen: QSize | None
) -> None:
    loaded = threading.Event()

    def slow() -> FakeFinder:
        assert loaded.wait(3)
        return FakeFinder()

    window = open_window(fake_stream(finder=slow))
    wait_for(lambda: False, 0.05)
    if chosen:
        window.resize(chosen)
    loaded.set()
    assert wait_for(lambda: "1 face " in window.status)
    if chosen:
        assert window.size() == chosen
    else:
        assert window.view.width() / window.view.height() == pytest.approx(64 / 48, abs=0.35)
        assert window.view.width() < 960


def test_the_buttons_go_and_come_with_full_screen_however_it_is_left(open_window: Callable[[Stream], Window]) -> None:
    window = open_window(fake_stream())
    assert wait_for(lambda: window.view.message == "")
    window._toggle_full_screen()
    assert wait_for(lambda: window._bar.isHidden() and "Esc leaves" in window.view.hint)
    window.setWindowState(Qt.WindowState.WindowNoState)  # as the desktop does by a key of its own
    assert wait_for(lambda: not window._bar.isHidden() and window.view.hint == "")
    assert window.view.cursor().shape() == Qt.CursorShape.ArrowCursor


@pytest.mark.parametrize("seconds_to_load", [0.0, 0.4])
def test_closing_mid_stream_leaves_no_thread(open_window: Callable[[Stream], Window], seconds_to_load: float) -> None:
    def slow() -> FakeFinder:
        time.sleep(seconds_to_load)
        return FakeFinder()

    stream = fake_stream(finder=slow)
    window = open_window(stream)
    wait_for(lambda: False, 0.2)
    assert our_threads()
    window.close()
    assert stream.join(2.0)
    assert not our_threads()


def test_closing_a_paused_file_leaves_no_thread(open_window: Callable[[Stream], Window]) -> None:
    stream = fake_stream(live=False, source=lambda: FakeSource([0.0, 100.0]))
    window = open_window(stream)
    stream.toggle()
    wait_for(lambda: False, 0.1)
    window.close()
    assert stream.join(2.0)


def test_a_lost_camera_says_so_and_comes_back(
    open_window: Callable[[Stream], Window], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "RETRY_SECONDS", 0.15)
    plugged_in = threading.Event()
    finder = FakeFinder()

    def camera() -> FakeSource:
        if not plugged_in.is_set():
            raise InputError("camera 5 cannot be opened")
        return FakeSource(count=20, error=InputError("camera 5 is gone"))

    window = open_window(fake_stream(source=camera, finder=lambda: finder))
    assert wait_for(lambda: "Camera 5 cannot be opened" in window.view.message)
    plugged_in.set()
    assert wait_for(lambda: window.view.message == "")
    plugged_in.clear()
    assert wait_for(lambda: "Camera 5 is gone" in window.view.message)
    assert wait_for(lambda: "Camera 5 cannot be opened" in window.view.message)
    plugged_in.set()
    assert wait_for(lambda: window.view.message == "")
    assert finder.restarts >= 2


def test_a_missing_model_is_told_in_the_window(open_window: Callable[[Stream], Window]) -> None:
    def missing() -> FakeFinder:
        raise ModelError("no detector model: connect once to fetch it")

    window = open_window(fake_stream(finder=missing))
    assert wait_for(lambda: "connect once to fetch it" in window.view.message)
    assert isinstance(window.failure, ModelError)
    assert wait_for(lambda: not our_threads())


def test_a_file_that_is_no_video_is_told_in_the_window(open_window: Callable[[Stream], Window]) -> None:
    def text() -> FakeSource:
        raise InputError("/a/notes.mp4: not a readable video")

    window = open_window(fake_stream(live=False, source=text))
    assert wait_for(lambda: "not a readable video" in window.view.message)


def test_our_own_mistake_closes_the_window(open_window: Callable[[Stream], Window]) -> None:
    class Broken(FakeFinder):
        def update(self, frame: Frame) -> Faces:
            raise ZeroDivisionError

    window = open_window(fake_stream(finder=Broken))
    assert wait_for(lambda: not window.isVisible())
    assert isinstance(window.failure, ZeroDivisionError)


def test_a_file_plays_at_its_own_pace_ends_and_plays_again(
    open_window: Callable[[Stream], Window],
) -> None:
    finder = FakeFinder()
    times = [0.0, 0.1, 0.2, 0.4]
    window = open_window(fake_stream(live=False, source=lambda: FakeSource(times), finder=lambda: finder))
    assert wait_for(lambda: "The end" in window.view.hint)
    assert wait_for(lambda: len(finder.seen) == len(times))
    came = [when - finder.seen[0][0] for when, _ in finder.seen]
    assert np.allclose(came, times, atol=0.08)
    assert "1 face " in window.status
    window._toggle_pause()
    assert wait_for(lambda: len(finder.seen) == 2 * len(times))
    assert finder.restarts == 2


def test_a_file_that_is_played_again_and_again_shows_its_last_frame_too(qt: QApplication) -> None:
    class Slow(FakeSource):
        rate = 5.0

    finder = FakeFinder()
    stream = Stream(lambda: Slow([0.0, 0.1]), lambda: finder, live=False, loop=True)
    stream.start()
    assert wait_for(lambda: len(finder.seen) >= 3)
    stream.stop()
    assert stream.join(2.0)
    assert [seconds for _, seconds in finder.seen[:3]] == [0.0, 0.1, 0.0]
    assert finder.seen[2][0] - finder.seen[1][0] > 0.15


def test_a_pause_stops_the_clock_of_a_file(open_window: Callable[[Stream], Window]) -> None:
    finder = FakeFinder()
    times = [0.1 * index for index in range(6)]
    window = open_window(fake_stream(live=False, source=lambda: FakeSource(times), finder=lambda: finder))
    assert wait_for(lambda: len(finder.seen) >= 2)
    window._toggle_pause()
    seen = len(finder.seen)
    wait_for(lambda: False, 0.6)
    assert len(finder.seen) <= seen + 1
    assert "Paused" in window.view.hint
    window._toggle_pause()
    assert wait_for(lambda: "The end" in window.view.hint)
    # No frame was skipped, and none hurried after the pause.
    assert wait_for(lambda: len(finder.seen) == len(times))
    gaps = np.diff([when for when, _ in finder.seen])
    assert gaps.min() > 0.05


def test_the_meter_counts_frames_a_second() -> None:
    meter = FrameRateMeter()
    assert meter.text() == ""
    for index in range(100):
        meter.add(Result(frame(), Faces.none(), {"landmark": 0.004}, 3), now=index / 25)
    assert meter.text(now=4.0).split("  ·  ") == ["25.0 fps", "0 faces", "landmark 4.0 ms", "3 dropped"]
    assert "25.0" not in meter.text(now=9.0)


def test_the_status_line_tells_what_runs_the_network_where_there_is_room() -> None:
    meter = FrameRateMeter()
    meter.add(Result(frame(), Faces.none(), {"landmark": 0.004}, 0, "OpenVINO on the CPU"))
    assert meter.text().endswith("OpenVINO on the CPU")
    assert "OpenVINO" not in meter.text(short=True)


def test_the_window_says_when_something_else_runs_the_network(open_window: Callable[[Stream], Window]) -> None:
    class Moving(FakeFinder):
        def update(self, frame: Frame) -> Faces:
            if len(self.seen) == 5:
                self.runs = "another"
            return super().update(frame)

    window = open_window(fake_stream(finder=Moving))
    assert wait_for(lambda: window.view.hint == "another from here on")


RUN = """
import sys
from canthus.gui import app
from canthus.gui.stream import Stream
from canthus.runtime.errors import CanthusError
sys.path.insert(0, {folder!r})
from support.viewer import FakeFinder, FakeSource
class Telling(FakeFinder):
    def update(self, frame):
        if len(self.seen) == 5:
            print("running", flush=True)
        return super().update(frame)
app._stream = lambda args: Stream(FakeSource, Telling, live=True)
try:
    sys.exit(app.command([]))
except CanthusError as error:
    sys.exit(str(error))
"""


def start_command(**environment: str) -> subprocess.Popen[str]:
    folder = str(Path(__file__).parent.parent)
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("QT_") and name not in ("DISPLAY", "WAYLAND_DISPLAY")
    }
    return subprocess.Popen(
        [sys.executable, "-c", RUN.format(folder=folder)],
        env=kept | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_closes_the_window_without_a_word() -> None:
    # OpenCV's plugin path, as it is once cv2 has been imported, must not matter.
    command = start_command(QT_QPA_PLATFORM="offscreen", QT_QPA_PLATFORM_PLUGIN_PATH="/x/cv2/qt/plugins")
    assert command.stdout is not None
    assert command.stdout.readline() == "running\n"
    command.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, said = command.communicate(timeout=10)
    assert (command.returncode, said) == (130, "")
    assert time.monotonic() - began < 2.5


@pytest.mark.skipif(sys.platform != "linux", reason="other systems always have a screen")
def test_no_screen_is_one_clear_line() -> None:
    _, said = start_command().communicate(timeout=10)
    assert said.count("\n") == 1
    assert "no screen" in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--camera", "abc"], "'abc' is no camera's number; they are counted from 0"),
        (["--camera", "-1"], "'-1' is no camera's number"),
        (["--loop"], "give it with --source FILE"),
    ],
)
def test_what_is_asked_for_wrongly_is_told(capsys: pytest.CaptureFixture[str], words: list[str], told: str) -> None:
    with pytest.raises(SystemExit) as ended:
        command(words)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
