"""The sheet with all shortcuts. It lies over the whole window, also over a message card."""

from PyQt6.QtCore import QEvent, QObject, Qt
from PyQt6.QtGui import QAction, QColor, QKeyEvent, QKeySequence, QMouseEvent, QPainter, QPaintEvent
from PyQt6.QtWidgets import QFrame, QGridLayout, QLabel, QMenu, QScrollArea, QVBoxLayout, QWidget

STYLE = """
QScrollArea, QWidget#sheet { background: palette(window); border: none; }
QFrame#card { background: palette(window); border: 1px solid palette(mid); border-radius: 12px; }
QLabel { color: palette(window-text); background: transparent; }
QLabel#heading { color: palette(link); font-weight: 600; }
QLabel#key { font-weight: 600; }
"""
DIMMED = QColor(6, 8, 12, 170)
MARGIN = 24


class HelpSheet(QWidget):
    """Lists the actions of menus with their shortcuts. Any key or a click closes it."""

    def __init__(self, window: QWidget) -> None:
        super().__init__(window)
        self.setStyleSheet(STYLE)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAccessibleName(self.tr("Keyboard shortcuts"))
        self._card = QFrame(self)
        self._card.setObjectName("card")
        self._scroll = QScrollArea()
        self._scroll.setWidgetResizable(True)
        self._scroll.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        QVBoxLayout(self._card).addWidget(self._scroll)
        window.installEventFilter(self)
        self.hide()

    def show_menus(self, menus: list[QMenu]) -> None:
        """Show the shortcuts of the actions of some menus, in two columns."""
        sheet = QWidget()
        sheet.setObjectName("sheet")
        grid = QGridLayout(sheet)
        grid.setHorizontalSpacing(18)
        halves: tuple[list[QMenu], list[QMenu]] = ([], [])
        for menu in menus:
            shorter = min(halves, key=lambda half: sum(len(_listed(other)) + 2 for other in half))
            shorter.append(menu)
        for column, half in enumerate(halves):
            row = 0
            for menu in half:
                row = self._add(grid, menu, row, 3 * column) + 1
        grid.setColumnMinimumWidth(2, 30)
        grid.setRowStretch(grid.rowCount(), 1)
        self._scroll.setWidget(sheet)
        self._arrange()
        self.show()
        self.raise_()
        self.setFocus()

    def _add(self, grid: QGridLayout, menu: QMenu, row: int, column: int) -> int:
        """Add the actions of a menu below a row; return the next free row."""
        actions = _listed(menu)
        if not actions:
            return row
        heading = QLabel(menu.title().replace("&", ""))
        heading.setObjectName("heading")
        grid.addWidget(heading, row, column, 1, 2)
        for action in actions:
            row += 1
            keys = QLabel(_keys(action))
            keys.setObjectName("key")
            grid.addWidget(keys, row, column)
            name = QLabel(action.text().replace("&", "").removesuffix("…"))
            name.setToolTip(action.toolTip())
            grid.addWidget(name, row, column + 1)
        return row + 1

    def _arrange(self) -> None:
        window = self.parentWidget()
        if window is None:
            return
        self.setGeometry(window.rect())
        content = self._scroll.widget()
        wanted = content.sizeHint() if content is not None else self.size()
        width = min(wanted.width() + 60, self.width() - 2 * MARGIN)
        height = min(wanted.height() + 40, self.height() - 2 * MARGIN)
        self._card.setGeometry((self.width() - width) // 2, (self.height() - height) // 2, width, height)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802 - Qt's name
        """Follow the size of the window."""
        if event is not None and event.type() == QEvent.Type.Resize and self.isVisible():
            self._arrange()
        return super().eventFilter(watched, event)

    def event(self, event: QEvent | None) -> bool:
        """Take the key that closes the sheet before it is used as a shortcut."""
        if event is not None and event.type() == QEvent.Type.ShortcutOverride:
            event.accept()
        return super().event(event)

    def keyPressEvent(self, _event: QKeyEvent | None) -> None:  # noqa: N802 - Qt's name
        self.hide()

    def mousePressEvent(self, _event: QMouseEvent | None) -> None:  # noqa: N802 - Qt's name
        self.hide()

    def paintEvent(self, _event: QPaintEvent | None) -> None:  # noqa: N802 - Qt's name
        painter = QPainter(self)
        painter.fillRect(self.rect(), DIMMED)
        painter.end()


def _listed(menu: QMenu) -> list[QAction]:
    """Return the actions of a menu that have a shortcut, those of its submenus included."""
    found: list[QAction] = []
    for action in menu.actions():
        submenu = action.menu()
        if submenu is not None:
            found += _listed(submenu)
        elif action.shortcuts():
            found.append(action)
    return found


def _keys(action: QAction) -> str:
    native = QKeySequence.SequenceFormat.NativeText
    return "  ".join(shortcut.toString(native) for shortcut in action.shortcuts()[:2])
