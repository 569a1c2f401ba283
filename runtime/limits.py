"""Limits on the size of images. They are checked in the header, before a pixel is decoded.

A header of a few bytes can announce gigabytes of pixels, and native code that runs out of memory ends the process.
"""

import math
import os
from pathlib import Path
from typing import NamedTuple

from canthus.runtime.errors import InputError


class PixelLimit(NamedTuple):
    """The largest number of pixels of an image, and the environment variable that sets it."""

    megapixels: float
    variable: str

    @property
    def pixels(self) -> int:
        """The limit in pixels."""
        return round(self.megapixels * 1e6)


IMAGE_LIMIT = PixelLimit(100.0, "CANTHUS_MAX_IMAGE_MEGAPIXELS")
"""For image files."""

FRAME_LIMIT = PixelLimit(36.0, "CANTHUS_MAX_FRAME_MEGAPIXELS")
"""For the frames of video files. A frame of an 8K video has 33 megapixels."""

LARGEST_MEGAPIXELS = 1000.0
"""Neither limit can be set above this. OpenCV and FFmpeg use 32-bit numbers for sizes in bytes."""


def current_limit(default: PixelLimit) -> PixelLimit:
    """Return the limit that the environment variable sets, or the default.

    Raises InputError if the variable is not a number of megapixels.
    """
    text = os.environ.get(default.variable, "")
    if not text:
        return default
    try:
        megapixels = float(text)
    except ValueError:
        megapixels = math.nan
    if not 0 < megapixels <= LARGEST_MEGAPIXELS:
        raise InputError(
            f"{default.variable}: is {text!r} (expected megapixels, above 0 and at most {LARGEST_MEGAPIXELS:.0f}); "
            f"remove it to use the default, {default.megapixels:.0f}"
        )
    return default._replace(megapixels=megapixels)


def check_size(name: str | Path, size: tuple[int, int], limit: PixelLimit) -> None:
    """Raise InputError if an image or frame of `size` (width, height) has more pixels than the limit.

    `name` is the file's name in the message.
    """
    width, height = size
    if width * height > limit.pixels:
        megapixels = round(width * height / 1e6, 0 if width * height > 10e6 else 3)
        raise InputError(
            f"{name}: too large, {width} x {height} pixels = {megapixels:.10g} megapixels (expected at most "
            f"{limit.megapixels:g}); reduce its size, or set {limit.variable} if the memory suffices"
        )
