"""Detect what is missing of streams without an index: MPEG transport streams, and bare H.264 and JPEG frames."""

import re
from pathlib import Path
from typing import BinaryIO, NamedTuple

from canthus.runtime.image_header import jpeg_scan

TS_PACKETS = ((188, 0), (192, 4), (204, 0))
"""Sizes of the packets of a transport stream in bytes, and where in them the sync byte is."""

TS_SYNC = b"\x47"
CHECKED_PACKETS = 4

ZEROS = bytes(64)
"""So many zeros are a hole: the compressed pixels of a JPEG hardly ever contain them."""

NAL_UNIT = re.compile(rb"\x00\x00\x01(.)", re.DOTALL)
SLICE, IDR_SLICE, SPS, PPS = 1, 5, 7, 8
"""Types of H.264's NAL units (ITU-T H.264, table 7-1)."""

HEADER_BYTES = 400
"""Enough for the beginning of a parameter set or a slice."""

COLOR_PROFILES = (44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244)
"""Profiles whose sequence parameter set describes the color format (ITU-T H.264, 7.3.2.1.1)."""


def ends_within_packet(path: Path) -> bool:
    """Whether a transport stream that begins with a whole packet ends within one."""
    length = path.stat().st_size
    with path.open("rb") as file:
        for size, place in TS_PACKETS:
            rest = length % size
            end = length - rest
            starts = [0, size, 2 * size, *(end - number * size for number in range(1, CHECKED_PACKETS + 1))]
            if min(starts) >= 0 and all(_is_sync(file, start + place) for start in starts):
                return rest > 0 and (rest <= place or _is_sync(file, end + place))
    return False


def _is_sync(file: BinaryIO, place: int) -> bool:
    file.seek(place)
    return file.read(1) == TS_SYNC


def has_hole(jpeg: bytes) -> bool:
    """Whether the compressed pixels of a JPEG contain a run of zeros."""
    return ZEROS in jpeg[jpeg_scan(jpeg) : jpeg.rfind(b"\xff\xd9")]


class _Sequence(NamedTuple):
    """What a sequence parameter set says about the frame numbers."""

    bits: int  # of a frame number
    separate_planes: bool
    has_gaps: bool  # an encoder may leave out numbers


class FrameNumbers:
    """Finds gaps in the frame numbers of an H.264 stream (frame_num in ITU-T H.264, 7.4.3).

    They count the frames that others refer to, from each instantaneous refresh (IDR) on. Lost frames before a refresh
    leave no gap, nor do B-frames.
    """

    def __init__(self) -> None:
        self._sequences: dict[int, _Sequence] = {}
        self._sequence_of: dict[int, int] = {}  # number of the picture parameter set -> of the sequence parameter set
        self._last: int | None = None  # number of the last frame that others refer to

    def missing(self, packet: bytes) -> int:
        """Return how many numbers are missing before the frame of a packet with start codes."""
        gaps = 0
        for found in NAL_UNIT.finditer(packet):
            header = found[1][0]
            content = packet[found.end() : found.end() + HEADER_BYTES].replace(b"\0\0\3", b"\0\0")
            try:
                gaps += self._add(header & 0x1F, header & 0x60 != 0, _Bits(content))
            except (EOFError, KeyError):  # damaged, or the parameter sets are missing
                continue
        return gaps

    def _add(self, kind: int, is_reference: bool, bits: "_Bits") -> int:
        """Read a NAL unit; return how many numbers are missing before it."""
        if kind == SPS:
            number, sequence = _read_sequence(bits)
            self._sequences[number] = sequence
        elif kind == PPS:
            number = bits.exp_golomb()
            self._sequence_of[number] = bits.exp_golomb()
        elif kind in (SLICE, IDR_SLICE):
            bits.exp_golomb()  # first macroblock
            bits.exp_golomb()  # type of the slice
            sequence = self._sequences[self._sequence_of[bits.exp_golomb()]]
            bits.read(2 * sequence.separate_planes)
            return self._follow(bits.read(sequence.bits), sequence, is_reference)
        return 0

    def _follow(self, number: int, sequence: _Sequence, is_reference: bool) -> int:
        last = self._last
        if is_reference:
            self._last = number
        # An encoder may reset the numbers without an IDR.
        if last is None or sequence.has_gaps or number <= 1:
            return 0
        return max((number - last) % (1 << sequence.bits) - 1, 0)


class _Bits:
    """Reads the bits of a NAL unit."""

    def __init__(self, content: bytes) -> None:
        self._value, self._left = int.from_bytes(content, "big"), 8 * len(content)

    def read(self, count: int) -> int:
        """Read an unsigned number. Raises EOFError after the end."""
        if count > self._left:
            raise EOFError
        self._left -= count
        return self._value >> self._left & ((1 << count) - 1)

    def exp_golomb(self) -> int:
        """Read an unsigned number in Exp-Golomb code (ue(v) in ITU-T H.264, 9.1)."""
        zeros = 0
        while not self.read(1):
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)

    def signed_exp_golomb(self) -> int:
        """Read a signed number in Exp-Golomb code (se(v) in ITU-T H.264, 9.1.1)."""
        code = self.exp_golomb()
        return (code + 1) // 2 if code % 2 else -(code // 2)


def _read_sequence(bits: _Bits) -> tuple[int, _Sequence]:
    """Read the number and the beginning of a sequence parameter set (ITU-T H.264, 7.3.2.1.1)."""
    profile = bits.read(8)
    bits.read(16)  # constraints, level
    number, separate_planes = bits.exp_golomb(), False
    if profile in COLOR_PROFILES:
        chroma = bits.exp_golomb()
        separate_planes = chroma == 3 and bool(bits.read(1))
        bits.exp_golomb()  # bit depth of the luma
        bits.exp_golomb()  # bit depth of the chroma
        bits.read(1)
        if bits.read(1):
            for index in range(12 if chroma == 3 else 8):
                if bits.read(1):
                    _skip_scaling_list(bits, 16 if index < 6 else 64)
    number_bits = bits.exp_golomb() + 4
    order = bits.exp_golomb()  # how the order of the frames is stored
    if order == 0:
        bits.exp_golomb()
    elif order == 1:
        bits.read(1)
        bits.exp_golomb()
        bits.exp_golomb()
        for _ in range(bits.exp_golomb()):
            bits.exp_golomb()
    bits.exp_golomb()  # number of reference frames
    return number, _Sequence(min(number_bits, 16), separate_planes, bool(bits.read(1)))


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    """Read a scaling list (ITU-T H.264, 7.3.2.1.1.1)."""
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed_exp_golomb()) % 256
        last = following or last
