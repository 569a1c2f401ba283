"""A virtual camera that other programs see as a webcam, with pyvirtualcam: v4l2loopback on Linux, OBS elsewhere."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.channel import Channel
from canthus.runtime.draw import draw
from canthus.runtime.errors import BackendError, InputError
from canthus.runtime.extras import install_command
from canthus.runtime.types import Faces, Frame

RATE = 30.0
"""Frames per second that the camera announces. The frames are passed on as they come."""

JOIN_SECONDS = 2.0


class VirtualCamera:
    """Shows the frames in a virtual camera. Drawing and sending run in a thread; if it is busy, frames are dropped.

    device: a device such as /dev/video2; None takes the first one.
    drawings: what is drawn on the frames, of `draw.DRAWINGS`; empty shows them as they are.

    Raises BackendError if pyvirtualcam is not installed. `send` raises InputError if there is no virtual camera.
    """

    readers = None  # it cannot be known
    problem = ""  # `send` raises it

    def __init__(self, device: str | None, drawings: Sequence[str]) -> None:
        try:
            import pyvirtualcam
        except ImportError as missing:
            raise BackendError(
                "the virtual camera needs pyvirtualcam, which is under the GPL 2 and not part of canthus: "
                f"{install_command('virtual-camera')}"
            ) from missing
        self._open = pyvirtualcam.Camera
        self.name = f"virtual camera {device or ''}".strip()
        self._device, self._drawings = device, tuple(drawings)
        self._error: InputError | None = None
        self._frames: Channel[tuple[Frame, Faces]] = Channel(1, newest_wins=True)
        self._thread = threading.Thread(target=self._run, name="virtual camera", daemon=True)
        self._thread.start()

    def send(self, frame: Frame, faces: Faces) -> None:
        """Offer a frame to the camera."""
        if self._error is not None:
            raise self._error
        self._frames.put((frame, faces))

    def close(self) -> None:
        """Close the camera."""
        self._frames.close()
        self._frames.leave()
        self._thread.join(JOIN_SECONDS)

    def _run(self) -> None:
        camera: Any = None
        size = (0, 0)
        try:
            for frame, faces in self._frames:
                image = self._image(frame, faces)
                if image.shape[:2] != size:
                    if camera is not None:
                        camera.close()
                    size = image.shape[0], image.shape[1]
                    camera = self._open(width=size[1], height=size[0], fps=RATE, device=self._device)
                camera.send(image)
        except (RuntimeError, OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            self._error = InputError(
                f"no virtual camera can be opened ({reason}); on Linux load v4l2loopback "
                "(`sudo modprobe v4l2loopback`), on Windows and macOS install OBS"
            )
        finally:
            if camera is not None:
                camera.close()

    def _image(self, frame: Frame, faces: Faces) -> NDArray[np.uint8]:
        """Return the image that is shown; its sides are even, as most formats of cameras need."""
        image = draw(frame.image, faces, drawings=self._drawings) if self._drawings else frame.image
        height, width = (side // 2 * 2 for side in image.shape[:2])
        return np.ascontiguousarray(image[:height, :width])
