"""Find, decode and encode image files."""

import collections
import contextlib
import io
import logging
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from canthus.runtime.errors import InputError
from canthus.runtime.files import write_file
from canthus.runtime.image_header import FORMATS, jpeg_scan, needs_much_memory, read_image_size
from canthus.runtime.limits import IMAGE_LIMIT, check_size, current_limit
from canthus.runtime.native_messages import native_messages_caught
from canthus.runtime.types import describe_value

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

OTHER_SUFFIXES = (
    ".heic", ".heif", ".avif", ".jxl", ".jp2", ".gif", ".ppm", ".pgm", ".tga", ".psd", ".dng", ".cr2", ".nef", ".arw",
)  # fmt: skip
"""Suffixes of images for which folders are not searched."""

MAX_BYTES_PER_PIXEL = 8
"""An uncompressed image with four channels of 16 bits. An image file that is larger than all its pixels is refused."""

EXIF_PREFIX = b"Exif\0\0"
"""Precedes the EXIF data in a JPEG. Some programs write it into a WebP or PNG too, where OpenCV does not expect it."""

LIBPNG_ERROR = "libpng error: "

DAMAGE_MESSAGES = ("Corrupt JPEG data", "Premature end of JPEG", LIBPNG_ERROR)
"""How messages of libjpeg and libpng begin if pixels are lost. Others are about metadata."""

HARMLESS_MESSAGE = re.compile(r"Corrupt JPEG data: \d extraneous bytes")
"""Up to nine extra bytes are ordinary in files of some cameras."""

JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
"""The first and the last marker of a JPEG."""

WEBP_QUALITY = 95
"""As OpenCV's default for .jpg. Its default for .webp is lossless, which takes seven times as long."""

WEBP_METADATA = (b"EXIF", b"XMP ", b"ICCP")

PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_ANIMATION = (b"acTL", b"fcTL", b"fdAT")
"""Chunks of a PNG with several frames."""

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def opencv_log_silenced() -> Iterator[None]:
    """Keep OpenCV's warnings off stderr. Errors are raised instead."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def find_images(source: Path, output: Path | None = None) -> list[Path]:
    """Return the image files of a folder and its sub-folders, sorted by path, or `source` itself if it is a file.

    Files inside `output` are left out, so that a second run does not read what the first one wrote. A line is logged if
    the folder has images in other formats (`OTHER_SUFFIXES`).

    Raises:
        InputError: If `source` does not exist or contains no image file.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise InputError(f"{source}: no such file or folder")
    files = [path for path in source.rglob("*") if path.is_file()]
    images = sorted(path for path in files if path.suffix.lower() in IMAGE_SUFFIXES)
    if output and source.resolve() in output.resolve().parents:
        images = [path for path in images if not path.resolve().is_relative_to(output.resolve())]
    others = collections.Counter(suffix for path in files if (suffix := path.suffix.lower()) in OTHER_SUFFIXES)
    counts = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common())
    if not images:
        hint = f"; convert the others to .jpg or .png: {counts}" if others else ""
        raise InputError(f"{source}: contains no images ({', '.join(IMAGE_SUFFIXES)}){hint}")
    if others:
        _log.warning("%s: left out images of other formats (%s); convert them to .jpg or .png", source, counts)
    return images


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Read an image file as an array (H, W, 3) uint8 RGB, upright as its EXIF data says.

    Raises:
        InputError: If the file cannot be read or decoded, or has more than 100 megapixels (50 in AVIF, JPEG 2000 and
            animated WebP). The environment variable CANTHUS_MAX_IMAGE_MEGAPIXELS sets another limit.
    """
    if not isinstance(path, str | Path):
        raise InputError(f"read_image expects the path of a file, got {describe_value(path)}")
    return decode_image(read_image_bytes(path), path)


def read_damaged_image(path: Path) -> tuple[NDArray[np.uint8], str]:
    """Read an image file as `read_image`, and a JPEG also if its end is missing: as far as it can be decoded.

    Returns the image, and what is missing or damaged, or an empty string. What is missing of a JPEG is gray.

    Raises:
        InputError: As `read_image`.
    """
    data = read_image_bytes(path)
    if not _is_cut_jpeg(data):
        return _decode(data, path)
    return _decode(data + JPEG_END, path)[0], "its end is missing"


def decode_image(data: bytes, name: str | Path) -> NDArray[np.uint8]:
    """Decode the content of an image file to (H, W, 3) uint8 RGB. `name` is the file's name in messages.

    A damaged image that can be decoded in part is decoded, and a warning is logged.

    Raises:
        InputError: As `read_image`.
    """
    image, damage = _decode(data, name)
    if _is_cut_jpeg(data):  # the missing part may be replaced by zeros
        damage = "its end is missing"
    if damage:
        _log.warning("%s: is damaged (%s); the rest was decoded", name, damage)
    return image


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an image (H, W, 3) RGB in the format of the file's suffix, completely or not at all.

    Raises:
        InputError: If the file cannot be written.
    """
    parameters = [cv2.IMWRITE_WEBP_QUALITY, WEBP_QUALITY] if path.suffix.lower() == ".webp" else []
    encoded = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), parameters)[1]
    write_file(path, encoded.tobytes())


def read_image_bytes(path: str | Path) -> bytes:
    """Return the content of an image file whose header announces a size within the limit.

    Raises:
        InputError: If the file cannot be read, is no image, or is too large.
    """
    try:
        if Path(path).exists() and not Path(path).is_file():  # a pipe may never end
            raise InputError(f"{path}: is a folder, a pipe or a device (expected an image file)")
        with Path(path).open("rb") as file:
            _check_header(path, file)
            file.seek(0)
            return file.read()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _decode(data: bytes, name: str | Path) -> tuple[NDArray[np.uint8], str]:
    """Return the image (H, W, 3) uint8 RGB, and what its decoder said about lost pixels."""
    _check_header(name, io.BytesIO(data))
    image = None
    with opencv_log_silenced(), native_messages_caught() as messages, contextlib.suppress(cv2.error):
        data = _plain_png(data) if data.startswith(PNG_START) else _plain_webp(data)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    problems = [
        line.removeprefix(LIBPNG_ERROR)
        for line in messages
        if line.startswith(DAMAGE_MESSAGES) and not HARMLESS_MESSAGE.match(line)
    ]
    if image is None:
        reason = f" ({problems[0]})" if problems else ""
        raise InputError(f"{name}: not a readable image{reason}")
    return image.astype(np.uint8, copy=False), problems[0] if problems else ""


def _is_cut_jpeg(data: bytes) -> bool:
    """Whether a JPEG has no end. Thumbnails before its pixels have ends of their own."""
    return data.startswith(JPEG_START) and data.find(JPEG_END, jpeg_scan(data)) < 0


def _check_header(name: str | Path, file: BinaryIO) -> None:
    """Raise InputError if the header of an image file is unknown, or announces too many pixels."""
    limit = current_limit(IMAGE_LIMIT)
    size = read_image_size(file)
    file.seek(0)
    if needs_much_memory(file.read(21)):
        limit = limit._replace(megapixels=limit.megapixels / 2)
    if size is None or not (size[0] and size[1]):
        raise InputError(f"{name}: not a readable image (expected {FORMATS})")
    check_size(name, size, limit)
    length = file.seek(0, io.SEEK_END)
    if length > MAX_BYTES_PER_PIXEL * limit.pixels:
        raise InputError(
            f"{name}: too large, {length / 1e6:.0f} MB (expected at most {MAX_BYTES_PER_PIXEL * limit.megapixels:g}); "
            f"reduce its size, or set {limit.variable} if the memory suffices"
        )


def _plain_webp(data: bytes) -> bytes:
    """Return a WebP without the prefix of its EXIF data, up to a chunk that is cut off. Return other files as they are.

    OpenCV does not read a WebP that ends within its metadata.
    """
    if not data.startswith(b"RIFF") or data[8:12] != b"WEBP":
        return data
    kept, start = [b"WEBP"], 12
    while start < len(data):
        kind, length = data[start : start + 4], int.from_bytes(data[start + 4 : start + 8], "little")
        content = data[start + 8 : start + 8 + length]
        start += 8 + length + length % 2
        if len(content) < length and kind in WEBP_METADATA:
            continue
        if kind == b"EXIF":
            content = content.removeprefix(EXIF_PREFIX)
            length = len(content)
        kept += [kind, length.to_bytes(4, "little"), content, b"\0" * (len(content) % 2)]
    chunks = b"".join(kept)
    return b"RIFF" + len(chunks).to_bytes(4, "little") + chunks


def _plain_png(data: bytes) -> bytes:
    """Return a PNG without its frames after the first and the prefix of its EXIF data, up to a chunk that is cut off.

    OpenCV needs 20 bytes for each pixel of an animated PNG, and 6 for one of another. It takes as much memory as the
    length of a chunk says, even if the file is shorter.
    """
    kept, start = [PNG_START], len(PNG_START)
    while start < len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4])  # length, type and checksum have 4 bytes each
        chunk, kind = data[start:end], data[start + 4 : start + 8]
        start = end
        if end > len(data) or kind in PNG_ANIMATION:
            continue
        if kind == b"eXIf" and chunk[8:].startswith(EXIF_PREFIX):
            exif = chunk[8:-4].removeprefix(EXIF_PREFIX)
            chunk = len(exif).to_bytes(4) + kind + exif + zlib.crc32(kind + exif).to_bytes(4)
        kept.append(chunk)
    return b"".join(kept)
