"""The panel that sends faces to other programs, as a user would use it."""

import contextlib
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PyQt6.QtCore import QPoint, Qt
from PyQt6.QtGui import QPalette
from PyQt6.QtTest import QTest
from PyQt6.QtWidgets import QApplication

from canthus.gui.broadcast import Broadcast, StreamState
from canthus.gui.panels import streams
from canthus.gui.panels.streams import StreamsPanel
from canthus.gui.preferences import load_addresses
from canthus.runtime.errors import InputError
from canthus.runtime.streams import KINDS, Kind, StreamOptions
from canthus.runtime.types import Faces, Frame
from support.viewer import Viewer, application, measured, viewer_with_new_settings, wait_for

qt = pytest.fixture(scope="session")(application)


@pytest.fixture
def viewer(qt: QApplication, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Viewer]:
    for opened in viewer_with_new_settings(monkeypatch, tmp_path):
        opened.tools.docks["streams"].show()
        yield opened


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def press(panel: StreamsPanel, kind: Kind) -> None:
    QTest.mouseClick(panel.rows[kind].switch, Qt.MouseButton.LeftButton, pos=QPoint(8, 10))


def test_osc_is_switched_on_with_the_mouse_and_a_program_reads_it(viewer: Viewer) -> None:
    panel = viewer.tools.streams
    row = panel.rows["osc"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as program:
        program.bind(("127.0.0.1", 0))
        program.settimeout(5)
        row.address.setText(str(program.getsockname()[1]))
        press(panel, "osc")
        assert not row.address.isEnabled()
        assert b"/canthus/faces" in program.recv(4096)
    assert wait_for(lambda: "Frames sent: " in row.state.text())
    assert row.state.text().startswith("OSC to 127.0.0.1:")
    assert "Readers" not in row.state.text()  # they do not answer
    assert wait_for(lambda: viewer.models[0].trackings[-1].measures)
    assert wait_for(lambda: "Faces without measures are not sent" in row.state.text())  # the fake model has none
    press(panel, "osc")
    assert (row.state.text(), row.address.isEnabled()) == ("", True)


def test_the_page_is_switched_on_with_the_keyboard_and_its_readers_are_counted(
    viewer: Viewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from websockets.sync.client import connect

    opened: list[str] = []
    monkeypatch.setattr(streams.QDesktopServices, "openUrl", lambda url: opened.append(url.toString()))
    panel, port = viewer.tools.streams, free_port()
    row = panel.rows["websocket"]
    QTest.keyClicks(row.address, str(port))
    QTest.keyClick(row.address, Qt.Key.Key_Return)
    assert wait_for(lambda: "Readers: 0" in row.state.text())
    with connect(f"ws://127.0.0.1:{port}/") as program:
        assert '"faces"' in str(program.recv(5))
        assert wait_for(lambda: "Readers: 1" in row.state.text())
    panel.page.click()
    assert opened == [f"http://127.0.0.1:{port}/"]
    row.switch.setFocus()
    QTest.keyClick(row.switch, Qt.Key.Key_Space)  # also a shortcut of the window, which pauses
    assert row.state.text() == ""
    assert viewer.window.stream.playback is not None
    assert not viewer.window.stream.playback.paused
    assert not panel.page.isEnabled()
    assert load_addresses()["websocket"] == str(port)


def test_a_port_in_use_is_one_line_and_another_one_works(viewer: Viewer) -> None:
    panel = viewer.tools.streams
    row = panel.rows["websocket"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        row.address.setText(str(port))
        press(panel, "websocket")
        assert wait_for(lambda: "choose another port" in row.state.text())
    assert row.state.text().count("\n") == 0
    assert row.state.foregroundRole() == QPalette.ColorRole.BrightText
    assert not row.switch.isChecked()
    row.address.setText(str(free_port()))
    press(panel, "websocket")
    assert wait_for(lambda: "Readers: 0" in row.state.text())
    assert row.state.foregroundRole() == QPalette.ColorRole.WindowText


@pytest.mark.parametrize(("kind", "module", "extra"), [("virtual-camera", "pyvirtualcam", "[virtual-camera]")])
def test_a_missing_extra_is_one_line_with_what_to_do(
    viewer: Viewer, monkeypatch: pytest.MonkeyPatch, kind: Kind, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    row = viewer.tools.streams.rows[kind]
    press(viewer.tools.streams, kind)
    assert wait_for(lambda: extra in row.state.text())
    assert "pip install" in row.state.text()
    assert not row.switch.isChecked()


def test_an_address_that_is_none_is_named(viewer: Viewer) -> None:
    row = viewer.tools.streams.rows["vmc"]
    row.address.setText("no address")
    press(viewer.tools.streams, "vmc")
    assert wait_for(lambda: "no address: is no address (expected HOST, PORT or HOST:PORT" in row.state.text())


def test_streams_to_other_machines_say_so(viewer: Viewer) -> None:
    row = viewer.tools.streams.rows["osc"]
    row.address.setText("192.0.2.1")
    press(viewer.tools.streams, "osc")
    assert wait_for(lambda: "Others on the network can read it" in row.state.text())


def test_a_stream_that_fails_behind_a_hidden_panel_gives_a_hint(viewer: Viewer) -> None:
    viewer.tools.docks["streams"].hide()
    viewer.tools.streams.rows["vmc"].address.setText("no address")
    viewer.tools.streams.rows["vmc"].switch.click()
    assert wait_for(lambda: "no address" in viewer.window.view.hint)


def test_closing_the_window_closes_the_streams(
    qt: QApplication, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    viewer, port = Viewer(monkeypatch), free_port()
    row = viewer.tools.streams.rows["websocket"]
    row.address.setText(str(port))
    row.switch.click()
    assert wait_for(lambda: viewer.tools.broadcast.state("websocket").phase == "on", 5)
    viewer.close()
    assert viewer.tools.broadcast.state("websocket") == StreamState()
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


class SlowStream:
    """A stream whose reader takes one frame at each `release`."""

    name, readers, problem = "slow", 2, ""

    def __init__(self) -> None:
        self.may_send = threading.Semaphore(0)
        self.seconds: list[float] = []

    def send(self, frame: Frame, faces: Faces) -> None:
        self.may_send.acquire(timeout=5)
        self.seconds.append(frame.seconds)

    def close(self) -> None:
        pass


def test_a_slow_reader_loses_old_frames_and_blocks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, broadcast = SlowStream(), Broadcast()
    monkeypatch.setattr("canthus.runtime.streams.open_stream", lambda *_: contextlib.nullcontext(slow))
    broadcast.start("vmc", "", StreamOptions())
    assert wait_for(lambda: broadcast.state("vmc").phase == "on")
    for index in range(100):
        broadcast.add(measured(seconds=float(index)))
    slow.may_send.release(2)
    assert wait_for(lambda: broadcast.state("vmc").sent == 2)
    assert slow.seconds[-1] == 99.0
    assert broadcast.state("vmc") == StreamState("on", "slow", 2, readers=2)
    broadcast.close()
    assert broadcast.join(2)
    assert broadcast.state("vmc") == StreamState()


def test_a_stream_that_is_started_again_waits_until_its_address_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    may_close = threading.Event()

    @contextlib.contextmanager
    def open_stream(kind: Kind, where: str, options: StreamOptions) -> Iterator[SlowStream]:
        events.append(f"open {where}")
        yield SlowStream()
        may_close.wait(5)
        events.append(f"close {where}")

    monkeypatch.setattr("canthus.runtime.streams.open_stream", open_stream)
    broadcast = Broadcast()
    broadcast.start("websocket", "1", StreamOptions())
    assert wait_for(lambda: broadcast.state("websocket").phase == "on")
    broadcast.start("websocket", "2", StreamOptions())
    assert broadcast.state("websocket").phase == "opening"
    may_close.set()
    assert wait_for(lambda: broadcast.state("websocket").phase == "on")
    assert events == ["open 1", "close 1", "open 2"]
    broadcast.close()
    assert broadcast.join(2)


@pytest.mark.parametrize(
    ("error", "text"),
    [(InputError("no camera"), "no camera"), (ZeroDivisionError("bug"), "ZeroDivisionError: bug")],
)
def test_what_ends_a_stream_is_said_in_words(monkeypatch: pytest.MonkeyPatch, error: Exception, text: str) -> None:
    slow, broadcast = SlowStream(), Broadcast()

    def fail(frame: Frame, faces: Faces) -> None:
        raise error

    monkeypatch.setattr(slow, "send", fail)
    monkeypatch.setattr("canthus.runtime.streams.open_stream", lambda *_: contextlib.nullcontext(slow))
    broadcast.start("vmc", "", StreamOptions())
    broadcast.add(measured())
    assert wait_for(lambda: broadcast.state("vmc").problem == text)
    assert broadcast.state("vmc").phase == "off"


def test_every_stream_has_a_row_whose_controls_have_names(qt: QApplication) -> None:
    panel = StreamsPanel(Broadcast())
    assert tuple(panel.rows) == KINDS
    for row in panel.rows.values():
        assert row.switch.text()
        assert row.switch.toolTip()
        for widget in (row.address, row.state):
            assert widget.accessibleName()
            assert widget.toolTip()
            assert widget.focusPolicy() & Qt.FocusPolicy.TabFocus
