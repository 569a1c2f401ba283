"""Panels, recordings, snapshots, preferences and help, as a user would use them."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PyQt6.QtCore import QSettings, Qt
from PyQt6.QtGui import QGuiApplication
from PyQt6.QtTest import QTest
from PyQt6.QtWidgets import QAbstractButton, QApplication, QComboBox, QLineEdit, QSlider, QSpinBox, QWidget

from canthus.gui import dialogs, theme
from canthus.gui.dialogs import AboutDialog, PreferencesDialog
from canthus.gui.finder import FinderState, Tracking
from canthus.gui.overlay import OverlayStyle
from canthus.gui.panels.engine import EngineBuilder
from canthus.gui.panels.face import FacePanel
from canthus.gui.panels.performance import PerformancePanel
from canthus.gui.panels.plots import Plot, Scale
from canthus.gui.panels.tracking import TrackingPanel
from canthus.gui.preferences import Preferences, load_preferences, load_style, save_preferences, save_style
from canthus.gui.stream import Result
from canthus.runtime.types import Faces
from support.viewer import FakeMedia, Viewer, application, frame, measured, viewer_with_new_settings, wait_for

qt = pytest.fixture(scope="session")(application)


@pytest.fixture
def viewer(qt: QApplication, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Viewer]:
    yield from viewer_with_new_settings(monkeypatch, tmp_path)


def test_panels_are_hidden_until_they_are_wanted(viewer: Viewer) -> None:
    assert not any(dock.isVisible() for dock in viewer.tools.docks.values())
    for name, dock in viewer.tools.docks.items():
        action = dock.toggleViewAction()
        assert action is not None
        assert action in viewer.window.menus.view.actions(), name
        action.trigger()
        assert wait_for(dock.isVisible)


def test_the_model_is_switched_while_frames_go_on(viewer: Viewer) -> None:
    panel = viewer.tools.tracking
    panel.model.setCurrentIndex(panel.model.findData("accurate"))
    panel._choose_model()
    assert wait_for(lambda: viewer.tools._result is not None and viewer.tools._result.backend == "accurate")
    assert wait_for(lambda: panel.state.text() == "In use: accurate")
    panel.max_faces.setValue(2)
    assert wait_for(lambda: viewer.models[-1].trackings[-1].max_faces == 2)
    assert len(viewer.models) == 2


def test_head_axes_turn_the_measures_on(viewer: Viewer) -> None:
    assert not viewer.control.tracking.measures
    viewer.window.switches.actions["pose"].trigger()
    assert wait_for(lambda: viewer.models[0].trackings[-1].measures)
    assert viewer.tools.tracking.measures.isChecked()


def test_the_face_panel_turns_the_measures_on(viewer: Viewer) -> None:
    viewer.tools.docks["face"].show()
    assert wait_for(lambda: viewer.control.tracking.measures)


def test_recording_is_started_and_stopped_by_its_key(viewer: Viewer, tmp_path: Path) -> None:
    viewer.tools.record.trigger()
    assert wait_for(lambda: ":" in viewer.tools.record.text(), 10)
    wait_for(lambda: False, 0.3)
    viewer.tools.record.trigger()
    assert wait_for(lambda: viewer.tools._recorder is None, 5)
    assert "Saved" in viewer.window.view.hint
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".csv", ".json", ".mp4"]
    assert viewer.tools.record.text() == "Record"


def test_a_recording_ends_when_something_else_is_opened(viewer: Viewer, tmp_path: Path) -> None:
    viewer.tools.record.trigger()
    assert wait_for(lambda: ":" in viewer.tools.record.text(), 10)
    viewer.window.open(FakeMedia())
    assert wait_for(lambda: viewer.tools._recorder is None, 5)
    assert list(tmp_path.glob("*.mp4"))


def test_closing_the_window_completes_the_recording(
    qt: QApplication, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    save_preferences(Preferences(folder=tmp_path, table=False))
    viewer = Viewer(monkeypatch)
    viewer.tools.record.trigger()
    assert wait_for(lambda: ":" in viewer.tools.record.text(), 10)
    viewer.close()
    assert [path.suffix for path in tmp_path.iterdir()] == [".mp4"]


def test_snapshot_and_clipboard(viewer: Viewer, tmp_path: Path) -> None:
    viewer.tools.save_snapshot()
    assert wait_for(lambda: "Saved" in viewer.window.view.hint)
    (file,) = tmp_path.glob("*.json")
    assert len(json.loads(file.read_text())["faces"]) == 1
    viewer.tools.copy()
    assert wait_for(lambda: "Copied" in viewer.window.view.hint)
    clipboard = QGuiApplication.clipboard()
    assert clipboard is not None
    assert clipboard.image().width() == 64


def test_there_is_nothing_to_record_on_the_start_page(viewer: Viewer, tmp_path: Path) -> None:
    viewer.window.show_start()
    for action in (viewer.tools.toggle_recording, viewer.tools.save_snapshot, viewer.tools.copy):
        action()
    assert not list(tmp_path.iterdir())


def test_help_lies_over_a_message_and_any_key_closes_it(viewer: Viewer) -> None:
    viewer.window.view.show_message("Camera not available", "Retrying every second…", [])
    viewer.window._show_help()
    sheet = viewer.window.help
    assert sheet.isVisible()
    assert sheet.geometry() == viewer.window.rect()
    assert viewer.window.children()[-1] is sheet  # the topmost one
    texts = [label.text() for label in sheet.findChildren(dialogs.QLabel)]
    for text in ("Head axes", "Record", "Ctrl+R", "Space", "Full screen"):
        assert text in texts
    viewer.window.resize(900, 600)
    assert wait_for(lambda: sheet.geometry() == viewer.window.rect())
    QTest.keyClick(sheet, Qt.Key.Key_H)
    assert not sheet.isVisible()


def test_preferences_are_applied_and_stored(viewer: Viewer, tmp_path: Path) -> None:
    viewer.tools.ask_preferences()
    (dialog,) = viewer.window.findChildren(PreferencesDialog)
    dialog.theme.setCurrentIndex(dialog.theme.findData("light"))
    dialog.annotated.setChecked(False)
    dialog.folder.setText(str(tmp_path / "missing"))
    dialog.accept()
    assert load_preferences() == Preferences("light", tmp_path, annotated=False, table=True)
    assert viewer.window.palette().window().color().lightness() > 200
    dialog.theme.setCurrentIndex(dialog.theme.findData("dark"))
    dialog.accept()
    assert viewer.window.palette().window().color().lightness() < 50


def test_light_and_dark_follow_the_system(qt: QApplication, monkeypatch: pytest.MonkeyPatch) -> None:
    for dark in (False, True):
        monkeypatch.setattr(theme, "system_is_dark", lambda dark=dark: dark)
        theme.apply_theme("system")
        assert (QApplication.palette().window().color().lightness() < 128) == dark


def test_about_names_versions_and_licences(viewer: Viewer) -> None:
    viewer.tools.show_about()
    (about,) = viewer.window.findChildren(AboutDialog)
    for text in ("canthus", "Qt 6", "openvino", "Licence: MIT", "GPL 3"):
        assert text in about.text.text()
    assert dialogs.version_of("no-such-package") == "not installed"
    about.close()


def test_switches_size_and_panels_are_remembered(
    qt: QApplication, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    QSettings("canthus", "canthus").clear()
    first = Viewer(monkeypatch)
    first.window.resize(777, 555)
    first.window.switches.actions["boxes"].trigger()
    first.tools.docks["performance"].show()
    wait_for(lambda: False, 0.05)
    first.close()
    second = Viewer(monkeypatch)
    assert second.window.switches.style.boxes
    assert second.tools.docks["performance"].isVisible()
    assert not second.tools.docks["face"].isVisible()
    assert second.window.width() == 777
    second.close()


def test_stored_nonsense_is_ignored(qt: QApplication) -> None:
    settings = QSettings("canthus", "canthus")
    settings.clear()
    settings.setValue("theme", "pink")
    settings.setValue("recordings", "/no/such/folder")
    settings.setValue("overlay/lines", "maybe")
    assert load_preferences().theme == "system"
    assert load_preferences().folder.is_dir()
    assert load_style(OverlayStyle()).lines
    save_style(OverlayStyle(trails=True, mirrored=True))
    assert load_style(OverlayStyle()) == OverlayStyle(trails=True)


def test_every_control_has_a_name_and_a_tooltip(viewer: Viewer) -> None:
    kinds = (QAbstractButton, QComboBox, QSlider, QSpinBox)
    panels: list[QWidget] = [viewer.tools.tracking, viewer.tools.performance, viewer.tools.face, viewer.tools.streams]
    panels.append(viewer.tools.person.dialog)
    panels.append(PreferencesDialog(viewer.window, viewer.tools.preferences))
    for panel in panels:
        for kind in kinds:
            for widget in panel.findChildren(kind):
                name = widget.accessibleName() or (widget.text() if isinstance(widget, QAbstractButton) else "")
                assert name, widget
                if not (isinstance(widget, QAbstractButton) and name.strip("&") in ("OK", "Cancel")):
                    assert widget.toolTip(), name
        assert all(
            edit.accessibleName() for edit in panel.findChildren(QLineEdit) if edit.isEnabled() and edit.toolTip()
        )


def test_tracking_panel_shows_and_emits_settings(qt: QApplication) -> None:
    panel = TrackingPanel(Tracking(model="/models/my.onnx", max_faces=3, min_score=0.4), ["accurate", "fast"])
    assert panel.model.currentText() == "my.onnx"
    assert (panel.max_faces.value(), panel.score.value()) == (3, 40)
    emitted: list[Tracking] = []
    panel.changed.connect(emitted.append)
    panel.score.setValue(55)
    panel.score.setValue(60)
    panel.smoothing.setChecked(False)
    panel.interval.setValue(0.2)
    assert wait_for(lambda: bool(emitted))
    expected = replace(panel.tracking, min_score=0.6, smoothing=False, detection_interval=0.2)
    assert emitted == [expected]  # once for all of them
    panel.show_state(FinderState(error="no such model"))
    assert "no such model" in panel.state.text()
    panel.show_state(FinderState("fast", opening=True))
    assert "Opening" in panel.state.text()


STEPS = "import time; print('1/3 a: one', flush=True); print('2/3 a: two', flush=True); time.sleep({seconds}); {end}"


@pytest.mark.parametrize(
    ("end", "text"), [("pass", "The engine is built"), ("raise SystemExit('no GPU')", "The build failed: no GPU")]
)
def test_engine_build_shows_its_progress_and_end(qt: QApplication, end: str, text: str) -> None:
    builder = EngineBuilder(sys.executable, ("-c", STEPS.format(seconds=0.2, end=end)))
    builder.build()
    assert wait_for(lambda: builder.note.text() == "a: two", 5)
    assert (builder.bar.value(), builder.bar.maximum()) == (1, 3)
    assert wait_for(lambda: not builder.running, 5)
    assert text in builder.note.text()


def test_engine_build_can_be_cancelled(qt: QApplication) -> None:
    builder = EngineBuilder(sys.executable, ("-c", STEPS.format(seconds=20, end="pass")))
    builder.build()
    assert wait_for(lambda: builder.note.text() == "a: two", 5)
    builder.cancel.click()
    assert wait_for(lambda: not builder.running, 5)
    assert builder.note.text() == "The build was cancelled."
    builder.build()
    assert wait_for(lambda: builder.note.text() == "a: two", 5)
    builder.close_now()
    assert not builder.running


def test_engine_build_that_cannot_start_is_reported(qt: QApplication) -> None:
    builder = EngineBuilder("/no/such/program", ())
    builder.build()
    assert wait_for(lambda: not builder.running, 5)
    assert "cannot be started" in builder.note.text()


def test_performance_panel_shows_no_stale_figures(qt: QApplication) -> None:
    panel = PerformancePanel()
    panel.show()
    for index in range(31):
        panel.add(Result(frame(), Faces.none(), {"landmark": 0.004}, 3, "", 9.95 + index / 30), now=10 + index / 30)
    panel.refresh(now=11.0)
    assert (panel.rate.text(), panel.latency.text(), panel.dropped.text()) == ("30.0", "50 ms", "3")
    assert panel.stages.values["landmark"] == pytest.approx(4)
    panel.add(Result(frame(), Faces.none(), {}, 3), now=11.5)  # the models are loading
    panel.refresh(now=13.0)
    assert (panel.rate.text(), panel.latency.text()) == ("-", "-")
    panel.close()


def test_face_panel_follows_the_chosen_face(qt: QApplication) -> None:
    panel = FacePanel()
    panel.show()
    panel.add(measured(3))
    assert panel.head.values.keys() == {"pose_yaw", "pose_pitch", "pose_roll"}
    assert "Face 3" in panel.note.text()
    panel.choice.setCurrentIndex(panel.choice.findData(3))
    panel.add(measured(4, 0.1))
    assert panel.choice.currentData() == 3  # it stays in the list while it is away
    assert "Face 3" in panel.note.text()
    panel.choice.setCurrentIndex(0)
    panel.add(measured(4, 0.2))
    assert "Face 4" in panel.note.text()
    panel.refresh()
    panel.add(replace(measured(4, 0.3), faces=Faces.none()))
    panel.refresh()
    assert "Waiting" in panel.note.text()
    panel.close()


@pytest.mark.parametrize("stacked", [False, True])
def test_plots_keep_ten_seconds_and_are_painted(qt: QApplication, stacked: bool) -> None:
    plot = Plot("Values", {"a": "first", "b": "second"}, Scale(-1, 1, grows=True), stacked)
    plot.resize(200, 120)
    empty = plot.grab().toImage()
    for index in range(200):
        plot.add(index / 10, {"a": 0.5, "b": 3.0})
    assert len(plot._rows) == 101
    assert plot.grab().toImage() != empty
    plot.add(0.0, {"a": 0.1})
    assert (len(plot._rows), plot.values) == (1, {"a": 0.1, "b": 0.0})
    plot.clear()
    assert plot.values == {}


def test_a_rescued_recording_is_named(viewer: Viewer) -> None:
    viewer.tools._show_rescued([Path("canthus-1.mp4"), Path("canthus-1.csv")])
    assert viewer.window.view.hint == "Found a recording that was cut off: canthus-1.mp4"


def test_keys_of_a_slider_move_it_although_they_are_shortcuts(viewer: Viewer) -> None:
    viewer.tools.docks["tracking"].show()
    slider = viewer.tools.tracking.score
    viewer.window.activateWindow()
    slider.setFocus()
    assert wait_for(lambda: QApplication.focusWidget() is slider)
    QTest.keyClick(slider, Qt.Key.Key_Right)
    assert slider.value() == 1
