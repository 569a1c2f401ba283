"""Frames in, faces out. `follow` and the types that it gives are the public Python API."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from canthus.runtime.pipeline import Landmarker, Settings, follow
    from canthus.runtime.types import FaceBox, Faces, Frame

__all__ = ["FaceBox", "Faces", "Frame", "Landmarker", "Settings", "follow"]


def __getattr__(name: str) -> object:
    """Import what is asked for only now, so that `canthus --help` loads neither OpenCV nor FFmpeg."""
    match name:
        case "follow" | "Landmarker" | "Settings":
            from canthus.runtime import pipeline

            return getattr(pipeline, name)
        case "Faces" | "Frame" | "FaceBox":
            from canthus.runtime import types

            return getattr(types, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
