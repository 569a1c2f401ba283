"""Model manifests are checked before use, and a model file is hashed once."""

import json
from pathlib import Path

import pytest

from canthus.runtime import models
from canthus.runtime.backends import open_backend
from canthus.runtime.backends.automatic import open_automatic
from canthus.runtime.errors import ModelError
from canthus.runtime.models import find_model, int8_path, read_model


def copy_model(folder: Path, changes: dict, removed: str | None = None) -> Path:
    """Copy the default model with changed manifest fields."""
    model = folder / "m.onnx"
    model.write_bytes(find_model().read_bytes())
    fields = json.loads(find_model().with_suffix(".json").read_text()) | changes
    fields.pop(removed, None)
    model.with_suffix(".json").write_text(json.dumps(fields))
    return model


@pytest.mark.parametrize(
    ("changes", "removed", "message"),
    [
        ({"size": "64"}, None, r"m\.json: size: expected int, got '64'"),
        ({"points": None}, None, r"m\.json: points: expected int, got None"),
        ({"stride": 4.5}, None, r"m\.json: stride: expected int, got 4\.5"),
        ({"size": -128}, None, r"m\.json: size: expected at least 1, got -128"),
        ({"sizes": 128}, None, r"m\.json: sizes: unknown field \(expected one of sha256, network"),
        ({}, "points", r"m\.json: points: missing \(expected int\)"),
        (
            {"calibration": [float("nan"), 0]},
            None,
            r"m\.json: calibration: expected two finite .*got \[nan, 0\]",
        ),
        ({"training": "none"}, None, r"m\.json: training: expected an object .*, got 'none'"),
    ],
)
def test_wrong_manifest_field_gives_one_line_with_file_and_field(tmp_path, changes, removed, message):
    with pytest.raises(ModelError, match=message) as error:
        open_backend(copy_model(tmp_path, changes, removed))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["[]", "null", "{", "", '{"training":' * 20_000, '{"training": ' + "[" * 500 + "]" * 500 + "}"], ids=len
)
def test_manifest_that_is_no_object_is_refused(tmp_path, text):
    model = copy_model(tmp_path, {})
    model.with_suffix(".json").write_text(text)
    with pytest.raises(ModelError, match=r"m\.json: "):
        read_model(model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 64}, r"inputs have the shapes \[\?,128,128,3\] \(expected \[N, 64, 64, 3\], from size 64"),
        (
            {"points": 29, "scheme": "COFW", "calibration": [1, 0]},
            r"outputs have the shapes \[\?,98,2\] and \[\?,98\] \(expected \[N, 29, 2\] and \[N, 29\]",
        ),
    ],
)
def test_manifest_that_does_not_fit_the_network_is_refused_before_inference(tmp_path, changes, message):
    with pytest.raises(ModelError, match=message):
        open_backend(copy_model(tmp_path, changes))


def test_model_with_one_output_is_refused_with_a_message_about_its_outputs(tmp_path):
    onnx = pytest.importorskip("onnx")
    model = copy_model(tmp_path, {})
    network = onnx.load(model)
    del network.graph.output[1]
    onnx.save(network, model)
    fields = json.loads(model.with_suffix(".json").read_text()) | {"sha256": models.sha256(model)}
    model.with_suffix(".json").write_text(json.dumps(fields))
    with pytest.raises(ModelError, match=r"outputs have the shapes \[\?,98,2\] \(expected .* and "):
        open_backend(model)


def test_model_with_another_number_of_points_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"has 98 points \(expected 29\)"):
        open_backend(find_model(), 29)


def test_model_file_is_hashed_once_when_it_is_opened(monkeypatch):
    hashed = []
    real = models.sha256
    monkeypatch.setattr(models, "sha256", lambda path: hashed.append(path) or real(path))
    open_automatic(gpu=False, points=98).close()
    assert hashed in ([find_model()], [int8_path(find_model())])
