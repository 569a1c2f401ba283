"""The picture and what is said over it, painted. Qt paints here; it decides nothing."""

import re

import numpy as np
from PyQt6.QtCore import QRectF, Qt
from PyQt6.QtGui import QColor, QFont, QFontInfo, QImage, QPainter, QPaintEvent
from PyQt6.QtWidgets import QWidget

from canthus.gui.overlay import OverlayStyle, frame_to_window, paint_faces
from canthus.gui.stream import Result

BACKDROP = QColor("#0b0e13")
DIMMED = QColor(6, 8, 12, 150)
CARD = QColor(20, 25, 33, 235)
EDGE = QColor(255, 255, 255, 22)
TEXT = QColor("#e6ebf2")
QUIET = QColor("#9aa7b8")
LARGE, SMALL = 1.6, 1.2
"""Sizes of what is said, in sizes of the user's own font."""


class View(QWidget):
    """Paints the newest result, scaled with its aspect kept, and a message over it."""

    def __init__(self, look: OverlayStyle) -> None:
        super().__init__()
        self.look = look
        self._hint = ""
        self._message: tuple[str, str] | None = None  # title, text
        self._result: Result | None = None
        self._image = QImage()
        self.setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)

    def show_result(self, result: Result) -> None:
        self._result = result
        picture = np.ascontiguousarray(result.frame.image)
        height, width, _ = picture.shape
        borrowed = QImage(
            picture.data,  # type: ignore[call-overload]  # any buffer will do, but the stubs know only bytes
            width,
            height,
            picture.strides[0],
            QImage.Format.Format_RGB888,
        )
        # Qt paints its own format twice as fast, and the copy needs no array to be kept alive for it.
        self._image = borrowed.convertToFormat(QImage.Format.Format_RGB32)
        self.update()

    def show_message(self, title: str, text: str = "") -> None:
        """Say something over the picture; an empty title takes it away."""
        self._message = (title, text) if title else None
        self._tell()

    def show_hint(self, hint: str) -> None:
        """Say something at the lower edge, as long as there is no message."""
        self._hint = hint
        self._tell()

    @property
    def message(self) -> str:
        """What is said now, title and text, or nothing."""
        return "\n".join(self._message) if self._message else ""

    @property
    def hint(self) -> str:
        """What is said at the lower edge, or nothing."""
        return self._hint

    def _tell(self) -> None:
        """Paint it, and give it to screen readers, which cannot see what is painted."""
        self.setAccessibleName(self.message or self.hint or "Picture")
        self.update()

    def _font(self, size: float) -> QFont:
        font = QFont(self.font())
        font.setPixelSize(round(size * QFontInfo(font).pixelSize()))
        return font

    def paintEvent(self, _event: QPaintEvent | None) -> None:  # noqa: N802 - Qt's name
        painter = QPainter(self)
        painter.fillRect(self.rect(), BACKDROP)
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
        image, whole = self._image, QRectF(self._image.rect())
        to_window = frame_to_window(
            image.width(), image.height(), QRectF(self.rect()), self.look.mirrored, result.frame.pixel_aspect
        )
        shrunk = to_window.mapRect(whole).size() * self.devicePixelRatio()
        if shrunk.width() < image.width() / 2:
            # The painter looks at four pixels at most, which is too few to shrink this far.
            image = image.scaled(shrunk.toSize(), transformMode=Qt.TransformationMode.SmoothTransformation)
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        painter.setTransform(to_window)
        painter.drawImage(whole, image)
        painter.restore()
        paint_faces(painter, result.faces, to_window, self.look)

    def _paint_message(self, painter: QPainter, title: str, text: str) -> None:
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        wide = Qt.TextFlag.TextWordWrap | Qt.AlignmentFlag.AlignHCenter
        large, small = self._font(LARGE), self._font(SMALL)
        large.setWeight(QFont.Weight.DemiBold)
        room = QRectF(0, 0, min(self.width() - 80, 37 * small.pixelSize()), self.height())
        painter.setFont(large)
        title_box = painter.boundingRect(room, wide, title)
        painter.setFont(small)
        text_box = painter.boundingRect(room, wide, text) if text else QRectF()
        gap = 10 if text else 0
        card = QRectF(
            0,
            0,
            max(title_box.width(), text_box.width()) + 56,
            title_box.height() + gap + text_box.height() + 44,
        )
        card.moveCenter(QRectF(self.rect()).center())
        painter.setPen(EDGE)
        painter.setBrush(CARD)
        painter.drawRoundedRect(card, 12, 12)
        inside = card.adjusted(28, 22, -28, -22)
        painter.setPen(TEXT)
        painter.setFont(large)
        painter.drawText(inside, wide, title)
        painter.setPen(QUIET)
        painter.setFont(small)
        painter.drawText(inside.adjusted(0, title_box.height() + gap, 0, 0), wide, text)
        painter.restore()

    def _paint_hint(self, painter: QPainter) -> None:
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setFont(self._font(SMALL))
        wide = Qt.TextFlag.TextWordWrap | Qt.AlignmentFlag.AlignCenter
        words = painter.boundingRect(QRectF(self.rect()).adjusted(40, 0, -40, 0), wide, self.hint)
        pill = words.adjusted(-16, -7, 16, 7)
        pill.moveBottom(self.height() - 18)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(CARD)
        painter.drawRoundedRect(pill, 16, 16)
        painter.setPen(TEXT)
        painter.drawText(pill.adjusted(16, 7, -16, -7), wide, self.hint)
        painter.restore()


def _breakable(text: str) -> str:
    """The text with places where a path, or a name that is too long for a line, can be broken."""
    return re.sub(r"[/\\]|[^\s/\\]{30}", "\\g<0>\N{ZERO WIDTH SPACE}", text)
