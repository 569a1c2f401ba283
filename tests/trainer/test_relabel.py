"""Relabelling moves labels towards the predictions of models, and keeps crops and held-out faces."""

import errno
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from canthus.runtime.errors import InputError, ModelError
from canthus.runtime.types import Roi
from canthus.trainer.commands.data import command
from canthus.trainer.evaluation import evaluate, peers
from canthus.trainer.evaluation.evaluate import Candidate
from canthus.trainer.faces.formats import open_set
from canthus.trainer.faces.kinds import PointKind
from canthus.trainer.faces.labelled import is_held_out
from canthus.trainer.labels.labelling import label_face
from canthus.trainer.labels.relabel import RelabelOptions, relabel, smooth_residual
from canthus.trainer.packs.pack import copy_pack, open_pack, write_pack
from support.shape import SHAPE
from support.shards import write_shard
from support.training import Knowing

WRONG = [54, 57, 90]
"""Points with wrong labels. They are inside the box of the others, so that the region is the same."""
WAY = np.array([6.0, 0.0], np.float32)  # pixels of the crop
SLACK = 0.5  # pixels; the views are rotated and scaled, and the model's points with them


@pytest.fixture
def packs(tmp_path):
    """A pack of six drawn faces with correct labels, and one of the same crops with some wrong points."""
    write_shard(tmp_path / "shard", 6)
    right = write_pack([open_set(tmp_path / "shard")], tmp_path / "right", 192).pack
    with copy_pack(tmp_path / "right", tmp_path / "wrong") as wrong:
        wrong.points[:, WRONG] += WAY
        wrong.kinds[:] = PointKind.PSEUDO
    return right, open_pack(tmp_path / "wrong")


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_wrong_labels_move_towards_the_predictions(packs, tmp_path, share):
    right, wrong = packs
    done = relabel(tmp_path / "wrong", [Candidate("knowing", Knowing())], tmp_path / "new", RelabelOptions(share, 0, 1))
    assert (done.changed, done.held_out, done.uncertain) == (6, 0, 0)
    new = open_pack(tmp_path / "new")
    left = new.points - right.points
    np.testing.assert_allclose(left[:, WRONG] - (1 - share) * WAY, 0, atol=2 * SLACK)
    others = np.setdiff1d(np.arange(len(SHAPE)), WRONG)
    assert np.abs(left[:, others]).mean() < SLACK
    np.testing.assert_array_equal(new.crops, wrong.crops)
    assert new.spread == pytest.approx(np.full(6, new.spread[0]))  # the model sees every face alike
    assert 0 < new.spread[0] < 0.1
    assert (new.names, new.sources) == (wrong.names, wrong.sources)


def test_placed_points_stay_and_correct_the_others(packs, tmp_path):
    right, wrong = packs
    with copy_pack(tmp_path / "wrong", tmp_path / "mixed") as mixed:
        mixed.points[:, 3:16] = right.points[:, 3:16] + WAY
        mixed.kinds[:] = PointKind.FILLED_IN
        mixed.kinds[:, :33:2] = PointKind.PLACED  # half of the contour is beside the predictions
        mixed.kinds[:, 54], mixed.kinds[:, 57], mixed.kinds[:, 9] = (
            PointKind.COVERED,
            PointKind.UNLABELLED,
            PointKind.HIDDEN,
        )
    mixed = open_pack(tmp_path / "mixed")
    relabel(tmp_path / "mixed", [Candidate("knowing", Knowing())], tmp_path / "new", RelabelOptions(1.0, 0, 1))
    new = open_pack(tmp_path / "new")
    np.testing.assert_array_equal(new.points[:, [*range(0, 33, 2), 54]], mixed.points[:, [*range(0, 33, 2), 54]])
    np.testing.assert_allclose(new.points[:, 5:14:2], right.points[:, 5:14:2] + WAY, atol=2 * SLACK)
    np.testing.assert_allclose(new.points[:, 76:96], right.points[:, 76:96], atol=2 * SLACK)
    assert (new.kinds[:, [54, 57, 9, 1]] == [PointKind.COVERED, PointKind.FILLED_IN, PointKind.HIDDEN, 0]).all()
    np.testing.assert_array_equal(new.spread, wrong.spread)


def test_faces_whose_points_people_placed_and_other_sets_are_skipped(packs, tmp_path):
    _, wrong = packs
    with copy_pack(tmp_path / "wrong", tmp_path / "mixed") as mixed:
        mixed.kinds[:2] = PointKind.PLACED
    knowing = [Candidate("knowing", Knowing())]
    done = relabel(tmp_path / "mixed", knowing, tmp_path / "new", RelabelOptions(1.0, 0, 1, sets=("SHARD",)))
    assert (done.changed, done.skipped) == (4, 2)
    np.testing.assert_array_equal(open_pack(tmp_path / "new").points[:2], wrong.points[:2])
    with pytest.raises(InputError, match="--sets wild: no set of the pack"):
        relabel(tmp_path / "mixed", knowing, tmp_path / "none", RelabelOptions(1.0, 0, 1, sets=("wild",)))


def test_residuals_are_smoothed_over_neighbors_and_fade_with_the_distance():
    predicted = (SHAPE * 100).astype(np.float32)
    placed = np.zeros(len(SHAPE), np.bool_)
    assert (smooth_residual(predicted + 5, predicted, placed) == 0).all()
    placed[[2, 4]] = True
    labels = predicted.copy()
    labels[2, 0] += 4
    labels[4, 0] += 6
    residual = smooth_residual(labels, predicted, placed)
    assert residual[3] == pytest.approx([5, 0], abs=0.6)
    assert np.linalg.norm(residual[72]) < 0.1


def test_models_have_equal_shares_whatever_their_views():
    image = np.zeros((200, 200, 3), np.uint8)
    moved = Knowing(SHAPE)
    moved.points = moved.points + np.array([2, 0])
    both = [Candidate("one", Knowing()), Candidate("other", moved)]
    roi = Roi(100, 100, 128)
    one, other, mean, uneven = (
        label_face(image, roi, candidates, views)
        for candidates, views in ((both[:1], (1,)), (both[1:], (1,)), (both, (1, 1)), (both, (9, 1)))
    )
    np.testing.assert_allclose(mean.points, (one.points + other.points) / 2, atol=1e-3)
    few, many = (label_face(image, roi, both[:1], (views,)) for views in (1, 9))
    np.testing.assert_allclose(uneven.points, (many.points + other.points) / 2, atol=1e-3)
    assert few.spread < many.spread


def test_pack_linked_to_the_crops_of_another_is_replaced_without_changing_them(packs, tmp_path):
    right, _ = packs
    kept = right.crops.copy()
    (tmp_path / "new").mkdir()

    def copy():
        with copy_pack(tmp_path / "wrong", tmp_path / "new") as pack:
            pack.points[:] = right.points

    for write in (
        copy,
        lambda: write_pack([open_set(tmp_path / "shard")], tmp_path / "new", 64),
    ):
        (tmp_path / "new/crops.npy").unlink(missing_ok=True)
        (tmp_path / "new/crops.npy").hardlink_to(tmp_path / "right/crops.npy")
        write()
        assert {path.name for path in (tmp_path / "new").iterdir()} == {"crops.npy", "labels.npz"}
        np.testing.assert_array_equal(open_pack(tmp_path / "right").crops, kept)


def test_a_full_disk_is_reported_before_predictions_and_leaves_nothing(packs, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    def fill(source, place):
        place.write_bytes(source.read_bytes()[:1000])
        raise OSError(errno.ENOSPC, "No space left on device", str(source))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    monkeypatch.setattr(shutil, "copyfile", fill)
    with pytest.raises(InputError, match=r"new: the crops need 0\.000664 GB \(No space left on device\)"):
        relabel(tmp_path / "wrong", [], tmp_path / "new", RelabelOptions(0.5, 0, 1))
    assert not (tmp_path / "new").exists()


def test_models_with_other_points_are_refused(packs, tmp_path):
    few = Knowing(SHAPE[:29])
    with pytest.raises(ModelError, match=r"few: predicts 29 points, the faces of the pack have 98"):
        relabel(tmp_path / "wrong", [Candidate("few", few)], tmp_path / "new", RelabelOptions(0.5, 0, 1))
    assert not (tmp_path / "new").exists()


def test_held_out_and_uncertain_faces_are_unchanged(packs, tmp_path):
    class Unsure(Knowing):
        def predict(self, crops):
            points, scores = super().predict(crops)
            return points, scores * 0.2

    _, wrong = packs
    done = relabel(tmp_path / "wrong", [Candidate("unsure", Unsure())], tmp_path / "same", RelabelOptions(0.5, 0, 1))
    assert (done.changed, done.uncertain, done.moved) == (0, 6, 0)
    np.testing.assert_array_equal(open_pack(tmp_path / "same").points, wrong.points)

    held_out = np.array([is_held_out(name, 3) for name in wrong.names])
    assert 0 < held_out.sum() < 6
    done = relabel(tmp_path / "wrong", [Candidate("knowing", Knowing())], tmp_path / "some", RelabelOptions(1.0, 3, 1))
    assert done.held_out == held_out.sum()
    moved = (open_pack(tmp_path / "some").points != wrong.points).any((1, 2))
    np.testing.assert_array_equal(moved, ~held_out)


def test_the_command_reports_what_moved_and_refuses_invalid_options(packs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "open_candidate", lambda name: Candidate(str(name), Knowing()))
    words = ["relabel", str(tmp_path / "wrong"), "--held-out", "0", "--max-spread", "1", "-o"]
    assert command([*words, str(tmp_path / "new")]) == 0
    assert "relabelled 6 faces" in capsys.readouterr().out
    with pytest.raises(InputError, match="--overwrite replaces it"):
        command([*words, str(tmp_path / "new")])
    assert command([*words, str(tmp_path / "new"), "--overwrite"]) == 0
    monkeypatch.setattr(peers, "Peer", lambda path: Knowing())
    (tmp_path / "peer.onnx").touch()
    more = ["--peer", str(tmp_path / "peer.onnx"), "--views", "2", "1", "--overwrite"]
    assert command([*words, str(tmp_path / "new"), *more]) == 0
    for bad in (
        *(["--share", "0"], ["--share", "1.5"], ["--held-out", "-1"], ["--max-spread", "-1"]),
        *(["--views", "0"], ["--views", "1", "2"], ["--views", "99"]),
    ):
        with pytest.raises(SystemExit):
            command([*words, str(tmp_path / "other"), *bad])
    with pytest.raises(SystemExit):
        command([*words, str(tmp_path / "wrong"), "--overwrite"])
    with pytest.raises(InputError, match="not a pack"):
        command(["relabel", str(tmp_path), "-o", str(tmp_path / "other")])
    assert not (tmp_path / "other").exists()


def test_the_error_on_held_out_faces_is_shown_by_spread(packs, tmp_path, monkeypatch, capsys):
    with copy_pack(tmp_path / "wrong", tmp_path / "mixed") as mixed:
        mixed.kinds[:, :60] = PointKind.PLACED
    monkeypatch.setattr(evaluate, "open_candidate", lambda name: Candidate(str(name), Knowing()))
    words = ["relabel", str(tmp_path / "mixed"), "--held-out", "3", "-o", str(tmp_path / "new")]
    assert command([*words, "--max-spread", "1"]) == 0
    out = capsys.readouterr().out
    held_out = sum(is_held_out(name, 3) for name in mixed.names)
    assert f"the predictions on {held_out} validation faces, at the points that people placed" in out
    assert "spread up to 1:" in out
    assert sum(int(count) for count in re.findall(r"\((\d+) faces\)", out)) == held_out
