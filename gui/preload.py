"""Reads shared libraries from disk before they are imported.

Python's import holds the GIL until the system has loaded a library. From a cold disk this takes seconds, during which
the window would not respond. From the page cache it takes less than 50 ms.
"""

import importlib.util
import sys
from pathlib import Path

LIBRARIES = {
    "cv2": ("cv2*.so", "cv2*.pyd"),
    "av": ("../av.libs/*",),
    "openvino": ("_pyopenvino*", "libs/*openvino.*", "libs/*openvino_intel_cpu_plugin.*"),
    "mediapipe": ("tasks/c/libmediapipe.*",),
}
"""The large files of each package, relative to its folder."""

CHUNK = 1 << 20
"""Bytes to read at once. Reading releases the GIL."""


def preload(*packages: str) -> None:
    """Read the libraries of `packages` into the page cache, unless these are imported. What is missing is skipped."""
    for package in packages:
        spec = None if package in sys.modules else importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            continue
        folder = Path(spec.submodule_search_locations[0])
        for path in (path for pattern in LIBRARIES[package] for path in folder.glob(pattern)):
            read(path)


def read(path: Path) -> int:
    """Read a file, and return its size in bytes; 0 if it cannot be read: the import says why."""
    buffer, size = bytearray(CHUNK), 0
    try:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                size += count
    except OSError:
        return 0
    return size
