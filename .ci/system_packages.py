"""Install the system libraries that the wheels of Qt, OpenCV and MediaPipe link to and that this machine lacks.

Run it with the Python of the environment that has the wheels: `.venv/bin/python .ci/system_packages.py`. `ldd` lists
the libraries that are not found. On Debian and Ubuntu, root installs their packages with apt; otherwise the script
prints what to install. It does nothing on other systems than Linux.
"""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

LINKED = {
    "PyQt6": (
        "Qt6/plugins/platforms/libqxcb.so",
        "Qt6/plugins/platforms/libqwayland*.so",
        "Qt6/plugins/xcbgl*/*.so",
        "QtMultimedia.abi3.so",  # the sound of the viewer
    ),
    "cv2": ("*.so",),
    "mediapipe": ("tasks/c/*.so",),
}
"""Files of each wheel that link to system libraries; Qt and MediaPipe load theirs at run time."""

PACKAGES = {
    "libEGL.so.1": "libegl1",
    "libGL.so.1": "libgl1",
    "libGLESv2.so.2": "libgles2",
    "libX11-xcb.so.1": "libx11-xcb1",
    "libX11.so.6": "libx11-6",
    "libdbus-1.so.3": "libdbus-1-3",
    "libfontconfig.so.1": "libfontconfig1",
    "libfreetype.so.6": "libfreetype6",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libpulse.so.0": "libpulse0",
    "libwayland-client.so.0": "libwayland-client0",
    "libwayland-cursor.so.0": "libwayland-cursor0",
    "libxcb-cursor.so.0": "libxcb-cursor0",
    "libxcb-glx.so.0": "libxcb-glx0",
    "libxcb-icccm.so.4": "libxcb-icccm4",
    "libxcb-image.so.0": "libxcb-image0",
    "libxcb-keysyms.so.1": "libxcb-keysyms1",
    "libxcb-randr.so.0": "libxcb-randr0",
    "libxcb-render-util.so.0": "libxcb-render-util0",
    "libxcb-render.so.0": "libxcb-render0",
    "libxcb-shape.so.0": "libxcb-shape0",
    "libxcb-shm.so.0": "libxcb-shm0",
    "libxcb-sync.so.1": "libxcb-sync1",
    "libxcb-util.so.1": "libxcb-util1",
    "libxcb-xfixes.so.0": "libxcb-xfixes0",
    "libxcb-xkb.so.1": "libxcb-xkb1",
    "libxcb.so.1": "libxcb1",
    "libxkbcommon-x11.so.0": "libxkbcommon-x11-0",
    "libxkbcommon.so.0": "libxkbcommon0",
    "libz.so.1": "zlib1g",
    "libzstd.so.1": "libzstd1",
}
"""The Debian package of each library that these files link to, outside glibc and the C++ runtime."""


def linked_files() -> list[Path]:
    """Return the shared libraries in the installed wheels whose dependencies must be present."""
    found = []
    for module, patterns in LINKED.items():
        spec = find_spec(module)  # does not import it: that could fail for lack of a library
        for folder in (spec.submodule_search_locations or []) if spec else []:
            found += [path for pattern in patterns for path in sorted(Path(folder).glob(pattern))]
    return found


def linked_libraries() -> dict[str, bool]:
    """Return the name of every library that the files link to, directly or not, and whether it is found."""
    libraries: dict[str, bool] = {}
    for path in linked_files():
        listed = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
        for line in listed.splitlines():
            name, arrow, target = line.strip().partition(" => ")
            if arrow:
                libraries[name] = libraries.get(name, True) and target != "not found"
    return libraries


def main() -> None:
    """Install the missing packages, or print which are missing."""
    if sys.platform != "linux" or not shutil.which("ldd"):
        return
    missing = sorted(name for name, found in linked_libraries().items() if not found)
    if not missing:
        return
    print(f"Missing system libraries: {', '.join(missing)}", flush=True)
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends"]
    install += sorted({PACKAGES[name] for name in missing if name in PACKAGES})
    if not shutil.which("apt-get") or os.geteuid() != 0 or not _run(["apt-get", "update", "-qq"], install):
        print(f"Install them with your package manager; on Debian and Ubuntu: sudo {' '.join(install)}", flush=True)


def _run(*commands: list[str]) -> bool:
    """Run the commands until one fails, and return whether all succeeded."""
    for command in commands:
        print(f"Running {' '.join(command)}", flush=True)
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        if subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False).returncode:
            return False
    return True


if __name__ == "__main__":
    main()
