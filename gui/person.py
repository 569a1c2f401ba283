"""The menu with which a person's neutral face is measured, saved and used."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from PyQt6.QtCore import QObject, QTimer, pyqtSignal
from PyQt6.QtWidgets import (
    QDialog,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QMenu,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from canthus.gui.background_task import BackgroundTask
from canthus.gui.finder import Tracking, TrackingControl
from canthus.gui.menus import new_action
from canthus.gui.stream import Result
from canthus.gui.window import Window
from canthus.runtime.errors import CanthusError

if TYPE_CHECKING:
    from canthus.runtime.measures import KnownPerson

WATCH_SECONDS = 8.0
"""How long a face is watched, as by `canthus calibrate`: two seconds of a neutral face, and some blinks."""

PATIENCE_SECONDS = 30.0
"""After this time without a neutral face, the dialog says what to do."""

REFRESH_MS = 100


class NeutralFaceDialog(QDialog):
    """Shows how much of the neutral face is known.

    `wanted` is emitted when it is to be measured from the beginning, and `save` by a button when it is known.
    """

    wanted = pyqtSignal()
    save = pyqtSignal()

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setWindowTitle(self.tr("Neutral face"))
        self.text = QLabel()
        self.text.setWordWrap(True)
        self.text.setMinimumWidth(320)
        self.text.setMinimumHeight(3 * self.fontMetrics().lineSpacing())
        self.bar = QProgressBar()
        self.bar.setRange(0, 100)
        self.bar.setAccessibleName(self.tr("How much of the neutral face is known"))
        self.bar.setToolTip(self.bar.accessibleName())
        self.again, self.keep = QPushButton(self.tr("Measure again")), QPushButton(self.tr("Save…"))
        close = QPushButton(self.tr("Close"))
        self.again.setToolTip(self.tr("Measure the neutral face from the beginning"))
        self.keep.setToolTip(self.tr("Save the person to a file, which the option --person reads"))
        close.setToolTip(self.tr("Close this window; what was measured is in use while the face is visible"))
        self.again.clicked.connect(self.begin)
        self.keep.clicked.connect(self.save)
        close.clicked.connect(self.reject)
        row = QHBoxLayout()
        for button in (self.again, self.keep, close):
            row.addWidget(button)
        column = QVBoxLayout(self)
        column.addWidget(self.text)
        column.addWidget(self.bar)
        column.addLayout(row)
        self._began = self._known = 0.0
        self._forgotten = False  # the results have no longer the neutral face of before
        self._timer = QTimer(self)
        self._timer.setInterval(REFRESH_MS)
        self._timer.timeout.connect(self.refresh)

    def begin(self) -> None:
        """Measure from the beginning."""
        self._began, self._known, self._forgotten = time.monotonic(), 0.0, False
        self._timer.start()
        self.wanted.emit()
        self.refresh()

    def add(self, result: Result) -> None:
        """Look how much is known of the largest face of a result."""
        faces, measures = result.faces, result.faces.measures
        if self._timer.isActive() and measures is not None and len(faces):
            known = float(measures.calibrated[(faces.boxes[:, 3] - faces.boxes[:, 1]).argmax()])
            self._forgotten = self._forgotten or known < 1
            self._known = known if self._forgotten else 0.0

    def refresh(self) -> None:
        """Show how much is known, and what the person should do."""
        elapsed = time.monotonic() - self._began
        share = min(self._known, elapsed / WATCH_SECONDS)
        if share >= 1:
            text = self.tr("The neutral face is known. Save it to use it next time.")
        elif elapsed > PATIENCE_SECONDS:
            text = self.tr("The face was not seen long enough. Look straight into the camera, in good light.")
        else:
            text = self.tr("Look calmly into the camera, with closed lips, until the bar is full. Blink once or twice.")
        if share >= 1 or elapsed > PATIENCE_SECONDS:
            self._timer.stop()
        self.text.setText(text)
        self.bar.setValue(int(100 * share))
        self.again.setEnabled(not self._timer.isActive())
        self.keep.setEnabled(share >= 1)

    def done(self, code: int) -> None:
        """Measure no more when the dialog is closed."""
        self._timer.stop()
        super().done(code)


class PersonMenu(QObject):
    """A menu to measure, save, use and forget a person. `use` is called with the settings that follow."""

    def __init__(self, window: Window, control: TrackingControl, use: Callable[[Tracking], object]) -> None:
        super().__init__(window)
        self._window, self._control, self._use = window, control, use
        self._person: Future[KnownPerson | None] | None = None  # to be saved
        self.dialog = NeutralFaceDialog(window)
        self.dialog.wanted.connect(self._measure)
        self.dialog.save.connect(self.save)
        window.result_shown.connect(self.dialog.add)
        tr = self.tr
        self.menu = QMenu(tr("Person"), window.menus.file)
        self.menu.setToolTipsVisible(True)
        for text, tip, act, keys in (
            (tr("Measure the neutral face…"), tr("Expressions are relative to it"), self.ask_measure, ("Ctrl+N",)),
            (tr("Save the person…"), tr("Save what is known of the largest face"), self.save, ()),
            (tr("Use a person's file…"), tr("The neutral face is known from the first frame on"), self.ask_file, ()),
            (tr("Forget the person"), tr("Measure the neutral face of each person again"), self.forget, ()),
        ):
            action = new_action(window, text, tip, *keys)
            action.triggered.connect(lambda _checked=False, act=act: act())
            self.menu.addAction(action)
        self._timer = QTimer(self)
        self._timer.setInterval(REFRESH_MS)
        self._timer.timeout.connect(self._take_person)

    def ask_measure(self) -> None:
        """Show the dialog, and measure."""
        if self._window.stream.playback is None:
            self._window.show_hint(self.tr("Open a camera or a file first"))
            return
        self.dialog.show()
        self.dialog.begin()

    def _measure(self) -> None:
        self._use(replace(self._control.tracking, measures=True, person=None))
        self._control.calibrate()

    def save(self) -> None:
        """Save what is known of the largest face."""
        self._person = self._control.person()
        if self._person is None:
            self._window.show_hint(self.tr("There is no face to save"))
        else:
            self._timer.start()

    def _take_person(self) -> None:
        """Ask for the name of the file as soon as the person is there."""
        if self._person is None or not self._person.done():
            return
        self._timer.stop()
        person = None if self._person.exception() else self._person.result()
        if person is None:
            self._window.show_hint(self.tr("No measured face is visible: measure the neutral face first"))
            return
        name, _ = QFileDialog.getSaveFileName(
            self._window, self.tr("Save the person"), "person.json", self.tr("Persons (*.json)")
        )
        if name:
            self._write(Path(name) if Path(name).suffix else Path(f"{name}.json"), person)

    def _write(self, path: Path, person: "KnownPerson") -> None:
        from canthus.runtime.person_file import write_person

        saved = self.tr("Saved {path}, which is used from now on").format(path=path)
        work = partial(_error, partial(write_person, path, person))
        BackgroundTask(self, work, lambda error: self._finish(path, error, saved)).start()

    def ask_file(self) -> None:
        """Let the user choose the file of a person."""
        name, _ = QFileDialog.getOpenFileName(
            self._window, self.tr("Use a person's file"), "", self.tr("Persons (*.json)")
        )
        if name:
            self.use_file(Path(name))

    def use_file(self, path: Path) -> None:
        """Use the file of a person, if it can be read."""
        from canthus.runtime.person_file import read_person

        used = self.tr("The neutral face is that of {path}").format(path=path)
        work = partial(_error, partial(read_person, path))
        BackgroundTask(self, work, lambda error: self._finish(path, error, used)).start()

    def _finish(self, path: Path, error: str, text: str) -> None:
        if not error:
            self._use(replace(self._control.tracking, measures=True, person=path))
            self.dialog.close()
        self._window.show_hint(error or text)

    def forget(self) -> None:
        """Use no person's file."""
        self._use(replace(self._control.tracking, person=None))
        self._control.calibrate()
        self._window.show_hint(self.tr("The neutral face of each person is measured again"))


def _error(work: Callable[[], object]) -> str:
    """Call a function, and return why it failed; empty if it did not."""
    try:
        work()
    except CanthusError as error:
        return str(error)
    return ""
