"""The video and the text over it. Qt only paints here; the window decides what is shown."""

import re

import numpy as np
from PyQt6.QtCore import QRectF, Qt
from PyQt6.QtGui import QColor, QFont, QFontInfo, QImage, QPainter, QPaintEvent
from PyQt6.QtWidgets import QWidget

from canthus.gui.overlay import OverlayStyle, Trails, frame_to_window, paint_faces
from canthus.gui.stream import Result

BACKGROUND = QColor("#0b0e13")
DIMMED = QColor(6, 8, 12, 150)
CARD = QColor(20, 25, 33, 235)
CARD_BORDER = QColor(255, 255, 255, 22)
TITLE_COLOR = QColor("#e6ebf2")
TEXT_COLOR = QColor("#9aa7b8")
TITLE_SIZE, TEXT_SIZE = 1.6, 1.2
"""Font sizes, as multiples of the user's own font size."""


class View(QWidget):
    """Paints the newest result, scaled to the window, and a message card or a hint over it."""

    def __init__(self, style: OverlayStyle) -> None:
        super().__init__()
        self.overlay_style = style
        self._hint = ""
        self._message: tuple[str, str] | None = None  # title, text
        self._result: Result | None = None
        self._image = QImage()
        self._trails = Trails()
        self.setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)

    def set_style(self, style: OverlayStyle) -> None:
        """Paint the faces in another style from now on."""
        self.overlay_style = style
        self.update()

    def show_result(self, result: Result) -> None:
        self._result = result
        self._trails.add(result.faces, result.frame.seconds)
        pixels = np.ascontiguousarray(result.frame.image)
        height, width, _ = pixels.shape
        borrowed = QImage(
            pixels.data,  # type: ignore[call-overload]  # any buffer works, but the stubs allow only bytes
            width,
            height,
            pixels.strides[0],
            QImage.Format.Format_RGB888,
        )
        # Qt paints its native format twice as fast, and the copy does not depend on the array's lifetime.
        self._image = borrowed.convertToFormat(QImage.Format.Format_RGB32)
        self.update()

    def clear(self) -> None:
        """Show no frame."""
        self._result = None
        self.update()

    def show_message(self, title: str, text: str = "") -> None:
        """Show a card with a message over the video; an empty title hides the card."""
        self._message = (title, text) if title else None
        self._text_changed()

    def show_hint(self, hint: str) -> None:
        """Show a short hint at the bottom edge. A message hides it."""
        self._hint = hint
        self._text_changed()

    @property
    def message(self) -> str:
        """Title and text of the current message, or an empty string."""
        return "\n".join(self._message) if self._message else ""

    @property
    def hint(self) -> str:
        """The current hint, or an empty string."""
        return self._hint

    def _text_changed(self) -> None:
        """Repaint, and pass the text on to screen readers, which cannot read painted text."""
        self.setAccessibleName(self.message or self.hint or "Video")
        self.update()

    def _font(self, size: float) -> QFont:
        font = QFont(self.font())
        font.setPixelSize(round(size * QFontInfo(font).pixelSize()))
        return font

    def paintEvent(self, _event: QPaintEvent | None) -> None:  # noqa: N802 - Qt's name
        painter = QPainter(self)
        painter.fillRect(self.rect(), BACKGROUND)
        if self._result:
            self._paint_result(painter, self._result)
        if self._message:
            if self._result:
                painter.fillRect(self.rect(), DIMMED)
            self._paint_message(painter, *map(_breakable, self._message))
        elif self.hint:
            self._paint_hint(painter)
        painter.end()

    def _paint_result(self, painter: QPainter, result: Result) -> None:
        image, source = self._image, QRectF(self._image.rect())
        to_window = frame_to_window(
            image.width(), image.height(), QRectF(self.rect()), self.overlay_style.mirrored, result.frame.pixel_aspect
        )
        target = to_window.mapRect(source).size() * self.devicePixelRatio()
        if target.width() < image.width() / 2:
            # QPainter interpolates between four pixels, which aliases when the image shrinks to less than a half.
            image = image.scaled(target.toSize(), transformMode=Qt.TransformationMode.SmoothTransformation)
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        painter.setTransform(to_window)
        painter.drawImage(source, image)
        painter.restore()
        paint_faces(painter, result.faces, to_window, self.overlay_style, self._trails)

    def _paint_message(self, painter: QPainter, title: str, text: str) -> None:
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        flags = Qt.TextFlag.TextWordWrap | Qt.AlignmentFlag.AlignHCenter
        title_font, text_font = self._font(TITLE_SIZE), self._font(TEXT_SIZE)
        title_font.setWeight(QFont.Weight.DemiBold)
        available = QRectF(0, 0, min(self.width() - 80, 37 * text_font.pixelSize()), self.height())
        painter.setFont(title_font)
        title_box = painter.boundingRect(available, flags, title)
        painter.setFont(text_font)
        text_box = painter.boundingRect(available, flags, text) if text else QRectF()
        gap = 10 if text else 0
        card = QRectF(
            0,
            0,
            max(title_box.width(), text_box.width()) + 56,
            title_box.height() + gap + text_box.height() + 44,
        )
        card.moveCenter(QRectF(self.rect()).center())
        painter.setPen(CARD_BORDER)
        painter.setBrush(CARD)
        painter.drawRoundedRect(card, 12, 12)
        inside = card.adjusted(28, 22, -28, -22)
        painter.setPen(TITLE_COLOR)
        painter.setFont(title_font)
        painter.drawText(inside, flags, title)
        painter.setPen(TEXT_COLOR)
        painter.setFont(text_font)
        painter.drawText(inside.adjusted(0, title_box.height() + gap, 0, 0), flags, text)
        painter.restore()

    def _paint_hint(self, painter: QPainter) -> None:
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setFont(self._font(TEXT_SIZE))
        flags = Qt.TextFlag.TextWordWrap | Qt.AlignmentFlag.AlignCenter
        text_box = painter.boundingRect(QRectF(self.rect()).adjusted(40, 0, -40, 0), flags, self.hint)
        pill = text_box.adjusted(-16, -7, 16, 7)
        pill.moveBottom(self.height() - 18)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(CARD)
        painter.drawRoundedRect(pill, 16, 16)
        painter.setPen(TITLE_COLOR)
        painter.drawText(pill.adjusted(16, 7, -16, -7), flags, self.hint)
        painter.restore()


def _breakable(text: str) -> str:
    """Allow line breaks after path separators and inside long names."""
    return re.sub(r"[/\\]|[^\s/\\]{30}", "\\g<0>\N{ZERO WIDTH SPACE}", text)
