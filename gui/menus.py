"""The menu bar, and the actions in it."""

from dataclasses import dataclass

from PyQt6.QtCore import QCoreApplication
from PyQt6.QtGui import QAction, QKeySequence
from PyQt6.QtWidgets import QMainWindow, QMenu, QMenuBar


def tr(text: str) -> str:
    """Translate a text of this file."""
    return QCoreApplication.translate("Menus", text)


@dataclass(frozen=True)
class Menus:
    """The menus of the window. Each part of the viewer adds its own actions to them."""

    bar: QMenuBar
    file: QMenu
    view: QMenu
    playback: QMenu
    help: QMenu

    @property
    def all(self) -> list[QMenu]:
        """The menus in the order of the bar."""
        return [self.file, self.view, self.playback, self.help]


def add_menus(bar: QMenuBar) -> Menus:
    """Add the menus to a menu bar, empty."""
    menus = []
    for title in (tr("&File"), tr("&View"), tr("&Playback"), tr("&Help")):
        menu = QMenu(title, bar)  # not bar.addMenu(title): its type allows None
        menu.setToolTipsVisible(True)
        bar.addMenu(menu)
        menus.append(menu)
    return Menus(bar, *menus)


def new_action(window: QMainWindow, text: str, tip: str, *keys: str, checked: bool | None = None) -> QAction:
    """Create an action whose shortcuts work also while the menu bar is hidden. `checked` makes it a switch."""
    action = QAction(text, window)
    action.setToolTip(f"{tip} ({keys[0]})" if keys else tip)
    action.setShortcuts([QKeySequence(key) for key in keys])
    action.setAutoRepeat(False)
    if checked is not None:
        action.setCheckable(True)
        action.setChecked(checked)
    window.addAction(action)
    return action
