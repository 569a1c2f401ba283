"""Functions that the readers of the data sets share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.errors import InputError
from canthus.runtime.image_files import read_image_bytes
from canthus.trainer.faces.labelled import LabelledFace, LabelledSet
from canthus.trainer.faces.schemes import Scheme

MAX_COORDINATE = 1e6
"""Coordinates, in pixels, are smaller than this; larger ones are mistakes, and overflow in later arithmetic."""

MAX_TEXT_BYTES = 2_000_000_000
"""Larger label files are refused, because they are read into memory. A face with 98 points takes about 2 kB."""


def with_image_folder(
    name: Path, images: Path, faces: tuple[LabelledFace, ...], scheme: Scheme, published_count: int = 0
) -> LabelledSet:
    """Return the set of `faces` whose images are files in the folder `images`."""

    def read(image: str) -> bytes:
        if not (images / image).exists():
            raise FileNotFoundError
        return read_image_bytes(images / image)

    return LabelledSet(str(name), faces, read, scheme, published_count)


def read_text(path: Path) -> str:
    """Read a text file; raise InputError if it cannot be read, or is larger than MAX_TEXT_BYTES."""
    if path.exists() and not path.is_file():  # a pipe may never end
        raise InputError(f"{path}: is a folder, a pipe or a device (expected a text file)")
    try:
        if (size := path.stat().st_size) > MAX_TEXT_BYTES:
            raise InputError(f"{path}: too large, {size / 1e9:.1f} GB (expected at most {MAX_TEXT_BYTES / 1e9:g})")
        return decode_text(path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def decode_text(content: bytes, source: str) -> str:
    """Decode UTF-8; raise InputError, which names `source`, if it is something else."""
    try:
        return content.decode("utf-8-sig")  # without a byte order mark
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: not a text file (expected UTF-8)") from error


def parse_numbers(fields: Sequence[Any], place: str) -> NDArray[np.float64]:
    """Convert to an array of finite numbers smaller than MAX_COORDINATE.

    Raises:
        InputError: If that is impossible; the message starts with `place`.
    """
    try:
        numbers = np.array(fields, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{place}: not a number: {shorten(error)}; correct or remove it") from error
    if not np.isfinite(numbers).all():
        raise InputError(f"{place}: a coordinate is not finite; correct or remove it")
    if numbers.size and (largest := np.abs(numbers).max()) >= MAX_COORDINATE:
        raise InputError(
            f"{place}: a coordinate is {largest:g} (expected less than {MAX_COORDINATE:g}); correct or remove it"
        )
    return numbers


def shorten(value: object) -> str:
    """Return at most 120 characters of a text, on one line."""
    text = " ".join(str(value).split())
    return text if len(text) <= 120 else text[:117] + "..."
