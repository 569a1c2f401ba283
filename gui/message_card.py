"""The card over the video: what happened, and buttons with what to do."""

import re
from collections.abc import Callable, Sequence

from PyQt6.QtCore import QEvent, Qt
from PyQt6.QtGui import QFont, QFontInfo
from PyQt6.QtWidgets import QFrame, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from canthus.gui.keyboard import keep_keys

STYLE = """
QFrame#card { background: palette(window); border: 1px solid palette(mid); border-radius: 12px; }
QLabel#title { color: palette(window-text); }
QLabel#text { color: palette(placeholder-text); }
QPushButton { background: palette(highlight); color: palette(highlighted-text); border: 1px solid transparent;
    border-radius: 6px; padding: 6px 13px; }
QPushButton:hover, QPushButton:focus { border-color: palette(accent); }
"""
TITLE_SIZE, TEXT_SIZE = 1.6, 1.2
"""Font sizes, as multiples of the user's own font size."""

MOST_CHARACTERS = 37
"""Width of the text at most, in heights of its font."""

HORIZONTAL, VERTICAL, SPACING, EDGE = 28, 22, 10, 40
"""Pixels around the content, between its parts, and at least between the content and the edge of the window."""

Choice = tuple[str, Callable[[], object]]
"""The text of a button, and what it does."""


class MessageCard(QFrame):
    """A title, a text and buttons in the center of its parent. Hidden without a title."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setObjectName("card")
        self.setStyleSheet(STYLE)
        self._title, self._text = QLabel(), QLabel()
        for label, name in ((self._title, "title"), (self._text, "text")):
            label.setObjectName(name)
            label.setWordWrap(True)
            label.setTextFormat(Qt.TextFormat.PlainText)
            label.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        self._message = ("", "")
        self._buttons: list[QPushButton] = []
        self._row = QHBoxLayout()
        self._row.setSpacing(SPACING)
        column = QVBoxLayout(self)
        column.setContentsMargins(HORIZONTAL, VERTICAL, HORIZONTAL, VERTICAL)
        column.setSpacing(SPACING)
        column.addWidget(self._title)
        column.addWidget(self._text)
        column.addLayout(self._row)
        self.hide()

    @property
    def message(self) -> str:
        """Title and text, or an empty string."""
        return "\n".join(self._message) if self._message[0] else ""

    @property
    def choices(self) -> list[str]:
        """The texts of the buttons."""
        return [button.text() for button in self._buttons]

    def show_message(self, title: str, text: str = "", choices: Sequence[Choice] = ()) -> None:
        """Show a message; an empty title hides the card."""
        if self._message != (title, text):
            self._message = (title, text)
            self._title.setText(_breakable(title))
            self._text.setText(_breakable(text))
            self._text.setVisible(bool(text))
        self._show_choices(choices)
        self.setVisible(bool(title))
        self.place()

    def event(self, event: QEvent | None) -> bool:
        """Let the buttons use their keys."""
        keep_keys(event)
        return super().event(event)

    def press(self, text: str) -> None:
        """Press the button with this text."""
        next(button for button in self._buttons if button.text() == text).click()

    def _show_choices(self, choices: Sequence[Choice]) -> None:
        if [text for text, _ in choices] == self.choices:
            return  # keeps the focus of the keyboard
        for button in self._buttons:
            self._row.removeWidget(button)
            button.hide()
            button.deleteLater()
        self._buttons = []
        for text, act in choices:
            button = QPushButton(text)
            button.clicked.connect(lambda _checked=False, act=act: act())
            self._row.addWidget(button)
            self._buttons.append(button)

    def place(self) -> None:
        """Take the size of the text, in the center of the parent."""
        parent = self.parentWidget()
        if parent is None or self.isHidden():
            return
        for label, size in ((self._title, TITLE_SIZE), (self._text, TEXT_SIZE)):
            font = QFont(parent.font())
            font.setPixelSize(round(size * QFontInfo(parent.font()).pixelSize()))
            if label is self._title:
                font.setWeight(QFont.Weight.DemiBold)
            label.setFont(font)
        widest = max(200, min(parent.width() - 2 * EDGE, MOST_CHARACTERS * self._text.fontInfo().pixelSize()))
        texts = [label for label in (self._title, self._text) if label.text()]
        natural = max(label.fontMetrics().horizontalAdvance(max(label.text().split("\n"), key=len)) for label in texts)
        buttons = sum(button.sizeHint().width() for button in self._buttons) + SPACING * max(0, len(self._buttons) - 1)
        width = min(max(min(natural + 8, widest), buttons), parent.width() - 2 * EDGE)
        for label in texts:
            label.setFixedSize(width, label.heightForWidth(width))
        heights = [label.height() for label in texts] + [button.sizeHint().height() for button in self._buttons[:1]]
        height = sum(heights) + SPACING * (len(heights) - 1) + 2 * VERTICAL
        width += 2 * HORIZONTAL
        self.setGeometry((parent.width() - width) // 2, max(0, (parent.height() - height) // 2), width, height)


def _breakable(text: str) -> str:
    """Allow line breaks after path separators and inside long names."""
    return re.sub(r"[/\\]|[^\s/\\]{30}", "\\g<0>\N{ZERO WIDTH SPACE}", text)
