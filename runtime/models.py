"""Landmark models on disk: NAME.onnx with its manifest NAME.json.

This file defines the manifest's format. `engines` writes manifests through `Manifest.write`.
"""

import dataclasses
import hashlib
import importlib.util
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from canthus.runtime.calibration import IDENTITY, Calibration, read_calibration
from canthus.runtime.errors import ModelError
from canthus.runtime.fields import FieldError, check, parse_fields, parse_json
from canthus.runtime.files import write_file

DEFAULT, GPU_DEFAULT = "fast", "accurate"
"""The included models that run on the CPU and on a GPU if the user names none."""


@dataclass(frozen=True)
class Manifest:
    """What a model file is. `training` and `figures` are for people; the other fields are checked or used."""

    sha256: str  # of the model file
    network: str
    size: int = field(metadata=check(at_least=1))  # side of a crop, pixels
    points: int = field(metadata=check(at_least=1))
    stride: int = field(metadata=check(at_least=1))  # crop pixels per map cell
    calibration: Calibration = field(default=IDENTITY, metadata=check(parse=read_calibration))  # of the scores
    training: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    licence: str = ""

    def write(self, model: Path) -> None:
        """Write the manifest beside a model. Raises InputError if it cannot be written."""
        write_file(model.with_suffix(".json"), (json.dumps(dataclasses.asdict(self), indent=2) + "\n").encode())


@dataclass(frozen=True)
class Model:
    """A model file that `read_model` compared with its manifest. Pass it on, so that the file is not hashed again."""

    path: Path
    manifest: Manifest


def cache_folder() -> Path:
    """Return the user's folder for files that canthus downloads or builds."""
    import platformdirs  # here: a machine that only trains may lack it

    return Path(platformdirs.user_cache_dir("canthus", appauthor=False))


def included_models() -> dict[str, Path]:
    """Return the models that come with canthus, by name."""
    package = importlib.util.find_spec("canthus.engines")
    folders = package.submodule_search_locations if package else None
    return {path.stem: path for folder in folders or () for path in sorted((Path(folder) / "models").glob("*.onnx"))}


def find_model(name: str | Path | None = None) -> Path:
    """Return the file of an included model's name or of a path. None means the default on the CPU.

    Raises ModelError if there is no such model.
    """
    included = included_models()
    if name is None:
        name = DEFAULT
    if str(name) in included:
        return included[str(name)]
    path = Path(name)
    if path.is_file():
        return path
    raise ModelError(
        f"{name}: no such model (expected a file or an included model: {', '.join(included) or 'none is installed'})"
    )


def find_gpu_model(name: str | Path | None = None) -> Path:
    """Return the same as `find_model`, but None means the default on a GPU."""
    return find_model(name if name is not None else GPU_DEFAULT if GPU_DEFAULT in included_models() else DEFAULT)


def read_model(path: Path) -> Model:
    """Read the manifest beside a model and compare the model's SHA-256 with it.

    Raises ModelError if the manifest is missing, a field is wrong, or the model is another file.
    """
    manifest_file = path.with_suffix(".json")
    try:
        manifest = parse_fields(Manifest, parse_json(manifest_file.read_text(encoding="utf-8")))
    except FileNotFoundError as missing:
        raise ModelError(
            f"{path}: its manifest {manifest_file.name} is missing; export models with `canthus export`"
        ) from missing
    except FieldError as wrong:
        raise ModelError(f"{manifest_file}: {wrong}; export the model again with `canthus export`") from wrong
    except (OSError, ValueError) as damaged:
        raise ModelError(f"{manifest_file}: not a model manifest: {damaged}") from damaged
    if sha256(path) != manifest.sha256:
        raise ModelError(f"{path}: not the file that {manifest_file.name} describes (SHA-256 differs); export it again")
    return Model(path, manifest)


def read_manifest(path: Path) -> Manifest:
    """Return the manifest of a model after the checks of `read_model`."""
    return read_model(path).manifest


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file. Raises ModelError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as unreadable:
        raise ModelError(f"{path}: cannot be read ({unreadable.strerror})") from unreadable
