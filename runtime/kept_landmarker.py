"""Keep the networks open from one file to the next. To open them takes as long as to process some twenty frames.

Worker processes keep them, in a block of `landmarkers_kept`. Elsewhere `open_landmarker` opens and closes them each
time.
"""

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import NamedTuple

from canthus.runtime.pipeline import Landmarker, Settings
from canthus.runtime.trace import Recorder


class _Kept(NamedTuple):
    settings: Settings
    landmarker: Landmarker
    first: bytes  # its state before the first frame


_of_thread = threading.local()  # `kept`: that of this thread, as a landmarker belongs to its thread
_threads: list[Executor] = []  # one if landmarkers are kept


@contextlib.contextmanager
def landmarkers_kept() -> Iterator[None]:
    """Let `open_landmarker` keep the networks open in the block, in this thread and in that of `landmarker_thread`."""
    with ThreadPoolExecutor(1, "landmark") as thread:
        _threads.append(thread)
        try:
            yield
        finally:
            _threads.remove(thread)
            thread.submit(_close_kept)
            _close_kept()


def landmarker_thread() -> Executor | None:
    """Return the thread in which landmarkers are kept that do not run in the main thread; None if none are kept."""
    return _threads[0] if _threads else None


@contextlib.contextmanager
def open_landmarker(settings: Settings, recorder: Recorder | None = None) -> Iterator[Landmarker]:
    """Yield a landmarker as it is when it was opened, which may be a kept one of this thread.

    After an error in the block it is closed. Raises what `Landmarker` raises.
    """
    if not _threads or recorder is not None:
        with Landmarker(settings, recorder=recorder) as landmarker:
            yield landmarker
        return
    kept: _Kept | None = getattr(_of_thread, "kept", None)
    if kept is None or kept.settings != settings:
        _close_kept()
        landmarker = Landmarker(settings)
        kept = _Kept(settings, landmarker, landmarker.state())
        _of_thread.kept = kept
    kept.landmarker.restore(kept.first)
    try:
        yield kept.landmarker
    except BaseException:
        _close_kept()
        raise


def _close_kept() -> None:
    kept: _Kept | None = getattr(_of_thread, "kept", None)
    if kept is not None:
        _of_thread.kept = None
        kept.landmarker.close()
