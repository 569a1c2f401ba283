"""A checkpoint becomes a model that gives what PyTorch gives."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from canthus.engines.export import EXACT, HALF, command, export, synthetic_crops
from canthus.engines.graph import engine_graph
from canthus.runtime.backends import open_backend
from canthus.runtime.backends.cpu import run_exactly
from canthus.runtime.decode import decode
from canthus.runtime.errors import InputError, ModelError
from canthus.runtime.models import read_manifest
from canthus.trainer.networks.checkpoint import Checkpoint, load_network, save
from canthus.trainer.networks.network import Deployed, build

SIZE, POINTS = 64, 98


@pytest.fixture(scope="module", params=[False, True], ids=["straight", "mirrored"])
def checkpoint(request, tmp_path_factory) -> Path:
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("run") / "best"
    network = build("student", POINTS)
    facts = {"network": "student", "points": POINTS, "size": SIZE, "stride": 4, "mirrored": request.param, "step": 7}
    save(path, Checkpoint(network.state_dict(), facts, {}, {}))
    return path.with_suffix(".safetensors")


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Path:
    path = checkpoint.with_name("whole.onnx")
    export(checkpoint, path)
    return path


def test_an_exported_model_gives_what_pytorch_gives_for_one_crop_and_for_five(checkpoint, model):
    network, _ = load_network(checkpoint)
    crops = synthetic_crops(5, SIZE)
    with torch.inference_mode():
        points, scores = (part.numpy() for part in Deployed(network).eval()(torch.from_numpy(crops)))
    for count in (1, 5):
        got_points, got_scores = run_exactly(model, crops[:count])
        assert np.quantile(abs(got_points - points[:count]), 0.98) < EXACT
        np.testing.assert_allclose(got_scores, scores[:count], atol=EXACT)
    manifest = read_manifest(model)
    assert (manifest.size, manifest.points, manifest.training["step"]) == (SIZE, POINTS, 7)
    with open_backend(model) as backend:
        assert backend.predict(crops)[0].shape == (5, POINTS, 2)
        assert backend.predict(crops[:0])[0].shape == (0, POINTS, 2)


def test_the_maps_decoded_outside_are_the_points_decoded_inside(checkpoint, model, tmp_path):
    export(checkpoint, tmp_path / "maps.onnx", maps=True)
    crops = synthetic_crops(3, SIZE)
    (maps,) = run_exactly(tmp_path / "maps.onnx", crops)
    parts = maps.reshape(3, 3, POINTS, SIZE // 4, SIZE // 4)
    points, scores = decode(parts[:, 0], parts[:, 1:], 4)
    inside_points, inside_scores = run_exactly(model, crops)
    np.testing.assert_allclose(points, inside_points, atol=EXACT)
    np.testing.assert_allclose(scores, inside_scores, atol=EXACT)
    with pytest.raises(ModelError, match="outputs have the shapes"):
        open_backend(tmp_path / "maps.onnx")


def test_in_a_graph_of_fp16_the_decode_is_exact(model, tmp_path):
    crops = synthetic_crops(3, SIZE)
    ends = []
    for name, decoding in (("maps.onnx", False), ("points.onnx", True)):
        (tmp_path / name).write_bytes(engine_graph(model, "fp16", decoding))
        ends.append(run_exactly(tmp_path / name, crops))
    ((maps,), (points, scores)) = ends
    parts = maps.reshape(3, 3, POINTS, SIZE // 4, SIZE // 4)
    wanted, wanted_scores = decode(parts[:, 0], parts[:, 1:], 4)
    np.testing.assert_allclose(points, wanted, atol=EXACT)
    np.testing.assert_allclose(scores, wanted_scores, atol=1e-6)


def test_half_weights_halve_the_file_and_hardly_move_a_point(checkpoint, model, tmp_path):
    export(checkpoint, tmp_path / "half.onnx", half=True)
    assert (tmp_path / "half.onnx").stat().st_size < 0.55 * model.stat().st_size
    crops = synthetic_crops(3, SIZE)
    whole, half = (run_exactly(path, crops)[0] for path in (model, tmp_path / "half.onnx"))
    assert np.median(abs(whole - half)) < HALF


def test_a_model_tells_nothing_of_the_machine_that_exported_it(model):
    text = model.read_bytes()
    assert str(Path.cwd()).encode() not in text
    assert b".py" not in text
    assert "maps" in {name for node in onnx.load(model).graph.node for name in node.output}


def test_a_model_that_differs_from_pytorch_is_refused_and_nothing_is_written(checkpoint, tmp_path, monkeypatch):
    def wrong(model: Path, crops: np.ndarray) -> list[np.ndarray]:
        return [value + np.float32(1) for value in run_exactly(model, crops)]

    monkeypatch.setattr("canthus.runtime.backends.cpu.run_exactly", wrong)
    with pytest.raises(ModelError, match="differs from PyTorch"):
        export(checkpoint, tmp_path / "m.onnx", maps=True)
    assert not list(tmp_path.iterdir())


def test_a_model_is_not_overwritten_unasked_nor_made_from_nothing(checkpoint, model, tmp_path):
    with pytest.raises(InputError, match="--overwrite"):
        export(checkpoint, model)
    with pytest.raises(InputError, match=r"\.onnx"):
        export(checkpoint, tmp_path / "model.pt")
    with pytest.raises(ModelError, match="no such file"):
        export(tmp_path / "absent.safetensors", tmp_path / "m.onnx")


def test_the_command_says_what_it_made_and_nothing_else(checkpoint, tmp_path, capfd):
    assert command([str(checkpoint), "-o", str(tmp_path / "m.onnx"), "--half"]) == 0
    out, err = capfd.readouterr()
    assert out.count("\n") == 3
    assert "student, 64 px, 98 points" in out
    assert out.splitlines()[-1].endswith(f"canthus data calibrate {checkpoint} PACK")
    assert not err
