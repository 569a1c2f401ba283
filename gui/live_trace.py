"""The trace of a recording of the viewer. Importing this takes time, so a thread does it."""

import time
from pathlib import Path

from canthus.runtime.errors import InputError
from canthus.runtime.processing import Processing
from canthus.runtime.schemes import WFLW, Scheme
from canthus.runtime.trace import Recorder
from canthus.runtime.types import Faces

CHUNK_SECONDS = 1.0
"""Of the trace, that are lost at most if the viewer is killed."""


class LiveTrace(Recorder):
    """A trace of which an error does not stop the viewer. `active`: frames are being recorded."""

    def __init__(self, path: Path, source: str) -> None:
        super().__init__(path, source)
        self.active = False
        self._written = time.monotonic()  # when frames were written the last time
        self.problem = ""

    def start(self, processing: Processing, network: str, scheme: Scheme = WFLW, state: bytes = b"") -> None:
        """Write the header."""
        try:
            super().start(processing, network, scheme, state)
            self.active = True
        except InputError as error:
            self.problem = str(error)

    def _chunk_is_full(self) -> bool:
        now = time.monotonic()
        full = now - self._written >= CHUNK_SECONDS
        self._written = now if full else self._written
        return full

    def end_frame(self, faces: Faces) -> None:
        """Record the result of a frame."""
        try:
            super().end_frame(faces)
        except InputError as error:
            self.problem = str(error)
