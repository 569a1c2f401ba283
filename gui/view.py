"""The video and the text over it. Qt only paints here; the window decides what is shown."""

from collections.abc import Sequence
from dataclasses import replace

from PyQt6.QtCore import QRectF, Qt, QTimer, pyqtSignal
from PyQt6.QtGui import QColor, QFont, QFontInfo, QImage, QPainter, QPaintEvent, QResizeEvent
from PyQt6.QtWidgets import QWidget

from canthus.gui.background_task import BackgroundTask
from canthus.gui.message_card import TEXT_SIZE, Choice, MessageCard
from canthus.gui.overlay import OverlayStyle, Trails, frame_to_window, paint_faces
from canthus.gui.rendering import as_qimage
from canthus.gui.stream import Result

BACKGROUND = QColor("#0b0e13")
DIMMED = QColor(6, 8, 12, 150)
HINT_BACKGROUND = QColor(20, 25, 33, 235)
HINT_COLOR = QColor("#e6ebf2")

FIT_MS = 150
"""So long after the last change of the size, a frame that stays is reduced to the new size."""


class View(QWidget):
    """Paints the newest result, scaled to the window, and a message card or a hint over it.

    `resized` is emitted with width and height in device pixels: results for that size are painted fastest.
    """

    resized = pyqtSignal(int, int)

    def __init__(self, style: OverlayStyle) -> None:
        super().__init__()
        self.overlay_style = style
        self._hint = ""
        self.card = MessageCard(self)
        self._result: Result | None = None  # owns the memory of the image
        self._image = QImage()
        self._trails = Trails()
        self._size: tuple[int, int] | None = None
        self._fitting = BackgroundTask(self, self._fit, self._show_fitted)
        self._fit_timer = QTimer(self)
        self._fit_timer.setSingleShot(True)
        self._fit_timer.setInterval(FIT_MS)
        self._fit_timer.timeout.connect(self._fitting.start)
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

    @property
    def painted_size(self) -> tuple[int, int]:
        """Width and height of the image that is painted, in its own pixels."""
        return self._image.width(), self._image.height()

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
        ratio = self.devicePixelRatio()
        self._size = round(self.width() * ratio), round(self.height() * ratio)
        self.resized.emit(*self._size)
        self._fit_timer.start()

    def _fit(self) -> tuple[Result, Result] | None:
        """Reduce the frame that is shown to the new size, if no other frame has followed. Runs in a thread."""
        result = self._result
        if result is None or result.view_size == self._size:
            return None
        return result, replace(result, view_size=self._size)

    def _show_fitted(self, results: tuple[Result, Result] | None) -> None:
        if results is not None and results[0] is self._result:
            self._image, self._result = as_qimage(results[1].pixels), results[1]
            self.update()

    def _paint_result(self, painter: QPainter, result: Result) -> None:
        height, width = result.frame.image.shape[:2]
        to_window = frame_to_window(
            width, height, QRectF(self.rect()), self.overlay_style.mirrored, result.frame.pixel_aspect
        )
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        painter.setTransform(to_window)
        painter.drawImage(QRectF(0, 0, width, height), self._image)
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
