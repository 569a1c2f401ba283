"""The switches of the overlay in the View menu."""

from dataclasses import replace
from typing import NamedTuple

from PyQt6.QtCore import QCoreApplication, QObject, pyqtSignal
from PyQt6.QtGui import QAction
from PyQt6.QtWidgets import QMainWindow, QMenu

from canthus.gui.menus import new_action
from canthus.gui.overlay import OverlayStyle


def tr(text: str) -> str:
    """Translate a text of this file."""
    return QCoreApplication.translate("OverlaySwitches", text)


class _Switch(NamedTuple):
    name: str  # of the field of OverlayStyle
    text: str
    tip: str
    key: str


def _switches() -> tuple[_Switch, ...]:
    """Return the switches in the order of the menu."""
    return (
        _Switch("points", tr("Points"), tr("Show the points of each face"), "P"),
        _Switch("lines", tr("Lines"), tr("Show lines between the points"), "L"),
        _Switch("regions", tr("Filled regions"), tr("Fill eyes, brows and lips"), "R"),
        _Switch("numbers", tr("Point numbers"), tr("Show the number of each point, on large faces"), "N"),
        _Switch("boxes", tr("Boxes"), tr("Show a box around the points of each face"), "B"),
        _Switch("ids", tr("IDs"), tr("Show the ID of each face"), "I"),
        _Switch("pose", tr("Head axes"), tr("Show where the head points: right, down and ahead"), "A"),
        _Switch("gaze", tr("Gaze"), tr("Show a ray from each pupil"), "G"),
        _Switch("scores", tr("Color by score"), tr("Color each point by its score: orange is low, blue is high"), "S"),
        _Switch("trails", tr("Trails"), tr("Show where some points were in the last second"), "T"),
        _Switch("safe_colors", tr("Color-blind safe colors"), tr("Use colors that differ for everyone"), "C"),
        _Switch("mirrored", tr("Mirror"), tr("Flip left and right, as in a mirror"), "M"),
    )


class OverlaySwitches(QObject):
    """One checkable action for each field of OverlayStyle. `changed` is emitted with the new style."""

    changed = pyqtSignal(OverlayStyle)

    def __init__(self, window: QMainWindow, menu: QMenu, style: OverlayStyle) -> None:
        super().__init__(window)
        self._style = style
        self.actions: dict[str, QAction] = {}
        for name, text, tip, key in _switches():
            action = new_action(window, text, tip, key, checked=getattr(style, name))
            action.toggled.connect(lambda on, name=name: self._set(name, on))
            self.actions[name] = action
            menu.addAction(action)

    @property
    def style(self) -> OverlayStyle:
        """What the switches select."""
        return self._style

    def _set(self, name: str, on: bool) -> None:
        self._style = replace(self._style, **{name: on})
        self.changed.emit(self._style)
