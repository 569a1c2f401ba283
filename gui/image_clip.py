"""Image files as a clip: each is shown for two seconds."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PyQt6.QtCore import QCoreApplication

from canthus.runtime.closeable import Closeable
from canthus.runtime.errors import InputError
from canthus.runtime.image_files import read_image
from canthus.runtime.types import Frame

IMAGE_SECONDS = 2.0
LONGEST_SIDE = 3840
"""Pixels. Larger images are reduced: no screen shows them, and Qt would take long to draw them."""


def tr(text: str) -> str:
    """Translate a text of this file."""
    return QCoreApplication.translate("ImageClip", text)


class ImageClip(Closeable):
    """Image files, one after the other. What cannot be read is left out, and named in `damaged`."""

    separate = True
    rate = 1 / IMAGE_SECONDS
    audio = None

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self.duration = len(paths) * IMAGE_SECONDS
        self._problems: dict[Path, str] = {}

    @property
    def damaged(self) -> str:
        """Which files could not be read, or an empty string."""
        return (
            tr("{count} images cannot be read").format(count=len(self._problems))
            if len(self._problems) > 1
            else "".join(self._problems.values())
        )

    def __iter__(self) -> Iterator[Frame]:
        return self.frames_from(0.0, lambda: False)

    def frames_from(self, seconds: float, cancelled: Callable[[], bool]) -> Iterator[Frame]:
        """Yield the image at a time, and those after it. Raises InputError if none can be read."""
        first = min(int((seconds + 1e-3) / IMAGE_SECONDS), len(self._paths) - 1)
        for index in range(first, len(self._paths)):
            if cancelled():
                return
            try:
                image = read_image(self._paths[index])
            except InputError as error:
                self._problems[self._paths[index]] = str(error)
                if len(self._problems) == len(self._paths):
                    raise
                continue
            yield Frame(_reduced(image), index, index * IMAGE_SECONDS)

    def close(self) -> None:
        pass


def _reduced(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image (H, W, 3) without a side longer than LONGEST_SIDE."""
    height, width = image.shape[:2]
    scale = LONGEST_SIDE / max(height, width)
    if scale >= 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
