"""Errors as the literature defines them, and `canthus eval`."""

import dataclasses
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from canthus.runtime.errors import InputError, ModelError
from canthus.runtime.geometry import MARGIN, intersection_over_union, roi_from_points
from canthus.runtime.schemes import WFLW
from canthus.runtime.types import FaceBox
from canthus.runtime.wflw import ATTRIBUTES, MIRROR
from canthus.trainer.commands.evaluate import command
from canthus.trainer.evaluation import evaluate as evaluating
from canthus.trainer.evaluation.evaluate import Candidate, evaluate, match_detections, open_candidate, open_peer
from canthus.trainer.evaluation.json_report import to_json
from canthus.trainer.evaluation.metrics import BINS, nme, reliability, summarize
from canthus.trainer.evaluation.tables import results_table
from canthus.trainer.faces.formats import open_set
from support.shape import SHAPE
from support.shards import write_shard

EXACT = 0.01  # NME in %, of a backend that knows the true points


class Knowing:
    """A backend that predicts the true points of a face in its region, shifted to the right by `shift` crop pixels."""

    name = "knowing"
    size = 64
    scheme = WFLW

    def __init__(self, shift: float = 0.0, margin: float = MARGIN) -> None:
        low, high = SHAPE.min(0), SHAPE.max(0)
        shape = (SHAPE - (low + high) / 2) / (high - low).max() / margin
        self.points = (shape * self.size + (self.size - 1) / 2 + [shift, 0]).astype(np.float32)
        self.crops: list[np.ndarray] = []

    def predict(self, crops):
        self.crops.append(crops)
        points = np.repeat(self.points[None], len(crops), 0)
        return points, np.ones((len(crops), 98), np.float32)

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def box_of(points: np.ndarray) -> FaceBox:
    """Return the box of the detector for which `roi_from_box` gives the region of the points."""
    region, side = roi_from_points(points), roi_from_points(points).side / evaluating.geometry.BOX_SCALE
    x, y = region.x, region.y - evaluating.geometry.BOX_SHIFT_Y * side
    return FaceBox(x - side / 2, y - side / 2, x + side / 2, y + side / 2, 0.9)


def test_nme_is_the_mean_distance_over_the_inter_ocular_distance():
    true = np.zeros((2, 98, 2))
    true[:, 72] = [[50, 0], [0, 200]]
    found = true.copy()
    found[0, :49] += [3, 4]  # half of the points 5 pixels off: 2.5 of 50
    found[1] += [0, 2]
    np.testing.assert_allclose(nme(found, true), [5, 1])
    np.testing.assert_allclose(nme(3 * found, 3 * true), [5, 1])


def test_summary_of_known_errors():
    got = summarize(np.array([2.0, 5.0, 12.0, math.inf]))
    assert got.nme == pytest.approx(19 / 3)
    assert got.fr10 == 50
    assert got.auc10 == pytest.approx((0.8 + 0.5) / 4)
    assert (got.faces, got.missed) == (4, 1)
    assert got.interval[0] < got.nme < got.interval[1]
    assert got == summarize(np.array([2.0, 5.0, 12.0, math.inf]))


def test_auc_is_the_area_under_the_error_distribution():
    errors = np.random.default_rng(0).gamma(4, 1.4, 500)
    at = np.linspace(0, 10, 20_001)
    share = (errors[None] <= at[:, None]).mean(1)
    assert summarize(errors).auc10 == pytest.approx(np.trapezoid(share, at) / 10, abs=1e-4)


def test_the_interval_is_the_confidence_interval_of_the_mean():
    errors = np.random.default_rng(0).normal(5, 2, 400)
    low, high = summarize(errors).interval
    assert (low, high) == pytest.approx((errors.mean() - 0.196, errors.mean() + 0.196), abs=0.04)


def test_the_interval_contains_95_percent_of_the_bootstrap_means():
    """On average over seeds its half width is 1.96 standard errors. One of 90 % would have 1.64."""
    errors = np.random.default_rng(0).normal(5, 2, 400)
    widths = [np.subtract(*summarize(errors, seed).interval[::-1]) / 2 for seed in range(10)]
    assert np.mean(widths) == pytest.approx(1.96 * errors.std() / np.sqrt(len(errors)), rel=0.03)
    low, high = summarize(errors**2).interval
    assert low < (errors**2).mean() < high


def test_a_face_with_nan_points_is_missed():
    got = summarize(np.array([4.0, math.nan]))
    assert (got.nme, got.fr10, got.auc10, got.missed) == (4, 50, 0.3, 1)


@pytest.mark.parametrize("errors", [[], [math.inf]])
def test_summary_without_found_faces(errors):
    got = summarize(np.array(errors))
    assert math.isnan(got.nme)
    assert (got.fr10, got.auc10, got.missed) == (100, 0, len(errors))


def test_calibration_error_of_calibrated_and_overconfident_scores():
    random = np.random.default_rng(0)
    chance = random.uniform(0, 1, (400, 98))
    errors = np.where(random.random(chance.shape) < chance, 2.0, 8.0)
    values = reliability(chance, errors)
    assert sum(values.points) == chance.size
    assert values.calibration_error < 0.02
    np.testing.assert_allclose(values.mean_score, np.arange(BINS) / BINS + 0.5 / BINS, atol=0.01)
    np.testing.assert_allclose(values.accurate, values.mean_score, atol=0.05)
    assert (values.median_error[0], values.median_error[-1]) == (8, 2)
    assert reliability(np.minimum(chance + 0.2, 1), errors).calibration_error == pytest.approx(0.18, abs=0.01)


def test_rank_correlation_is_high_if_lower_scores_have_larger_errors():
    scores = np.array([[0.1, 0.5, 0.5, 1.0, np.nan]])
    assert reliability(scores, np.array([[9.0, 5, 5, 1, 3]])).rank_correlation == pytest.approx(1)
    assert reliability(scores, np.array([[1.0, 5, 5, 9, 3]])).rank_correlation == pytest.approx(-1)
    assert math.isnan(reliability(np.ones((1, 5)), scores).rank_correlation)


def test_reliability_without_found_faces():
    values = reliability(np.full((2, 98), np.nan), np.full((2, 98), np.nan))
    assert sum(values.points) == values.calibration_error == 0
    assert math.isnan(values.rank_correlation)


def test_each_detection_matches_one_face_and_the_best_pair_is_matched_first():
    faces = np.stack([SHAPE * 50 + 20, SHAPE * 50 + [35, 20]]).astype(np.float32)
    one, other = (roi_from_points(face) for face in faces)
    assert match_detections([other, one], faces) == [one, other]
    between = replace(one, x=one.x + 5)  # nearer to the first face
    assert match_detections([between], faces) == [between, None]
    assert match_detections([], faces) == [None, None]
    far = replace(one, x=500)
    assert match_detections([far, other], faces) == [None, other]


def test_a_detection_beside_a_missed_face_is_not_matched_to_it():
    missed = (SHAPE * 60 + 50).astype(np.float32)
    (left, top), (right, bottom) = missed.min(0), missed.max(0)
    middle = (left + right) / 2, (top + bottom) / 2
    region = roi_from_points(missed)
    inside = replace(region, x=float(right) - 1)
    for x, y in ((right + 1, middle[1]), (left - 1, middle[1]), (middle[0], bottom + 1), (middle[0], top - 1)):
        beside = replace(region, x=float(x), y=float(y))
        assert intersection_over_union(beside, region) > evaluating.SAME_FACE  # the overlap alone would match them
        assert match_detections([beside], missed[None]) == [None]
    assert match_detections([inside], missed[None]) == [inside]


def test_a_perfect_model_has_no_error_with_either_kind_of_boxes(tmp_path):
    points = write_shard(tmp_path)
    boxes = iter(points)
    results = evaluate(
        [open_set(tmp_path)],
        [Candidate("knowing", Knowing())],
        lambda image: [box_of(next(boxes))],
        ("truth", "detector"),
    )
    assert [one.boxes for one in results] == ["truth", "detector"]
    for one in results:
        assert one.all.nme < EXACT
        assert (one.all.faces, one.all.missed, one.all.fr10) == (6, 0, 0)


def test_a_rough_detection_is_refined(tmp_path):
    (face,) = write_shard(tmp_path, 1)
    box = box_of(face)
    rough = replace(box, x0=box.x0 + 6, x1=box.x1 + 6)

    class Drawn(Knowing):
        """Finds the points where they are, less a tenth of how far the crop is off."""

        def predict(self, crops):
            predictions.append(len(crops))
            off = second if len(predictions) > 1 else 6 / roi_from_points(face).side * self.size * 0.9
            sure = np.full((len(crops), 98), score[len(predictions) - 1], np.float32)
            return np.repeat(self.points[None] - [off, 0], len(crops), 0).astype(np.float32), sure

    def measured():
        predictions.clear()
        (one,) = evaluate([open_set(tmp_path)], [Candidate("drawn", Drawn())], lambda _: [rough], ["detector"])
        assert predictions == [1, 1, 2]
        return one.all.nme * np.linalg.norm(face[60] - face[72]) / 100  # pixels

    predictions: list[int] = []
    score, second = [0.8, 0.9, 0.9], 0.0
    assert measured() == pytest.approx(0.6, rel=0.05)
    score, second = [0.8, 0.1, 0.0], 30.0  # worse predictions are not used
    assert measured() == pytest.approx(0.6, rel=0.05)
    score = [0.8, 0.9, 0.9]
    assert measured() > 10


def test_a_missed_face_is_a_failure_and_does_not_change_the_mean(tmp_path):
    points = write_shard(tmp_path)
    answers = iter([[box_of(points[0])], [], *([box_of(face)] for face in points[2:])])
    (one,) = evaluate([open_set(tmp_path)], [Candidate("knowing", Knowing())], lambda _: next(answers), ["detector"])
    assert (one.all.faces, one.all.missed) == (6, 1)
    assert one.all.nme < EXACT
    assert one.all.fr10 == pytest.approx(100 / 6)
    assert one.all.auc10 == pytest.approx(5 / 6, abs=1e-3)
    assert one.attributes["expression"].missed == 1  # write_shard marks all as expression and blur
    assert one.attributes["pose"].faces == 0


def test_flip_tta_cancels_a_one_sided_error(tmp_path):
    write_shard(tmp_path)
    shifted = Knowing(shift=3)
    # What it sees mirrored it answers mirrored, again three pixels to the right.
    plain = Knowing().points
    mirrored = plain[MIRROR].copy()
    mirrored[:, 0] = shifted.size - 1 - mirrored[:, 0] + 3

    class Both(Knowing):
        calls = 0

        def predict(self, crops):
            self.calls += 1
            points = shifted.points if self.calls % 2 else mirrored
            return np.repeat(points[None], len(crops), 0), np.ones((len(crops), 98), np.float32)

    faces = [open_set(tmp_path)]
    assert evaluate(faces, [Candidate("shifted", Knowing(shift=3))])[0].all.nme > 3
    assert evaluate(faces, [Candidate("both", Both(), flip_tta=True)])[0].all.nme < EXACT


def test_a_model_of_other_points_of_the_same_number_is_named(tmp_path, caplog):
    write_shard(tmp_path)
    other = Knowing()
    other.scheme = dataclasses.replace(WFLW, name="mine", mirror_pairs=((0, 1),))
    evaluate([open_set(tmp_path)], [Candidate("ours", Knowing()), Candidate("other", other)])
    assert "other: was trained with other points than the faces have (mine, WFLW; different: name, mi" in caplog.text
    assert "ours: was" not in caplog.text


def test_a_model_gets_regions_with_its_own_margin(tmp_path):
    write_shard(tmp_path)
    ours, theirs = Knowing(), Knowing(margin=1.1)
    results = evaluate([open_set(tmp_path)], [Candidate("ours", ours), Candidate("theirs", theirs, 1.1)])
    assert [one.all.nme < EXACT for one in results] == [True, True]
    assert not np.array_equal(ours.crops[0], theirs.crops[0])


def test_results_are_a_table_and_strict_json(tmp_path):
    write_shard(tmp_path)
    results = evaluate([open_set(tmp_path)], [Candidate("a", Knowing()), Candidate("b b", Knowing(shift=1))])
    lines = results_table(results).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1].split()[-6:] == ["-", "0.00", "-", "-", "-", "0.00"]  # all are expression and blur
    first = "model boxes NME 95 % FR@10 AUC@10 faces missed"
    assert " ".join(lines[0].split()) == " ".join([first, *ATTRIBUTES])
    values = json.loads(json.dumps(to_json(results), allow_nan=False))
    assert {"nme", "fr10", "auc10", "faces", "missed", "interval", "attributes"} <= set(values)
    assert values["attributes"]["pose"] is None  # no such face
    assert values["reliability"]["points"][-1] == 6 * 98
    assert values["reliability"]["median_error"][0] is None
    assert values["attributes"]["blur"] == values["nme"]
    assert [one["model"] for one in values["results"]] == ["a", "b b"]
    assert values["results"][1]["nme"] > values["results"][0]["nme"] == values["nme"]


def test_the_command_prints_a_table_and_writes_json(tmp_path, monkeypatch, capsys):
    write_shard(tmp_path)
    monkeypatch.setattr(evaluating, "open_candidate", lambda name: Candidate(str(name), Knowing()))
    out = tmp_path / "figures.json"
    assert command(["--model", "one", "two", "--wflw", str(tmp_path), "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert [row.split()[0] for row in printed.splitlines()] == ["model", "one", "two"]
    values = json.loads(out.read_text())
    assert (values["faces"], values["missed"], values["boxes"]) == (6, 0, "truth")
    assert command(["--wflw", str(tmp_path), "--held-out", "3", "--json", str(out)]) == 0
    assert json.loads(out.read_text())["faces"] == len(open_set(tmp_path).held_out_subset(3).faces)


def test_the_command_reports_invalid_input(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluating, "open_candidate", lambda name: Candidate(str(name), Knowing()))
    with pytest.raises(InputError, match="not a labelled set"):
        command(["--wflw", str(tmp_path)])
    write_shard(tmp_path)
    with pytest.raises(InputError, match="folder does not exist"):
        command(["--wflw", str(tmp_path), "--json", str(tmp_path / "absent" / "x.json")])
    with pytest.raises(InputError, match="lower --held-out"):
        command(["--wflw", str(tmp_path), "--held-out", "100000"])
    (tmp_path / "images" / "some" / "face 0.png").unlink()
    with pytest.raises(InputError, match=r"face 0\.png is listed but missing"):
        command(["--wflw", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        command(["--model", "one"])


def test_a_missing_model_is_named_in_the_error(tmp_path):
    with pytest.raises(ModelError, match="absent"):
        open_candidate("absent")
    with pytest.raises(ModelError, match="no such file"):
        open_candidate(str(tmp_path / "absent.safetensors"))
    with pytest.raises(ModelError, match="no such file"):
        open_peer(tmp_path / "absent.onnx")
    (tmp_path / "other.onnx").write_bytes(b"no network")
    with pytest.raises(ModelError, match="cannot load"):
        open_peer(tmp_path / "other.onnx")


@pytest.mark.faces
def test_a_peer_has_its_known_error(real_faces):
    peer = open_peer(real_faces / "peers" / "PFLD_GhostOne_112_1_opt_sim.onnx")
    (one,) = evaluate([open_set(real_faces / "wflw-dev")], [peer])
    assert one.all.nme == pytest.approx(5.33, abs=0.05)
    assert one.attributes["pose"].nme == pytest.approx(9.32, abs=0.1)
    assert one.all.fr10 == pytest.approx(9.2, abs=0.1)


@pytest.mark.faces
def test_nme_of_the_labelled_samples(real_faces):
    labels = json.loads((real_faces / "samples" / "wflw" / "test_wflw.json").read_text())
    true = np.array([one["keypoints"] for one in labels["annotations"]]).reshape(-1, 98, 3)[..., :2]
    assert len(true) >= 2
    np.testing.assert_allclose(nme(true, true), 0)
    ocular = np.linalg.norm(true[:, 60] - true[:, 72], axis=-1)
    moved = true + np.stack([0.01 * ocular, 0 * ocular], -1)[:, None]
    np.testing.assert_allclose(nme(moved, true), 1)
