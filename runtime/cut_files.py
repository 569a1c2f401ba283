"""Notice that the end of a media file, or a part of an Ogg file, is missing: by the sizes that its format stores."""

import zlib
from pathlib import Path
from typing import BinaryIO

from canthus.runtime.elementary import ends_within_packet

MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
"""FFmpeg's name of the family of .mp4."""

MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"moof", b"mfra", b"free", b"skip", b"wide", b"sidx", b"styp", b"uuid", b"meta")
"""Types of the outermost boxes of an .mp4 (ISO/IEC 14496-12)."""

UNKNOWN_RIFF_SIZES = (0, 0xFFFFFFFF)
"""Sizes in an .avi that was not completed when it was written."""

SEGMENT_ID = b"\x18\x53\x80\x67"
"""The element of a Matroska file that contains all others after the header (RFC 9559)."""

ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
"""The object of an ASF file, as .wmv is one, that has the size of the file."""

REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))

PACK_START, PACKET_START = b"\0\0\1\xba", b"\0\0\1"
"""Start codes of an MPEG program stream."""

SEARCHED_BYTES = 131_072


def describe_cut(path: Path, format_name: str) -> str:
    """Return what is missing of a file in a format of FFmpeg, or an empty string."""
    length, expected = path.stat().st_size, 0
    with path.open("rb") as file:
        match format_name:
            case _ if format_name == MP4:
                expected = _last_box_end(file, length)
            case "avi":
                expected = _riff_end(file, length)
            case "matroska,webm":
                expected = _segment_end(file)
            case "asf":
                expected = _asf_size(file)
            case "mpegts" if ends_within_packet(path):
                return "it ends within a packet"
            case "mpeg" if _program_stream_end(file, length) > length:
                return "it ends within a packet"
            case "ogg":
                return _missing_pages(file, length)
    return f"it has {length} of {expected} bytes" if expected > length else ""


def _last_box_end(file: BinaryIO, length: int) -> int:
    """Return where the last outermost box of an .mp4 ends. What follows and is no box is ignored."""
    end = 0
    while end + 8 <= length:
        file.seek(end)
        head = file.read(16)
        size = int.from_bytes(head[:4])
        if size == 1:  # it does not fit into four bytes
            size = int.from_bytes(head[8:])
        if head[4:8] not in MP4_BOXES or size < 8:  # 0: until the end of the file
            break
        end += size
    return end


def _riff_end(file: BinaryIO, length: int) -> int:
    """Return where the last RIFF chunk of an .avi ends."""
    end = 0
    while end + 8 <= length:
        file.seek(end)
        head = file.read(8)
        size = int.from_bytes(head[4:], "little")
        if not head.startswith(b"RIFF") or size in UNKNOWN_RIFF_SIZES:
            break
        end += 8 + size + size % 2
    # Some programs count the chunk's own header, and not all write the byte after an odd size.
    return end if end > length + 8 else 0


def _segment_end(file: BinaryIO) -> int:
    """Return where the segment of a Matroska file ends; 0 if its size is not stored, as in live streams."""
    head = file.read(SEARCHED_BYTES)
    start = head.find(SEGMENT_ID) + len(SEGMENT_ID)
    if start < len(SEGMENT_ID) or start >= len(head) or not head[start]:
        return 0
    width = 9 - head[start].bit_length()  # in bytes, by the number of leading zero bits
    size = int.from_bytes(head[start : start + width]) & ((1 << 7 * width) - 1)
    return 0 if size == (1 << 7 * width) - 1 else start + width + size


def _asf_size(file: BinaryIO) -> int:
    head = file.read(SEARCHED_BYTES)
    start = head.find(ASF_PROPERTIES)
    is_live = head[start + 88 : start + 89] != b"" and head[start + 88] & 1
    return 0 if start < 0 or is_live else int.from_bytes(head[start + 40 : start + 48], "little")


def _program_stream_end(file: BinaryIO, length: int) -> int:
    """Return where the last packet of an MPEG program stream ends; 0 if none is found."""
    begin = max(length - SEARCHED_BYTES, 0)
    file.seek(begin)
    tail = file.read()
    start = tail.rfind(PACK_START)
    if start < 0 or len(tail) < start + 14:
        return 0
    is_mpeg_2 = tail[start + 4] >> 6 == 1
    place = start + (14 + (tail[start + 13] & 7) if is_mpeg_2 else 12)
    while tail[place : place + 3] == PACKET_START and len(tail) >= place + 6:
        place += 6 + int.from_bytes(tail[place + 4 : place + 6])
    return begin + place


def _missing_pages(file: BinaryIO, length: int) -> str:
    """Return what is missing of an Ogg file (RFC 3533): its pages are numbered, and the last one has a flag."""
    numbers: dict[bytes, int] = {}  # of the last page of each stream
    open_streams, place = set[bytes](), 0
    while place < length:
        file.seek(place)
        head = file.read(27)
        if not head.startswith(b"OggS") or len(head) < 27:
            return "a part of it is damaged or missing"
        serial, number = head[14:18], int.from_bytes(head[18:22], "little")
        if number != numbers.get(serial, number - 1) + 1:
            return f"{max(number - numbers[serial] - 1, 1)} of its pages are missing"
        numbers[serial] = number
        (open_streams.discard if head[5] & 4 else open_streams.add)(serial)
        lengths = file.read(head[26])
        content = file.read(sum(lengths))
        place += len(head) + head[26] + sum(lengths)
        if place <= length and _ogg_checksum(head[:22] + bytes(4) + head[26:] + lengths + content) != head[22:26]:
            return "a part of it is damaged"
    return "its end is missing" if open_streams or place > length else ""


def _ogg_checksum(page: bytes) -> bytes:
    """Return the CRC-32 of a page. That of zlib takes the bits of each byte in the other order, and inverts."""
    remainder = zlib.crc32(page.translate(REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return remainder.to_bytes(4).translate(REVERSED_BITS)
