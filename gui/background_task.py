"""Runs a function in a thread, so that the window goes on meanwhile."""

from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import Generic, TypeVar

from PyQt6.QtCore import QObject

from canthus.gui.mailbox import Mailbox

Value = TypeVar("Value")


class BackgroundTask(QObject, Generic[Value]):
    """Calls `work` in a daemon thread at each `start`, and then `done` with its value in the thread of Qt."""

    def __init__(self, parent: QObject, work: Callable[[], Value], done: Callable[[Value], object]) -> None:
        super().__init__(parent)
        self._work, self._done = work, done
        self._values: Mailbox[tuple[Value]] = Mailbox()
        self._values.filled.connect(self._take)

    def start(self) -> None:
        """Start the thread."""
        Thread(target=self._run, name="background", daemon=True).start()

    def _run(self) -> None:
        value = self._work()
        with suppress(RuntimeError):  # the window was closed meanwhile, and Qt has deleted the mailbox
            self._values.post((value,))

    def _take(self) -> None:
        if (item := self._values.take()) is not None:
            self._done(item[0])
