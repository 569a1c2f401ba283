"""The panel that sends faces to other programs: each stream with a switch, its address and what it does."""

from functools import partial
from typing import NamedTuple

from PyQt6.QtCore import Qt, QTimer, QUrl, pyqtSignal
from PyQt6.QtGui import QDesktopServices, QPalette
from PyQt6.QtWidgets import QCheckBox, QGridLayout, QLabel, QLineEdit, QPushButton, QVBoxLayout, QWidget

from canthus.gui.broadcast import Broadcast, StreamState
from canthus.gui.preferences import load_addresses, save_address
from canthus.runtime.errors import InputError
from canthus.runtime.streams import DEFAULTS, KINDS, Kind, StreamOptions
from canthus.runtime.streams.address import as_seen_here, parse_address
from canthus.runtime.streams.kinds import leaves_machine

REFRESH_MS = 250
NEED_MEASURES: tuple[Kind, ...] = ("vmc", "osc", "openseeface")
"""Streams that send nothing of faces without measures."""


class _Row(NamedTuple):
    """The controls of a stream."""

    switch: QCheckBox
    address: QLineEdit
    state: QLabel


class StreamsPanel(QWidget):
    """Switches streams on and off. `started` is emitted with the kind, `failed` with why one has ended."""

    started = pyqtSignal(str)
    failed = pyqtSignal(str)

    def __init__(self, broadcast: Broadcast) -> None:
        super().__init__()
        self._broadcast = broadcast
        self.arkit = QCheckBox(self.tr("Blend shapes of ARKit"))
        self.arkit.setChecked(True)
        self.arkit.setToolTip(self.tr("For avatars with perfect sync; off: the six that every VRM avatar has"))
        self.draw = QCheckBox(self.tr("Draw the faces"))
        self.draw.setChecked(True)
        self.draw.setToolTip(self.tr("Show points, lines and ids in the virtual camera; off: the video as it is"))
        self.page = QPushButton(self.tr("Open the page"))
        self.page.setToolTip(self.tr("Open the page that draws the faces in a browser"))
        self.page.clicked.connect(self._open_page)
        column = QVBoxLayout(self)
        column.setSpacing(14)
        self.rows = {kind: self._add(column, kind) for kind in KINDS}
        column.addStretch(1)
        self._timer = QTimer(self)
        self._timer.setInterval(REFRESH_MS)
        self._timer.timeout.connect(self.refresh)
        self._timer.start()
        self.refresh()

    def _texts(self, kind: Kind) -> tuple[str, str]:
        """Return the name of a stream and what it is for."""
        texts: dict[Kind, tuple[str, str]] = {
            "vmc": (self.tr("VMC"), self.tr("Head, eyes and blend shapes for VSeeFace, Warudo, Unity and Blender")),
            "osc": (self.tr("OSC"), self.tr("All measures and the blend shapes of ARKit, as /canthus/0/jawOpen")),
            "openseeface": (self.tr("OpenSeeFace"), self.tr("For programs that read OpenSeeFace, by UDP")),
            "websocket": (self.tr("WebSocket"), self.tr("JSON for browsers and programs, and a page that draws it")),
            "virtual-camera": (self.tr("Virtual camera"), self.tr("A webcam that other programs can use")),
        }
        return texts[kind]

    def _add(self, column: QVBoxLayout, kind: Kind) -> _Row:
        """Add the controls of a stream."""
        name, purpose = self._texts(kind)
        switch, address, state = QCheckBox(name), QLineEdit(load_addresses().get(kind, "")), QLabel()
        switch.setToolTip(purpose)
        switch.setAccessibleDescription(purpose)
        switch.clicked.connect(partial(self._switch, kind))
        if kind in DEFAULTS:
            address.setPlaceholderText(str(DEFAULTS[kind]))
            address.setToolTip(self.tr("Host, port or HOST:PORT; empty: this machine. Can be changed while it is off"))
            address.setAccessibleName(self.tr("Address of {stream}").format(stream=name))
        else:
            address.setPlaceholderText(self.tr("the first device"))
            address.setToolTip(self.tr("A device such as /dev/video2. Can be changed while it is off"))
            address.setAccessibleName(self.tr("Device of the virtual camera"))
        address.returnPressed.connect(switch.click)
        state.setWordWrap(True)
        state.setTextFormat(Qt.TextFormat.PlainText)
        state.setTextInteractionFlags(
            Qt.TextInteractionFlag.TextSelectableByMouse | Qt.TextInteractionFlag.TextSelectableByKeyboard
        )
        state.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        state.setAccessibleName(self.tr("State of {stream}").format(stream=name))
        state.setToolTip(self.tr("What the stream does; the text can be selected and copied"))
        grid = QGridLayout()
        grid.setVerticalSpacing(4)
        grid.addWidget(switch, 0, 0)
        grid.addWidget(address, 0, 1)
        grid.setColumnMinimumWidth(0, 110)
        grid.setColumnStretch(1, 1)
        extra = {"vmc": self.arkit, "websocket": self.page, "virtual-camera": self.draw}.get(kind)
        if extra is not None:
            grid.addWidget(extra, 1, 1)
        grid.addWidget(state, 2, 0, 1, 2)
        column.addLayout(grid)
        return _Row(switch, address, state)

    def _switch(self, kind: Kind, on: bool) -> None:
        """Start or stop a stream."""
        if not on:
            self._broadcast.stop(kind)
        else:
            where = self.rows[kind].address.text().strip()
            save_address(kind, where)
            drawings = StreamOptions().drawings if self.draw.isChecked() else ()
            self._broadcast.start(kind, where, StreamOptions(arkit=self.arkit.isChecked(), drawings=drawings))
            self.started.emit(kind)
        self.refresh()

    def refresh(self) -> None:
        """Show what the streams do."""
        for kind, row in self.rows.items():
            state = self._broadcast.state(kind)
            off = state.phase == "off"
            if off and row.switch.isChecked() and state.problem:
                self.failed.emit(state.problem)
            row.switch.setChecked(not off)
            row.address.setEnabled(off)
            text = self._describe(kind, state)
            if text != row.state.text():
                row.state.setText(text)
            row.state.setVisible(bool(text))
            role = QPalette.ColorRole.BrightText if state.problem else QPalette.ColorRole.WindowText
            row.state.setForegroundRole(role)
        self.arkit.setEnabled(self.rows["vmc"].address.isEnabled())
        self.draw.setEnabled(self.rows["virtual-camera"].address.isEnabled())
        self.page.setEnabled(self._broadcast.state("websocket").phase == "on")

    def _describe(self, kind: Kind, state: StreamState) -> str:
        """Return the state of a stream in words, on a few lines."""
        if state.phase == "off":
            return state.problem
        if state.phase == "opening":
            return self.tr("Opening…")
        counts = self.tr("Frames sent: {count}").format(count=state.sent)
        if state.readers is not None:
            counts += self.tr("  ·  Readers: {count}").format(count=state.readers)
        lines = [state.name, counts]
        if state.unmeasured and kind in NEED_MEASURES:
            lines.append(self.tr("Faces without measures are not sent: measure them in the panel Tracking (Ctrl+1)"))
        if leaves_machine(kind, self.rows[kind].address.text().strip()):
            lines.append(self.tr("Others on the network can read it"))
        return "\n".join([*lines, *([state.problem] if state.problem else [])])

    def _open_page(self) -> None:
        try:
            address = parse_address(self.rows["websocket"].address.text().strip(), DEFAULTS["websocket"])
        except InputError:
            return
        QDesktopServices.openUrl(QUrl(f"http://{as_seen_here(address)}/"))
