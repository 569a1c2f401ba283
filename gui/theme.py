"""Light and dark colors of the window. The area around the video is dark in both."""

from typing import Literal, get_args

from PyQt6.QtCore import Qt
from PyQt6.QtGui import QColor, QGuiApplication, QPalette
from PyQt6.QtWidgets import QApplication

Theme = Literal["system", "light", "dark"]
THEMES: tuple[Theme, ...] = get_args(Theme)

_Role = QPalette.ColorRole

_COLORS: dict[bool, dict[QPalette.ColorRole, str]] = {
    True: {
        _Role.Window: "#12161d", _Role.WindowText: "#d5dde8", _Role.Base: "#1e2632", _Role.AlternateBase: "#171c25",
        _Role.Text: "#d5dde8", _Role.Button: "#1b222d", _Role.ButtonText: "#d5dde8", _Role.BrightText: "#ff8a80",
        _Role.Highlight: "#27405a", _Role.HighlightedText: "#ffffff", _Role.Link: "#5ac8fa",
        _Role.ToolTipBase: "#171c25", _Role.ToolTipText: "#d5dde8", _Role.PlaceholderText: "#8d9aab",
        _Role.Mid: "#2b3442", _Role.Accent: "#5ac8fa",
    },
    False: {
        _Role.Window: "#f3f5f8", _Role.WindowText: "#1c242e", _Role.Base: "#ffffff", _Role.AlternateBase: "#e9edf2",
        _Role.Text: "#1c242e", _Role.Button: "#e6eaf0", _Role.ButtonText: "#1c242e", _Role.BrightText: "#b3261e",
        _Role.Highlight: "#bfe0f7", _Role.HighlightedText: "#0f1720", _Role.Link: "#0a5fa5",
        _Role.ToolTipBase: "#ffffff", _Role.ToolTipText: "#1c242e", _Role.PlaceholderText: "#5c6773",
        _Role.Mid: "#c9d1db", _Role.Accent: "#0a6ebd",
    },
}  # fmt: skip
"""Colors of the dark and of the light theme."""

_DISABLED = {True: "#566273", False: "#98a2ae"}

MENU_STYLE = """
QMenuBar { background: palette(window); color: palette(window-text); }
QMenuBar::item { padding: 4px 10px; border-radius: 4px; background: transparent; }
QMenuBar::item:selected { background: palette(highlight); color: palette(highlighted-text); }
QMenu { background: palette(window); color: palette(window-text); border: 1px solid palette(mid); padding: 4px; }
QMenu::item { padding: 5px 22px; border-radius: 4px; }
QMenu::item:selected { background: palette(highlight); color: palette(highlighted-text); }
QMenu::item:disabled { color: palette(placeholder-text); }
QMenu::separator { height: 1px; background: palette(mid); margin: 4px 8px; }
QToolTip { background: palette(window); color: palette(window-text); border: 1px solid palette(mid); padding: 3px; }
"""
"""Style of the menus, in colors of the palette."""

BAR_STYLE = """
QWidget#bar, QWidget#controls { background: palette(window); }
QWidget#bar { border-top: 1px solid palette(mid); }
QLabel#status { color: palette(window-text); }
QToolButton { color: palette(button-text); border: none; border-radius: 5px; padding: 4px 7px; }
QToolButton:hover { background: palette(button); }
QToolButton:checked { background: palette(highlight); color: palette(highlighted-text); }
QToolButton:disabled { color: palette(placeholder-text); }
QToolButton#recording { color: palette(bright-text); font-weight: 600; background: transparent;
    min-width: 8em; }
QToolButton#recording:disabled { color: palette(placeholder-text); }
QCheckBox::indicator:unchecked:enabled { background: palette(base); border: 1px solid palette(placeholder-text);
    border-radius: 2px; width: 12px; height: 12px; }
QTabBar::tab { background: palette(button); color: palette(button-text); border: 1px solid palette(mid);
    padding: 5px 11px; margin-top: 2px; }
QTabBar::tab:hover { border-color: palette(accent); }
QTabBar::tab:selected { background: palette(highlight); color: palette(highlighted-text);
    border-bottom: 2px solid palette(accent); }
"""
"""Style of the bars below the video, of the button that records, of check boxes, and of the tabs of the panels."""


def palette(dark: bool) -> QPalette:
    """Return the colors of the dark or of the light theme."""
    result = QPalette()
    for role, color in _COLORS[dark].items():
        result.setColor(role, QColor(color))
    for role in (_Role.WindowText, _Role.Text, _Role.ButtonText):
        result.setColor(QPalette.ColorGroup.Disabled, role, QColor(_DISABLED[dark]))
    return result


def system_is_dark() -> bool:
    """Return whether the desktop uses a dark theme; also if it does not say."""
    hints = QGuiApplication.styleHints()
    return hints is None or hints.colorScheme() != Qt.ColorScheme.Light


def apply_theme(theme: Theme) -> None:
    """Use a theme in the whole application."""
    dark = system_is_dark() if theme == "system" else theme == "dark"
    colors = palette(dark)
    QApplication.setPalette(colors)
    for widget in QApplication.topLevelWidgets():  # what is inside a widget with a style sheet keeps its colors
        sheet = widget.styleSheet()
        widget.setStyleSheet("")
        widget.setPalette(colors)
        widget.setStyleSheet(sheet)
