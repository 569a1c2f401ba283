"""Landmark models on disk: NAME.onnx with its manifest NAME.json.

A model may have a second version that computes in 8 bits: NAME.int8.onnx with its manifest NAME.int8.json beside the
float model. On most CPUs it takes about half the time.

This file defines the manifest's format. `engines` writes manifests through `Manifest.write`.
"""

import hashlib
import importlib.util
import json
import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from canthus.runtime.calibration import IDENTITY, Calibration, fits_points, read_calibration
from canthus.runtime.errors import InputError, ModelError
from canthus.runtime.fields import FieldError, check, parse_fields, read_values
from canthus.runtime.files import check_free, write_file
from canthus.runtime.schemes import WFLW, Scheme, manifest_values, parse_scheme, with_scheme

DEFAULT, GPU_DEFAULT = "fast", "accurate"
"""The included models that run on the CPU and on a GPU if the user names none."""

Precision = Literal["float", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
"""What a model file computes in. "float": float32, or bf16 or fp16 where the device is faster with them."""

INT8_SUFFIX = ".int8.onnx"


@dataclass(frozen=True)
class Quantization:
    """How an 8-bit model was made from a float model. `float_sha256` is checked; the other fields are for people."""

    float_sha256: str  # of the float model
    method: str  # "post-training quantization"
    preset: str  # of NNCF: "mixed" = symmetric weights, asymmetric activations where they have both signs
    nncf: str  # version of NNCF
    crops: int  # training crops that the ranges of the activations were measured on
    pack: str  # name of the pack that they are from


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
    precision: Precision = "float"
    quantization: Quantization | None = None  # of an 8-bit model
    scheme: Scheme = field(default=WFLW, metadata=check(parse=parse_scheme))  # of the points

    def __post_init__(self) -> None:
        if self.scheme.points != self.points:
            raise FieldError(f"scheme: {self.scheme.name} has {self.scheme.points} points (expected {self.points})")
        if not fits_points(self.calibration, self.points):
            raise FieldError(f"calibration: not for {self.points} points, got {len(self.calibration)} numbers")

    def write(self, model: Path) -> None:
        """Write the manifest beside a model. Raises InputError if it cannot be written."""
        write_file(model.with_suffix(".json"), (json.dumps(manifest_values(self), indent=2) + "\n").encode())


@dataclass(frozen=True)
class Model:
    """A model file that `read_model` compared with its manifest. Pass it on, so that the file is not hashed again."""

    path: Path
    manifest: Manifest


def cache_folder() -> Path:
    """Return the user's folder for files that canthus downloads or builds."""
    try:
        import platformdirs
    except ImportError:  # a machine that only trains or measures may lack it
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "canthus")
    return Path(platformdirs.user_cache_dir("canthus", appauthor=False))


def check_model_free(model: Path, overwrite: bool) -> None:
    """Raise InputError if a model or its manifest exists and `overwrite` is false, or if the manifest is another file.

    The labels of a data set may well have the name of the model that is trained on them.
    """
    manifest = model.with_suffix(".json")
    for path in (model, manifest):
        check_free(path, overwrite)
    if manifest.is_file():
        try:
            values = read_values(manifest)
        except (OSError, FieldError):
            values = None
        if not isinstance(values, dict) or "sha256" not in values:
            raise InputError(
                f"{manifest}: is not the manifest of a model; choose another name than {model.name}, or delete it"
            )


def included_models() -> dict[str, Path]:
    """Return the float models that come with canthus, by name. `int8_path` names their 8-bit versions."""
    package = importlib.util.find_spec("canthus.engines")
    folders = package.submodule_search_locations if package else None
    paths = [path for folder in folders or () for path in sorted((Path(folder) / "models").glob("*.onnx"))]
    return {path.stem: path for path in paths if not path.name.endswith(INT8_SUFFIX)}


def int8_path(model: Path) -> Path:
    """Return the path of a float model's 8-bit version, whether it exists or not: fast.onnx -> fast.int8.onnx."""
    return model.with_name(model.stem + INT8_SUFFIX)


def find_int8(model: Path) -> Path | None:
    """Return the 8-bit version of a float model, or None if the model has none.

    Only the manifests are read. Raises ModelError if one is damaged, or if the 8-bit version is of another float model.
    """
    path = int8_path(model)
    if not path.is_file():
        return None
    manifest = parse_manifest(path)
    if manifest.quantization is None or manifest.quantization.float_sha256 != parse_manifest(model).sha256:
        raise ModelError(f"{path}: not made from this {model.name}; make it again: {quantize_command(model)}")
    return path


def find_precision(model: Path, precision: Precision) -> Path:
    """Return the file of a model with a precision. For an 8-bit model that is itself.

    Raises ModelError if the model has no such version, or if its manifest is missing or damaged.
    """
    own = parse_manifest(model).precision
    if precision == own:
        return model
    if own == "int8":
        raise ModelError(f"{model}: is an 8-bit model; for --precision float name its float model")
    found = find_int8(model)
    if found is None:
        raise ModelError(
            f"{model}: has no 8-bit version (expected {int8_path(model).name} beside it); make one: "
            f"{quantize_command(model)}"
        )
    return found


def quantize_command(model: Path) -> str:
    """Return the command that makes the 8-bit version of a float model."""
    return f"canthus export {shlex.quote(str(model))} --precision int8 --calibrate PACK"


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
    manifest = parse_manifest(path)
    if sha256(path) != manifest.sha256:
        name = path.with_suffix(".json").name
        raise ModelError(f"{path}: not the file that {name} describes (SHA-256 differs); export it again")
    return Model(path, manifest)


def parse_manifest(path: Path) -> Manifest:
    """Read the manifest beside a model, without a look at the model itself.

    Raises ModelError if it is missing or a field is wrong.
    """
    manifest_file = path.with_suffix(".json")
    try:
        return parse_fields(Manifest, with_scheme(read_values(manifest_file)))
    except FileNotFoundError as missing:
        raise ModelError(
            f"{path}: its manifest {manifest_file.name} is missing; export models with `canthus export`"
        ) from missing
    except FieldError as wrong:
        raise ModelError(f"{manifest_file}: {wrong}; export the model again with `canthus export`") from wrong
    except (OSError, ValueError) as damaged:
        raise ModelError(f"{manifest_file}: not a model manifest: {damaged}") from damaged


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
