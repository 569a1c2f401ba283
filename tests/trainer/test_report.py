"""More output of `canthus eval`: stability, speed, Markdown, diagrams, and sheets of faces."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from canthus.runtime.errors import InputError, ModelError
from canthus.runtime.geometry import roi_from_points
from canthus.runtime.wflw import ATTRIBUTES
from canthus.trainer.commands.evaluate import command
from canthus.trainer.evaluation import diagrams
from canthus.trainer.evaluation import evaluate as evaluating
from canthus.trainer.evaluation import speed as timing
from canthus.trainer.evaluation.diagrams import error_distribution
from canthus.trainer.evaluation.evaluate import Candidate, Worker, evaluate, faces_in_order
from canthus.trainer.evaluation.face_sheets import CASES, cases_sheet, worst_sheet
from canthus.trainer.evaluation.metrics import reliability, summarize
from canthus.trainer.evaluation.speed import measure_speed
from canthus.trainer.evaluation.stability import SCALE, SHIFT, TURN, measure_box_stability
from canthus.trainer.evaluation.tables import markdown, speed_table, stability_table
from canthus.trainer.faces.contact_sheet import CAPTION, TILE
from canthus.trainer.faces.formats import open_set
from canthus.trainer.faces.labelled import LabelledSet
from canthus.trainer.faces.schemes import COFW
from support.data_sets import SHAPES, write_300w, write_cofw
from support.shape import SHAPE
from support.shards import write_shard
from support.training import Knowing

EXACT = 0.01  # NME in %


class Following(Knowing):
    """Predicts from the bright lines of a drawn face, so the points follow the image and not the box."""

    size = 256

    def predict(self, crops):
        points = []
        for crop in crops:
            rows, columns = np.nonzero(crop[..., 0] > 235)
            corner, extent = np.array([columns.min(), rows.min()]), np.array([np.ptp(columns), np.ptp(rows)])
            points.append(corner + SHAPE * extent)
        return np.array(points, np.float32), np.ones((len(crops), 98), np.float32)


def test_points_of_a_model_that_ignores_the_image_move_with_the_box(tmp_path):
    write_shard(tmp_path)
    faces = [open_set(tmp_path)]
    (steady,) = measure_box_stability(faces, [Candidate("blind", Knowing())])
    over = np.mean(
        [roi_from_points(f.points).side / np.linalg.norm(f.points[60] - f.points[72]) for f in faces[0].faces]
    )
    assert steady.shift == pytest.approx(100 * SHIFT * over, rel=1e-3)
    from_middle = np.linalg.norm(SHAPE - (SHAPE.min(0) + SHAPE.max(0)) / 2, axis=1).mean()
    ocular = np.linalg.norm(SHAPE[60] - SHAPE[72])
    assert steady.rotation == pytest.approx(100 * 2 * math.sin(TURN / 2) * from_middle / ocular, rel=1e-3)
    scaled = (SCALE - 1 + 1 - 1 / SCALE) / 2
    assert steady.scale == pytest.approx(100 * scaled * from_middle / ocular, rel=1e-3)


def test_points_of_a_model_that_uses_the_image_hardly_move(tmp_path):
    write_shard(tmp_path)
    for image in (tmp_path / "images/some").iterdir():
        face = cv2.imread(str(image))
        cv2.imwrite(str(image), np.where(face > 225, 255, 0).astype(np.uint8))
    blind, following = measure_box_stability(
        [open_set(tmp_path)], [Candidate("blind", Knowing()), Candidate("following", Following())]
    )
    assert following.shift < 0.25 * blind.shift
    assert following.scale < 0.5 * blind.scale
    output = stability_table([blind, following]).splitlines()
    assert output[0].split() == ["model", "shift", "rotation", "scale"]
    assert output[2].split()[0] == "following"


def test_models_are_timed_alternately_and_relative_to_the_first(tmp_path, monkeypatch):
    write_shard(tmp_path)
    now = 0.0

    class Slow(Knowing):
        def __init__(self, seconds):
            super().__init__()
            self.seconds = seconds

        def predict(self, crops):
            nonlocal now
            now += self.seconds * len(crops)
            return super().predict(crops)

    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now))
    slow, slower = measure_speed(
        [open_set(tmp_path)], [Candidate("slow", Slow(0.002)), Candidate("slower", Slow(0.005))]
    )
    assert (slow.ms, slow.ratio, slower.ms, slower.ratio) == pytest.approx((2, 1, 5, 2.5))
    assert speed_table([slow, slower]).splitlines()[2].split() == ["slower", "5.00", "2.50"]


def test_the_error_distribution_ends_at_100_minus_fr_and_its_area_is_auc():
    errors = np.array([*np.random.default_rng(0).gamma(4, 1.4, 300), math.inf, 10.0])
    at, share = error_distribution(errors)
    figures = summarize(errors)
    assert (at[0], at[-1], share[0]) == (0, 10, 0)
    assert share[-1] == pytest.approx(100 - figures.fr10)
    assert (np.diff(at) >= 0).all()
    area = (np.diff(at) * share[:-1]).sum() / 10 / 100
    assert area == pytest.approx(figures.auc10, abs=1e-6)
    assert error_distribution(np.array([math.inf]))[1].tolist() == [0, 0]


def results_of(folder):
    sets = [open_set(folder)]
    return sets, evaluate(sets, [Candidate("knowing", Knowing())])


def test_markdown_has_the_columns_of_papers(tmp_path):
    write_shard(tmp_path)
    _, results = results_of(tmp_path)
    head, rule, row = markdown(results).splitlines()
    names = "| model | boxes | all | 95 % | pose | expr. | illum. | make-up | occl. | blur | FR@10 | AUC@10 | missed |"
    assert head == names
    assert len(ATTRIBUTES) == 6
    assert rule.count("|") == head.count("|") == row.count("|")
    assert row.startswith("| knowing | truth | 0.00 | 0.00-0.00 | - | 0.00 | - ")
    assert row.endswith("| 0.00 | 1.000 | 0 of 6 |")


def test_results_have_the_errors_and_points_of_all_faces_in_order(tmp_path):
    points = write_shard(tmp_path, 12)  # "face 10" is sorted before "face 2"
    sets, (one,) = results_of(tmp_path)
    order = [int(face.image.split()[1].removesuffix(".png")) for _, face in faces_in_order(sets)]
    assert order[2] == 10
    np.testing.assert_allclose(one.points, points[order], atol=0.1)
    assert one.errors.shape == (12,)


def test_the_sheet_of_worst_faces_starts_with_missed_ones(tmp_path):
    write_shard(tmp_path, 25)
    sets, (one,) = results_of(tmp_path)
    ordered = replace(one, errors=np.arange(25.0))
    missed = replace(ordered, errors=np.where(np.arange(25) == 3, math.inf, ordered.errors))
    worst, other = worst_sheet(sets, ordered), worst_sheet(sets, missed)
    assert worst.shape == other.shape == (4 * (TILE + CAPTION), 5 * TILE, 3)
    # The missed face is added in front, all others move by one tile.
    np.testing.assert_array_equal(worst[: TILE + CAPTION, : 4 * TILE], other[: TILE + CAPTION, TILE:])
    red = (
        (worst[:TILE].astype(int) @ [1, -1, 0] > 120).any(),
        (other[:TILE, :TILE].astype(int) @ [1, -1, 0] > 120).any(),
    )
    assert red == (True, False)


def test_cases_are_drawn_without_photographs(tmp_path):
    write_shard(tmp_path, 25)
    sets, (one,) = results_of(tmp_path)
    errors = np.where(np.arange(25) == 3, math.inf, 24.0 - np.arange(25))
    output = replace(one, errors=errors, points=one.points + np.where(errors > 20, 30, 0)[:, None, None])
    drawn = cases_sheet(sets, output)
    assert drawn.shape == (3 * (TILE + CAPTION), CASES * TILE, 3)
    for image in (tmp_path / "images").rglob("*.png"):
        cv2.imwrite(str(image), 255 - cv2.imread(str(image)))
    np.testing.assert_array_equal(drawn, cases_sheet(sets, output))
    # The first row is of points that were found where they are and so cover the true ones, the last of shifted ones.
    green = (drawn.astype(int) @ [-1, 2, -1] > 150).reshape(3, TILE + CAPTION, -1).sum((1, 2))
    assert green[0] < 0.7 * green[2]
    few = replace(one, errors=np.where(np.arange(25) < 2, 1.0, math.inf))
    assert cases_sheet(sets, few).shape == (3 * (TILE + CAPTION), 2 * TILE, 3)


def test_errors_of_another_scheme_have_its_normalizer_and_its_subsets(tmp_path):
    points = write_cofw(tmp_path / "COFW_test_color.mat", part="T")
    sets = [open_set(tmp_path)]
    shifted = Knowing(SHAPES["COFW"])
    shifted.points[:, 0] += 1
    plain, moved = evaluate(sets, [Candidate("plain", Knowing(SHAPES["COFW"])), Candidate("moved", shifted)])
    assert plain.all.nme < EXACT
    regions = np.array([roi_from_points(face).side for face in points])
    ocular = np.linalg.norm(points[:, 8] - points[:, 9], axis=-1)
    assert moved.all.nme == pytest.approx((100 * regions / 64 / ocular).mean(), rel=1e-3)
    assert moved.attributes == {}
    assert "pose" not in markdown([moved])
    write_300w(tmp_path / "w" / "ibug")
    write_300w(tmp_path / "w" / "helen/testset")
    write_300w(tmp_path / "w" / "lfpw/testset")
    (one,) = evaluate([open_set(tmp_path / "w")], [Candidate("c", Knowing(SHAPES["300W"]))])
    assert {name: summary.faces for name, summary in one.attributes.items()} == {"common": 8, "challenge": 4}


def test_a_model_with_other_points_than_the_faces_is_refused(tmp_path):
    write_cofw(tmp_path / "cofw.mat")
    with pytest.raises(ModelError, match="wide: predicts 98 points, the faces have 29"):
        evaluate([open_set(tmp_path / "cofw.mat")], [Candidate("wide", Knowing())])
    write_shard(tmp_path / "shard")
    with pytest.raises(InputError, match="different points"):
        evaluate([open_set(tmp_path / "cofw.mat"), open_set(tmp_path / "shard")], [Candidate("wide", Knowing())])


def test_flip_tta_uses_the_mirror_pairs_of_the_scheme(tmp_path):
    write_cofw(tmp_path / "cofw.mat")
    known = Knowing(SHAPES["COFW"])

    class Both(Knowing):
        calls = 0

        def predict(self, crops):
            self.calls += 1
            plain = known.points
            mirrored = plain[COFW.mirror] * [-1, 1] + [self.size - 1, 0]
            points = (plain if self.calls % 2 else mirrored) + [3, 0]
            return np.repeat(points[None].astype(np.float32), len(crops), 0), np.ones((len(crops), 29), np.float32)

    (one,) = evaluate([open_set(tmp_path / "cofw.mat")], [Candidate("both", Both(SHAPES["COFW"]), flip_tta=True)])
    assert one.all.nme < EXACT


def test_the_command_draws_and_prints_everything(tmp_path, monkeypatch, capsys):
    write_shard(tmp_path)
    monkeypatch.setattr(evaluating, "open_candidate", lambda name: Candidate(str(name), Knowing()))
    out, drawn, worst = tmp_path / "a.json", tmp_path / "curve.png", tmp_path / "worst.png"
    scores, cases = tmp_path / "scores.png", tmp_path / "cases.png"
    words = [
        "--model",
        "one",
        "two",
        "--data",
        str(tmp_path),
        "--stability",
        "--speed",
        "--markdown",
        "--json",
        str(out),
    ]
    images = ["--curve", str(drawn), "--worst", str(worst), "--reliability", str(scores), "--cases", str(cases)]
    assert command([*words, *images]) == 0
    output = capsys.readouterr().out
    assert output.startswith("| model | boxes |")
    assert "shift  rotation  scale" in output
    stability = json.loads(out.read_text())["stability"]
    assert [one["model"] for one in stability] == ["one", "two"]
    assert stability[0]["shift"] > 0
    speed = json.loads(out.read_text())["speed"]
    assert [one["model"] for one in speed] == ["one", "two"]
    assert speed[0]["ms"] > 0
    assert speed[0]["ratio"] == 1
    for image in (drawn, scores):
        assert min(cv2.imread(str(image)).shape[:2]) > 500
    assert cv2.imread(str(worst)).shape[1] == 5 * TILE
    assert cv2.imread(str(cases)).shape[1] == CASES * TILE
    with pytest.raises(SystemExit, match="2"):
        command([*words, "--curve", str(tmp_path / "curve.tex")])
    with pytest.raises(InputError, match="folder does not exist"):
        command([*words, "--worst", str(tmp_path / "absent" / "a.png")])


def test_models_without_scores_are_not_in_the_reliability_diagram(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    write_shard(tmp_path)
    _, (alike,) = results_of(tmp_path)
    random = np.random.default_rng(0)
    scored = replace(
        alike, model="scored", reliability=reliability(random.random((6, 98)), random.gamma(4, 1, (6, 98)))
    )
    drawn = []
    monkeypatch.setattr(diagrams, "_save", lambda figure, path: drawn.append(figure))
    for results, wanted in (([alike], ["calibrated"]), ([alike, scored], ["calibrated", "scored,"])):
        diagrams.draw_reliability(results, tmp_path / "scores.png")
        (legend,) = drawn.pop().legends
        assert [text.get_text().split()[0] for text in legend.get_texts()] == wanted


def test_a_held_out_subset_keeps_its_scheme(tmp_path):
    write_cofw(tmp_path / "cofw.mat")
    one = open_set(tmp_path / "cofw.mat").held_out_subset(2)
    assert isinstance(one, LabelledSet)
    assert one.scheme is COFW
    assert one.published_count == 0


def test_processes_that_share_images_find_what_one_process_finds(tmp_path):
    write_shard(tmp_path, 7)
    sets, whole = results_of(tmp_path)
    candidates = [Candidate("knowing", Knowing())]
    parts: list = [None, None, None]

    def keep(own):
        parts[rank] = own
        raise StopIteration

    for rank in range(3):
        with pytest.raises(StopIteration):
            evaluate(sets, candidates, worker=Worker(rank, 3, keep))
    assert [len(part[0]) for part in parts] == [3, 2, 2]
    (shared,) = evaluate(sets, candidates, worker=Worker(1, 3, lambda own: parts))
    np.testing.assert_array_equal(shared.points, whole[0].points)
    assert shared.all == whole[0].all


def test_torchrun_gives_the_results_of_one_process(tmp_path):
    torch = pytest.importorskip("torch")
    from canthus.trainer.networks.checkpoint import Checkpoint, save
    from canthus.trainer.networks.network import build

    write_shard(tmp_path, 5)
    torch.manual_seed(1)
    metadata = {"network": "student", "points": 98, "size": 32, "stride": 4}
    save(tmp_path / "net", Checkpoint(build("student", 98).state_dict(), metadata, {}, {}))
    words = ["--model", str(tmp_path / "net.safetensors"), "--wflw", str(tmp_path), "--stability", "--json"]
    assert command([*words, str(tmp_path / "one.json")]) == 0
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "canthus.trainer.commands"]
    output = subprocess.run(
        [sys.executable, *start, "eval", *words, str(tmp_path / "two.json")],
        capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert output.returncode == 0, output.stderr
    assert output.stdout.count("NME") == 1
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("one.json", "two.json"))
    assert two["faces"] == 5
    assert two["nme"] == pytest.approx(one["nme"], rel=1e-4)
    assert two["stability"][0]["scale"] == pytest.approx(one["stability"][0]["scale"], rel=1e-4)


def test_more_gpus_than_exist_are_refused(tmp_path):
    pytest.importorskip("torch")
    write_shard(tmp_path)
    with pytest.raises(InputError, match=r"--gpus 99: torch finds \d+ .* -m canthus\.trainer\.commands eval"):
        command(["--wflw", str(tmp_path), "--gpus", "99"])
    with pytest.raises(SystemExit, match="2"):
        command(["--wflw", str(tmp_path), "--gpus", "0"])
