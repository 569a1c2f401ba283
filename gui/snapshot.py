"""Saves the frame that is shown as an image file, with its points as JSON; or copies it to the clipboard."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PyQt6.QtCore import QBuffer, QIODevice
from PyQt6.QtGui import QImage

from canthus.gui.mailbox import Mailbox
from canthus.gui.overlay import OverlayStyle
from canthus.gui.rendering import as_qimage, render
from canthus.gui.stream import Result
from canthus.runtime.errors import CanthusError, InputError
from canthus.runtime.files import write_file


@dataclass(frozen=True)
class SnapshotSaved:
    """An image file was written, with a .json file beside it."""

    path: Path


@dataclass(frozen=True)
class ImageReady:
    """An image for the clipboard."""

    image: QImage


@dataclass(frozen=True)
class SnapshotFailed:
    """A snapshot could not be written."""

    error: str


SnapshotState = SnapshotSaved | ImageReady | SnapshotFailed


class Snapshots:
    """Draws and saves results in threads of their own. `states` gets what happened."""

    def __init__(self) -> None:
        self.states: Mailbox[SnapshotState] = Mailbox()
        self._threads: list[Thread] = []

    def save(self, result: Result, style: OverlayStyle | None, path: Path, source: str) -> None:
        """Write a .png file, and a .json file with the points beside it. Returns at once.

        style: of the faces; None = the frame as it is. source: the name of what is shown, for the JSON.
        """

        def work() -> SnapshotState:
            pixels = draw(result, style)
            write_file(path, encode_png(path, as_qimage(pixels)))
            write_file(path.with_suffix(".json"), (json.dumps(describe(result, source), indent=1) + "\n").encode())
            return SnapshotSaved(path)

        self._start(work)

    def copy(self, result: Result, style: OverlayStyle | None) -> None:
        """Draw the image for the clipboard, which the window fills. Returns at once."""

        def work() -> SnapshotState:
            pixels = draw(result, style)
            return ImageReady(as_qimage(pixels).convertToFormat(QImage.Format.Format_RGB32))  # a copy

        self._start(work)

    def join(self, seconds: float) -> None:
        """Wait for the threads, up to `seconds` for each."""
        for thread in self._threads:
            thread.join(seconds)

    def _start(self, work: Callable[[], SnapshotState]) -> None:
        def run() -> None:
            try:
                self.states.post(work())
            except CanthusError as error:
                self.states.post(SnapshotFailed(str(error)))

        self._threads = [thread for thread in self._threads if thread.is_alive()]
        self._threads.append(Thread(target=run, name="snapshot", daemon=True))
        self._threads[-1].start()


def draw(result: Result, style: OverlayStyle | None) -> NDArray[np.uint8]:
    """Return the image (H, W, 3) RGB of a result, with its faces in a style."""
    if style is None:
        return np.ascontiguousarray(result.frame.image)
    return render(result.frame.image, result.faces, style)


def encode_png(path: Path, image: QImage) -> bytes:
    """Return an image as PNG. Raises InputError if that fails; `path` is for its message."""
    buffer = QBuffer()
    buffer.open(QIODevice.OpenModeFlag.WriteOnly)
    if not image.save(buffer, "PNG"):
        raise InputError(f"{path}: cannot be written (the image is too large)")
    return bytes(buffer.data().data())


def describe(result: Result, source: str) -> dict[str, Any]:
    """Return the faces of a result for JSON. Coordinates are pixels of the frame, x before y."""
    frame, faces = result.frame, result.faces
    height, width = frame.image.shape[:2]
    found = []
    for index, face in enumerate(faces):
        entry: dict[str, Any] = {
            "id": face.id,
            "box": np.round(face.box.astype(float), 2).tolist(),
            "face_score": round(face.face_score, 4),
            "points": np.round(face.points.astype(float), 2).tolist(),
            "scores": np.round(face.scores.astype(float), 4).tolist(),
        }
        if faces.measures is not None:
            entry["measures"] = {name: round(value, 4) for name, value in faces.measures.as_dict(index).items()}
        found.append(entry)
    return {
        "source": source,
        "frame": frame.index,
        "seconds": round(frame.seconds, 6),
        "width": width,
        "height": height,
        "backend": result.backend,
        "faces": found,
    }
