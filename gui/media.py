"""What the viewer can show: the contract of cameras, videos, images and network streams, and of what they yield."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from canthus.runtime.addresses import without_password
from canthus.runtime.types import Frame


class Source(Protocol):
    """Yields frames: an open camera, video or network stream."""

    def __iter__(self) -> Iterator[Frame]: ...


@runtime_checkable
class Clip(Source, Protocol):
    """A source with an end, in which one can jump."""

    duration: float  # seconds
    rate: float  # frames per second
    damaged: str  # what could not be decoded, known after the last frame; or empty

    def frames_from(self, seconds: float, cancelled: Callable[[], bool]) -> Iterator[Frame]:
        """Yield the frame that is shown at `seconds`, and those after it. Ends early if `cancelled` becomes true."""
        ...


class Media(Protocol):
    """Something that can be opened and shown. `open` may take seconds: call it in a thread."""

    @property
    def name(self) -> str:
        """For the title of the window and for messages: "camera 0" or "clip.mp4"."""
        ...

    @property
    def live(self) -> bool:
        """Whether it never waits, has no end, and is opened again after a failure: a camera."""
        ...

    def open(self) -> AbstractContextManager[Source]:
        """Open it: a `Clip` unless it is live. Raises InputError if that fails."""
        ...


@dataclass(frozen=True)
class CameraMedia:
    """A camera by its number."""

    number: int = 0
    live = True

    @property
    def name(self) -> str:
        return f"camera {self.number}"

    def open(self) -> AbstractContextManager[Source]:
        from canthus.runtime.sources import Camera

        return Camera(self.number)


@dataclass(frozen=True)
class VideoMedia:
    """A video file."""

    path: Path
    live = False

    @property
    def name(self) -> str:
        return self.path.name

    def open(self) -> AbstractContextManager[Source]:
        from canthus.runtime.seek import SeekableVideo

        return SeekableVideo(self.path)


@dataclass(frozen=True)
class AddressMedia:
    """A network stream."""

    address: str
    live = True

    @property
    def name(self) -> str:
        return without_password(self.address)

    def open(self) -> AbstractContextManager[Source]:
        from canthus.runtime.stream import NetworkStream

        return NetworkStream(self.address)
