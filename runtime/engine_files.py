"""Engines on disk: KEY.engine with KEY.json in the user's cache folder, and the check before TensorRT.

An engine is native code for one kind of GPU and one version of TensorRT. So its SHA-256 is compared with its
manifest's before TensorRT sees a byte of it, and what it was built for is compared with what is here.
"""

import dataclasses
import hashlib
import json
import os
import re
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from canthus.runtime.calibration import IDENTITY, Calibration, read_calibration
from canthus.runtime.errors import EngineError
from canthus.runtime.models import cache_folder

Flavour = Literal["tensorrt", "tensorrt-rtx"]
FLAVOURS: tuple[Flavour, ...] = get_args(Flavour)


@dataclass(frozen=True)
class EngineRecipe:
    """What decides an engine's bytes; its hash is the engine's name."""

    model_sha256: str
    flavour: Flavour
    version: str  # of TensorRT
    gpu: str  # its name; "" = any GPU of the targets
    targets: tuple[str, ...]  # compute capabilities: "sm86"
    precision: str
    batch: tuple[int, int, int]  # faces: fewest, usual, most

    @property
    def key(self) -> str:
        """The engine's file name, without suffix."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True)
class EngineManifest:
    """What stands beside an engine."""

    sha256: str  # of the engine
    recipe: EngineRecipe
    model: str  # a shipped model's name or a path, for the command that rebuilds
    size: int  # side of a crop, pixels
    points: int
    stride: int  # crop pixels a map cell
    built: str  # UTC, ISO 8601
    bindings: tuple[str, ...]  # "crops: uint8 (N, 128, 128, 3)", "maps: float32 (N, 294, 32, 32)"
    layers: dict[str, int] = field(default_factory=dict)  # kind -> how many, as TensorRT read the network
    check: dict[str, Any] = field(default_factory=dict)  # accuracy beside the model, crop pixels
    calibration: Calibration = IDENTITY  # the model's, when it was built

    @property
    def rebuild(self) -> str:
        """The command that builds it anew, with what serves the GPU that is here then."""
        return (
            f"canthus engine build --model {shlex.quote(self.model)} --precision {self.recipe.precision} "
            f"--max-batch {self.recipe.batch[2]}"
        )

    @property
    def holds(self) -> bool:
        """Whether its own run was within the tolerances, as far as it was ever run beside its model."""
        return bool(self.check.get("engine", {}).get("holds", True))

    def write(self, engine: Path) -> None:
        """Write beside an engine, aside first: whoever reads meanwhile sees the former or the new one."""
        part = engine.with_suffix(f".part{os.getpid()}")
        part.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")
        part.replace(engine.with_suffix(".json"))


def engine_folder() -> Path:
    """Where engines lie, for this user."""
    return cache_folder() / "engines"


def engine_path(recipe: EngineRecipe) -> Path:
    """Where the engine of a recipe lies, or would."""
    return engine_folder() / f"{recipe.key}.engine"


def list_engines() -> Iterator[Path]:
    """The engines in the cache folder, newest first."""
    found = engine_folder().glob("*.engine")
    yield from sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def read_engine_manifest(engine: Path) -> EngineManifest:
    """The manifest beside an engine; EngineError when it is missing or damaged."""
    beside = engine.with_suffix(".json")
    if not engine.is_file():
        raise EngineError(f"{engine}: no such engine; `canthus engine list` shows which there are")
    try:
        told = json.loads(beside.read_text())
        recipe = told.pop("recipe")
        recipe |= {"targets": tuple(recipe["targets"]), "batch": tuple(recipe["batch"])}
        told["bindings"] = tuple(told["bindings"])
        told["calibration"] = read_calibration(told.get("calibration", IDENTITY))
        manifest = EngineManifest(recipe=EngineRecipe(**recipe), **told)
        _check_kinds(manifest)
        _check_kinds(manifest.recipe)
        if manifest.recipe.flavour not in FLAVOURS or len(manifest.recipe.batch) != 3:
            raise ValueError("its flavour or its batch is none that is known here")
        if not isinstance(manifest.check.get("engine", {}), dict):
            raise TypeError("the engine's check must be dict")
        return manifest
    except FileNotFoundError as missing:
        raise EngineError(
            f"{engine}: its manifest {beside.name} is missing, and an engine is native code of "
            "unknown origin then; build one with `canthus engine build`, or look into one that you built yourself "
            "with `canthus engine inspect --trust`"
        ) from missing
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as damaged:
        raise EngineError(f"{beside}: not the manifest of an engine: {damaged}") from damaged


def _check_kinds(told: EngineManifest | EngineRecipe) -> None:
    """TypeError where a field is not of the kind that it is declared as."""
    for name, kind in get_type_hints(type(told)).items():
        plain, value = get_origin(kind) or kind, getattr(told, name)
        if isinstance(plain, type) and not isinstance(value, plain):
            raise TypeError(f"{name} must be {plain.__name__}, got {value!r:.40}")


def read_engine(engine: Path, trust: bool = False) -> tuple[bytes, EngineManifest | None]:
    """An engine's bytes, proven to be those that its manifest describes, and the manifest.

    With `trust` an engine without a manifest is read too, and None returned for it. The bytes that were
    hashed are the bytes returned, so nothing can change them in between.
    """
    if trust and engine.is_file() and not engine.with_suffix(".json").exists():
        return engine.read_bytes(), None
    manifest = read_engine_manifest(engine)
    data = engine.read_bytes()
    if hashlib.sha256(data).hexdigest() != manifest.sha256:
        raise EngineError(
            f"{engine}: damaged or replaced since it was built (SHA-256 differs); rebuild it: {manifest.rebuild}"
        )
    return data, manifest


def misfit(recipe: EngineRecipe, version: str, gpu: str, capability: str) -> str | None:
    """What keeps an engine from running with this `version` on this `gpu` and `capability` ("sm86"), or None.

    An empty `gpu` means that none is known: then only the version counts.
    """
    if recipe.version != version:
        return f"version: built with {recipe.flavour} {recipe.version}, {version} is installed"
    if gpu and recipe.gpu not in ("", gpu):
        return f"gpu: built for {recipe.gpu}, here is {gpu}"
    if gpu and capability not in recipe.targets:
        return f"targets: built for {', '.join(recipe.targets)}, here is {capability} ({gpu})"
    return None


def fitting_engines(
    model_sha256: str, flavour: Flavour, version: str, gpu: str, capability: str
) -> Iterator[tuple[Path, EngineManifest]]:
    """The engines of a model in the cache that fit, newest first, whether they passed their self-check or not."""
    for engine in list_engines():
        try:
            manifest = read_engine_manifest(engine)
        except EngineError:
            continue
        recipe = manifest.recipe
        same = (recipe.model_sha256, recipe.flavour) == (model_sha256, flavour)
        if same and misfit(recipe, version, gpu, capability) is None:
            yield engine, manifest


def give_up(engine: Path, why: str) -> None:
    """Note in an engine's manifest that it does not run here, so that it is not tried at every start."""
    manifest = read_engine_manifest(engine)
    dataclasses.replace(manifest, check={**manifest.check, "engine": {"holds": False, "why": why}}).write(engine)


def remove_engines(engines: Sequence[Path]) -> None:
    """Delete engines with what lies beside them."""
    for engine in engines:
        for suffix in (".engine", ".json", ".runtime"):  # .runtime: kernels that TensorRT-RTX made for it
            engine.with_suffix(suffix).unlink(missing_ok=True)


def timings_path(flavour: Flavour, version: str, gpu: str) -> Path:
    """Where TensorRT's timing cache for a version and a GPU lies, or would."""
    return engine_folder() / f"{flavour}-{version}-{re.sub(r'[^a-z0-9]+', '-', gpu.lower())}.timings"


def remove_timings() -> None:
    """Delete all timing caches; the next builds take longer."""
    for timings in engine_folder().glob("*.timings"):
        timings.unlink(missing_ok=True)


def keep_cache(path: Path, data: bytes) -> None:
    """Write what only saves time, through a name of its own; where that fails, the next start takes longer."""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as draft:
            draft.write(data)
        Path(draft.name).replace(path)
    except OSError:
        return
