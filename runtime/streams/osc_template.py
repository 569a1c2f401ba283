"""OSC messages whose addresses are fixed: encoded once by python-osc, after that only their numbers change."""

import itertools
import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from pythonosc.osc_message_builder import OscMessageBuilder

MAX_PACKET = 1400
"""Bytes of a datagram. Larger ones are split into fragments on most networks, and one lost fragment loses them all."""

IMMEDIATELY = struct.pack(">8sQ", b"#bundle\0", 1)
"""The head of a bundle that is due when it arrives."""

FLOAT = 0.0
"""Stands for a number that `OscTemplate.pack` fills in."""

Message = tuple[str, Sequence[int | str | float]]
"""An address and its arguments. The floats come last, and are filled in."""


class OscTemplate:
    """Bundles of messages. `pack` fills in their floats, in the order of the messages."""

    def __init__(self, messages: Sequence[Message]) -> None:
        packets, places, before = [bytearray(IMMEDIATELY)], list[int](), 0
        for address, arguments in messages:
            encoded = _encode(address, arguments)
            if len(packets[-1]) + 4 + len(encoded) > MAX_PACKET and len(packets[-1]) > len(IMMEDIATELY):
                before += len(packets[-1])
                packets.append(bytearray(IMMEDIATELY))
            packets[-1] += struct.pack(">i", len(encoded)) + encoded
            floats = sum(isinstance(argument, float) for argument in arguments)
            end = (before + len(packets[-1])) // 4  # all parts of OSC are multiples of 4 bytes
            places += range(end - floats, end)
        self.floats = len(places)
        self._numbers = np.frombuffer(b"".join(packets), ">f4").copy()  # all packets, as if they had numbers only
        self._places = np.array(places, np.intp)
        ends = list(itertools.accumulate(map(len, packets)))
        self._packets = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]

    def pack(self, values: ArrayLike) -> list[bytes]:
        """Return the datagrams with these numbers; those that are not finite become 0."""
        numbers = np.asarray(values, np.float32)
        assert numbers.shape == (self.floats,), f"{self.floats} numbers expected, got {numbers.shape}"
        if not np.isfinite(numbers).all():
            numbers = np.where(np.isfinite(numbers), numbers, np.float32(0))
        self._numbers[self._places] = numbers
        data = self._numbers.tobytes()
        return [data[packet] for packet in self._packets]


def _encode(address: str, arguments: Sequence[int | str | float]) -> bytes:
    builder = OscMessageBuilder(address)
    for argument in arguments:
        builder.add_arg(argument)
    encoded: bytes = builder.build().dgram
    return encoded
