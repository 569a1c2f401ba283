"""Scores leave every backend as chances: the curve is fitted, carried from checkpoint to model, and applied."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from canthus.engines.export import command as export_command
from canthus.engines.export import export, synthetic_crops
from canthus.runtime.backends import open_backend
from canthus.runtime.backends.cpu import OpenVINOBackend
from canthus.runtime.calibration import IDENTITY, apply_calibration, logit, read_calibration
from canthus.runtime.errors import InputError, ModelError
from canthus.runtime.models import Model, find_model, read_manifest
from canthus.trainer.calibrate import calibrate, fit_calibration
from canthus.trainer.commands.data import command as data_command
from canthus.trainer.networks.checkpoint import Checkpoint, CheckpointBackend, load, save
from canthus.trainer.networks.network import build
from canthus.trainer.packs.batches import Batches
from canthus.trainer.recipe import Recipe

CURVE = (1.5, -1.25)
BAD = [[1], [1, 0, 0], [0, 1], [-1.5, 0], ["1", 0], {"a": 1}, 3, None, [float("nan"), 0], [1, float("inf")]]
TINY = Recipe(size=32, batch=4, held_out=3)


def drawn(count: int, curve: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Peaks, and whether their points sit well, by chance as the curve has it."""
    random = np.random.default_rng(0)
    scores = random.beta(6, 2, count)
    return scores, random.random(count) < apply_calibration(scores, curve)


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    torch.manual_seed(1)
    facts = {"network": "student", "points": 98, "size": 32, "stride": 4}
    save(tmp_path / "net", Checkpoint(build("student", 98).state_dict(), facts, {}, {}))
    return tmp_path / "net.safetensors"


def with_fact(checkpoint: Path, calibration: object) -> Path:
    former = load(checkpoint)
    save(checkpoint, dataclasses.replace(former, metadata={**former.metadata, "calibration": calibration}))
    return checkpoint


@pytest.mark.parametrize("curve", [IDENTITY, CURVE, (0.4, 2.0)])
def test_the_fit_finds_the_curve_that_chances_were_drawn_from(curve):
    np.testing.assert_allclose(fit_calibration(*drawn(200_000, curve)), curve, atol=0.05)


def test_the_fit_is_where_the_sum_is_lowest():
    scores, well = drawn(500, CURVE)
    target = np.where(well, (well.sum() + 1) / (well.sum() + 2), 1 / ((~well).sum() + 2))

    def sum_of(a: float, b: float) -> float:
        chance = 1 / (1 + np.exp(-(a * logit(scores) + b)))
        return float(-(target * np.log(chance) + (1 - target) * np.log(1 - chance)).sum())

    a, b = fit_calibration(scores, well)
    around = [(a + right, b + up) for right in (-0.02, 0, 0.02) for up in (-0.02, 0, 0.02) if right or up]
    assert sum_of(a, b) < min(sum_of(*place) for place in around)


def test_peaks_that_part_the_points_perfectly_still_give_a_curve():
    scores = np.linspace(0.1, 0.9, 40)
    a, b = fit_calibration(scores, scores > 0.5)
    assert 1 < a < 100
    assert apply_calibration(np.array([0.5]), (a, b)) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("scores", "well"),
    [
        ([], []),
        ([0.5, 0.5], [True, False]),
        ([0.4, 0.5], [True, True]),
        ([0.4, 0.5], [False, False]),
        (np.linspace(0.2, 0.8, 20), np.arange(20) < 10),
    ],
)
def test_peaks_that_tell_nothing_are_left_untouched(scores, well):
    assert fit_calibration(np.array(scores, np.float64), np.array(well, np.bool_)) == IDENTITY


def test_the_curve_keeps_the_order_and_the_bounds():
    scores = np.concatenate([[0.0], np.linspace(0.001, 0.999, 999), [1.0]]).astype(np.float32)
    for curve in (CURVE, (0.2, 0.5), (9.0, -40.0)):
        chances = apply_calibration(scores, curve)
        assert chances.dtype == np.float32
        assert (np.diff(chances.astype(np.float64)) >= 0).all()
        assert chances.min() >= 0
        assert chances.max() <= 1
    np.testing.assert_array_equal(np.argsort(apply_calibration(scores, CURVE), kind="stable"), np.arange(len(scores)))
    assert apply_calibration(scores, IDENTITY) is scores
    assert np.isnan(apply_calibration(np.array([np.nan], np.float32), CURVE))
    assert apply_calibration(np.zeros((0, 98), np.float32), CURVE).shape == (0, 98)


def test_a_curve_read_from_json_is_checked():
    assert read_calibration([2, 0]) == (2.0, 0.0)
    for told in BAD:
        with pytest.raises(ValueError, match="expected two finite numbers, the first above 0"):
            read_calibration(told)


def test_a_model_carries_its_checkpoints_curve_and_gives_its_scores(checkpoint, tmp_path):
    crops = synthetic_crops(3, 32)
    with CheckpointBackend(checkpoint) as backend:
        peaks = backend.predict(crops)[1]
    model = tmp_path / "net.onnx"
    manifest = export(with_fact(checkpoint, CURVE), model)
    assert (manifest.calibration, "calibration" in manifest.training) == (CURVE, False)
    assert read_manifest(model).calibration == CURVE
    with CheckpointBackend(checkpoint) as backend:
        np.testing.assert_array_equal(backend.predict(crops)[1], apply_calibration(peaks, CURVE))
    with open_backend(model) as backend:
        np.testing.assert_allclose(backend.predict(crops)[1], apply_calibration(peaks, CURVE), atol=0.05)


def test_a_manifest_without_a_curve_is_untouched_and_a_bad_one_is_one_line(tmp_path):
    model = tmp_path / "m.onnx"
    model.write_bytes(find_model().read_bytes())
    told = json.loads(find_model().with_suffix(".json").read_text())
    told.pop("calibration", None)
    model.with_suffix(".json").write_text(json.dumps(told))
    assert read_manifest(model).calibration == IDENTITY
    for bad in BAD:
        model.with_suffix(".json").write_text(json.dumps({**told, "calibration": bad}))
        with pytest.raises(ModelError, match=r"m\.json: calibration: expected two finite numbers"):
            read_manifest(model)


@pytest.mark.parametrize("bad", BAD)
def test_a_checkpoint_with_a_bad_curve_is_one_line(checkpoint, tmp_path, bad):
    with_fact(checkpoint, bad)
    for asked in (lambda: CheckpointBackend(checkpoint), lambda: export(checkpoint, tmp_path / "m.onnx")):
        with pytest.raises(ModelError, match=r"net\.safetensors: calibration: expected .*canthus data calibrate"):
            asked()


def test_a_shipped_models_scores_follow_its_manifest():
    model = find_model()
    manifest = read_manifest(model)
    crops = synthetic_crops(2, manifest.size)
    found = {}
    for curve in (IDENTITY, CURVE):
        with OpenVINOBackend(Model(model, dataclasses.replace(manifest, calibration=curve))) as backend:
            found[curve] = backend.predict(crops)
    np.testing.assert_array_equal(found[CURVE][0], found[IDENTITY][0])
    np.testing.assert_array_equal(found[CURVE][1], apply_calibration(found[IDENTITY][1], CURVE))
    with open_backend(model) as backend:
        np.testing.assert_array_equal(
            backend.predict(crops)[1], apply_calibration(found[IDENTITY][1], manifest.calibration)
        )


def test_calibrating_is_repeatable_and_rewrites_the_facts_alone(checkpoint, faces):
    before, batches = load(checkpoint), Batches(faces, TINY)
    found = calibrate(checkpoint, batches)
    after = load(checkpoint)
    assert after.metadata == {**before.metadata, "calibration": list(found.calibration)}
    assert json.loads(checkpoint.with_suffix(".json").read_text()) == after.metadata
    assert all(torch.equal(after.weights[name], value) for name, value in before.weights.items())
    assert 0 < found.points <= 2 * 98 * len(batches.validation_rows)
    assert calibrate(checkpoint, batches) == found  # what it wrote does not reach the peaks that it fits


def test_calibrating_by_command(checkpoint, faces, capsys):
    TINY.save(checkpoint.with_name("recipe.json"))
    pack = str(Path(faces.crops.filename).parent)
    assert data_command(["calibrate", str(checkpoint), pack]) == 0
    assert "a = " in capsys.readouterr().out
    assert "calibration" in load(checkpoint).metadata
    with pytest.raises(InputError, match="its crops have 32 px, those of the recipe 128"):
        data_command(["calibrate", str(checkpoint), pack, "--recipe", "student"])


def test_where_none_is_held_out_all_faces_calibrate(checkpoint, faces, capsys):
    none = dataclasses.replace(TINY, held_out=0)
    with pytest.raises(InputError, match="no validation faces"):
        calibrate(checkpoint, Batches(faces, none))
    none.save(checkpoint.with_name("recipe.json"))
    assert data_command(["calibrate", str(checkpoint), str(Path(faces.crops.filename).parent)]) == 0
    found = calibrate(checkpoint, Batches(faces, none, validation_pack=faces))
    assert found.points > 98 * len(faces)
    assert capsys.readouterr().out == f"{found}\n"


def test_exporting_asks_for_no_curve_where_there_is_one(checkpoint, tmp_path, capsys):
    assert export_command([str(with_fact(checkpoint, CURVE)), "-o", str(tmp_path / "chances.onnx")]) == 0
    assert "calibrate" not in capsys.readouterr().out
