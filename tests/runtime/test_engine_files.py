"""An engine is read only when it is the one that its manifest describes."""

import dataclasses
import hashlib
import json
import shlex
from pathlib import Path

import pytest

from canthus.runtime import engine_files
from canthus.runtime.calibration import IDENTITY
from canthus.runtime.engine_files import (
    EngineManifest,
    EngineRecipe,
    fitting_engines,
    give_up,
    keep_cache,
    list_engines,
    misfit,
    read_engine,
    read_engine_manifest,
    remove_engines,
)
from canthus.runtime.errors import EngineError

RECIPE = EngineRecipe("ab" * 32, "tensorrt-rtx", "1.7", "", ("sm86", "sm89"), "fp16", (1, 4, 16))


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(engine_files, "engine_folder", lambda: tmp_path)
    return write(tmp_path, RECIPE, b"native code" * 50)


def write(folder: Path, recipe: EngineRecipe, data: bytes) -> Path:
    path = folder / f"{recipe.key}.engine"
    path.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    manifest = EngineManifest(digest, recipe, "fast", 128, 98, 4, "2026-01-01", ("crops: uint8",), {"cast": 2})
    manifest.write(path)
    return path


def test_an_engine_is_read_back_with_its_manifest(engine):
    data, manifest = read_engine(engine)
    assert data == b"native code" * 50
    assert manifest is not None
    assert manifest.recipe == RECIPE
    assert manifest.bindings == ("crops: uint8",)
    assert list(list_engines()) == [engine]


def test_one_flipped_bit_or_a_cut_end_is_refused_with_the_command_that_rebuilds(engine):
    data = engine.read_bytes()
    for changed in (bytes([data[0] ^ 1]) + data[1:], data[:-1], b""):
        engine.write_bytes(changed)
        with pytest.raises(EngineError, match=r"SHA-256 differs.*canthus engine build --model fast"):
            read_engine(engine)
        with pytest.raises(EngineError):
            read_engine(engine, trust=True)  # trust is for a missing manifest, not for a broken engine


def test_the_command_that_rebuilds_is_quoted_for_the_shell(engine):
    manifest = dataclasses.replace(read_engine_manifest(engine), model="/my models/m.onnx")
    assert shlex.split(manifest.rebuild)[3:5] == ["--model", "/my models/m.onnx"]


def test_an_engine_without_a_manifest_needs_trust(engine):
    engine.with_suffix(".json").unlink()
    with pytest.raises(EngineError, match="--trust"):
        read_engine(engine)
    assert read_engine(engine, trust=True) == (engine.read_bytes(), None)
    with pytest.raises(EngineError, match="no such engine"):
        read_engine(engine.with_name("other.engine"), trust=True)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"recipe": 3}', '{"recipe": {}, "more": 1}'])
def test_a_damaged_manifest_says_so(engine, text):
    engine.with_suffix(".json").write_text(text)
    with pytest.raises(EngineError, match="not the manifest"):
        read_engine_manifest(engine)
    assert not list(fitting_engines(RECIPE.model_sha256, "tensorrt-rtx", "1.7", "", ""))


@pytest.mark.parametrize(
    "change",
    [
        {"size": "128"},
        {"points": None},
        {"layers": []},
        {"check": "x"},
        {"check": {"engine": "x"}},
        {"recipe": {"batch": [1]}},
        {"recipe": {"flavour": "cuda"}},
        {"recipe": {"version": 1.7}},
    ],
    ids=str,
)
def test_a_manifest_of_odd_kinds_is_damaged(engine, change):
    told = json.loads(engine.with_suffix(".json").read_text())
    change = {**change, "recipe": told["recipe"] | change.get("recipe", {})}
    engine.with_suffix(".json").write_text(json.dumps(told | change))
    with pytest.raises(EngineError, match="not the manifest of an engine"):
        read_engine_manifest(engine)


def test_an_engine_carries_its_models_calibration(engine):
    manifest = read_engine_manifest(engine)
    dataclasses.replace(manifest, calibration=(1.5, -1.0)).write(engine)
    assert read_engine_manifest(engine).calibration == (1.5, -1.0)
    told = json.loads(engine.with_suffix(".json").read_text())
    engine.with_suffix(".json").write_text(json.dumps({**told, "calibration": [0, 1]}))
    with pytest.raises(EngineError, match="two finite numbers"):
        read_engine_manifest(engine)
    del told["calibration"]  # an engine that was built before models had any
    engine.with_suffix(".json").write_text(json.dumps(told))
    assert read_engine_manifest(engine).calibration == IDENTITY


@pytest.mark.parametrize(
    "change",
    [
        {"model_sha256": "cd" * 32},
        {"flavour": "tensorrt"},
        {"version": "1.8"},
        {"gpu": "H100"},
        {"targets": ("sm86",)},
        {"precision": "fp32"},
        {"batch": (1, 4, 8)},
    ],
)
def test_whatever_changes_the_engine_changes_its_key(change):
    assert dataclasses.replace(RECIPE, **change).key != RECIPE.key
    assert dataclasses.replace(RECIPE).key == RECIPE.key


def test_what_does_not_fit_is_named():
    bound = dataclasses.replace(RECIPE, flavour="tensorrt", gpu="NVIDIA A10", targets=("sm86",))
    assert misfit(RECIPE, "1.7", "GeForce RTX 4090", "sm89") is None
    assert misfit(RECIPE, "1.7", "", "") is None
    assert "version: built with tensorrt-rtx 1.7, 1.8 is" in str(misfit(RECIPE, "1.8", "", ""))
    assert "targets: built for sm86, sm89, here is sm120" in str(misfit(RECIPE, "1.7", "RTX 5090", "sm120"))
    assert "gpu: built for NVIDIA A10, here is NVIDIA A40" in str(misfit(bound, "1.7", "NVIDIA A40", "sm86"))


def test_the_engine_that_fits_is_found_and_removed_whole(engine, tmp_path):
    write(tmp_path, dataclasses.replace(RECIPE, version="1.6"), b"old")
    (found,) = fitting_engines(RECIPE.model_sha256, "tensorrt-rtx", "1.7", "RTX 3090", "sm86")
    assert found == (engine, read_engine_manifest(engine))
    assert not list(fitting_engines(RECIPE.model_sha256, "tensorrt-rtx", "1.7", "RTX 5090", "sm120"))
    assert not list(fitting_engines("00" * 32, "tensorrt-rtx", "1.7", "", ""))
    remove_engines(list(list_engines()))
    assert not list(tmp_path.iterdir())


def test_an_engine_that_was_given_up_tells_why(engine):
    give_up(engine, "TensorRT refuses it")
    manifest = read_engine_manifest(engine)
    assert not manifest.holds
    assert manifest.check["engine"]["why"] == "TensorRT refuses it"


def test_a_cache_is_written_whole_or_not_at_all(tmp_path):
    kept = tmp_path / "kept.timings"
    keep_cache(kept, b"old")
    keep_cache(kept, b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"new"]
    keep_cache(tmp_path / "nowhere" / "kept.timings", b"new")  # costs time at the next start, and nothing else
