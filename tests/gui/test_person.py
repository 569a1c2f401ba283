"""Measure, save and use the neutral face of a person in the viewer."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PyQt6.QtWidgets import QApplication, QFileDialog

from canthus.gui import app, person
from canthus.gui.finder import Tracking
from canthus.gui.panels.tracking import TrackingPanel
from canthus.runtime.cli import main
from canthus.runtime.measures.features import POPULATION
from canthus.runtime.measures.known import make_known
from canthus.runtime.person_file import read_person, write_person
from support.viewer import Viewer, application, measured, viewer_with_new_settings, wait_for

qt = pytest.fixture(scope="session")(application)

KNOWN = make_known(POPULATION, (0.1, 0.1), np.zeros((98, 3)))


@pytest.fixture
def viewer(qt: QApplication, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Viewer]:
    yield from viewer_with_new_settings(monkeypatch, tmp_path)


def test_a_neutral_face_is_measured_and_saved_and_then_used(
    viewer: Viewer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "me.json"
    monkeypatch.setattr(person, "WATCH_SECONDS", 0.2)
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "me"), ""))
    menu = viewer.tools.person
    menu.menu.actions()[0].trigger()
    dialog = menu.dialog
    assert dialog.isVisible()
    assert "Look calmly" in dialog.text.text()
    assert wait_for(lambda: viewer.models[0].calibrations == 1 and viewer.models[0].trackings[-1].measures)
    known = measured()
    assert known.faces.measures is not None
    calibrated = known.faces.measures.values[:, -1]
    for value in (1.0, 0.4, 0.9):  # the first result has the neutral face of before
        calibrated[:] = value
        dialog.add(known)
        dialog.refresh()
        assert dialog.bar.value() < 100
        assert not dialog.keep.isEnabled()
    calibrated[:] = 1.0
    dialog.add(known)
    assert wait_for(dialog.keep.isEnabled)
    viewer.models[0].known = KNOWN
    dialog.keep.click()
    assert wait_for(lambda: viewer.models[0].trackings[-1].person == path)
    assert read_person(path) == KNOWN
    assert "me.json, which is used from now on" in viewer.window.view.hint
    assert not dialog.isVisible()
    assert viewer.tools.tracking.person.text() == "Neutral face: me.json"


def test_a_face_that_is_not_seen_is_not_the_end(viewer: Viewer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(person, "PATIENCE_SECONDS", 0.1)
    viewer.tools.person.ask_measure()
    dialog = viewer.tools.person.dialog
    assert wait_for(lambda: "not seen long enough" in dialog.text.text())
    monkeypatch.setattr(person, "PATIENCE_SECONDS", 30.0)
    dialog.again.click()
    assert "Look calmly" in dialog.text.text()
    assert wait_for(lambda: viewer.models[0].calibrations == 2)
    dialog.close()


def test_a_file_is_used_and_forgotten(viewer: Viewer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "her.json"
    write_person(path, KNOWN)
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(path), ""))
    viewer.tools.person.ask_file()
    assert wait_for(lambda: viewer.models[0].trackings[-1].person == path)
    viewer.tools.person.forget()
    assert wait_for(lambda: viewer.models[0].trackings[-1].person is None)
    assert viewer.tools.tracking.person.text() == "Neutral face: measured at the start"


def test_a_file_that_is_no_person_is_named_and_nothing_changes(viewer: Viewer, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{}")
    viewer.tools.person.use_file(tmp_path / "bad.json")
    assert wait_for(lambda: "bad.json: not the file of a person" in viewer.window.view.hint)
    assert viewer.control.tracking.person is None


def test_there_is_no_person_to_save_without_a_measured_face(viewer: Viewer) -> None:
    viewer.tools.person.save()
    assert wait_for(lambda: "No measured face is visible" in viewer.window.view.hint)


def test_nothing_is_measured_on_the_start_page(viewer: Viewer) -> None:
    viewer.window.show_start()
    viewer.tools.person.ask_measure()
    assert not viewer.tools.person.dialog.isVisible()


def test_the_option_person_reaches_the_tracking(tmp_path: Path) -> None:
    args = app._parser().parse_args(["--person", str(tmp_path / "me.json")])
    assert app._control(args).tracking == Tracking(measures=True, person=tmp_path / "me.json")


def test_a_damaged_person_is_one_line_before_there_is_a_window(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.json").write_text("[1]")
    assert main(["view", "--person", str(tmp_path / "bad.json")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_the_panel_names_the_person(qt: QApplication) -> None:
    assert TrackingPanel(Tracking(person=Path("a/me.json")), ["fast"]).person.text() == "Neutral face: me.json"
