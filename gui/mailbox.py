"""What a thread leaves for Qt: one slot, where the newest wins and one signal stands for many posts."""

from threading import Lock
from typing import Generic, TypeVar

from PyQt6.QtCore import QObject, pyqtSignal

Item = TypeVar("Item")


class Mailbox(QObject, Generic[Item]):
    """Hands the newest item from any thread to the window.

    `filled` is emitted only when the slot was empty. So however slow the window is, at most one signal waits
    in Qt's queue, and only the newest item is painted.
    """

    filled = pyqtSignal()

    def __init__(self) -> None:
        super().__init__()
        self._lock = Lock()
        self._item: Item | None = None
        self.overwritten = 0  # items that nobody took before the next came

    def post(self, item: Item) -> None:
        """Leave an item, in place of one that still lies there."""
        with self._lock:
            was_empty = self._item is None
            self._item = item
            self.overwritten += not was_empty
        if was_empty:
            self.filled.emit()

    def take(self) -> Item | None:
        """Empty the slot."""
        with self._lock:
            item, self._item = self._item, None
        return item
