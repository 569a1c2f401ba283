"""Calibration is fitted to a checkpoint, carried to its model, and applied to the scores of every backend."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from canthus.engines.commands.export import command as export_command
from canthus.engines.export import export, synthetic_crops
from canthus.runtime import wflw
from canthus.runtime.backends import open_backend
from canthus.runtime.backends.cpu import OpenVINOBackend
from canthus.runtime.calibration import IDENTITY, apply_calibration, logit, read_calibration
from canthus.runtime.errors import InputError, ModelError
from canthus.runtime.models import Model, find_model, read_manifest
from canthus.trainer.calibrate import (
    BOX_SHIFT_SD,
    _calibration_rows,
    calibrate,
    detector_like_face,
    fit_calibration,
    fit_faces,
)
from canthus.trainer.commands.data import command as data_command
from canthus.trainer.faces.kinds import PointKind
from canthus.trainer.networks.checkpoint import Checkpoint, CheckpointBackend, load, save
from canthus.trainer.networks.network import build
from canthus.trainer.packs.batches import Batches
from canthus.trainer.packs.pack import copy_pack
from canthus.trainer.recipe import Recipe

CURVE = (1.5, -1.25)
BAD = [
    *([], [1], [1, 0, 0], [1, 0, -1, 0], [1, 0, 0, None], [0, 1], [-1.5, 0], ["1", 0]),
    *({"a": 1}, 3, None, [float("nan"), 0], [1, float("inf")], [10**400, 0]),
]
TINY = Recipe(size=32, batch=4, held_out=3)


def sample_peaks(count: int, curve: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return random peaks, and whether each point is accurate, with the probabilities of a curve."""
    random = np.random.default_rng(0)
    scores = random.beta(6, 2, count)
    return scores, random.random(count) < apply_calibration(scores, curve)


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    torch.manual_seed(1)
    metadata = {"network": "student", "points": 98, "size": 32, "stride": 4}
    save(tmp_path / "net", Checkpoint(build("student", 98).state_dict(), metadata, {}, {}))
    return tmp_path / "net.safetensors"


def with_calibration(checkpoint: Path, calibration: object) -> Path:
    former = load(checkpoint)
    save(checkpoint, dataclasses.replace(former, metadata={**former.metadata, "calibration": calibration}))
    return checkpoint


@pytest.mark.parametrize("curve", [IDENTITY, CURVE, (0.4, 2.0)])
def test_fit_finds_the_curve_of_sampled_peaks(curve):
    np.testing.assert_allclose(fit_calibration(*sample_peaks(200_000, curve)), curve, atol=0.05)


def test_fit_minimises_the_cross_entropy():
    scores, accurate = sample_peaks(500, CURVE)
    target = np.where(accurate, (accurate.sum() + 1) / (accurate.sum() + 2), 1 / ((~accurate).sum() + 2))

    def loss(a: float, b: float) -> float:
        chance = 1 / (1 + np.exp(-(a * logit(scores) + b)))
        return float(-(target * np.log(chance) + (1 - target) * np.log(1 - chance)).sum())

    a, b = fit_calibration(scores, accurate)
    around = [(a + right, b + up) for right in (-0.02, 0, 0.02) for up in (-0.02, 0, 0.02) if right or up]
    assert loss(a, b) < min(loss(*pair) for pair in around)


def sample_faces(count: int, calibration: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return random peaks (count, 98), of good and of poor faces, and which of their points are accurate."""
    random = np.random.default_rng(1)
    peaks = random.beta(6, 6 * random.uniform(0.1, 1, (count, 1)), (count, 98))
    return peaks, random.random(peaks.shape) < apply_calibration(peaks.astype(np.float32), calibration)


def test_fit_of_faces_finds_the_parts_of_face_and_points():
    offsets = np.where(np.arange(98) < 33, -1.5, 0.5)
    wanted = (0.6, -0.5, 0.8, *offsets.tolist())
    peaks, accurate = sample_faces(2000, wanted)
    found = fit_faces(peaks, accurate, np.ones(peaks.shape, np.bool_))
    assert len(found) == 101
    assert found[0] == pytest.approx(0.6, abs=0.06)
    assert found[2] == pytest.approx(0.8, abs=0.1)
    assert np.mean(found[3 + 33 :]) - np.mean(found[3 : 3 + 33]) == pytest.approx(2, abs=0.1)
    scores = apply_calibration(peaks.astype(np.float32), found)
    for part in (slice(0, 33), slice(33, 98)):
        assert scores[:, part].mean() == pytest.approx(accurate[:, part].mean(), abs=0.01)
    assert read_calibration(list(found)) == found


def test_points_without_labels_get_the_offset_of_their_line():
    peaks, accurate = sample_faces(1000, (0.6, -0.5, 0.5, *np.where(np.arange(98) < 33, -1.5, 0.5).tolist()))
    used = np.ones(peaks.shape, np.bool_)
    used[:, [5, 27, 96, 97]] = False
    offsets = np.array(fit_faces(peaks, accurate, used)[3:])
    assert offsets[5] == offsets[27] == pytest.approx(offsets[:33].mean(), abs=0.15)
    np.testing.assert_array_equal(offsets, offsets[wflw.MIRROR])


def test_few_points_or_useless_peaks_give_two_numbers():
    peaks, accurate = sample_faces(20, CURVE)
    assert len(fit_faces(peaks, accurate, np.ones(peaks.shape, np.bool_))) == 2
    peaks, accurate = sample_faces(200, CURVE)
    assert fit_faces(peaks, ~accurate, np.ones(peaks.shape, np.bool_)) == IDENTITY


def test_a_poor_face_lowers_the_scores_of_all_its_points():
    calibration = (0.5, 0.0, 1.0, *[0.0] * 98)
    peaks = np.full((2, 98), 0.9, np.float32)
    peaks[1, 50:] = 0.1
    scores = apply_calibration(peaks, calibration)
    assert (scores[1, :50] < scores[0, :50]).all()
    assert scores.dtype == np.float32
    higher = peaks.copy()
    higher[1, 3] = 0.95
    assert (apply_calibration(higher, calibration) >= scores).all()
    assert apply_calibration(np.zeros((0, 98), np.float32), calibration).shape == (0, 98)


def test_peaks_that_separate_the_points_perfectly_give_a_finite_curve():
    scores = np.linspace(0.1, 0.9, 40)
    a, b = fit_calibration(scores, scores > 0.5)
    assert 1 < a < 100
    assert apply_calibration(np.array([0.5]), (a, b)) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("scores", "accurate"),
    [
        ([], []),
        ([0.5, 0.5], [True, False]),
        ([0.4, 0.5], [True, True]),
        ([0.4, 0.5], [False, False]),
        (np.linspace(0.2, 0.8, 20), np.arange(20) < 10),
    ],
)
def test_peaks_without_information_give_the_identity(scores, accurate):
    assert fit_calibration(np.array(scores, np.float64), np.array(accurate, np.bool_)) == IDENTITY


def test_calibrated_scores_keep_their_order_and_stay_in_0_to_1():
    scores = np.concatenate([[0.0], np.linspace(0.001, 0.999, 999), [1.0]]).astype(np.float32)
    for curve in (CURVE, (0.2, 0.5), (9.0, -40.0)):
        calibrated = apply_calibration(scores, curve)
        assert calibrated.dtype == np.float32
        assert (np.diff(calibrated.astype(np.float64)) >= 0).all()
        assert calibrated.min() >= 0
        assert calibrated.max() <= 1
    np.testing.assert_array_equal(np.argsort(apply_calibration(scores, CURVE), kind="stable"), np.arange(len(scores)))
    assert apply_calibration(scores, IDENTITY) is scores
    assert np.isnan(apply_calibration(np.array([np.nan], np.float32), CURVE))
    assert apply_calibration(np.zeros((0, 98), np.float32), CURVE).shape == (0, 98)


def test_calibration_from_json_is_checked():
    assert read_calibration([2, 0]) == (2.0, 0.0)
    for value in BAD:
        with pytest.raises(ValueError, match="expected two finite numbers, the first above 0"):
            read_calibration(value)


def test_exported_model_has_the_calibration_of_its_checkpoint_and_gives_its_scores(checkpoint, tmp_path):
    crops = synthetic_crops(3, 32)
    with CheckpointBackend(checkpoint) as backend:
        peaks = backend.predict(crops)[1]
    model = tmp_path / "model.onnx"
    manifest = export(with_calibration(checkpoint, CURVE), model)
    assert (manifest.calibration, "calibration" in manifest.training) == (CURVE, False)
    assert read_manifest(model).calibration == CURVE
    with CheckpointBackend(checkpoint) as backend:
        np.testing.assert_array_equal(backend.predict(crops)[1], apply_calibration(peaks, CURVE))
    with open_backend(model) as backend:
        np.testing.assert_allclose(backend.predict(crops)[1], apply_calibration(peaks, CURVE), atol=0.05)


def test_manifest_without_calibration_means_the_identity_and_a_wrong_one_is_one_line(tmp_path):
    model = tmp_path / "m.onnx"
    model.write_bytes(find_model().read_bytes())
    fields = json.loads(find_model().with_suffix(".json").read_text())
    fields.pop("calibration", None)
    model.with_suffix(".json").write_text(json.dumps(fields))
    assert read_manifest(model).calibration == IDENTITY
    for good, right in (([1, 0, 0, *[0.5] * 98], True), ([1, 0, 0, *[0.5] * 29], False)):
        model.with_suffix(".json").write_text(json.dumps({**fields, "calibration": good}))
        if right:
            assert len(read_manifest(model).calibration) == 101
            continue
        with pytest.raises(ModelError, match=r"m\.json: calibration: not for 98 points, got 32 numbers"):
            read_manifest(model)
    for bad in BAD:
        model.with_suffix(".json").write_text(json.dumps({**fields, "calibration": bad}))
        with pytest.raises(ModelError, match=r"m\.json: calibration: expected two finite numbers"):
            read_manifest(model)


@pytest.mark.parametrize("bad", BAD)
def test_checkpoint_with_a_wrong_calibration_is_one_line(checkpoint, tmp_path, bad):
    with_calibration(checkpoint, bad)
    for use in (lambda: CheckpointBackend(checkpoint), lambda: export(checkpoint, tmp_path / "m.onnx")):
        with pytest.raises(ModelError, match=r"net\.safetensors: calibration: expected .*canthus data calibrate"):
            use()


def test_scores_of_an_included_model_use_the_calibration_of_its_manifest():
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


def test_calibrate_is_repeatable_and_changes_only_the_metadata(checkpoint, faces):
    before, batches = load(checkpoint), Batches(faces, TINY)
    found = calibrate(checkpoint, batches)
    after = load(checkpoint)
    assert after.metadata == {**before.metadata, "calibration": list(found.calibration)}
    assert json.loads(checkpoint.with_suffix(".json").read_text()) == after.metadata
    assert all(torch.equal(after.weights[name], value) for name, value in before.weights.items())
    assert 0 < found.points <= 2 * 98 * len(batches.validation_rows)
    again = calibrate(checkpoint, batches)  # the fit uses the peaks, not the calibrated scores
    assert (again.calibration, again.after, again.before) == (found.calibration, found.after, found.after)


def test_only_faces_that_people_labelled_calibrate_if_there_are_any(faces, tmp_path):
    with copy_pack(Path(faces.crops.filename).parent, tmp_path / "mixed") as mixed:
        mixed.kinds[:] = PointKind.PSEUDO
        some = Batches(mixed, TINY).validation_rows
        assert _calibration_rows(Batches(mixed, TINY)).tolist() == some.tolist()
        mixed.kinds[some[0], :40] = PointKind.COVERED
        assert _calibration_rows(Batches(mixed, TINY)).tolist() == [some[0]]


def test_regions_like_those_of_the_detector_hold_the_face_about_the_center(faces):
    rng = np.random.default_rng(0)
    cut = [detector_like_face(faces, row % len(faces), 64, rng) for row in range(60)]
    assert all(one.crop.shape == (64, 64, 3) for one in cut)
    middles = np.array([(one.points.min(0) + one.points.max(0)) / 2 for one in cut]) - 31.5
    assert 0 < middles.std() < 3 * BOX_SHIFT_SD * 64
    sides = np.array([np.ptp(one.points, axis=0).max() for one in cut])
    assert 0.6 * 64 < sides.min() < sides.max() < 64 * 1.05


def test_calibrate_command(checkpoint, faces, capsys):
    TINY.save(checkpoint.with_name("recipe.json"))
    pack = str(Path(faces.crops.filename).parent)
    assert data_command(["calibrate", str(checkpoint), pack]) == 0
    assert "a = " in capsys.readouterr().out
    assert "calibration" in load(checkpoint).metadata
    with pytest.raises(InputError, match="its crops have 32 px, those of the recipe 128"):
        data_command(["calibrate", str(checkpoint), pack, "--recipe", "student"])


def test_without_validation_faces_all_faces_calibrate(checkpoint, faces, capsys):
    none = dataclasses.replace(TINY, held_out=0)
    with pytest.raises(InputError, match="no validation faces"):
        calibrate(checkpoint, Batches(faces, none))
    none.save(checkpoint.with_name("recipe.json"))
    assert data_command(["calibrate", str(checkpoint), str(Path(faces.crops.filename).parent)]) == 0
    found = calibrate(checkpoint, Batches(faces, none, validation_pack=faces))
    assert found.points > 98 * len(faces)
    printed = capsys.readouterr().out
    assert printed.startswith(f"scores calibrated on {found.points} points: a = ")
    assert f"expected calibration error {found.after['all'].calibration_error:.4f}" in printed


def test_export_of_a_calibrated_checkpoint_does_not_advise_to_calibrate(checkpoint, tmp_path, capsys):
    assert export_command([str(with_calibration(checkpoint, CURVE)), "-o", str(tmp_path / "model.onnx")]) == 0
    assert "canthus data calibrate" not in capsys.readouterr().out
