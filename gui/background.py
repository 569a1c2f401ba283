"""Runs a function in a thread, so that the window goes on meanwhile."""

from collections.abc import Callable
from threading import Thread
from typing import TypeVar

from PyQt6.QtCore import QObject

from canthus.gui.mailbox import Mailbox

Value = TypeVar("Value")


def run_in_background(parent: QObject, work: Callable[[], Value], done: Callable[[Value], object]) -> None:
    """Call `work` in a daemon thread, and then `done` with its value in the thread of Qt, if `parent` still exists."""
    mailbox: Mailbox[tuple[Value]] = Mailbox()
    mailbox.setParent(parent)

    def take() -> None:
        item = mailbox.take()
        mailbox.deleteLater()
        if item is not None:
            done(item[0])

    def run() -> None:
        value = work()
        try:
            mailbox.post((value,))
        except RuntimeError:  # the window, and the mailbox with it, were deleted meanwhile
            return

    mailbox.filled.connect(take)
    Thread(target=run, name="background", daemon=True).start()
