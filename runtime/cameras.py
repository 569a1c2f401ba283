"""The cameras of this machine, with the sizes and rates that they offer. Known on Linux only, from V4L2."""

import os
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

QUERY_CAPABILITIES, LIST_FORMATS, LIST_SIZES, LIST_INTERVALS = 0x80685600, 0xC0405602, 0xC02C564A, 0xC034564B
"""Request numbers VIDIOC_QUERYCAP, VIDIOC_ENUM_FMT, VIDIOC_ENUM_FRAMESIZES and VIDIOC_ENUM_FRAMEINTERVALS of
linux/videodev2.h. Bits 16 to 29 are the size of the structure."""

CAPTURE = 1
"""V4L2_CAP_VIDEO_CAPTURE and V4L2_BUF_TYPE_VIDEO_CAPTURE."""

DISCRETE = 1
"""V4L2_FRMSIZE_TYPE_DISCRETE and V4L2_FRMIVAL_TYPE_DISCRETE; other types describe a range."""

MOST_ENTRIES = 64
"""Entries that are read of one list of a driver."""


@dataclass(frozen=True)
class CameraMode:
    """A size and a rate that a camera offers."""

    width: int  # pixels
    height: int
    rate: float  # frames per second
    format: str  # four characters, such as "MJPG" and "YUYV"; empty if unknown

    def __str__(self) -> str:
        return f"{self.width} \N{MULTIPLICATION SIGN} {self.height}, {self.rate:g} fps"


@dataclass(frozen=True)
class CameraInfo:
    """A camera. `number` is that of `Camera`; the largest mode comes first, and there are none if they are unknown."""

    number: int
    name: str
    modes: tuple[CameraMode, ...] = ()


def list_cameras(folder: Path = Path("/dev")) -> list[CameraInfo]:
    """Return the cameras that are plugged in; none on other systems than Linux. Takes some milliseconds."""
    if sys.platform != "linux":
        return []
    cameras = []
    for device in folder.glob("video*"):
        number = device.name.removeprefix("video")
        if number.isdecimal():
            cameras.append(_examine(device, int(number)))
    return sorted((camera for camera in cameras if camera is not None), key=lambda camera: camera.number)


def _examine(device: Path, number: int) -> CameraInfo | None:
    """Return what a device offers, or None if it sends no images: many cameras have a second device for metadata."""
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_NONBLOCK)
    except OSError:  # without permission it is listed; opening it will say why it fails
        return CameraInfo(number, f"camera {number}")
    try:
        answer = _ask(descriptor, QUERY_CAPABILITIES, b"")
        name = answer[16:48].split(b"\0")[0].decode(errors="replace").strip()
        if not struct.unpack_from("=I", answer, 88)[0] & CAPTURE:  # device_caps
            return None
        best: dict[tuple[int, int], CameraMode] = {}
        for mode in _modes(descriptor):
            size = mode.width, mode.height
            if size not in best or mode.rate > best[size].rate:
                best[size] = mode
        modes = sorted(best.values(), key=lambda mode: (-mode.width * mode.height, -mode.rate))
        return CameraInfo(number, name or f"camera {number}", tuple(modes))
    except OSError:
        return CameraInfo(number, f"camera {number}")
    finally:
        os.close(descriptor)


def _modes(descriptor: int) -> Iterator[CameraMode]:
    """Yield all modes of a camera that have one size, not a range of sizes."""
    for described in _entries(descriptor, LIST_FORMATS, lambda index: struct.pack("=II", index, CAPTURE)):
        (code,) = struct.unpack_from("=I", described, 44)
        for width, height in _sizes(descriptor, code):
            fourcc = struct.pack("=I", code).decode("latin-1")
            yield CameraMode(width, height, _highest_rate(descriptor, code, width, height), fourcc)


def _sizes(descriptor: int, code: int) -> Iterator[tuple[int, int]]:
    for size in _entries(descriptor, LIST_SIZES, lambda index: struct.pack("=II", index, code)):
        kind, width, height = struct.unpack_from("=III", size, 8)
        if kind == DISCRETE:
            yield width, height


def _highest_rate(descriptor: int, code: int, width: int, height: int) -> float:
    rates = []
    for interval in _entries(
        descriptor, LIST_INTERVALS, lambda index: struct.pack("=IIII", index, code, width, height)
    ):
        seconds, parts = struct.unpack_from("=II", interval, 20)  # of a range, the shortest interval comes first
        rates.append(parts / seconds if seconds else 0.0)
    return max(rates, default=30.0)


def _entries(descriptor: int, request: int, question: Callable[[int], bytes]) -> Iterator[bytes]:
    """Yield the entries of a list of the driver, up to its end."""
    with suppress(OSError):  # the driver has no entry of this index
        for index in range(MOST_ENTRIES):
            yield _ask(descriptor, request, question(index))


def _ask(descriptor: int, request: int, question: bytes) -> bytes:
    """Return the structure that the driver fills in."""
    from fcntl import ioctl  # on Linux only

    structure = bytearray(question.ljust(request >> 16 & 0x3FFF, b"\0"))
    ioctl(descriptor, request, structure)
    return bytes(structure)
