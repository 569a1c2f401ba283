"""The video and the text over it. Qt only paints here; the window decides what is shown."""

from collections.abc import Sequence

from PyQt6.QtCore import QRectF, Qt
from PyQt6.QtGui import QColor, QFont, QFontInfo, QImage, QPainter, QPaintEvent, QResizeEvent
from PyQt6.QtWidgets import QWidget

from canthus.gui.message_card import TEXT_SIZE, Choice, MessageCard
from canthus.gui.overlay import OverlayStyle, Trails, frame_to_window, paint_faces
from canthus.gui.rendering import as_qimage
from canthus.gui.stream import Result

BACKGROUND = QColor("#0b0e13")
DIMMED = QColor(6, 8, 12, 150)
HINT_BACKGROUND = QColor(20, 25, 33, 235)
HINT_COLOR = QColor("#e6ebf2")


class View(QWidget):
    """Paints the newest result, scaled to the window, and a message card or a hint over it."""

    def __init__(self, style: OverlayStyle) -> None:
        super().__init__()
        self.overlay_style = style
        self._hint = ""
        self.card = MessageCard(self)
        self._result: Result | None = None  # owns the memory of the image
        self._image = QImage()
        self._trails = Trails()
        self.setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)

    def set_style(self, style: OverlayStyle) -> None:
        """Paint the faces in another style from now on."""
        self.overlay_style = style
        self.update()

    def show_result(self, result: Result) -> None:
        """Paint a frame with its faces."""
        self._image, self._result = as_qimage(result.pixels), result
        self._trails.add(result.faces, result.frame.seconds)
        self.update()

    def clear(self) -> None:
        """Show no frame."""
        self._image, self._result = QImage(), None
        self.update()

    def show_message(self, title: str, text: str = "", choices: Sequence[Choice] = ()) -> None:
        """Show a card with a message and buttons over the video; an empty title hides the card."""
        self.card.show_message(title, text, choices)
        self._text_changed()

    def show_hint(self, hint: str) -> None:
        """Show a short hint at the bottom edge."""
        self._hint = hint
        self._text_changed()

    @property
    def message(self) -> str:
        """Title and text of the current message, or an empty string."""
        return self.card.message

    @property
    def hint(self) -> str:
        """The current hint, or an empty string."""
        return self._hint

    def _text_changed(self) -> None:
        """Repaint, and pass the text on to screen readers, which cannot read painted text."""
        self.setAccessibleName(self.message or self.hint or self.tr("Video"))
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
        if self.message and self._result:
            painter.fillRect(self.rect(), DIMMED)
        if self.hint:
            self._paint_hint(painter)
        painter.end()

    def resizeEvent(self, event: QResizeEvent | None) -> None:  # noqa: N802 - Qt's name
        super().resizeEvent(event)
        self.card.place()

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

    def _paint_hint(self, painter: QPainter) -> None:
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setFont(self._font(TEXT_SIZE))
        flags = Qt.TextFlag.TextWordWrap | Qt.AlignmentFlag.AlignCenter
        text_box = painter.boundingRect(QRectF(self.rect()).adjusted(40, 0, -40, 0), flags, self.hint)
        pill = text_box.adjusted(-16, -7, 16, 7)
        pill.moveBottom(self.height() - 18)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(HINT_BACKGROUND)
        painter.drawRoundedRect(pill, 16, 16)
        painter.setPen(HINT_COLOR)
        painter.drawText(pill.adjusted(16, 7, -16, -7), flags, self.hint)
        painter.restore()
