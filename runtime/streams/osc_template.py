"""OSC messages whose addresses are fixed: encoded once by python-osc, after that only their numbers change."""

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
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
        self._packets: list[tuple[NDArray[np.uint8], NDArray[np.intp], slice]] = []
        packet, places, done = bytearray(IMMEDIATELY), list[int](), 0
        for address, arguments in messages:
            encoded = _encode(address, arguments)
            if len(packet) + 4 + len(encoded) > MAX_PACKET and len(packet) > len(IMMEDIATELY):
                done = self._add(packet, places, done)
                packet, places = bytearray(IMMEDIATELY), []
            packet += struct.pack(">i", len(encoded)) + encoded
            floats = sum(isinstance(argument, float) for argument in arguments)
            places += range(len(packet) - 4 * floats, len(packet))
        self.floats = self._add(packet, places, done)

    def _add(self, packet: bytearray, places: list[int], done: int) -> int:
        """Keep a packet whose first float is number `done`; return the number after its last one."""
        end = done + len(places) // 4
        self._packets.append((np.array(packet), np.array(places, np.intp), slice(4 * done, 4 * end)))
        return end

    def pack(self, values: ArrayLike) -> list[bytes]:
        """Return the datagrams with these numbers; those that are not finite become 0."""
        numbers = np.asarray(values, np.float32)
        assert numbers.shape == (self.floats,), f"{self.floats} numbers expected, got {numbers.shape}"
        numbers = np.where(np.isfinite(numbers), numbers, np.float32(0))
        data = numbers.astype(">f4").view(np.uint8)
        for packet, places, part in self._packets:
            packet[places] = data[part]
        return [packet.tobytes() for packet, _, _ in self._packets]


def _encode(address: str, arguments: Sequence[int | str | float]) -> bytes:
    builder = OscMessageBuilder(address)
    for argument in arguments:
        builder.add_arg(argument)
    encoded: bytes = builder.build().dgram
    return encoded
