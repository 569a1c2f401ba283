"""An exported model gives the same points and scores as PyTorch."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from canthus.engines.commands.export import command
from canthus.engines.export import FLOAT32_TOLERANCE, FP16_TOLERANCE, export, synthetic_crops
from canthus.engines.graph import engine_graph
from canthus.runtime.backends import open_backend
from canthus.runtime.backends.cpu import run_exactly
from canthus.runtime.decode import decode
from canthus.runtime.errors import InputError, ModelError
from canthus.runtime.models import read_manifest
from canthus.trainer.networks.checkpoint import Checkpoint, CheckpointBackend, load_network, save
from canthus.trainer.networks.network import DecodingNetwork, build, normalize

SIZE, POINTS = 64, 98


def save_network(folder: Path, flip_tta: bool = False) -> Path:
    torch.manual_seed(5)
    network = build("student", POINTS)
    metadata = {"network": "student", "points": POINTS, "size": SIZE, "stride": 4, "flip_tta": flip_tta, "step": 7}
    save(folder / "best", Checkpoint(network.state_dict(), metadata, {}, {}))
    return folder / "best.safetensors"


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "flip_tta"])
def checkpoint(request, tmp_path_factory) -> Path:
    return save_network(tmp_path_factory.mktemp("run"), request.param)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """A checkpoint without flip test-time augmentation, for what does not depend on it: an export takes seconds."""
    return save_network(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Path:
    path = checkpoint.with_name("whole.onnx")
    export(checkpoint, path)
    return path


def test_exported_model_equals_pytorch_for_one_crop_and_for_five(checkpoint, model):
    network, _ = load_network(checkpoint)
    crops = synthetic_crops(5, SIZE)
    with torch.inference_mode():
        points, scores = (part.numpy() for part in DecodingNetwork(network, 4).eval()(torch.from_numpy(crops)))
    for count in (1, 5):
        exported_points, exported_scores = run_exactly(model, crops[:count])
        assert np.quantile(abs(exported_points - points[:count]), 0.98) < FLOAT32_TOLERANCE
        np.testing.assert_allclose(exported_scores, scores[:count], atol=FLOAT32_TOLERANCE)
    manifest = read_manifest(model)
    assert (manifest.size, manifest.points, manifest.training["step"]) == (SIZE, POINTS, 7)
    with open_backend(model) as backend:
        assert backend.predict(crops)[0].shape == (5, POINTS, 2)
        assert backend.predict(crops[:0])[0].shape == (0, POINTS, 2)


def test_decoded_maps_equal_the_points_of_the_model(checkpoint, model, tmp_path):
    export(checkpoint, tmp_path / "maps.onnx", maps=True)
    crops = synthetic_crops(3, SIZE)
    (maps,) = run_exactly(tmp_path / "maps.onnx", crops)
    parts = maps.reshape(3, 3, POINTS, SIZE // 4, SIZE // 4)
    points, scores = decode(parts[:, 0], parts[:, 1:], 4)
    model_points, model_scores = run_exactly(model, crops)
    np.testing.assert_allclose(points, model_points, atol=FLOAT32_TOLERANCE)
    np.testing.assert_allclose(scores, model_scores, atol=FLOAT32_TOLERANCE)
    with pytest.raises(ModelError, match="outputs have the shapes"):
        open_backend(tmp_path / "maps.onnx")


def test_decode_in_a_fp16_graph_is_float32(model, tmp_path):
    crops = synthetic_crops(3, SIZE)
    outputs = []
    for name, with_decode in (("maps.onnx", False), ("points.onnx", True)):
        (tmp_path / name).write_bytes(engine_graph(model, "fp16", with_decode))
        outputs.append(run_exactly(tmp_path / name, crops))
    ((maps,), (points, scores)) = outputs
    assert maps.dtype == np.float16
    parts = maps.astype(np.float32).reshape(3, 3, POINTS, SIZE // 4, SIZE // 4)
    expected, expected_scores = decode(parts[:, 0], parts[:, 1:], 4)
    assert np.quantile(np.abs(points - expected), 0.9) < FP16_TOLERANCE  # OpenVINO decodes maps that are not rounded
    np.testing.assert_allclose(scores, expected_scores, atol=1e-3)


def test_model_of_a_recipe_with_peak_decode_decodes_the_peak_cell(tmp_path):
    torch.manual_seed(6)
    network = build("student", 5)
    with torch.no_grad():
        network.head[3].weight.normal_(0, 0.05)
    metadata = {"network": "student", "points": 5, "size": SIZE, "stride": 4, "step": 7, "decode": "peak"}
    save(tmp_path / "best", Checkpoint(network.state_dict(), metadata, {}, {}))
    export(tmp_path / "best.safetensors", tmp_path / "model.onnx")
    crops = synthetic_crops(3, SIZE)
    points, _ = run_exactly(tmp_path / "model.onnx", crops)
    with torch.inference_mode():
        maps = network.eval()(normalize(torch.from_numpy(crops))).numpy().reshape(3, 3, 5, SIZE // 4, SIZE // 4)
    expected, _ = decode(maps[:, 0], maps[:, 1:], 4, window_sigma=0)
    assert np.median(np.abs(points - expected)) < FLOAT32_TOLERANCE
    assert np.median(np.abs(points - decode(maps[:, 0], maps[:, 1:], 4)[0])) > 0.1
    with CheckpointBackend(tmp_path / "best.safetensors") as backend:
        assert np.median(np.abs(backend.predict(crops)[0] - expected)) < FLOAT32_TOLERANCE


def test_half_halves_the_file_and_keeps_the_points(checkpoint, model, tmp_path):
    export(checkpoint, tmp_path / "half.onnx", half=True)
    assert (tmp_path / "half.onnx").stat().st_size < 0.55 * model.stat().st_size
    crops = synthetic_crops(3, SIZE)
    whole, half = (run_exactly(path, crops)[0] for path in (model, tmp_path / "half.onnx"))
    assert np.median(abs(whole - half)) < FP16_TOLERANCE


def test_model_contains_no_paths_of_the_machine_that_exported_it(model):
    text = model.read_bytes()
    assert str(Path.cwd()).encode() not in text
    assert b".py" not in text
    assert "maps" in {name for node in onnx.load(model).graph.node for name in node.output}


def test_export_that_differs_from_pytorch_is_refused_and_writes_nothing(plain, tmp_path, monkeypatch):
    def wrong(model: Path, crops: np.ndarray) -> list[np.ndarray]:
        return [value + np.float32(1) for value in run_exactly(model, crops)]

    monkeypatch.setattr("canthus.runtime.backends.cpu.run_exactly", wrong)
    with pytest.raises(ModelError, match="differs from PyTorch"):
        export(plain, tmp_path / "m.onnx", maps=True)
    assert not list(tmp_path.iterdir())


def test_existing_model_is_kept_without_overwrite(checkpoint, model):
    with pytest.raises(InputError, match="--overwrite"):
        export(checkpoint, model)


def test_unrelated_json_is_never_replaced_and_a_manifest_with_overwrite(plain, tmp_path):
    unrelated = tmp_path / "m.json"
    unrelated.write_text('{"mine": 1}')
    with pytest.raises(InputError, match=r"m\.json: exists already; use --overwrite"):
        export(plain, tmp_path / "m.onnx")
    assert unrelated.read_text() == '{"mine": 1}'
    assert [path.name for path in tmp_path.iterdir()] == ["m.json"]
    with pytest.raises(InputError, match=r"m\.json: is not the manifest of a model; choose another name than m\.onnx"):
        export(plain, tmp_path / "m.onnx", overwrite=True)
    assert unrelated.read_text() == '{"mine": 1}'
    unrelated.write_text('{"sha256": "of another model"}')
    export(plain, tmp_path / "m.onnx", overwrite=True)
    assert read_manifest(tmp_path / "m.onnx").points == POINTS


def test_invalid_paths_are_refused(plain, tmp_path):
    with pytest.raises(InputError, match=r"\.onnx"):
        export(plain, tmp_path / "model.pt")
    with pytest.raises(InputError, match="no such folder"):
        export(plain, tmp_path / "absent" / "m.onnx")
    with pytest.raises(ModelError, match="no such file"):
        export(tmp_path / "absent.safetensors", tmp_path / "m.onnx")


def test_command_prints_the_model_and_its_difference_to_pytorch(plain, tmp_path, capfd):
    assert command([str(plain), "-o", str(tmp_path / "m.onnx"), "--half"]) == 0
    out, err = capfd.readouterr()
    assert out.count("\n") == 3
    assert "student, 64 px, 98 points" in out
    assert out.splitlines()[-1].endswith(f"canthus data calibrate {plain} PACK")
    assert not err
