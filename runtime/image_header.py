"""Read the size of an image from the header of its file, without decoding it."""

import contextlib
import io
import re
import struct
from collections.abc import Iterator
from typing import BinaryIO

FORMATS = "JPEG, PNG, BMP, WebP, TIFF, GIF, AVIF, JPEG 2000 or PNM"
"""The formats whose headers are known."""

Size = tuple[int, int]
"""Width and height in pixels, as stored."""

JPEG_STANDALONE = frozenset([0x01, *range(0xD0, 0xDA)])
"""Markers of a JPEG without a length and content."""

JPEG_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
JPEG_START_OF_SCAN = 0xDA

TIFF_SIZES = {256: "width", 257: "height", 322: "tile width", 323: "tile height"}
"""Tags of a TIFF directory that are read."""

SEARCHED_BYTES = 65536
"""AVIF and JPEG 2000 are boxes within boxes. Their sizes are searched for in this many bytes from the start."""


def read_image_size(file: BinaryIO) -> Size | None:
    """Return the width and height in the header of an image file, or None if the header is unknown or damaged.

    The width and height of a TIFF's tiles are returned if they are larger, because memory is needed for a whole tile.
    """
    head = file.read(SEARCHED_BYTES)
    try:
        if head.startswith(b"\xff\xd8"):
            return _jpeg(file)
        if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _tiff(file, head)
        if head.startswith(b"\x89PNG\r\n\x1a\n"):
            return struct.unpack_from(">II", head, 16)
        if head.startswith((b"GIF87a", b"GIF89a")):
            return struct.unpack_from("<HH", head, 6)
        if head.startswith(b"BM"):
            return _bmp(head)
        if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
            return _webp(head)
        if head[4:8] == b"ftyp":
            return _avif(head)
        if head.startswith((b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")):
            return _jpeg_2000(head)
        return _pnm(head)
    except struct.error:  # the file is shorter than its header
        return None


def needs_much_memory(head: bytes) -> bool:
    """Whether OpenCV needs more than 8 bytes for each pixel of an image file that begins with `head`."""
    if head.startswith(b"RIFF"):
        return head[12:16] == b"VP8X" and head[20] & 2 != 0  # an animation
    return head[4:8] == b"ftyp" or head.startswith((b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"))


def jpeg_scan(data: bytes) -> int:
    """Return the position of the first scan of a JPEG, or of its end. Thumbnails are before it."""
    file = io.BytesIO(data)
    with contextlib.suppress(struct.error):  # the file ends in a segment
        for marker, length in _jpeg_segments(file):
            if marker == JPEG_START_OF_SCAN:
                break
            file.seek(length, io.SEEK_CUR)
    return file.tell()


def _jpeg(file: BinaryIO) -> Size | None:
    """Walk through the segments to the start of the frame."""
    for marker, length in _jpeg_segments(file):
        if marker in JPEG_START_OF_FRAME:
            _, height, width = struct.unpack(">BHH", file.read(5))
            return width, height
        file.seek(length, io.SEEK_CUR)
    return None


def _jpeg_segments(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Yield the marker and the length of each segment. The file is at the content, and the caller moves it behind."""
    file.seek(2)
    while byte := file.read(1):
        if byte != b"\xff":
            continue
        while byte == b"\xff":  # padding
            byte = file.read(1)
        marker = byte[0] if byte else 0
        if marker == 0 or marker in JPEG_STANDALONE:
            continue
        (length,) = struct.unpack(">H", file.read(2))
        yield marker, max(length - 2, 0)


def _tiff(file: BinaryIO, head: bytes) -> Size | None:
    """Read the first directory of a TIFF or BigTIFF."""
    order = "<" if head[:2] == b"II" else ">"
    big = head[2:4] in (b"+\0", b"\0+")
    (start,) = struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)
    file.seek(start)
    (count,) = struct.unpack(order + ("Q" if big else "H"), file.read(8 if big else 2))
    entry_size, value_at = (20, 12) if big else (12, 8)
    sizes = dict.fromkeys(TIFF_SIZES.values(), 0)
    for _ in range(min(count, 65535)):
        entry = file.read(entry_size)
        tag, kind = struct.unpack_from(order + "HH", entry)
        if tag in TIFF_SIZES and kind in (3, 4, 16):  # 16, 32 and 64 bits
            code = {3: "H", 4: "I", 16: "Q"}[kind]
            (sizes[TIFF_SIZES[tag]],) = struct.unpack_from(order + code, entry, value_at)
    if not (sizes["width"] and sizes["height"]):
        return None
    image, tile = (sizes["width"], sizes["height"]), (sizes["tile width"], sizes["tile height"])
    return max(image, tile, key=lambda size: size[0] * size[1])


def _bmp(head: bytes) -> Size:
    (length,) = struct.unpack_from("<I", head, 14)
    width, height = struct.unpack_from("<HH" if length == 12 else "<ii", head, 18)
    return abs(width), abs(height)  # a negative height stores the rows from top to bottom


def _webp(head: bytes) -> Size | None:
    match head[12:16]:
        case b"VP8 ":
            width, height = struct.unpack_from("<HH", head, 26)
            return width & 0x3FFF, height & 0x3FFF
        case b"VP8L":
            (bits,) = struct.unpack_from("<I", head, 21)
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8X":
            low_width, high_width, low_height, high_height = struct.unpack_from("<HBHB", head, 24)
            return (high_width << 16 | low_width) + 1, (high_height << 16 | low_height) + 1
    return None


def _avif(head: bytes) -> Size | None:
    """Return the largest of the sizes in `ispe` boxes: of the image, its alpha channel and its thumbnails."""
    sizes = [struct.unpack_from(">II", head, found.end() + 4) for found in re.finditer(b"ispe", head)]
    return max(sizes, key=lambda size: size[0] * size[1], default=None)


def _jpeg_2000(head: bytes) -> Size | None:
    """Read the SIZ segment, which is the first one of the code stream."""
    start = head.find(b"\xff\x4f\xff\x51")
    if start < 0:
        return None
    width, height, left, top = struct.unpack_from(">IIII", head, start + 8)
    return max(width - left, 0), max(height - top, 0)


def _pnm(head: bytes) -> Size | None:
    """Read a PBM, PGM, PPM or PAM header."""
    space = rb"(?:\s|#[^\n]*\n)+"
    if found := re.match(rb"P[1-6]" + space + rb"(\d{1,9})" + space + rb"(\d{1,9})\s", head):
        return int(found[1]), int(found[2])
    if head.startswith(b"P7\n"):
        fields = dict(re.findall(rb"(?m)^(WIDTH|HEIGHT)\s+(\d{1,9})\s*$", head[:1000]))
        return int(fields.get(b"WIDTH", 0)), int(fields.get(b"HEIGHT", 0))
    return None
