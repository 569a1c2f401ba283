"""Every part of the window can be read in the light and in the dark theme."""

from collections.abc import Iterator

import pytest
from PyQt6.QtGui import QColor, QPalette
from PyQt6.QtWidgets import QApplication, QWidget

from canthus.gui import window
from canthus.gui.theme import apply_theme, palette
from canthus.gui.window import Window
from support.viewer import FakeMedia, FakeSource, FakeStream, application, fake_stream, wait_for

READABLE = 4.5
"""Contrast of texts that WCAG 2.1 asks for (success criterion 1.4.3, level AA)."""

Role = QPalette.ColorRole

TEXTS = [
    (Role.WindowText, Role.Window), (Role.Text, Role.Base), (Role.ButtonText, Role.Button),
    (Role.PlaceholderText, Role.Window), (Role.PlaceholderText, Role.Base), (Role.HighlightedText, Role.Highlight),
    (Role.BrightText, Role.Window), (Role.Link, Role.Window), (Role.ToolTipText, Role.ToolTipBase),
]  # fmt: skip

qt = pytest.fixture(scope="session")(application)


def luminance(color: QColor) -> float:
    """Return the relative luminance of WCAG 2.1, 0 to 1."""
    channels = [color.redF(), color.greenF(), color.blueF()]
    red, green, blue = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: QColor, other: QColor) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(("text", "background"), TEXTS, ids=lambda role: role.name)
def test_texts_have_enough_contrast(qt: QApplication, dark: bool, text: Role, background: Role) -> None:
    colors = palette(dark)
    assert contrast(colors.color(text), colors.color(background)) >= READABLE


@pytest.fixture
def stream() -> Iterator[FakeStream]:
    stream = fake_stream(live=False, source=lambda: FakeSource([0.0, 9.0]))
    yield stream
    stream.stop()
    assert stream.join(2.0)


def corner(widget: QWidget) -> QColor:
    """Return the color of a widget near its top left corner, below its border."""
    return widget.grab().toImage().pixelColor(3, 3)


def test_start_page_bars_and_symbols_follow_the_theme(
    qt: QApplication, stream: FakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "describe_machine", lambda: [("CPU", "a fake")])
    shown = Window(stream)
    shown.show()
    stream.start()
    for dark in (False, True, False):
        apply_theme("dark" if dark else "light")
        background = palette(dark).color(Role.Window)
        shown.show_start()
        assert wait_for(lambda expected=background: corner(shown.start_page) == expected)
        shown.open(FakeMedia(lambda: FakeSource([0.0, 9.0]), live=False))
        assert wait_for(lambda: shown.controls.isVisible() and shown.view.message == "")
        for part in (shown.controls, shown.menus.bar):
            assert corner(part) == background
        icon = shown.controls.loop.icon().pixmap(64, 64).toImage()
        pixels = [icon.pixelColor(x, y) for x in range(64) for y in range(64)]
        colors = {pixel.name() for pixel in pixels if pixel.alpha() == 255}
        assert colors == {palette(dark).color(Role.ButtonText).name()}
    shown.close()


def test_message_card_can_be_read_in_both_themes(qt: QApplication, stream: FakeStream) -> None:
    shown = Window(stream)
    shown.show()
    for theme in ("light", "dark"):
        apply_theme(theme)
        shown.view.show_message("Camera not available", "It cannot be opened", [("Try again", shown.close)])
        wait_for(lambda: False, 0.02)
        image = shown.view.card.grab().toImage()
        background = image.pixelColor(14, 14)
        others = {image.pixel(x, y) for x in range(image.width()) for y in range(10, image.height() // 3)}
        assert max(contrast(QColor(pixel), background) for pixel in others) >= READABLE
    shown.close()
