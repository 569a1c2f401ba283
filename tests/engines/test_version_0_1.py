"""Engines that version 0.1 has built are found in the cache and read."""

import json

import pytest

from canthus.engines.commands.engine import command
from canthus.runtime import engine_files
from canthus.runtime.engine_files import EngineRecipe, engine_path, read_engine

KEY = "88985d65aaee7cb34febdf59"
DATA = b"engine"
RECIPE = {
    "model_sha256": "a" * 64,
    "flavour": "tensorrt-rtx",
    "version": "1.7.1.116",
    "gpu": "",
    "targets": ["sm86", "sm89"],
    "precision": "fp16",
    "batch": [1, 4, 16],
}
CHECK = {
    "graph_median_shift": 0.009,
    "engine": {"beside": "ONNX, float32", "mean": 0.01, "most_99": 0.05, "largest": 0.1, "holds": True},
}
MANIFEST = {
    "sha256": "ed9f6f25068608efd412958da4dfc19328ca3511251fa6d5f9c42baf230e32f8",
    "recipe": RECIPE,
    "model": "fast",
    "size": 128,
    "points": 98,
    "stride": 4,
    "built": "2026-11-01T10:00:00+00:00",
    "bindings": ["crops: uint8 (N, 128, 128, 3)", "maps: float32 (N, 294, 32, 32)"],
    "layers": {"convolution": 27},
    "check": CHECK,
    "calibration": [1.5, -1.25],
}


@pytest.fixture
def engine(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_files, "cache_folder", lambda: tmp_path)
    (tmp_path / "engines").mkdir()
    path = tmp_path / "engines" / f"{KEY}.engine"
    path.write_bytes(DATA)
    path.with_suffix(".json").write_text(json.dumps(MANIFEST))
    return path


def test_key_of_a_recipe_is_unchanged(engine):
    recipe = EngineRecipe(**RECIPE | {"targets": ("sm86", "sm89"), "batch": (1, 4, 16)})
    assert engine_path(recipe) == engine


def test_engine_and_manifest_are_read(engine):
    data, manifest = read_engine(engine)
    assert data == DATA
    assert manifest.calibration == (1.5, -1.25)
    renamed = {"reference": "ONNX, float32", "mean": 0.01, "p99": 0.05, "largest": 0.1, "within_tolerance": True}
    assert manifest.check == {**CHECK, "engine": renamed}
    assert manifest.passed_check


def test_engine_is_listed(engine, capsys):
    assert command(["list"]) == 0
    line = capsys.readouterr().out
    assert line.startswith(KEY)
    assert "fast, tensorrt-rtx 1.7.1.116, fp16, 1-16 faces, sm86 sm89, 2026-11-01" in line
