"""Accuracy at the points that people placed, by pose."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from canthus.runtime.errors import ModelError
from canthus.trainer.commands.evaluate import command
from canthus.trainer.evaluation import evaluate as evaluating
from canthus.trainer.evaluation.evaluate import Candidate, evaluate, leave_out_unmeasurable
from canthus.trainer.evaluation.json_report import to_json
from canthus.trainer.evaluation.metrics import box_nme, nme
from canthus.trainer.evaluation.placed import MAX_FRONTAL_YAW, MIN_PROFILE_YAW, measure_placed, poses_of
from canthus.trainer.evaluation.scores import length_errors
from canthus.trainer.evaluation.tables import placed_table
from canthus.trainer.faces.formats import open_set
from canthus.trainer.faces.kinds import PointKind, is_placed
from canthus.trainer.faces.labelled import LabelledFace
from support.data_sets import write_300w
from support.shape import SHAPE
from support.shards import FROM_68, write_kinds, write_shard
from support.training import Knowing


def write_human(folder, yaws: tuple[float, ...]) -> None:
    """Write a shard of faces with 68 placed points and these yaws; 0.0 is left out of the table."""
    write_shard(folder, len(yaws))
    names = [f"some/face {number}.png" for number in range(len(yaws))]
    write_kinds(folder, dict.fromkeys(names, FROM_68))
    rows = [f"{name},0,{yaw or ''}" for name, yaw in zip(names, yaws, strict=True)]
    (folder / "quality.csv").write_text("\n".join(["image,ensemble_sd,yaw", *rows]) + "\n")


YAWS = (0.0, 0.1, -0.5, 0.6, -0.9, 1.0)


def test_pose_is_that_of_the_table_or_else_estimated(tmp_path):
    write_human(tmp_path, YAWS)
    faces = open_set(tmp_path).faces
    assert math.isnan(faces[0].yaw)
    assert poses_of(faces).tolist() == [0, 0, 1, 1, 2, 2]
    edge = [replace(faces[1], yaw=yaw) for yaw in (MAX_FRONTAL_YAW - 0.01, -MIN_PROFILE_YAW)]
    assert poses_of(edge).tolist() == [0, 2]
    turned = faces[0].points.copy()
    turned[54] = turned[72]
    assert poses_of([replace(faces[0], points=turned)]).tolist() == [2]


def test_only_placed_points_are_measured_and_the_box_is_theirs():
    labels = np.repeat(SHAPE[None] * 100, 2, 0)
    kinds = np.full((2, 98), PointKind.PLACED, np.uint8)
    kinds[0, 40:] = PointKind.FILLED_IN
    kinds[1, 0] = PointKind.COVERED
    predicted = labels + np.array([3, 4])
    predicted[0, 40:] += 50
    placed = is_placed(kinds)
    inter_ocular = np.linalg.norm(labels[0, 72] - labels[0, 60])
    np.testing.assert_allclose(nme(predicted, labels, placed), 500 / inter_ocular, rtol=1e-5)
    sides = [np.ptp(labels[0, :40], axis=0), np.ptp(labels[1], axis=0)]
    np.testing.assert_allclose(
        box_nme(predicted, labels, placed), [500 / np.sqrt(side.prod()) for side in sides], rtol=1e-5
    )
    assert np.isnan(box_nme(predicted, labels, np.zeros_like(placed))).all()


def test_accuracy_by_pose_counts_missed_faces_and_has_intervals(tmp_path):
    write_human(tmp_path, YAWS)
    faces = open_set(tmp_path).faces
    predicted = np.stack([face.points for face in faces]) + 1
    predicted[5] = np.nan
    found = measure_placed(faces, predicted)
    assert list(found) == ["all", "frontal", "half", "profile"]
    assert [one.box.faces for one in found.values()] == [6, 2, 2, 2]
    assert [one.inter_ocular.missed for one in found.values()] == [1, 0, 0, 1]
    assert found["all"].points == 6 * 68
    low, high = found["all"].box.interval
    assert low <= found["all"].box.nme <= high
    assert found["all"].inter_ocular.nme > found["all"].box.nme > 0
    assert list(measure_placed(faces[:2], predicted[:2])) == ["all", "frontal"]


@pytest.mark.parametrize("kind", [PointKind.PLACED, PointKind.PSEUDO])
def test_sets_with_one_kind_of_points_are_measured_as_before(tmp_path, kind):
    face = LabelledFace("a.png", SHAPE * 100, (0, 0, 1, 1), np.zeros(6, np.bool_), kinds=np.full(98, kind, np.uint8))
    assert measure_placed([face], SHAPE[None] * 100) == {}


def test_tables_and_json_have_every_model_and_pose(tmp_path):
    write_human(tmp_path, YAWS)
    candidates = [Candidate(name, Knowing()) for name in ("one", "other")]
    results = evaluate([open_set(tmp_path)], candidates)
    assert results[0].all.faces == 6
    lines = placed_table(results).splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [
        [pose, model] for pose in ("all", "frontal", "half", "profile") for model in ("one", "other")
    ]
    lines = placed_table(results, markdown=True).splitlines()
    assert lines[1] == "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    assert len(lines) == 10
    values = to_json(results)["results"][1]["placed_points"]["profile"]
    assert values["points"] == 2 * 68
    assert values["box"]["interval"][0] <= values["box"]["nme"]


def test_eval_prints_held_out_human_faces(tmp_path, monkeypatch, capsys):
    write_human(tmp_path / "shard", YAWS * 4)
    monkeypatch.setattr(evaluating, "open_candidate", lambda name: Candidate("knowing", Knowing()))
    words = ["--data", str(tmp_path / "shard"), "--held-out", "3", "--json", str(tmp_path / "out.json")]
    held_out = len(open_set(tmp_path / "shard").held_out_subset(3).faces)
    for more in ([], ["--markdown"]):
        assert command([*words, *more]) == 0
        out = capsys.readouterr().out
        assert "points that people placed" in out
        assert "frontal up to 0.48, profile from 0.83" in out
    values = json.loads((tmp_path / "out.json").read_text())["placed_points"]["all"]
    assert values["points"] == 68 * held_out
    assert values["box"]["faces"] == held_out > 2


def test_a_column_of_zero_yaws_is_not_a_pose(tmp_path):
    write_human(tmp_path, YAWS)
    names = [face.image for face in open_set(tmp_path).faces]
    rows = [f"{name},0,0.000" for name in names]
    (tmp_path / "quality.csv").write_text("\n".join(["image,ensemble_sd,yaw", *rows]) + "\n")
    assert all(math.isnan(face.yaw) for face in open_set(tmp_path).faces)
    rows[0] = f"{names[0]},0,0.9"
    (tmp_path / "quality.csv").write_text("\n".join(["image,ensemble_sd,yaw", *rows]) + "\n")
    assert [face.yaw for face in open_set(tmp_path).faces] == [0.9, 0, 0, 0, 0, 0]


def test_eval_measures_faces_with_68_points_as_98(tmp_path, monkeypatch, capsys):
    write_300w(tmp_path / "300w")
    monkeypatch.setattr(evaluating, "open_candidate", lambda name: Candidate("knowing", Knowing()))
    words = ["--data", str(tmp_path / "300w"), "--json", str(tmp_path / "out.json")]
    with pytest.raises(ModelError, match="predicts 98 points, the faces have 68"):
        command(words)
    assert command([*words, "--as-98"]) == 0
    assert "points that people placed" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text())["placed_points"]["all"]["points"] == 4 * 68


def test_scores_are_compared_by_pose_and_occlusion(tmp_path, monkeypatch, capsys):
    write_human(tmp_path / "shard", YAWS)
    names = [f"some/face {number}.png" for number in range(len(YAWS))]
    write_kinds(tmp_path / "shard", {name: FROM_68.replace("1", "2", 5) for name in names})
    monkeypatch.setattr(evaluating, "open_candidate", lambda name: Candidate("knowing", Uncertain()))
    out, diagram = tmp_path / "out.json", tmp_path / "diagram.png"
    assert command(["--data", str(tmp_path / "shard"), "--json", str(out), "--reliability", str(diagram)]) == 0
    groups = json.loads(out.read_text())["scores"]
    assert list(groups) == ["all", "frontal", "half", "profile", "visible", "covered"]
    assert groups["all"]["points"] == 6 * 68 == groups["visible"]["points"] + 6 * 5
    assert groups["covered"]["mean_score"] == pytest.approx(0.4)
    assert groups["covered"]["accurate"] == 1
    assert groups["covered"]["calibration_error"] == pytest.approx(0.6)
    printed = capsys.readouterr().out
    assert [row.split()[2] for row in printed.splitlines()[-6:]] == list(groups)


class Uncertain(Knowing):
    """Gives the first ten points lower scores than the others."""

    def predict(self, crops):
        points, scores = super().predict(crops)
        scores[:, :10] = 0.4
        return points, scores


def test_errors_in_profile_are_judged_by_the_length_that_the_face_would_have_frontally():
    true = SHAPE[None] * 100
    measured = np.ones((1, 98), np.bool_)
    turned = true.copy()
    turned[0, 60] = turned[0, 72] - 1
    moved = turned + np.array([0, 2], np.float32)
    expected = 100 * 2 / (0.63 * np.sqrt(np.prod(np.ptp(turned[0], axis=0))))
    np.testing.assert_allclose(length_errors(moved, turned, measured), expected, rtol=1e-4)
    measured[0, 3] = False
    assert np.isnan(length_errors(moved, turned, measured)[0, 3])
    assert np.isnan(length_errors(moved, turned, ~measured)[0, :3]).all()


def test_faces_without_labelled_eye_corners_are_left_out_with_a_warning(tmp_path, caplog):
    write_shard(tmp_path, 3)
    write_kinds(tmp_path, {"some/face 1.png": "1" * 60 + "5" + "1" * 37})
    labelled = open_set(tmp_path)
    assert [face.image for face in leave_out_unmeasurable(labelled).faces] == ["some/face 0.png", "some/face 2.png"]
    assert "1 faces whose outer eye corners are not labelled" in caplog.text
    every = evaluate([leave_out_unmeasurable(labelled)], [Candidate("knowing", Knowing())])
    assert every[0].all.missed == 0
