"""Frames in, faces out: the public Python API.

`follow` yields the frames of a video, a camera, a stream or arrays, each with its faces. `Landmarker.landmark` returns
the faces of a single image. `read_image` reads an image file, `draw_faces` draws faces on an image, and
`read_table` reads a table of points.
"""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING

__all__ = [
    "BackendError",
    "CanthusError",
    "EngineError",
    "Face",
    "FaceBox",
    "Faces",
    "Frame",
    "InputError",
    "Landmarker",
    "ModelError",
    "Settings",
    "Table",
    "draw_faces",
    "follow",
    "read_image",
    "read_table",
]

if TYPE_CHECKING:
    from canthus.runtime.draw import draw as draw_faces
    from canthus.runtime.errors import BackendError, CanthusError, EngineError, InputError, ModelError
    from canthus.runtime.image_files import read_image
    from canthus.runtime.pipeline import Landmarker, Settings, follow
    from canthus.runtime.tables import Table, read_table
    from canthus.runtime.types import Face, FaceBox, Faces, Frame

    read_picture = read_image
else:
    # Imported on first use, so that `canthus --help` loads neither OpenCV nor FFmpeg. Type checkers do not see this
    # branch, so they report names that do not exist.
    _MODULES = {
        "draw": ("draw_faces",),
        "errors": ("BackendError", "CanthusError", "EngineError", "InputError", "ModelError"),
        "pipeline": ("Landmarker", "Settings", "follow"),
        "image_files": ("read_image",),
        "tables": ("Table", "read_table"),
        "types": ("Face", "FaceBox", "Faces", "Frame"),
    }
    _RENAMED = {"draw_faces": "draw"}  # canthus.runtime.draw is the module

    def __getattr__(name):
        """Import a public name on first use."""
        if name == "read_picture":
            warnings.warn("read_picture is now read_image", DeprecationWarning, stacklevel=2)
            name = "read_image"
        for module, names in _MODULES.items():
            if name in names:
                return getattr(import_module(f"{__name__}.{module}"), _RENAMED.get(name, name))
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
