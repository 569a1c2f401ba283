"""Open a backend in a thread, so that no frame waits for it."""

import threading
from collections.abc import Callable
from concurrent.futures import Future

from canthus.runtime.backends import Backend
from canthus.runtime.closeable import Closeable

CLOSE_TIMEOUT = 1.0
"""Seconds that `close` waits for the thread. Then the thread closes the backend itself, when it is open."""


class Opening(Closeable):
    """A backend that is being opened. The thread that takes it may use it as its own."""

    def __init__(self, open_backend: Callable[[], Backend]) -> None:
        self._opened: Future[Backend] = Future()
        self._thread = threading.Thread(target=self._run, args=(open_backend,), name="open backend", daemon=True)
        self._thread.start()

    def _run(self, open_backend: Callable[[], Backend]) -> None:
        try:
            self._opened.set_result(open_backend())
        except BaseException as error:  # noqa: BLE001 - raised again by `take`
            self._opened.set_exception(error)

    @property
    def running(self) -> bool:
        """Whether the backend is not open yet. The call does not wait."""
        return not self._opened.done()

    def take(self) -> Backend:
        """Return the backend, which now belongs to the caller. Raises the error of the thread; waits for it."""
        return self._opened.result()

    def close(self) -> None:
        """Free the backend, now or as soon as it is open. Call it only if the backend was not taken."""
        self._opened.add_done_callback(_close_opened)
        self._thread.join(CLOSE_TIMEOUT)


def _close_opened(opened: Future[Backend]) -> None:
    if opened.exception() is None:
        opened.result().close()
