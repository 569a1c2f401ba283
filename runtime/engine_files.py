"""TensorRT engines on disk: KEY.engine with its manifest KEY.json in the user's cache folder.

An engine is native code for one type of GPU and one version of TensorRT. Before TensorRT reads an engine, its SHA-256
is compared with the manifest's, and this machine with the one that the engine was built for.
"""

import contextlib
import dataclasses
import hashlib
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from canthus.runtime import fields
from canthus.runtime.calibration import IDENTITY, Calibration, fits_points, read_calibration
from canthus.runtime.errors import EngineError, InputError
from canthus.runtime.files import write_file
from canthus.runtime.models import cache_folder
from canthus.runtime.schemes import WFLW, Scheme, manifest_values, parse_scheme, with_scheme

Flavour = Literal["tensorrt", "tensorrt-rtx"]
FLAVOURS: tuple[Flavour, ...] = get_args(Flavour)


@dataclass(frozen=True)
class EngineRecipe:
    """Everything that the content of an engine depends on. Its hash is the engine's name."""

    model_sha256: str
    flavour: Flavour
    version: str  # of TensorRT
    gpu: str  # name; "" = any GPU of the targets
    targets: tuple[str, ...]  # compute capabilities: "sm86"
    precision: str
    batch: tuple[int, int, int]  # minimum, usual and maximum number of faces

    @property
    def key(self) -> str:
        """The engine's file name, without suffix."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]


RENAMED_CHECK_FIELDS = {"beside": "reference", "most_99": "p99", "holds": "within_tolerance", "why": "reason"}
"""Fields of `EngineManifest.check` in manifests of version 0.1, and their names today."""


def _parse_check(value: object) -> dict[str, Any]:
    """Parse the results of the engine's check. Raises ValueError if they are not mappings."""
    if not isinstance(value, Mapping) or not isinstance(value.get("engine", {}), Mapping):
        raise ValueError(f"expected an object with named fields, and one in its field engine, got {value!r:.60}")
    check = dict(value)
    if "engine" in check:
        check["engine"] = {RENAMED_CHECK_FIELDS.get(name, name): result for name, result in check["engine"].items()}
    return check


@dataclass(frozen=True)
class EngineManifest:
    """What an engine is. `layers` is for people; the other fields are checked or used."""

    sha256: str  # of the engine
    recipe: EngineRecipe
    model: str  # name of an included model or a path, for `rebuild_command`
    size: int = field(metadata=fields.check(at_least=1))  # side of a crop, pixels
    points: int = field(metadata=fields.check(at_least=1))
    stride: int = field(metadata=fields.check(at_least=1))  # crop pixels per map cell
    built: str  # UTC, ISO 8601
    bindings: tuple[str, ...]  # "crops: uint8 (N, 128, 128, 3)", "maps: float32 (N, 294, 32, 32)"
    layers: dict[str, int] = field(default_factory=dict)  # type -> count, as TensorRT read the network
    check: dict[str, Any] = field(  # deviation from the model in crop pixels; "engine": of the engine itself
        default_factory=dict, metadata=fields.check(parse=_parse_check)
    )
    calibration: Calibration = field(  # of the model, when the engine was built
        default=IDENTITY, metadata=fields.check(parse=read_calibration)
    )
    scheme: Scheme = field(default=WFLW, metadata=fields.check(parse=parse_scheme))  # of the points

    def __post_init__(self) -> None:
        if self.scheme.points != self.points:
            raise fields.FieldError(f"scheme: {self.scheme.name} has {self.scheme.points} points, not {self.points}")
        if not fits_points(self.calibration, self.points):
            raise fields.FieldError(f"calibration: not for {self.points} points, got {len(self.calibration)} numbers")

    @property
    def rebuild_command(self) -> str:
        """The command that builds the engine again, for the GPU that is present then."""
        return (
            f"canthus engine build --model {shlex.quote(self.model)} --precision {self.recipe.precision} "
            f"--max-batch {self.recipe.batch[2]}"
        )

    @property
    def passed_check(self) -> bool:
        """Whether the results of the engine were within the tolerances. True if it was not checked yet."""
        return bool(self.check.get("engine", {}).get("within_tolerance", True))

    def write(self, engine: Path) -> None:
        """Write the manifest beside an engine. Raises InputError if it cannot be written."""
        write_file(engine.with_suffix(".json"), (json.dumps(manifest_values(self), indent=2) + "\n").encode())


class EngineData(NamedTuple):
    """The content of an engine, verified with its manifest."""

    data: bytes
    manifest: EngineManifest | None  # None only for a trusted engine without a manifest


class CachedEngine(NamedTuple):
    """An engine in the cache folder."""

    path: Path
    manifest: EngineManifest


def engine_folder() -> Path:
    """Return the user's folder for engines."""
    return cache_folder() / "engines"


def engine_path(recipe: EngineRecipe) -> Path:
    """Return the path of a recipe's engine, whether it exists or not."""
    return engine_folder() / f"{recipe.key}.engine"


def list_engines() -> Iterator[Path]:
    """Yield the engines in the cache folder, newest first."""
    found = engine_folder().glob("*.engine")
    yield from sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def read_engine_manifest(engine: Path) -> EngineManifest:
    """Read the manifest beside an engine, and check the type of each field.

    The name of an engine in the cache is the key of its recipe. They are compared too.

    Raises EngineError if the engine or the manifest is missing, or a field is wrong.
    """
    manifest_file = engine.with_suffix(".json")
    if not engine.is_file():
        raise EngineError(f"{engine}: no such engine; `canthus engine list` shows the engines in the cache")
    try:
        manifest = fields.parse_fields(EngineManifest, with_scheme(fields.read_values(manifest_file)))
    except FileNotFoundError as error:
        raise EngineError(
            f"{engine}: its manifest {manifest_file.name} is missing, so its origin is unknown; build an engine with "
            "`canthus engine build`, or inspect one that you built yourself with `canthus engine inspect --trust`"
        ) from error
    except fields.FieldError as error:
        raise EngineError(f"{manifest_file}: {error}; build the engine again with `canthus engine build`") from error
    except (OSError, ValueError) as error:
        raise EngineError(
            f"{manifest_file}: not an engine manifest ({error}); build the engine again with `canthus engine build`"
        ) from error
    if engine.parent == engine_folder() and engine.stem != manifest.recipe.key:
        raise EngineError(
            f"{manifest_file}: recipe: of another engine (expected the recipe whose key is the file's name); build the "
            "engine again with `canthus engine build`"
        )
    return manifest


def read_engine(path: Path, trust: bool = False) -> EngineData:
    """Read an engine, and compare its SHA-256 with the manifest.

    With `trust`, an engine without a manifest is read too. The bytes that were hashed are returned, so a change of the
    file in between has no effect. Raises EngineError if the manifest is missing or the SHA-256 differs.
    """
    if trust and path.is_file() and not path.with_suffix(".json").exists():
        return EngineData(path.read_bytes(), None)
    manifest = read_engine_manifest(path)
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != manifest.sha256:
        raise EngineError(
            f"{path}: changed since it was built (SHA-256 differs); build it again: {manifest.rebuild_command}"
        )
    return EngineData(data, manifest)


def find_mismatch(recipe: EngineRecipe, version: str, gpu: str, capability: str) -> str | None:
    """Return why an engine cannot run with this TensorRT `version`, `gpu` and `capability` ("sm86"), or None.

    If `gpu` is empty, only the version is compared.
    """
    if recipe.version != version:
        return f"version: built with {recipe.flavour} {recipe.version}, but {version} is installed"
    if gpu and recipe.gpu not in ("", gpu):
        return f"gpu: built for {recipe.gpu}, but this machine has {gpu}"
    if gpu and capability not in recipe.targets:
        return f"targets: built for {', '.join(recipe.targets)}, but this machine has {capability} ({gpu})"
    return None


def find_matching_engines(
    model_sha256: str, flavour: Flavour, version: str, gpu: str, capability: str
) -> Iterator[CachedEngine]:
    """Yield a model's engines in the cache that can run here, newest first, also those that failed their check."""
    for path in list_engines():
        try:
            manifest = read_engine_manifest(path)
        except EngineError:
            continue
        recipe = manifest.recipe
        same = (recipe.model_sha256, recipe.flavour) == (model_sha256, flavour)
        if same and find_mismatch(recipe, version, gpu, capability) is None:
            yield CachedEngine(path, manifest)


def mark_failed(engine: Path, reason: str) -> None:
    """Record in an engine's manifest that it does not run here, so that it is not tried at every start."""
    manifest = read_engine_manifest(engine)
    failed = {"within_tolerance": False, "reason": reason}
    dataclasses.replace(manifest, check={**manifest.check, "engine": failed}).write(engine)


def remove_engines(engines: Sequence[Path]) -> None:
    """Delete engines, their manifests and their kernel caches."""
    for engine in engines:
        for suffix in (".engine", ".json", ".runtime"):  # .runtime: kernels that TensorRT-RTX compiled for it
            engine.with_suffix(suffix).unlink(missing_ok=True)


def read_kernels(engine: Path, engine_sha256: str) -> bytes | None:
    """Return the kernels that TensorRT-RTX compiled for an engine earlier, or None if there are none, or damaged ones.

    They are native code, as the engine: TensorRT reads them only if they are as they were written, for this engine.
    """
    try:
        content = engine.with_suffix(".runtime").read_bytes()
    except OSError:
        return None
    digest, data = content[:32], content[32:]
    return data if digest == _kernel_digest(engine_sha256, data) else None


def write_kernels(engine: Path, engine_sha256: str, data: bytes) -> None:
    """Save the kernels that TensorRT-RTX compiled for an engine, for `read_kernels`."""
    write_cache(engine.with_suffix(".runtime"), _kernel_digest(engine_sha256, data) + data)


def _kernel_digest(engine_sha256: str, data: bytes) -> bytes:
    return hashlib.sha256(engine_sha256.encode() + data).digest()


def timings_path(flavour: Flavour, version: str, gpu: str) -> Path:
    """Return the path of TensorRT's timing cache for a version and a GPU, whether it exists or not."""
    return engine_folder() / f"{flavour}-{version}-{re.sub(r'[^a-z0-9]+', '-', gpu.lower())}.timings"


def remove_timings() -> None:
    """Delete all timing caches; the next builds take longer."""
    for timings in engine_folder().glob("*.timings"):
        timings.unlink(missing_ok=True)


def write_cache(path: Path, data: bytes) -> None:
    """Write a file that only saves time. If it cannot be written, nothing happens and the next start takes longer."""
    with contextlib.suppress(InputError):
        write_file(path, data)
