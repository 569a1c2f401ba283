"""The kinds of streams, and how to open one."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from canthus.runtime.errors import BackendError, UsageError
from canthus.runtime.extras import install_command
from canthus.runtime.streams.address import LOOPBACK, Address, is_loopback, parse_address
from canthus.runtime.types import Faces, Frame

Kind = Literal["vmc", "osc", "openseeface", "websocket", "virtual-camera"]

KINDS: tuple[Kind, ...] = get_args(Kind)
"""Names of the streams."""

WITHOUT_MEASURES: tuple[Kind, ...] = ("websocket", "virtual-camera")
"""Streams that also send faces that are not measured."""

DEFAULTS: dict[Kind, Address] = {
    "vmc": Address(LOOPBACK, 39539),
    "osc": Address(LOOPBACK, 9000),
    "openseeface": Address(LOOPBACK, 11573),
    "websocket": Address(LOOPBACK, 8765),
}
"""Where each stream goes unless another address is given: the ports that receivers have by default."""


class Stream(Protocol):
    """Takes frames with their faces, and never waits for who reads them. A slow reader loses old frames."""

    @property
    def name(self) -> str:
        """What is sent, and where to: "VMC to 127.0.0.1:39539"."""
        ...

    @property
    def readers(self) -> int | None:
        """How many programs read it; None if that cannot be known."""
        ...

    @property
    def problem(self) -> str:
        """Why the last frame was not sent, as a message; or empty."""
        ...

    def send(self, frame: Frame, faces: Faces) -> None:
        """Send a frame. All but WITHOUT_MEASURES need measured faces: `Settings(measures=True)`."""
        ...

    def close(self) -> None:
        """Stop sending, and free what was used."""
        ...


@dataclass(frozen=True)
class StreamOptions:
    """What can be set for some of the streams."""

    focal: float | None = None  # focal length of the camera in pixels, as in `Settings`
    arkit: bool = True  # VMC: ARKit's names of blend shapes, else those of VRM
    drawings: tuple[str, ...] = ("points", "lines", "ids")  # virtual camera: drawn on the frames


@contextlib.contextmanager
def open_stream(kind: Kind, where: str = "", options: StreamOptions | None = None) -> Iterator[Stream]:
    """Open a stream until the end of the block.

    Args:
        kind: One of KINDS.
        where: Host, port or both; the device of a virtual camera. Empty: DEFAULTS, the first virtual camera.
        options: What else can be set.

    Raises:
        InputError: If the address is wrong or cannot be used.
        BackendError: If a library is missing.
    """
    stream = _open(kind, where, options or StreamOptions())
    try:
        yield stream
    finally:
        stream.close()


def leaves_machine(kind: Kind, where: str) -> bool:
    """Whether other machines can read a stream with this address."""
    return kind in DEFAULTS and not is_loopback(parse_address(where, DEFAULTS[kind]).host)


def _open(kind: Kind, where: str, options: StreamOptions) -> Stream:
    try:
        if kind == "virtual-camera":
            from canthus.runtime.streams.virtual_camera import VirtualCamera

            return VirtualCamera(where or None, options.drawings)
        if kind not in DEFAULTS:
            raise UsageError(f"{kind}: is no stream (expected one of {', '.join(KINDS)})")
        address = parse_address(where, DEFAULTS[kind])
        match kind:
            case "vmc":
                from canthus.runtime.streams.vmc import VmcStream

                return VmcStream(address, options.arkit)
            case "osc":
                from canthus.runtime.streams.osc import OscStream

                return OscStream(address)
            case "openseeface":
                from canthus.runtime.streams.openseeface import OpenSeeFaceStream

                return OpenSeeFaceStream(address, options.focal)
            case "websocket":
                from canthus.runtime.streams.websocket import WebSocketStream

                return WebSocketStream(address)
    except ModuleNotFoundError as missing:
        raise BackendError(
            f"streams need {missing.name}, which is not installed: {install_command('stream')}"
        ) from missing
