"""The icon and the desktop entry of the viewer."""

import configparser
import sys

import pytest
from PyQt6.QtGui import QColor, QIcon
from PyQt6.QtWidgets import QApplication

from canthus.gui import app
from canthus.gui.icons import ICON, symbol
from support.repository import REPOSITORY
from support.viewer import application

qt = pytest.fixture(scope="session")(application)


def test_the_icon_is_drawn_at_each_size(qt: QApplication) -> None:
    for size in (16, 48, 256):
        image = QIcon(str(ICON)).pixmap(size, size).toImage()
        assert image.width() == size
        assert image.pixelColor(size // 2, size // 2).alpha() == 255
        assert image.pixelColor(0, 0).alpha() < 255


@pytest.mark.parametrize("name", ["play", "pause", "next", "previous", "loop"])
def test_the_symbols_are_drawn(qt: QApplication, name: str) -> None:
    image = symbol(name, QColor("#d5dde8")).pixmap(32, 32).toImage()
    opaque = sum(image.pixelColor(x, y).alpha() > 200 for x in range(32) for y in range(32))
    assert 60 < opaque < 700


def test_the_desktop_entry_starts_the_viewer() -> None:
    entry = configparser.ConfigParser(interpolation=None)
    entry.optionxform = str  # type: ignore[assignment, method-assign]
    entry.read(REPOSITORY / "gui" / "canthus-viewer.desktop", encoding="utf-8")
    assert entry["Desktop Entry"]["Exec"] == "canthus-viewer %F"
    assert entry["Desktop Entry"]["Icon"] == ICON.stem
    assert "video/mp4" in entry["Desktop Entry"]["MimeType"].split(";")


@pytest.mark.parametrize(("words", "passed"), [([], ["view", "--start-page"]), (["a.mp4"], ["view", "a.mp4"])])
def test_the_entry_point_without_a_console_opens_the_start_page(
    monkeypatch: pytest.MonkeyPatch, words: list[str], passed: list[str]
) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(sys, "argv", ["canthus-viewer", *words])
    monkeypatch.setattr(app, "main", lambda words: calls.append(words) or 0)
    assert app.start_viewer() == 0
    assert calls == [passed]
