"""Clips and cameras in the window, driven as a person does."""

import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PyQt6.QtCore import QMimeData, QPoint, QPointF, QSettings, Qt, QUrl
from PyQt6.QtGui import QDragEnterEvent, QDropEvent
from PyQt6.QtTest import QTest
from PyQt6.QtWidgets import QApplication, QFileDialog, QInputDialog

from canthus.gui import opener, window
from canthus.gui.cameras import CameraWatcher
from canthus.gui.image_clip import IMAGE_SECONDS
from canthus.gui.media import CameraMedia, VideoMedia
from canthus.gui.playback import Failed
from canthus.gui.window import Window
from canthus.runtime.bench.machine import open_handles
from canthus.runtime.cameras import CameraInfo, CameraMode
from canthus.runtime.errors import InputError
from canthus.runtime.sample import CLIP
from canthus.runtime.types import Frame
from support.viewer import FakeFinder, FakeMedia, FakeSource, FakeStream, application, wait_for

qt = pytest.fixture(scope="session")(application)
TIMES = [index / 30 for index in range(300)]


def clip(name: str = "clip", seconds: int = 10) -> FakeMedia:
    return FakeMedia(lambda: FakeSource(TIMES[: 30 * seconds]), live=False, name=name)


class Person:
    """A window with fake models, and what a person does with it."""

    def __init__(self) -> None:
        self.finder = FakeFinder()
        self.stream = FakeStream(lambda live: self.finder)
        self.window = Window(self.stream)
        self.errors: list[BaseException] = []
        self.window.failed.connect(self.errors.append)
        self.window.show()
        self.stream.start()

    def opens(self, *media: FakeMedia) -> None:
        self.window.open(*media)
        assert wait_for(lambda: self.window.status != "")

    def presses(self, key: Qt.Key) -> None:
        QTest.keyClick(self.window, key)

    @property
    def position(self) -> float:
        return self.window.controls.timeline.position


@pytest.fixture
def person(qt: QApplication, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Person]:
    QSettings.setPath(QSettings.Format.NativeFormat, QSettings.Scope.UserScope, str(tmp_path / "settings"))
    QSettings("canthus", "canthus").clear()
    monkeypatch.setattr(window, "describe_machine", lambda: [("CPU", "a fake")])
    person = Person()
    yield person
    person.window.close()
    assert person.stream.join(2.0)


def test_person_pauses_steps_and_goes_on(person: Person) -> None:
    person.opens(clip())
    person.presses(Qt.Key.Key_Space)
    assert wait_for(lambda: "Paused" in person.window.view.hint)
    wait_for(lambda: False, 0.1)
    start = person.position
    person.presses(Qt.Key.Key_Period)
    assert wait_for(lambda: person.position == pytest.approx(start + 1 / 30, abs=2e-3))
    person.presses(Qt.Key.Key_Comma)
    assert wait_for(lambda: person.position == pytest.approx(start, abs=2e-3))
    person.presses(Qt.Key.Key_Space)
    assert wait_for(lambda: person.position > start + 0.1)


def test_person_scrubs_with_the_mouse_while_paused(person: Person) -> None:
    person.opens(clip())
    person.presses(Qt.Key.Key_Space)
    timeline = person.window.controls.timeline
    for share in (0.2, 0.8, 0.5):
        QTest.mouseClick(timeline, Qt.MouseButton.LeftButton, pos=QPoint(round(timeline.width() * share), 12))
    assert wait_for(lambda: bool(person.finder.seen) and abs(person.finder.seen[-1][1] - 5.0) < 0.2)
    assert wait_for(lambda: abs(person.position - 5.0) < 0.2)
    assert wait_for(lambda: person.window.status == "1 face")
    assert 2 <= len(timeline.spans()) <= 4  # the start, and the places of the clicks that were searched
    person.presses(Qt.Key.Key_Right)
    assert wait_for(lambda: abs(person.finder.seen[-1][1] - 9.97) < 0.2)


def test_speed_and_loop_act_at_once(person: Person) -> None:
    person.opens(clip(seconds=1))
    person.window.controls.set_speed(4.0)
    person.window.controls.loop.setChecked(True)
    assert wait_for(lambda: person.finder.restarts >= 3)  # three times a second of the clip
    assert person.window.controls.pause.text() == "Pause"


def test_files_of_a_list_are_played_one_after_the_other(person: Person) -> None:
    short = FakeMedia(lambda: FakeSource([0.0, 0.03]), live=False, name="one")
    person.opens(short, clip("two"))
    assert wait_for(lambda: "two (2/2)" in person.window.windowTitle())
    person.presses(Qt.Key.Key_PageUp)
    assert "one (1/2)" in person.window.windowTitle()
    person.presses(Qt.Key.Key_PageDown)
    assert "two (2/2)" in person.window.windowTitle()


def test_replayed_clip_keeps_its_ids_although_the_tracker_gives_new_ones(person: Person) -> None:
    class Counting(FakeFinder):
        def update(self, frame):  # type: ignore[no-untyped-def]
            faces = super().update(frame)
            faces.ids[:] = self.restarts
            faces.points[0, :49] += 10  # a face of 10 x 10 pixels
            return faces

    person.finder = Counting()
    shown = []
    person.stream.results.filled.connect(lambda: shown.append(person.window.view._result))
    person.opens(clip(seconds=1))
    person.window.controls.seek(0.0)
    assert wait_for(lambda: person.finder.restarts >= 2 and len(shown) > 12)
    assert {int(result.faces.ids[0]) for result in shown if result and len(result.faces)} == {0}


def write_image(path: Path, gray: int) -> None:
    cv2.imwrite(str(path), np.full((48, 64, 3), gray, np.uint8))


def test_dropped_images_are_shown_and_remembered(person: Person, tmp_path: Path) -> None:
    write_image(tmp_path / "1.png", 50)
    write_image(tmp_path / "2.png", 200)
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(tmp_path / name)) for name in ("1.png", "2.png")])
    none = Qt.KeyboardModifier.NoModifier
    copy, button = Qt.DropAction.CopyAction, Qt.MouseButton.LeftButton
    QApplication.sendEvent(person.window, QDragEnterEvent(QPoint(9, 9), copy, data, button, none))
    QApplication.sendEvent(person.window, QDropEvent(QPointF(9, 9), copy, data, button, none))
    assert wait_for(lambda: person.window.controls.timeline.duration == 2 * IMAGE_SECONDS)
    person.presses(Qt.Key.Key_Period)
    assert wait_for(lambda: person.position == IMAGE_SECONDS)
    assert wait_for(lambda: person.finder.restarts == 2)  # the images are separate
    person.window.show_start()
    assert {"1.png", "2.png"} <= set(person.window.start_page.buttons())


def test_open_dialog_plays_what_was_chosen(person: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "1.png", 50)
    monkeypatch.setattr(QFileDialog, "getOpenFileNames", lambda *_: ([str(tmp_path / "1.png")], ""))
    person.window.show_start()
    person.window.start_page.press("Open files")
    assert wait_for(lambda: "1.png" in person.window.windowTitle() and person.window.status == "1 face")
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: "")  # cancelled
    person.window.opener.ask_folder()
    assert "1.png" in person.window.windowTitle()


def test_wrong_address_is_reported_and_does_not_replace_the_clip(
    person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    person.opens(clip())
    monkeypatch.setattr(QInputDialog, "getText", lambda *_: ("ftp://host/clip", True))
    person.window.opener.ask_address()
    assert "ftp://host/clip: not an address" in person.window.view.hint
    assert "clip" in person.window.windowTitle()
    assert len(person.errors) == 1


def test_unreadable_file_offers_what_to_do(person: Person) -> None:
    def text() -> FakeSource:
        raise InputError("notes.mp4: not a readable video")

    person.window.open(FakeMedia(text, live=False, name="notes.mp4"), clip("good"))
    card = person.window.view.card
    assert wait_for(lambda: "not a readable video" in card.message)
    assert card.choices[:2] == ["Try again", "Next file"]
    assert [str(error) for error in person.errors] == ["notes.mp4: not a readable video"]
    card.press("Next file")
    assert wait_for(lambda: card.message == "" and "good" in person.window.windowTitle())
    assert person.window.failure is None


def test_failed_models_are_loaded_again_on_request(person: Person) -> None:
    good, person.finder = person.finder, None  # type: ignore[assignment]
    person.window.open(clip())
    assert wait_for(lambda: isinstance(person.window._state, Failed))
    person.finder = good
    person.window.view.card.press("Try again")
    assert wait_for(lambda: person.window.status != "" and person.window.view.message == "")


def test_camera_that_sends_nothing_is_noticed_and_reconnects(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "SILENT_SECONDS", 0.2)
    frozen, goes_on = threading.Event(), threading.Event()

    class Freezing(FakeSource):
        def __iter__(self):  # type: ignore[no-untyped-def]
            for frame in super().__iter__():
                if frozen.is_set():
                    goes_on.wait(3)
                yield frame

    person.opens(FakeMedia(Freezing, name="camera 3"))
    frozen.set()
    assert wait_for(lambda: "No image from camera 3" in person.window.view.hint)
    frozen.clear()
    goes_on.set()
    assert wait_for(lambda: person.window.view.hint == "")


def test_camera_that_was_opened_again_because_it_repeats_its_image_is_mentioned(person: Person) -> None:
    class Repeating(FakeSource):
        reopened = 0

        def __iter__(self) -> Iterator[Frame]:
            for shown in super().__iter__():
                self.reopened = shown.index // 20
                yield shown

    person.opens(FakeMedia(Repeating, name="Webcam"))
    assert wait_for(lambda: person.window.view.hint == "Webcam repeated the same image and was opened again")
    assert person.window.view.message == ""


def test_camera_that_opens_slowly_can_be_left(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "PATIENCE_SECONDS", 0.1)
    opened = threading.Event()

    def slow() -> FakeSource:
        opened.wait(3)
        return FakeSource()

    person.window.open(FakeMedia(slow, name="camera 0"))
    assert wait_for(lambda: "Start page" in person.window.view.card.choices)
    person.window.view.card.press("Start page")
    assert person.window.windowTitle() == "canthus"
    opened.set()


def test_cameras_appear_on_the_start_page_when_they_are_plugged_in(
    person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    person.window.show_start()
    assert not [text for text in person.window.start_page.buttons() if "1280" in text]
    person.window.cameras._take([CameraInfo(2, "Fake Cam", (CameraMode(1280, 720, 30.0, "MJPG"),))])
    assert [text for text in person.window.start_page.buttons() if text.startswith("Fake Cam\n1280")]
    chosen: list[object] = []
    person.window.start_page.chosen.disconnect()
    person.window.start_page.chosen.connect(chosen.append)
    person.window.start_page.press("Fake Cam")
    assert chosen == [CameraMedia(2, "Fake Cam")]
    menu = person.window.opener._camera_menu.actions()[0].menu()
    assert menu is not None
    assert len(menu.actions()) == 2  # automatic, and the mode


def test_start_page_shows_what_was_found(person: Person) -> None:
    person.window.show_start()
    assert wait_for(lambda: "a fake" in [label.text() for label in person.window.start_page.labels()])


def test_watcher_notices_a_new_device(qt: QApplication, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = CameraWatcher(folder=tmp_path)
    assert watcher.cameras == []
    (tmp_path / "video7").touch()
    watcher._look()
    assert wait_for(lambda: [camera.number for camera in watcher.cameras] == [7])


def test_clear_of_the_list_forgets_what_was_opened(person: Person, tmp_path: Path) -> None:
    opener.remember("rtsp://user:secret@host/1")
    assert opener.recent() == ["rtsp://host/1"]
    opener.forget_all()
    assert opener.recent() == []


def test_clip_that_is_opened_and_closed_five_times_leaves_no_thread_and_no_handle(person: Person) -> None:
    states = []
    for _ in range(5):
        person.window.open(VideoMedia(CLIP))
        playback = person.stream.playback
        assert playback is not None
        seen = len(person.finder.seen)
        assert wait_for(lambda seen=seen: len(person.finder.seen) > seen, 20)  # type: ignore[misc]
        person.window.show_start()
        assert playback.join(2.0)
        assert wait_for(lambda: not any(thread.name == "background" for thread in threading.enumerate()))
        states.append((threading.active_count(), open_handles()))
    assert states[1:] == [states[1]] * 4  # the libraries keep some after the first time
