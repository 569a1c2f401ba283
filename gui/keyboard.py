"""Keys that a control uses itself, although they are shortcuts of the window."""

from PyQt6.QtCore import QEvent, Qt
from PyQt6.QtGui import QKeyEvent
from PyQt6.QtWidgets import QAbstractButton, QAbstractSlider, QAbstractSpinBox, QApplication, QComboBox, QScrollArea

CONTROLS = (QAbstractButton, QAbstractSlider, QAbstractSpinBox, QComboBox)

KEYS = (
    Qt.Key.Key_Space,
    Qt.Key.Key_Left,
    Qt.Key.Key_Right,
    Qt.Key.Key_Home,
    Qt.Key.Key_End,
    Qt.Key.Key_PageUp,
    Qt.Key.Key_PageDown,
)


def keep_keys(event: QEvent | None) -> None:
    """Let the control that has the focus use a key. Call it for each event of a widget that contains controls.

    Qt asks the control and its parents before it uses a key as a shortcut. Buttons and sliders do not answer.
    """
    if isinstance(event, QKeyEvent) and event.type() == QEvent.Type.ShortcutOverride:
        plain = event.modifiers() in (Qt.KeyboardModifier.NoModifier, Qt.KeyboardModifier.KeypadModifier)
        if plain and event.key() in KEYS and isinstance(QApplication.focusWidget(), CONTROLS):
            event.accept()


class PanelArea(QScrollArea):
    """Scrolls a panel. Its controls can be used with the keyboard."""

    def event(self, event: QEvent | None) -> bool:
        """Let the controls use their keys."""
        keep_keys(event)
        return super().event(event)
