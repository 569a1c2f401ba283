"""What the user can do with what the window shows: panels, recordings, snapshots, preferences and help."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from PyQt6.QtCore import QEvent, QObject, Qt, QTimer
from PyQt6.QtGui import QAction, QGuiApplication
from PyQt6.QtWidgets import QApplication, QDockWidget, QToolButton

from canthus.gui.background_task import BackgroundTask
from canthus.gui.broadcast import Broadcast
from canthus.gui.dialogs import AboutDialog, PreferencesDialog
from canthus.gui.finder import Tracking, TrackingControl
from canthus.gui.keyboard import FocusFrame, PanelArea
from canthus.gui.media import VideoMedia
from canthus.gui.menus import new_action
from canthus.gui.overlay import OverlayStyle
from canthus.gui.panels.face import FacePanel
from canthus.gui.panels.performance import PerformancePanel
from canthus.gui.panels.streams import StreamsPanel
from canthus.gui.panels.tracking import TrackingPanel
from canthus.gui.person import PersonMenu
from canthus.gui.playback import Ended, Failed
from canthus.gui.preferences import (
    load_preferences,
    load_style,
    load_window,
    save_networks,
    save_preferences,
    save_style,
    save_window,
)
from canthus.gui.recording import (
    Recorder,
    Recording,
    RecordingFailed,
    RecordingOptions,
    Saved,
    Saving,
    recording_path,
    rescue_recordings,
)
from canthus.gui.snapshot import ImageReady, SnapshotFailed, Snapshots, SnapshotSaved
from canthus.gui.stream import Result
from canthus.gui.theme import apply_theme
from canthus.gui.window import Window
from canthus.gui.window_size import make_room
from canthus.runtime.models import included_models

WATCH_MS = 250
"""How often the end of a clip that is recorded is looked for."""

SAVE_SECONDS, STREAM_SECONDS = 10.0, 2.0
"""How long a recording may take to be completed, and the streams to close, when the window closes."""


class Tools(QObject):
    """Adds its actions and panels to a window. Create it before the window is shown, and `close` it afterwards."""

    def __init__(self, window: Window, control: TrackingControl) -> None:
        super().__init__(window)
        self._window, self._control = window, control
        self._recorder: Recorder | None = None
        self._record_result: Callable[[Result], None] | None = None  # of the recording that goes on
        self.broadcast = Broadcast()
        self._result: Result | None = None  # the newest one
        self._snapshots = Snapshots()
        self.preferences = load_preferences()
        self.tracking = TrackingPanel(control.tracking, list(included_models()))
        self.performance = PerformancePanel()
        self.face = FacePanel()
        self.streams = StreamsPanel(self.broadcast)
        self.docks = self._add_docks()
        self._add_actions()
        self._recording = QToolButton(window)
        self._recording.setObjectName("recording")
        self._recording.setDefaultAction(self.record)
        self._recording.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        window.menus.bar.setCornerWidget(self._recording)
        self._connect()
        self._restore()

    def _add_docks(self) -> dict[str, QDockWidget]:
        """Add the panels, hidden, with their actions in the View menu."""
        docks: dict[str, QDockWidget] = {}
        self._window.menus.view.addSeparator()
        for name, title, panel, key in (
            ("tracking", self.tr("Tracking"), self.tracking, "Ctrl+1"),
            ("performance", self.tr("Performance"), self.performance, "Ctrl+2"),
            ("face", self.tr("Face"), self.face, "Ctrl+3"),
            ("streams", self.tr("Streams"), self.streams, "Ctrl+4"),
        ):
            dock = QDockWidget(title, self._window)
            dock.setObjectName(name)
            dock.setAccessibleName(title)
            scroll = PanelArea()
            scroll.setWidgetResizable(True)
            scroll.setFrameShape(PanelArea.Shape.NoFrame)
            scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
            scroll.setMinimumWidth(panel.minimumSizeHint().width() + 16)
            scroll.setWidget(panel)
            dock.setWidget(scroll)
            self._window.addDockWidget(Qt.DockWidgetArea.RightDockWidgetArea, dock)
            if docks:
                self._window.tabifyDockWidget(next(iter(docks.values())), dock)
            dock.hide()
            toggle = dock.toggleViewAction()
            assert toggle is not None, "a dock has an action"
            toggle.setShortcut(key)
            toggle.triggered.connect(lambda on, dock=dock: self._show_dock(dock) if on else None)
            toggle.setToolTip(self.tr("Show or hide this panel") + f" ({key})")
            self._window.addAction(toggle)
            self._window.menus.view.addAction(toggle)
            docks[name] = dock
        return docks

    def _show_dock(self, dock: QDockWidget) -> None:
        """Show a panel that was hidden, beside the video."""
        dock.raise_()
        QTimer.singleShot(0, lambda: make_room(self._window, self._window.view))  # when it has its place

    def _add_actions(self) -> None:
        menus = self._window.menus
        self.record = self._action(self.tr("Record"), self.tr("Record what is shown"), self.toggle_recording, "Ctrl+R")
        self._save = self._action(
            self.tr("Save snapshot"), self.tr("Save the frame, and its points as JSON"), self.save_snapshot, "Ctrl+S"
        )
        self._copy = self._action(
            self.tr("Copy image"), self.tr("Copy the frame to the clipboard"), self.copy, "Ctrl+C"
        )
        preferences = self._action(
            self.tr("Preferences…"), self.tr("Colors, and what is recorded"), self.ask_preferences, "Ctrl+,"
        )
        about = self._action(self.tr("About canthus"), self.tr("Versions and licences"), self.show_about)
        self.person = PersonMenu(self._window, self._control, self._use_tracking)
        first = menus.file.actions()[-1] if menus.file.actions() else None  # above "Close"
        menus.file.insertActions(first, [self.record, self._save, self._copy])
        menus.file.insertMenu(first, self.person.menu)
        menus.file.insertAction(first, preferences)
        menus.file.insertSeparator(first)
        menus.help.addAction(about)

    def _action(self, text: str, tip: str, called: Callable[[], None], *keys: str) -> QAction:
        action = new_action(self._window, text, tip, *keys)
        action.triggered.connect(lambda: called())
        return action

    def _connect(self) -> None:
        window = self._window
        window.stream.listener = self._listen
        window.result_shown.connect(self._take_result)
        window.switches.changed.connect(lambda style: self._require_measures(style.needs_measures))
        window.installEventFilter(self)
        self.tracking.changed.connect(self._choose)
        self.tracking.calibrate.connect(self._control.calibrate)
        self.tracking.engine.built.connect(self._control.reopen)
        window.opened.connect(self._allow)
        self._control.states.filled.connect(self._take_finder_state)
        self._snapshots.states.filled.connect(self._take_snapshot)
        self.docks["face"].visibilityChanged.connect(lambda shown: self._require_measures(shown))
        self.streams.started.connect(lambda kind: self._require_measures(kind != "virtual-camera"))
        self.streams.failed.connect(self._stream_failed)
        application, hints = QApplication.instance(), QGuiApplication.styleHints()
        if isinstance(application, QApplication):
            application.focusChanged.connect(FocusFrame(window).follow)
        if hints is not None:
            hints.colorSchemeChanged.connect(self._apply_theme)  # a lambda would keep the window alive
        self._watch = QTimer(self)
        self._watch.setInterval(WATCH_MS)
        self._watch.timeout.connect(self._stop_at_the_end)

    def _restore(self) -> None:
        """Restore what was stored when the viewer was closed, and rescue recordings of one that was killed."""
        self._apply_theme()
        style = load_style(self._window.view.overlay_style)
        for name, action in self._window.switches.actions.items():
            action.setChecked(getattr(style, name))
        stored = load_window()
        if stored is not None:
            self._window.restoreGeometry(stored[0])
            self._window.restoreState(stored[1])
        folder = self.preferences.folder
        BackgroundTask(self, lambda: rescue_recordings(folder), self._show_rescued).start()

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802 - Qt's name
        """Store the arrangement when the window closes."""
        if event is not None and event.type() == QEvent.Type.Close:
            save_window(self._window.saveGeometry(), self._window.saveState())
            save_style(self._window.switches.style)
            self.tracking.engine.close_now()
            self.broadcast.close()
            if self._recorder is not None:
                self._recorder.stop()
        return super().eventFilter(watched, event)

    def close(self) -> None:
        """Complete the files that are being written, and close the streams."""
        self._window.stream.listener = None
        self.broadcast.close()
        if self._recorder is not None:
            self._recorder.stop()
            self._recorder.join(SAVE_SECONDS)
        self._snapshots.join(2.0)
        self.broadcast.join(STREAM_SECONDS)

    # Tracking

    def _choose(self, tracking: Tracking) -> None:
        """Use what the user has chosen in the panel, and remember it."""
        save_networks(self._control.tracking, tracking)
        self._change(tracking)

    def _change(self, tracking: Tracking) -> None:
        self._control.change(tracking)
        self._refresh_paused()

    def _require_measures(self, needed: bool) -> None:
        """Turn the measures on if something that is shown needs them."""
        if needed and not self._control.tracking.measures:
            self._use_tracking(replace(self._control.tracking, measures=True))

    def _use_tracking(self, tracking: Tracking) -> None:
        """Use other settings, and show them in the panel."""
        self.tracking.show_tracking(tracking)
        self._change(tracking)

    def _take_finder_state(self) -> None:
        state = self._control.states.take()
        if state is not None:
            self.tracking.show_state(state)
            if not state.opening:
                self._refresh_paused()

    def _refresh_paused(self) -> None:
        """Find the faces of the frame that is shown again, if no other frame follows."""
        playback = self._window.stream.playback
        if playback is not None and (playback.paused or isinstance(self._window.state, Ended)):
            self._window.stream.refresh()

    def _listen(self, result: Result) -> None:
        """Pass a result on to the streams and the recording. Called by the thread that finds faces."""
        self.broadcast.add(result)
        if (record := self._record_result) is not None:
            record(result)

    def _stream_failed(self, problem: str) -> None:
        """Say why a stream has ended, if the panel that says it is hidden."""
        if not self.streams.isVisible():
            self._window.show_hint(problem)

    def _take_result(self, result: Result) -> None:
        self._result = result
        self.performance.add(result)
        if self.docks["face"].isVisible() and result.seconds:
            self.face.add(result)

    def _allow(self, opened: bool) -> None:
        """Enable what needs something that is shown. A recording that goes on can be stopped on the start page too."""
        self._save.setEnabled(opened)
        self._copy.setEnabled(opened)
        self.record.setEnabled(opened or self._recorder is not None)

    # Recordings

    @property
    def _painted_style(self) -> OverlayStyle | None:
        """The style of recordings and snapshots; None if they show no faces."""
        return replace(self._window.switches.style, mirrored=False) if self.preferences.annotated else None

    def toggle_recording(self) -> None:
        """Start or stop a recording."""
        if self._recorder is not None:
            self._recorder.stop()
            return
        stream, shown = self._window.stream, self._window.shown
        playback = stream.playback
        if shown is None or playback is None or isinstance(self._window.state, Failed):
            self._window.show_hint(self.tr("There is nothing to record"))
            return
        video = recording_path(self.preferences.folder, ".mp4")
        recorder = Recorder(
            RecordingOptions(
                video=video,
                table=video.with_suffix(".csv") if self.preferences.table else None,
                trace=video.with_suffix(".trace") if self.preferences.trace else None,
                style=self._painted_style,
                file=shown.path if isinstance(shown, VideoMedia) else None,
                source=shown.name,
                measures=self._control.tracking.measures,
            ),
            self._control.record,
        )
        recorder.states.filled.connect(self._take_recording)
        self._recorder = recorder

        def listen(result: Result) -> None:
            if stream.playback is playback:
                recorder.add(result)
            else:
                recorder.stop()

        self._record_result = listen
        self._watch.start()
        self._show_recording(self.tr("Starting…"))

    def _take_recording(self) -> None:
        state = self._recorder.states.take() if self._recorder is not None else None
        match state:
            case Recording(seconds):
                self._show_recording(f"{int(seconds) // 60}:{int(seconds) % 60:02d}")
            case Saving():
                self._show_recording(self.tr("Saving…"))
            case Saved(paths, seconds, dropped, note):
                text = self.tr("Nothing was recorded")
                if paths:
                    saved = self.tr("Saved {path}  ·  {seconds}\N{NO-BREAK SPACE}s")
                    text = saved.format(path=paths[0], seconds=round(seconds, 1))
                text += self.tr("  ·  {count}\N{NO-BREAK SPACE}frames dropped").format(count=dropped) if dropped else ""
                self._end_recording(f"{text}  ·  {note}" if note else text)
            case RecordingFailed(error):
                self._end_recording(self.tr("The recording failed: {reason}").format(reason=error))

    def _show_recording(self, text: str) -> None:
        self.record.setText("\N{BLACK CIRCLE} " + text)
        self.record.setToolTip(self.tr("Stop the recording (Ctrl+R)"))

    def _end_recording(self, hint: str) -> None:
        self._record_result = None
        self._watch.stop()
        self._recorder = None
        self.record.setText(self.tr("Record"))
        self.record.setToolTip(self.tr("Record what is shown (Ctrl+R)"))
        self._allow(self._window.shown is not None)
        self._window.show_hint(hint)

    def _stop_at_the_end(self) -> None:
        playback, state = self._window.stream.playback, self._window.state
        at_end = playback is None or isinstance(state, Failed) or (isinstance(state, Ended) and not playback.loop)
        if self._recorder is not None and at_end:
            self._recorder.stop()

    def _show_rescued(self, paths: list[Path]) -> None:
        videos = [path.name for path in paths if path.suffix == ".mp4"]
        if videos:
            self._window.show_hint(
                self.tr("Found a recording that was cut off: {names}").format(names=", ".join(videos))
            )

    # Snapshots

    def save_snapshot(self) -> None:
        """Save the frame that is shown, with its points."""
        shown = self._window.shown
        if self._result is None or shown is None:
            self._window.show_hint(self.tr("There is nothing to save"))
            return
        path = recording_path(self.preferences.folder, ".png")
        self._snapshots.save(self._result, self._painted_style, path, shown.name)

    def copy(self) -> None:
        """Copy the frame that is shown to the clipboard."""
        if self._result is None or self._window.shown is None:
            self._window.show_hint(self.tr("There is nothing to copy"))
            return
        self._snapshots.copy(self._result, self._painted_style)

    def _take_snapshot(self) -> None:
        match self._snapshots.states.take():
            case SnapshotSaved(path):
                self._window.show_hint(self.tr("Saved {path}").format(path=path))
            case ImageReady(image):
                clipboard = QGuiApplication.clipboard()
                if clipboard is not None:
                    clipboard.setImage(image)
                self._window.show_hint(self.tr("Copied the image"))
            case SnapshotFailed(error):
                self._window.show_hint(error)

    # Preferences and help

    def ask_preferences(self) -> None:
        """Show the dialog, and store and apply what the user chose."""
        dialog = PreferencesDialog(self._window, self.preferences)
        dialog.accepted.connect(lambda: self._use(dialog))
        dialog.open()

    def _use(self, dialog: PreferencesDialog) -> None:
        self.preferences = dialog.preferences
        save_preferences(self.preferences)
        self._apply_theme()

    def _apply_theme(self) -> None:
        apply_theme(self.preferences.theme)

    def show_about(self) -> None:
        """Show versions and licences."""
        AboutDialog(self._window).open()
