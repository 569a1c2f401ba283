"""What somebody who uses the viewer for the first time expects of it."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PyQt6.QtCore import QRect, QSettings
from PyQt6.QtGui import QColor, QImage, QPainter, QPalette
from PyQt6.QtWidgets import QApplication, QInputDialog

from canthus.gui.app import _control, _parser
from canthus.gui.finder import Tracking
from canthus.gui.keyboard import FocusFrame
from canthus.gui.messages import describe_state
from canthus.gui.opener import Opener
from canthus.gui.overlay import OverlayStyle, frame_to_window, paint_faces
from canthus.gui.playback import Disconnected
from canthus.gui.preferences import (
    Preferences,
    load_addresses,
    load_networks,
    load_preferences,
    save_networks,
    save_preferences,
)
from canthus.gui.recent import last_address, last_folder, recent, remember
from canthus.gui.start_page import StartPage
from canthus.gui.status_bar import StatusBar
from canthus.runtime.errors import InputError
from canthus.runtime.sample import CLIP
from support.viewer import FakeMedia, FakeSource, Viewer, application, measured, viewer_with_new_settings, wait_for

qt = pytest.fixture(scope="session")(application)


@pytest.fixture
def viewer(qt: QApplication, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Viewer]:
    yield from viewer_with_new_settings(monkeypatch, tmp_path)


def test_opening_a_file_does_not_move_the_folder_of_recordings(viewer: Viewer, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    (clips / "a.mp4").touch()
    (clips / "b.mp4").touch()
    viewer.window.opener.open_paths([clips / "a.mp4", clips / "b.mp4"])
    assert load_preferences().folder == tmp_path
    assert last_folder() == str(clips)
    assert recent()[:2] == [str(clips / "a.mp4"), str(clips / "b.mp4")]


def test_the_sample_clip_is_no_recent_file(viewer: Viewer) -> None:
    QSettings("canthus", "canthus").clear()
    viewer.window.show_start()
    viewer.window.start_page.press("Sample clip")
    assert viewer.window.shown is not None
    assert viewer.window.shown.name == CLIP.name
    assert recent() == []
    assert last_folder() == ""


def test_the_last_address_is_offered_again(viewer: Viewer, monkeypatch: pytest.MonkeyPatch) -> None:
    offered: list[str] = []

    def ask(*arguments: object) -> tuple[str, bool]:
        offered.append(str(arguments[-1]))
        return "", False

    monkeypatch.setattr(QInputDialog, "getText", ask)
    QSettings("canthus", "canthus").clear()
    opener: Opener = viewer.window.opener
    opener.ask_address()
    remember("rtsp://192.0.2.1/1")
    opener.ask_address()
    assert offered == ["rtsp://", "rtsp://192.0.2.1/1"] == ["rtsp://", last_address()]


def test_what_needs_a_frame_is_disabled_on_the_start_page(viewer: Viewer) -> None:
    tools = viewer.tools
    actions = (tools.record, tools._save, tools._copy)
    assert all(action.isEnabled() for action in actions)
    viewer.window.show_start()
    assert not any(action.isEnabled() for action in actions)
    viewer.window.open(FakeMedia())
    assert all(action.isEnabled() for action in actions)


def test_the_start_page_says_that_a_recording_was_saved(viewer: Viewer, tmp_path: Path) -> None:
    viewer.tools.record.trigger()
    assert wait_for(lambda: ":" in viewer.tools.record.text(), 10)
    viewer.window.show_start()
    assert viewer.tools.record.isEnabled()  # it can still be stopped
    assert wait_for(lambda: viewer.tools._recorder is None, 5)
    assert any("Saved" in label.text() and label.isVisible() for label in viewer.window.start_page.labels())
    assert not viewer.tools.record.isEnabled()


def test_nothing_is_recorded_of_what_cannot_be_played(viewer: Viewer) -> None:
    viewer.window.open(FakeMedia(lambda: FakeSource(count=0, error=InputError("gone")), live=False))
    assert wait_for(lambda: viewer.window.failure is not None)
    viewer.tools.record.trigger()
    assert viewer.tools._recorder is None
    assert viewer.window.view.hint == "There is nothing to record"


def test_a_recording_ends_when_its_file_cannot_be_read_any_more(viewer: Viewer) -> None:
    viewer.window.open(FakeMedia(lambda: FakeSource(count=400, error=InputError("gone")), live=False))
    viewer.tools.record.trigger()
    assert wait_for(lambda: viewer.window.failure is not None, 10)
    assert wait_for(lambda: viewer.tools._recorder is None, 5)


def test_a_model_that_is_chosen_while_nothing_moves_is_used(viewer: Viewer) -> None:
    assert wait_for(lambda: viewer.tools._result is not None)
    assert viewer.stream.playback is not None
    viewer.stream.playback.set_paused(True)
    panel = viewer.tools.tracking
    panel.model.setCurrentIndex(panel.model.findData("accurate"))
    panel._choose_model()
    assert wait_for(lambda: panel.state.text() == "In use: accurate")
    assert wait_for(lambda: viewer.tools._result is not None and viewer.tools._result.backend == "accurate")


def test_the_time_of_a_pause_is_no_latency(viewer: Viewer) -> None:
    assert wait_for(lambda: viewer.tools._result is not None)
    before, playback = viewer.tools._result, viewer.stream.playback
    assert playback is not None
    playback.set_paused(True)
    wait_for(lambda: False, 0.3)
    now = time.monotonic()
    viewer.stream.refresh()
    assert wait_for(lambda: viewer.tools._result is not before and viewer.tools._result.arrived >= now)


def test_the_model_and_the_device_are_remembered(viewer: Viewer) -> None:
    viewer.tools._use_tracking(Tracking(gpu=False))  # as with --cpu
    assert load_networks() == (None, True)
    panel = viewer.tools.tracking
    for box, value in ((panel.model, "tiny"), (panel.device, True), (panel.device, False)):
        box.setCurrentIndex(box.findData(value))
        box.activated.emit(box.currentIndex())
        assert wait_for(lambda: viewer.control.tracking == panel.tracking)
    assert load_networks() == ("tiny", False)
    assert _control(_parser().parse_args([])).tracking == Tracking(model="tiny", gpu=False)
    assert _control(_parser().parse_args(["--model", "accurate"])).tracking.model == "accurate"
    save_networks(Tracking(), Tracking(model=Path("my.onnx")))
    assert load_networks() == (None, False)  # the file may be gone


def test_the_control_that_has_the_focus_is_marked(viewer: Viewer) -> None:
    action = viewer.tools.docks["tracking"].toggleViewAction()
    assert action is not None
    action.trigger()
    viewer.window.activateWindow()
    (mark,) = viewer.window.findChildren(FocusFrame)
    assert mark.isHidden()
    viewer.tools.tracking.model.setFocus()
    assert wait_for(lambda: mark.widget() is viewer.tools.tracking.model)
    image = mark.grab().toImage()
    assert QColor(image.pixel(image.width() // 2, 1)) == mark.palette().color(QPalette.ColorRole.Accent)
    viewer.window.controls.timeline.setFocus()
    viewer.tools.tracking.model.clearFocus()
    assert wait_for(lambda: mark.widget() is None)
    assert mark.isHidden()


def test_the_model_is_opened_again_when_its_engine_is_built(viewer: Viewer) -> None:
    assert wait_for(lambda: viewer.tools._result is not None)
    viewer.tools.tracking.engine.built.emit()
    assert wait_for(lambda: len(viewer.models) == 2 and viewer.models[0].closed)


def test_the_window_fits_a_small_screen_at_200_percent(viewer: Viewer) -> None:
    assert viewer.window.minimumWidth() <= 630
    assert viewer.window.minimumHeight() <= 360
    for dock in viewer.tools.docks.values():
        dock.show()
    needed = viewer.window.minimumSizeHint()  # of the layout
    assert needed.width() <= viewer.window.minimumWidth()
    assert needed.height() <= viewer.window.minimumHeight()


def test_a_panel_gets_room_beside_the_video(viewer: Viewer) -> None:
    window = viewer.window
    window.setGeometry(QRect(0, 0, 640, 400))
    action = viewer.tools.docks["tracking"].toggleViewAction()
    assert action is not None
    action.trigger()
    assert wait_for(lambda: window.width() > 700)
    assert window.geometry().right() <= QRect(0, 0, 800, 800).right()  # of the screen


def test_buttons_without_room_are_left_out(qt: QApplication, viewer: Viewer) -> None:
    bar: StatusBar = viewer.window._bar
    bar.resize(1000, 30)
    wide = [button.isHidden() for button in bar._buttons.values()]
    bar.resize(120, 30)
    narrow = [button.isHidden() for button in bar._buttons.values()]
    assert not any(wide)
    assert narrow[-1]
    assert not narrow[0]
    bar.resize(1000, 30)
    bar.show_button(viewer.window.controls.pause, shown=False)
    assert [button.isHidden() for button in bar._buttons.values()] == [True, *wide[1:]]


@pytest.mark.parametrize(("width", "columns"), [(900, 2), (360, 1)])
def test_the_start_page_is_not_cut_off(qt: QApplication, width: int, columns: int) -> None:
    page = StartPage()
    page.show_recent(["/tmp/a.mp4"])
    page.resize(width, 400)
    page.show()
    QApplication.processEvents()
    content, viewport = page.widget(), page.viewport()
    assert content is not None
    assert viewport is not None
    assert content.width() <= viewport.width()
    assert page._columns == columns
    page.close()


@pytest.mark.parametrize(("has_result", "title"), [(False, "Stream not available"), (True, "Stream interrupted")])
def test_an_address_is_not_called_a_camera(has_result: bool, title: str) -> None:
    message = describe_state(Disconnected("no data"), "rtsp://192.0.2.1/1", has_result, has_faces=False, is_stream=True)
    assert message.title == title


def test_a_long_hint_is_shown_long_enough_to_be_read(viewer: Viewer) -> None:
    viewer.window.show_hint("Saved")
    assert viewer.window._hint_timer.interval() == 2500
    viewer.window.show_hint("The recording failed: " + 100 * "x")
    assert viewer.window._hint_timer.interval() > 7000


def test_numbers_do_not_change_the_size_of_the_ids(qt: QApplication) -> None:
    faces = measured(size=250).faces

    def paint(numbers: bool) -> QImage:
        image = QImage(320, 280, QImage.Format.Format_RGB32)
        image.fill(0)
        painter = QPainter(image)
        to_window = frame_to_window(320, 280, QRect(0, 0, 320, 280).toRectF(), False)
        paint_faces(painter, faces, to_window, OverlayStyle(points=False, lines=False, ids=True, numbers=numbers))
        painter.end()
        return image

    with_numbers, without = paint(numbers=True), paint(numbers=False)
    assert with_numbers != without
    top = QRect(0, 0, 320, 38)  # above the points
    assert with_numbers.copy(top) == without.copy(top)


def test_settings_of_a_wrong_type_have_their_defaults(qt: QApplication, tmp_path: Path) -> None:
    save_preferences(Preferences(folder=tmp_path))
    settings = QSettings("canthus", "canthus")
    for key in ("recordings", "annotated", "folder", "streams/vmc"):
        settings.setValue(key, QRect(1, 2, 3, 4))
    settings.setValue("table", "perhaps")
    loaded = load_preferences()
    assert loaded.annotated
    assert loaded.table
    assert loaded.folder.is_dir()
    assert last_folder() == ""
    assert not any(load_addresses().values())
    settings.clear()
