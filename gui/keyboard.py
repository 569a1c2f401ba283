"""For the keyboard: controls keep keys that are shortcuts of the window, and a frame marks the one with the focus."""

from PyQt6.QtCore import QEvent, Qt
from PyQt6.QtGui import QKeyEvent, QPainter, QPaintEvent, QPalette, QPen
from PyQt6.QtWidgets import (
    QAbstractButton,
    QAbstractSlider,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QFocusFrame,
    QScrollArea,
    QWidget,
)

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


class FocusFrame(QFocusFrame):
    """Marks the control of a panel that has the focus. The mark of the Fusion style is hard to see in dark colors."""

    def __init__(self, window: QWidget) -> None:
        super().__init__(window)
        self.hide()  # until there is something to mark: Qt would show it with the window

    def follow(self, _before: QWidget | None, focused: QWidget | None) -> None:
        """Move to another control. Connect it to `QApplication.focusChanged`."""
        parent: QWidget | None = focused if isinstance(focused, CONTROLS) else None
        while parent is not None and not isinstance(parent, PanelArea):
            parent = parent.parentWidget()
        self.setWidget(None if parent is None else focused)

    def paintEvent(self, _event: QPaintEvent | None) -> None:  # noqa: N802 - Qt's name
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(QPen(self.palette().color(QPalette.ColorRole.Accent), 2))
        painter.drawRoundedRect(self.rect().adjusted(1, 1, -1, -1), 4, 4)
        painter.end()
