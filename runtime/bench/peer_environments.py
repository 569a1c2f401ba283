"""The environments of `canthus bench peers`: other software, installed once into the user's cache folder."""

import logging
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Literal, NamedTuple

from canthus.runtime.errors import BackendError
from canthus.runtime.models import cache_folder

Environment = Literal["mediapipe", "dlib"]

PACKAGES: dict[Environment, tuple[str, ...]] = {
    "mediapipe": ("mediapipe==0.10.21",),  # the last release with Face Mesh
    "dlib": ("dlib-bin==20.0.1.post1", "numpy", "opencv-python-headless"),
}

_log = logging.getLogger(__name__)


class Candidate(NamedTuple):
    """Software to measure."""

    name: str
    kind: str  # key of OPENERS in peer_worker.py
    file: str  # model, or an option of the kind
    environment: Environment | None = None  # None is our own


def make_environment(name: Environment) -> Path:
    """Return the Python of an environment; create it and install its packages first if it is missing.

    The environment appears under its name when it is complete. Raises BackendError if it cannot be made.
    """
    folder = cache_folder() / "peers" / f"{name}-{sys.version_info.major}.{sys.version_info.minor}"
    if _python(folder).is_file():
        return _python(folder)
    packages = PACKAGES[name]
    _log.info("installing %s into %s (once)", " ".join(packages), folder)
    draft = folder.with_name(f"{folder.name}.{os.getpid()}.draft")
    try:
        draft.parent.mkdir(parents=True, exist_ok=True)
        venv.create(draft, with_pip=True, clear=True)
        _install(_python(draft), packages)
        # The scripts of an environment have its path in them, but its Python can be moved.
        draft.rename(folder)
    except (OSError, subprocess.CalledProcessError) as error:
        raise BackendError(f"its environment {folder} cannot be made ({error})") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return _python(folder)


def _install(python: Path, packages: tuple[str, ...]) -> None:
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--only-binary=:all:", *packages]
    progress = sys.stderr if _log.isEnabledFor(logging.INFO) else subprocess.DEVNULL
    result = subprocess.run(command, stdout=progress, stderr=subprocess.PIPE, text=True, check=False)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["pip printed no reason"])[-1]
        raise BackendError(f"{' '.join(packages)} could not be installed ({reason}); connect to the network once")


def _python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
