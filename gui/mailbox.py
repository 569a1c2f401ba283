"""A one-slot mailbox from any thread to the Qt thread: the newest item wins."""

from threading import Lock
from typing import Generic, TypeVar

from PyQt6.QtCore import QObject, pyqtSignal

Item = TypeVar("Item")


class Mailbox(QObject, Generic[Item]):
    """Passes the newest item from any thread to the window.

    `filled` is emitted only when the slot was empty. So at most one signal waits in Qt's event queue, however slow
    the window is, and only the newest item is painted.
    """

    filled = pyqtSignal()

    def __init__(self) -> None:
        super().__init__()
        self._lock = Lock()
        self._item: Item | None = None
        self.overwritten = 0  # items that were replaced before they were taken

    def post(self, item: Item) -> None:
        """Put an item into the slot and replace the one that is still there."""
        with self._lock:
            was_empty = self._item is None
            self._item = item
            self.overwritten += not was_empty
        if was_empty:
            self.filled.emit()

    def take(self) -> Item | None:
        """Return the item and empty the slot; None if the slot is empty."""
        with self._lock:
            item, self._item = self._item, None
        return item
