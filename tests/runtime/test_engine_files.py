"""Engines on disk: only an engine that its manifest describes is read."""

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
    find_matching_engines,
    find_mismatch,
    list_engines,
    mark_failed,
    read_engine,
    read_engine_manifest,
    remove_engines,
    write_cache,
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


def change_manifest(engine: Path, **changes: object) -> None:
    """Replace fields of an engine's manifest; those of `recipe` one by one."""
    path = engine.with_suffix(".json")
    values = json.loads(path.read_text())
    values["recipe"] |= changes.pop("recipe", {})
    path.write_text(json.dumps(values | changes))


def test_engine_is_read_back_with_its_manifest(engine):
    data, manifest = read_engine(engine)
    assert data == b"native code" * 50
    assert manifest is not None
    assert manifest.recipe == RECIPE
    assert manifest.bindings == ("crops: uint8",)
    assert list(list_engines()) == [engine]


def test_changed_or_truncated_engine_is_refused_with_the_rebuild_command(engine):
    data = engine.read_bytes()
    for changed in (bytes([data[0] ^ 1]) + data[1:], data[:-1], b""):
        engine.write_bytes(changed)
        with pytest.raises(EngineError, match=r"SHA-256 differs.*canthus engine build --model fast"):
            read_engine(engine)
        with pytest.raises(EngineError):
            read_engine(engine, trust=True)  # trust is for a missing manifest, not for a changed engine


def test_rebuild_command_is_quoted_for_the_shell(engine):
    manifest = dataclasses.replace(read_engine_manifest(engine), model="/my models/m.onnx")
    assert shlex.split(manifest.rebuild_command)[3:5] == ["--model", "/my models/m.onnx"]


def test_engine_without_a_manifest_is_read_only_with_trust(engine):
    engine.with_suffix(".json").unlink()
    with pytest.raises(EngineError, match="--trust"):
        read_engine(engine)
    assert read_engine(engine, trust=True) == (engine.read_bytes(), None)
    with pytest.raises(EngineError, match="no such engine"):
        read_engine(engine.with_name("other.engine"), trust=True)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not valid JSON"),
        ("[" * 500 + "]" * 500, "not valid JSON .nested too deeply"),
        ("[]", "expected an object"),
        ("{}", "sha256: missing"),
        ('{"sha256": "", "recipe": 3}', "recipe: expected an object"),
        ('{"more": 1}', "more: unknown field"),
    ],
)
def test_damaged_manifest_is_refused(engine, text, reason):
    engine.with_suffix(".json").write_text(text)
    with pytest.raises(EngineError, match=f"json: {reason}.*canthus engine build"):
        read_engine_manifest(engine)
    assert not list(find_matching_engines(RECIPE.model_sha256, "tensorrt-rtx", "1.7", "", ""))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"size": "64"}, "size: expected int, got '64'"),
        ({"size": 0}, "size: expected at least 1, got 0"),
        ({"points": None}, "points: expected int, got None"),
        ({"layers": []}, r"layers: expected .*, got \[\]"),
        ({"bindings": [1]}, r"bindings\[0\]: expected str, got 1"),
        ({"check": "x"}, "check: expected .*, got 'x'"),
        ({"check": {"engine": "x"}}, "check: expected .*'x'"),
        ({"calibration": [0, 1]}, r"calibration: expected .*, got \[0, 1\]"),
        ({"recipe": {"batch": [1]}}, r"recipe.batch: expected a list of 3 .*, got \[1\]"),
        ({"recipe": {"flavour": "cuda"}}, "recipe.flavour: expected one of .*, got 'cuda'"),
        ({"recipe": {"version": 1.7}}, "recipe.version: expected str, got 1.7"),
    ],
    ids=str,
)
def test_wrong_field_is_named_with_file_expected_and_actual_value(engine, change, reason):
    change_manifest(engine, **change)
    with pytest.raises(EngineError, match=f"{RECIPE.key}.json: {reason}") as error:
        read_engine_manifest(engine)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", [{"batch": [1, 4, 8]}, {"gpu": "H100"}, {"precision": "fp32"}], ids=str)
def test_recipe_that_does_not_belong_to_the_name_of_a_cached_engine_is_refused(engine, change, tmp_path):
    change_manifest(engine, recipe=change)
    with pytest.raises(EngineError, match=f"{RECIPE.key}.json: recipe: of another engine .*canthus engine build"):
        read_engine_manifest(engine)
    assert not list(find_matching_engines(RECIPE.model_sha256, "tensorrt-rtx", "1.7", "", ""))
    (tmp_path / "own").mkdir()
    for file in (engine, engine.with_suffix(".json")):
        file.rename(tmp_path / "own" / f"mine{file.suffix}")
    assert read_engine_manifest(tmp_path / "own" / "mine.engine")


def test_manifest_keeps_the_calibration_of_the_model(engine):
    manifest = read_engine_manifest(engine)
    dataclasses.replace(manifest, calibration=(1.5, -1.0)).write(engine)
    assert read_engine_manifest(engine).calibration == (1.5, -1.0)


def test_manifest_of_an_engine_built_before_calibration_is_read(engine):
    values = json.loads(engine.with_suffix(".json").read_text())
    del values["calibration"]
    engine.with_suffix(".json").write_text(json.dumps(values))
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
def test_every_field_of_the_recipe_changes_the_key(change):
    assert dataclasses.replace(RECIPE, **change).key != RECIPE.key
    assert dataclasses.replace(RECIPE).key == RECIPE.key


def test_mismatch_names_the_field_and_both_values():
    bound = dataclasses.replace(RECIPE, flavour="tensorrt", gpu="NVIDIA A10", targets=("sm86",))
    assert find_mismatch(RECIPE, "1.7", "GeForce RTX 4090", "sm89") is None
    assert find_mismatch(RECIPE, "1.7", "", "") is None
    assert find_mismatch(RECIPE, "1.8", "", "") == "version: built with tensorrt-rtx 1.7, but 1.8 is installed"
    targets = str(find_mismatch(RECIPE, "1.7", "RTX 5090", "sm120"))
    assert targets == "targets: built for sm86, sm89, but this machine has sm120 (RTX 5090)"
    gpu = str(find_mismatch(bound, "1.7", "NVIDIA A40", "sm86"))
    assert gpu == "gpu: built for NVIDIA A10, but this machine has NVIDIA A40"


def test_only_matching_engines_are_found(engine, tmp_path):
    write(tmp_path, dataclasses.replace(RECIPE, version="1.6"), b"old")
    (found,) = find_matching_engines(RECIPE.model_sha256, "tensorrt-rtx", "1.7", "RTX 3090", "sm86")
    assert found == (engine, read_engine_manifest(engine))
    assert not list(find_matching_engines(RECIPE.model_sha256, "tensorrt-rtx", "1.7", "RTX 5090", "sm120"))
    assert not list(find_matching_engines("00" * 32, "tensorrt-rtx", "1.7", "", ""))


def test_engines_are_removed_with_all_their_files(engine, tmp_path):
    engine.with_suffix(".runtime").touch()
    remove_engines(list(list_engines()))
    assert not list(tmp_path.iterdir())


def test_failed_engine_is_marked_with_the_reason(engine):
    assert read_engine_manifest(engine).passed_check
    mark_failed(engine, "TensorRT refuses it")
    manifest = read_engine_manifest(engine)
    assert not manifest.passed_check
    assert manifest.check["engine"]["reason"] == "TensorRT refuses it"


def test_cache_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "a.timings"
    write_cache(path, b"old")
    write_cache(path, b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"new"]


def test_failed_cache_write_is_ignored_and_leaves_no_temporary_file(tmp_path):
    write_cache(tmp_path / "no folder" / "a.timings", b"new")
    (tmp_path / "a.timings").mkdir()  # a folder cannot be replaced by a file
    write_cache(tmp_path / "a.timings", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.timings"]
