"""Frames in, faces out: the public Python API.

`follow` gives the faces of a video or camera, `Landmarker.landmark` those of one picture; `read_image` reads one, and
`draw_faces` draws on it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from canthus.runtime.draw import draw as draw_faces
    from canthus.runtime.pipeline import Landmarker, Settings, follow
    from canthus.runtime.sources import read_image
    from canthus.runtime.types import FaceBox, Faces, Frame

__all__ = ["FaceBox", "Faces", "Frame", "Landmarker", "Settings", "draw_faces", "follow", "read_image"]


def __getattr__(name: str) -> object:
    """Import what is asked for only now, so that `canthus --help` loads neither OpenCV nor FFmpeg."""
    match name:
        case "follow" | "Landmarker" | "Settings":
            from canthus.runtime import pipeline

            return getattr(pipeline, name)
        case "Faces" | "Frame" | "FaceBox":
            from canthus.runtime import types

            return getattr(types, name)
        case "read_image" | "read_picture":  # the second is the old name
            from canthus.runtime.sources import read_image

            return read_image
        case "draw_faces":  # the bare name is taken by the file
            from canthus.runtime.draw import draw

            return draw
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
