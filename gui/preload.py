"""Loads shared libraries without the GIL.

Python's import holds the GIL until the system has loaded a library. From a cold disk this takes seconds, during which
the window would not respond.
"""

import ctypes
import importlib.util
import os
import sys
from pathlib import Path
from threading import Lock

LIBRARIES = {
    "cv2": ("cv2*.so",),
    "av": ("_core*.so",),
    "openvino": ("_pyopenvino*.so",),
    "mediapipe": ("tasks/c/libmediapipe.*",),
}
"""The large shared libraries of each package, in its folder. Those that they need are loaded with them."""

_lock = Lock()


def preload(*packages: str) -> None:
    """Load the libraries of `packages`, so that importing these is fast. Waits while another thread does the same.

    What cannot be loaded is left to the import, which says why. On Windows, all is left to it.
    """
    if sys.platform == "win32":
        return
    load = ctypes.CDLL(None).dlopen  # unlike ctypes.CDLL(path), a call of it releases the GIL
    load.argtypes, load.restype = (ctypes.c_char_p, ctypes.c_int), ctypes.c_void_p
    for package in packages:
        with _lock:  # of one package at a time: a video waits for FFmpeg, but not for the networks
            spec = None if package in sys.modules else importlib.util.find_spec(package)
            if spec is None or not spec.submodule_search_locations:
                continue
            folder = Path(spec.submodule_search_locations[0])
            for path in (path for pattern in LIBRARIES[package] for path in folder.glob(pattern)):
                load(os.fsencode(path), os.RTLD_NOW)
