"""Run the face detector in a thread of its own, so that no frame waits for it."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.closeable import Closeable
from canthus.runtime.detector import Detector
from canthus.runtime.types import FaceBox

Task = Callable[[Detector], list[FaceBox]]


class BackgroundDetector(Closeable):
    """Finds faces in successive frames while the caller goes on.

    open_detector: called in the thread, which uses and closes what it returns. Its errors are raised here.
    """

    def __init__(self, open_detector: Callable[[], Detector]) -> None:
        self._tasks: SimpleQueue[tuple[Task, Future[list[FaceBox]]] | None] = SimpleQueue()
        self._running: Future[list[FaceBox]] | None = None
        opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(open_detector, opened), name="detector", daemon=True)
        self._thread.start()
        opened.result()

    def _run(self, open_detector: Callable[[], Detector], opened: Future[None]) -> None:
        try:
            detector = open_detector()
        except BaseException as error:  # noqa: BLE001 - raised again by the constructor
            opened.set_exception(error)
            return
        opened.set_result(None)
        try:
            while (item := self._tasks.get()) is not None:
                task, found = item
                try:
                    found.set_result(task(detector))
                except BaseException as error:  # noqa: BLE001 - raised again by the caller
                    found.set_exception(error)
                del item, task, found  # the image of a task may have 100 MB
        finally:
            detector.close()

    def _start(self, task: Task) -> Future[list[FaceBox]]:
        found: Future[list[FaceBox]] = Future()
        self._tasks.put((task, found))
        return found

    def detect_in_stream(self, image: NDArray[np.uint8]) -> list[FaceBox] | None:
        """Start to detect the faces in an image, or return those of the image that was started before.

        None means that they are not known yet: call again with the next frame. Only the image of the first call counts.
        """
        if self._running is None:
            self._running = self._start(lambda detector: detector.detect_in_stream(image))
            return None
        if not self._running.done():
            return None
        found, self._running = self._running, None
        return found.result()

    def detect(self, image: NDArray[np.uint8], exhaustive: bool = False) -> list[FaceBox]:
        """Return the same as `Detector.detect`; waits for it."""
        return self._start(lambda detector: detector.detect(image, exhaustive)).result()

    def state(self) -> dict[str, object]:
        """Return nothing: a detection that is in progress cannot be saved."""
        return {}

    def restore(self, state: Mapping[str, object]) -> None:
        """Do nothing, see `state`."""

    def close(self) -> None:
        """End the thread after its task, and free the detector."""
        self._tasks.put(None)
        self._thread.join(timeout=2)
