"""What the viewer can show: the contract of cameras, videos, images and network streams, and of what they yield."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from canthus.gui.preload import preload
from canthus.runtime.addresses import is_address, without_password
from canthus.runtime.cameras import CameraMode
from canthus.runtime.errors import InputError
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
    separate: bool  # each frame is an image of its own, not the next one of a video

    @property
    def audio(self) -> tuple[Path, float] | None:
        """The file whose audio belongs to it, and the file's own time of second 0; None without audio."""
        ...

    def frames_from(self, seconds: float, cancelled: Callable[[], bool]) -> Iterator[Frame]:
        """Yield the frame that is shown at `seconds`, and those after it. Ends early if `cancelled` becomes true."""
        ...


@runtime_checkable
class SelfReopening(Protocol):
    """A camera that is opened again by itself when it sends the same image again and again."""

    reopened: int  # how often this has happened


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
    """A camera by its number. `mode` is the size and rate to ask for, and `label` the name that its driver gives."""

    number: int = 0
    label: str = ""
    mode: CameraMode | None = None
    live = True

    @property
    def name(self) -> str:
        return self.label or f"camera {self.number}"

    def open(self) -> AbstractContextManager[Source]:
        preload("cv2")
        from canthus.runtime.camera_frames import Camera

        return Camera(self.number, self.mode)


@dataclass(frozen=True)
class VideoMedia:
    """A video file."""

    path: Path
    live = False

    @property
    def name(self) -> str:
        return self.path.name

    def open(self) -> AbstractContextManager[Source]:
        preload("cv2", "av")
        from canthus.runtime.seek import SeekableVideo

        return SeekableVideo(self.path)


@dataclass(frozen=True)
class ImagesMedia:
    """Image files, shown one after the other. `path` is their folder, or the file if there is one."""

    path: Path
    files: tuple[Path, ...]
    live = False

    @property
    def name(self) -> str:
        return self.path.name

    def open(self) -> AbstractContextManager[Source]:
        preload("cv2")
        from canthus.gui.image_clip import ImageClip

        return ImageClip(self.files)


@dataclass(frozen=True)
class AddressMedia:
    """A network stream."""

    address: str
    live = True

    @property
    def name(self) -> str:
        return without_password(self.address)

    def open(self) -> AbstractContextManager[Source]:
        preload("cv2", "av")
        from canthus.runtime.network_stream import NetworkStream

        return NetworkStream(self.address)


IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".3gp",
    ".ogv", ".gif", ".h264",
)  # fmt: skip
"""Files of a folder that are opened with it. A file that is given by its own name may have any suffix."""


def media_of(text: str) -> Media:
    """Return what an address, or the path of a file or folder, stands for. Raises InputError if nothing is there."""
    return AddressMedia(text) if is_address(text) else media_of_paths([Path(text)])[0]


def media_of_paths(paths: Sequence[Path]) -> list[Media]:
    """Return what is to be played one after the other: each video, and the images together.

    Of a folder, the videos and images directly in it are taken. Raises InputError if a path does not exist, or if there
    is nothing to play.
    """
    found: list[Media] = []
    images: list[Path] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.is_file())
            found += [VideoMedia(file) for file in files if file.suffix.lower() in VIDEO_SUFFIXES]
            inside = tuple(file for file in files if file.suffix.lower() in IMAGE_SUFFIXES)
            found += [ImagesMedia(path, inside)] if inside else []
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            images.append(path)
        else:
            found.append(VideoMedia(path))
    if images:
        found.append(ImagesMedia(images[0] if len(images) == 1 else images[0].parent, tuple(images)))
    if not found:
        raise InputError(f"{paths[0]}: contains no video and no image" if paths else "nothing to open")
    return found
