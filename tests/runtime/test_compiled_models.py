"""The cache of compiled models: what it saves, and that a stale or damaged file changes nothing."""

import dataclasses
import hashlib
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from canthus.runtime.backends import compiled_models
from canthus.runtime.backends.compiled_models import latency_options, open_compiled
from canthus.runtime.backends.cpu import OpenVINOBackend
from canthus.runtime.models import find_int8, find_model, read_model

CROPS = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3)).astype(np.uint8)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled_models, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "openvino"


@pytest.fixture
def compilations(monkeypatch):
    """The models that were compiled so far."""
    compiled, compile_model = [], compiled_models.compile_model

    def count(path, options, batch, manifest):
        compiled.append(path.stem)
        return compile_model(path, options, batch, manifest)

    monkeypatch.setattr(compiled_models, "compile_model", count)
    return compiled


@pytest.fixture
def model():
    return read_model(find_model("fast"))


def predict(model):
    with OpenVINOBackend(model) as backend:
        return np.concatenate([output.ravel() for output in backend.predict(CROPS)])


def test_model_is_compiled_once_and_predicts_the_same_from_the_cache(cache, compilations, model):
    first = predict(model)
    assert np.array_equal(predict(model), first)
    assert compilations == ["fast"]
    assert len(list(cache.iterdir())) == 1


def test_networks_for_different_numbers_of_crops_have_files_of_their_own(cache, compilations):
    tiny = read_model(find_int8(find_model("tiny")))
    for batch in (1, 4, 1, 4):
        assert open_compiled(tiny, batch).inputs[0].shape[0] == batch
    assert compilations == ["tiny.int8"] * 2


@pytest.mark.parametrize(
    ("size", "batch", "cores", "threads"),
    [
        (128, 1, 1, "1"),
        (128, 1, 2, "1"),
        (96, 1, 6, "3"),
        (128, 1, 64, "4"),
        (128, 4, 8, None),
        (128, None, 8, None),
        (192, 1, 8, None),
    ],
)
def test_small_network_for_one_crop_leaves_half_of_the_cores_free(monkeypatch, size, batch, cores, threads):
    monkeypatch.setattr(compiled_models, "core_count", lambda: cores)
    monkeypatch.delenv("CANTHUS_THREADS", raising=False)
    assert latency_options(size, batch).get("INFERENCE_NUM_THREADS") == threads
    monkeypatch.setenv("CANTHUS_THREADS", "3")
    assert latency_options(size, batch)["INFERENCE_NUM_THREADS"] == "3"


def damage_weights(blob):
    data = bytearray(blob)
    data[len(data) // 2] ^= 0x40
    return bytes(data)


@pytest.mark.parametrize(
    "damage",
    [damage_weights, lambda blob: blob[: len(blob) // 2], lambda blob: b"", lambda blob: b"\xff" * 99],
    ids=["weights", "cut off", "empty", "other"],
)
def test_damaged_file_is_replaced(cache, compilations, model, damage):
    first = predict(model)
    (file,) = cache.iterdir()
    intact = file.read_bytes()
    file.write_bytes(damage(intact))
    assert np.array_equal(predict(model), first)
    assert compilations == ["fast"] * 2
    assert len(file.read_bytes()) > 0.9 * len(intact)
    assert np.array_equal(predict(model), first)
    assert compilations == ["fast"] * 2


@pytest.mark.parametrize("field", ["openvino", "cpu", "capabilities", "isa", "model"])
def test_file_for_another_version_or_cpu_is_replaced(cache, compilations, model, field):
    open_compiled(model)
    (file,) = cache.iterdir()
    line, _, blob = file.read_bytes().partition(b"\n")
    file.write_bytes(json.dumps(json.loads(line) | {field: "another"}).encode() + b"\n" + blob)
    open_compiled(model)
    assert compilations == ["fast"] * 2
    assert json.loads(file.read_bytes().partition(b"\n")[0]) == json.loads(line) | {
        "sha256": json.loads(file.read_bytes().partition(b"\n")[0])["sha256"]
    }


def test_blob_that_openvino_refuses_is_replaced(cache, compilations, model, monkeypatch):
    open_compiled(model)
    (file,) = cache.iterdir()
    state = compiled_models._state(model) | {"batch": None, "sha256": hashlib.sha256(b"no blob").hexdigest()}
    file.write_bytes(json.dumps(state).encode() + b"\nno blob")
    assert predict(model).size
    assert compilations == ["fast"] * 2


def test_cache_that_cannot_be_written_only_costs_time(tmp_path, compilations, model, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(compiled_models, "cache_folder", lambda: tmp_path / "file")
    predict(model)
    predict(model)
    assert compilations == ["fast"] * 2


def test_other_models_are_not_cached(cache, compilations, model, tmp_path):
    copy = tmp_path / "copy.onnx"
    shutil.copy(model.path, copy)
    open_compiled(dataclasses.replace(model, path=copy))
    assert compilations == ["copy"]
    assert not cache.exists()


def test_nothing_is_cached_if_the_instructions_are_limited(cache, compilations, model, monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    predict(model)
    predict(model)
    assert compilations == ["fast"] * 2
    assert not cache.exists()


@pytest.mark.parametrize(("limit", "exact"), [("AVX2", True), ("AVX512_CORE_BF16", False), ("ALL", False)])
def test_limit_that_excludes_bf16_means_float32(model, monkeypatch, limit, exact):
    """OpenVINO would choose bf16, as the processor has it, and then fail."""
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    options = []
    real = compiled_models.core()
    monkeypatch.setattr(
        compiled_models,
        "core",
        lambda: SimpleNamespace(read_model=real.read_model, compile_model=lambda *given: options.append(given[2])),
    )
    compiled_models.compile_model(model.path, compiled_models.LATENCY)
    assert (compiled_models.EXACT.items() <= options[0].items()) == exact
