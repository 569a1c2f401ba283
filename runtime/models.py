"""Landmark models on disk: which there are, and the manifest beside each that says what it is.

A model is NAME.onnx with NAME.json. The reader owns the format; engines writes it through `Manifest.write`.
"""

import dataclasses
import hashlib
import importlib.util
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

from canthus.runtime.calibration import IDENTITY, Calibration, read_calibration
from canthus.runtime.errors import ModelError

DEFAULT, WITH_GPU = "fast", "accurate"
"""The shipped models that the CPU runs, and a GPU, where nobody chooses."""


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
