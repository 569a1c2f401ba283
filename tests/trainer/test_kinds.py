"""Kinds of points: read from human.csv, kept in packs, mirrored, and weighed in the loss."""

import csv
import dataclasses
import logging
import shutil

import numpy as np
import pytest
import torch

from canthus.runtime import wflw
from canthus.runtime.cli import main
from canthus.runtime.errors import InputError
from canthus.runtime.geometry import roi_from_points
from canthus.trainer import run as run_module
from canthus.trainer import train as training
from canthus.trainer.evaluation.placed import POSES
from canthus.trainer.faces.contact_sheet import draw_points
from canthus.trainer.faces.conversion import convert_to_98
from canthus.trainer.faces.formats import open_set
from canthus.trainer.faces.kinds import PointKind, are_mixed, evaluated_points, is_from_68
from canthus.trainer.faces.schemes import WFLW
from canthus.trainer.loss import AdaptiveWing, LossWeight, SkpsLoss, draw_maps
from canthus.trainer.networks.checkpoint import load, load_network
from canthus.trainer.networks.head import split_maps
from canthus.trainer.networks.network import DecodingNetwork
from canthus.trainer.packs.batches import Batches
from canthus.trainer.packs.pack import Pack, open_pack, write_pack
from canthus.trainer.recipe import KindWeights, Recipe, change, load_recipe
from canthus.trainer.validation_faces import describe_validation, validation_fingerprint
from support.data_sets import write_300w, write_coco, write_cofw
from support.shape import SHAPE
from support.shards import FROM_68, write_faces, write_kinds, write_shard
from support.training import TINY, UNCOMPILED

MIXED = "1023450" * 14
"""Digits of all kinds."""


def digits_of(text: str) -> np.ndarray:
    return np.array(list(text), np.uint8)


@pytest.fixture
def mixed(tmp_path) -> Pack:
    """A pack of 12 faces: 8 with 68 placed points, one of all kinds, three with pseudo-labels."""
    write_shard(tmp_path / "shard", 12)
    rows = {f"some/face {number}.png": FROM_68 for number in range(8)}
    write_kinds(tmp_path / "shard", {**rows, "some/face 8.png": MIXED})
    return write_pack([open_set(tmp_path / "shard")], tmp_path / "pack", 48).pack


def test_human_csv_has_the_kinds_and_quality_csv_alone_means_pseudo_labels(tmp_path):
    write_shard(tmp_path / "shard", 4)
    folder = tmp_path / "shard"
    assert all((face.kinds == PointKind.PSEUDO).all() and face.yaw == 0.1 for face in open_set(folder).faces)
    write_kinds(folder, {"some/face 1.png": FROM_68, "some/face 2.png": MIXED})
    for path in (folder, shutil.make_archive(str(tmp_path / "packed"), "tar", folder)):
        faces = open_set(type(folder)(path)).faces
        assert [face.kinds.tolist() for face in faces[1:3]] == [digits_of(FROM_68).tolist(), digits_of(MIXED).tolist()]
        assert all((faces[row].kinds == PointKind.PSEUDO).all() for row in (0, 3))
    (folder / "quality.csv").unlink()
    assert (open_set(folder).faces[0].kinds == PointKind.PLACED).all()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            ["image,points", "some/face 0.png," + "1" * 97],
            r"human\.csv, line 2: expected 98 digits from 0 to 5, got 97",
        ),
        (["image,points", "some/face 0.png," + "1" * 97 + "6"], r"human\.csv, line 2: expected 98 digits"),
        (["image,points", "some/face 1.png," + "1" * 98, "x.png," + "1" * 98], r"line 3: x\.png is not in the list"),
        (["image,points", "some/face 0.png," + "5" * 98], r"line 2: a face without a labelled point"),
        (["image,digits", "some/face 0.png," + "1" * 98], r"human\.csv, line 2: expected the columns image and points"),
    ],
)
def test_error_in_human_csv_names_the_file_and_the_line(tmp_path, capsys, rows, message):
    write_shard(tmp_path / "shard", 2)
    (tmp_path / "shard" / "human.csv").write_text("\n".join(rows) + "\n")
    with pytest.raises(InputError, match=message):
        open_set(tmp_path / "shard")
    assert main(["data", "prepare", str(tmp_path / "shard"), "-o", str(tmp_path / "pack")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_official_sets_have_placed_points_only(tmp_path):
    write_faces(tmp_path / "list", "list_98pt_rect_attr.txt", "images")
    write_cofw(tmp_path / "COFW_train_color.mat")
    write_300w(tmp_path / "300w")
    write_coco(tmp_path / "coco.json", WFLW)
    for name in ("list", "COFW_train_color.mat", "300w", "coco.json"):
        assert all((face.kinds == PointKind.PLACED).all() for face in open_set(tmp_path / name).faces)


def test_pack_keeps_kinds_and_a_pack_without_them_has_those_of_its_spreads(mixed, tmp_path):
    assert mixed.kinds[0].tolist() == digits_of(FROM_68).tolist()
    assert mixed.kinds[8].tolist() == digits_of(MIXED).tolist()
    labels = dict(np.load(tmp_path / "pack" / "labels.npz"))
    del labels["kinds"]
    np.savez(tmp_path / "pack" / "labels.npz", **labels)
    old = open_pack(tmp_path / "pack")
    kinds = np.where(old.spread > 0, PointKind.PSEUDO, PointKind.PLACED)
    np.testing.assert_array_equal(old.kinds, np.repeat(kinds[:, None], 98, 1))
    np.savez(tmp_path / "pack" / "labels.npz", **labels, kinds=np.zeros((12, 68), np.uint8))
    with pytest.raises(InputError, match=r"pack: expected kinds \(12, 98\) of points, got \(12, 68\)"):
        open_pack(tmp_path / "pack")


def test_evaluated_points_are_the_placed_ones_or_else_all_labels():
    kinds = np.stack([digits_of(MIXED), np.full(98, PointKind.PSEUDO), digits_of("45" * 49)]).astype(np.uint8)
    evaluated = evaluated_points(kinds)
    assert set(kinds[0][evaluated[0]]) == {PointKind.PLACED, PointKind.COVERED}
    assert evaluated[1].all()
    assert set(kinds[2][evaluated[2]]) == {PointKind.PSEUDO}
    assert [are_mixed(kinds[[row]]) for row in range(3)] == [True, False, True]


@pytest.mark.parametrize("flip_p", [0.0, 1.0])
def test_kinds_are_mirrored_with_the_points_on_both_paths_of_augmentation(mixed, flip_p):
    recipe = change(Recipe(held_out=0, batch=40, size=32, negative_fraction=0.3), {"augmentation.flip_p": flip_p})
    on_cpu, on_device = (Batches(mixed, recipe, contents=contents).make_batch(0) for contents in ("augmented", "raw"))
    assert torch.equal(on_cpu.point_weight, on_device.point_weight)
    weights = Batches(mixed, recipe)._point_weight(mixed.kinds).numpy()[Batches(mixed, recipe).sample_rows(0)]
    mirrored = weights[:, WFLW.mirror] if flip_p else weights
    negative = on_cpu.points.numpy()[:, 0, 0] < -1000
    assert 0 < negative.sum() < 40
    np.testing.assert_array_equal(on_cpu.point_weight[~negative], mirrored[~negative])
    assert (on_cpu.point_weight[negative] == 1).all()


def test_recipe_weighs_kinds_and_the_contour_of_faces_made_from_68_points(mixed, tmp_path):
    (tmp_path / "r.toml").write_text("contour_weight = 0.25\n[kind_weights]\nhidden = 0.1\nfilled_in = 0.4\n")
    recipe = dataclasses.replace(load_recipe(tmp_path / "r.toml"), held_out=0)
    assert recipe.kind_weights == KindWeights(hidden=0.1, filled_in=0.4)
    weights = Batches(mixed, recipe)._point_weight(mixed.kinds).numpy()
    is_contour = np.arange(98) < 33
    expected = np.where(digits_of(FROM_68) == 1, 1, 0.4) * np.where(is_contour, 0.25, 1)
    np.testing.assert_allclose(weights[:8], np.tile(expected, (8, 1)), rtol=1e-6)
    table = np.array([0.4, 1, 1, 0.1, 1, 0], np.float32)
    np.testing.assert_array_equal(weights[8:], table[mixed.kinds[8:]])
    assert is_from_68(mixed.kinds).tolist() == [True] * 8 + [False] * 4
    assert not is_from_68(np.zeros((1, 68), np.uint8)).any()
    with pytest.raises(InputError, match=r"kind_weights\.hidden must be at least 0"):
        change(Recipe(), {"kind_weights.hidden": -1})
    with pytest.raises(InputError, match=r"table kind_weights has: kind_weights\.hidden"):
        change(Recipe(), {"hidden": 1})


LOSS = SkpsLoss(4, 1.5, offsets="smooth-l1", point_weight=1.0)


def random_maps(faces: int, points: int) -> torch.Tensor:
    return torch.randn(faces, 3 * points, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()


def random_points(faces: int, points: int) -> torch.Tensor:
    return torch.rand(faces, points, 2, generator=torch.Generator().manual_seed(1)) * 60


def test_point_of_weight_0_has_no_influence_on_the_loss_and_its_gradient():
    maps, points = random_maps(2, 7), random_points(2, 7)
    weight = LossWeight(torch.ones(2), torch.ones(2, 7))
    weight.points[1, 3] = 0
    loss = LOSS(maps, points, weight)
    (gradient,) = torch.autograd.grad(loss, maps)
    channels = gradient.abs().sum((2, 3)) > 0
    assert not channels[1, [3, 10, 17]].any()
    assert channels.sum() == 2 * 21 - 3
    moved = points.clone()
    moved[1, 3] = 50
    assert torch.equal(LOSS(maps, moved, weight), loss)
    halved = LossWeight(weight.faces, weight.points / 2)
    torch.testing.assert_close(LOSS(maps, points, halved), loss / 2)


def test_weights_of_1_leave_every_bit_of_the_loss():
    maps, points = random_maps(2, 7), random_points(2, 7)
    scores, offsets = draw_maps(points, 16, 4, 1.5)
    found_scores, found_offsets = split_maps(maps)
    near = torch.where(scores > 0.2, 11.0, 1.0)
    score_loss = (AdaptiveWing()((found_scores - scores).abs(), scores) * near).mean((1, 2, 3))
    error = (found_offsets - offsets).abs()
    cost = torch.where(error < 1, error.square() / 2, error - 0.5)
    faces = torch.tensor([0.3, 1.0])
    expected = ((score_loss + (cost * scores[:, None]).mean((1, 2, 3, 4))) * faces).mean()
    loss = SkpsLoss(4, 1.5, offsets="smooth-l1")
    assert torch.equal(loss(maps, points, LossWeight(faces, torch.ones(2, 7))), expected)


def test_unlabelled_points_learn_from_the_teacher_only(mixed, tmp_path):
    recipe = dataclasses.replace(TINY, held_out=0, negative_fraction=0, batch=12, epochs=1.0, precision="fp32")
    training.train(mixed, dataclasses.replace(recipe, epochs=0.1), tmp_path / "teacher", UNCOMPILED)
    teacher = dataclasses.replace(
        recipe, teacher=str(tmp_path / "teacher" / "last.safetensors"), distillation_weight=0.5
    )
    kinds = np.full_like(mixed.kinds, PointKind.PLACED)
    kinds[:, 60] = PointKind.UNLABELLED
    pack = dataclasses.replace(mixed, kinds=kinds)
    batch = Batches(pack, change(recipe, {"augmentation.flip_p": 0})).make_batch(0)
    images = torch.zeros(12, 3, 32, 32)
    for one, learns in ((recipe, False), (teacher, True)):
        maps = torch.zeros(12, 3 * 98, 4, 4, requires_grad=True)
        loss = run_module.make_loss(one, WFLW, torch.device("cpu"), compiled=False)(maps, batch, images)
        (gradient,) = torch.autograd.grad(loss, maps)
        assert bool((gradient[:, 60].abs() > 0).any()) == learns
        assert (gradient[:, 61].abs() > 0).any()


def test_68_points_become_98_of_which_30_are_unlabelled(tmp_path):
    points = write_300w(tmp_path / "300w")
    converted = convert_to_98(open_set(tmp_path / "300w"))
    assert converted.scheme is WFLW
    for face, original in zip(converted.faces, points, strict=True):
        np.testing.assert_allclose(face.points[list(wflw.IBUG_68)], original, atol=1e-3)
        assert (face.kinds[list(wflw.IBUG_68)] == PointKind.PLACED).all()
        assert (face.kinds == PointKind.UNLABELLED).sum() == 30
        # The unlabelled points have rough places, inside the box of the labelled ones.
        assert np.linalg.norm(face.points - original[0] - (SHAPE - SHAPE[0]) * 70, axis=-1).max() < 20
        assert roi_from_points(face.points, 0.3) == roi_from_points(face.points[list(wflw.IBUG_68)], 0.3)
    assert convert_to_98(converted) is converted
    write_cofw(tmp_path / "cofw.mat")
    with pytest.raises(InputError, match=r"cofw\.mat: 29 points cannot be converted"):
        convert_to_98(open_set(tmp_path / "cofw.mat"))


def test_prepare_packs_68_and_98_points_together(tmp_path, capsys):
    write_300w(tmp_path / "300w")
    write_shard(tmp_path / "shard")
    words = ["data", "prepare", str(tmp_path / "300w"), str(tmp_path / "shard"), "-o", str(tmp_path / "pack")]
    assert main([*words, "--size", "64", "--recipe", "student"]) == 1
    assert main([*words, "--size", "64", "--recipe", "student", "--as-98"]) == 0
    assert "points: 272 placed, 120 unlabelled" in capsys.readouterr().out
    pack = open_pack(tmp_path / "pack")
    assert pack.points.shape == (10, 98, 2)
    assert is_from_68(pack.kinds).tolist() == [True] * 4 + [False] * 6


def test_validation_measures_placed_points_relative_to_their_box(mixed, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    recipe = dataclasses.replace(TINY, held_out=0, epochs=1.0, choose_on=str(tmp_path / "pack"))
    folder = tmp_path / "run"
    training.train(mixed, recipe, folder, UNCOMPILED)
    placed = 8 * 68 + 28
    assert f"validation: {placed} points that people placed on 9 faces" in caplog.text
    network = DecodingNetwork(load_network(folder / "best")[0], recipe.stride).eval()
    errors = []
    with torch.inference_mode():
        for batch in Batches(mixed, recipe, mixed).validation():
            points, _ = network(batch.crops)
            distance = np.linalg.norm(points.numpy() - batch.points.numpy(), axis=-1)
            for face, true, weight in zip(distance, batch.points.numpy(), batch.point_weight.numpy() > 0, strict=True):
                if weight.any():
                    errors.append(100 * face[weight].mean() / np.sqrt(np.ptp(true[weight], axis=0).prod()))
    assert len(errors) == 9
    (row,) = csv.DictReader((folder / "log.csv").read_text().splitlines())
    by_pose = [float(row[f"held_out_{pose}"]) for pose in POSES]
    assert by_pose[0] == pytest.approx(float(row["held_out_nme"]))  # all of these faces are frontal
    assert np.isnan(by_pose[1:]).all()
    best = load(folder / "best").metadata
    assert best["best"] == pytest.approx(np.mean(errors), rel=0.02)  # rounding of bf16
    pseudo = dataclasses.replace(mixed, kinds=np.full_like(mixed.kinds, PointKind.PSEUDO))
    assert best["validation_faces"] != validation_fingerprint(Batches(mixed, recipe, pseudo))


def test_validation_of_placed_or_pseudo_labels_is_the_nme_as_before(faces):
    batches = Batches(faces, TINY)
    assert not batches.placed_only
    assert describe_validation(batches) == f"validation: NME of {len(batches.validation_rows)} faces"
    assert all((batch.point_weight == 1).all() for batch in batches.validation())


def test_points_that_are_nan_are_not_drawn():
    image, points = np.zeros((64, 64, 3), np.uint8), (SHAPE * 60).astype(np.float32)
    points[:] = np.nan
    assert not draw_points(image, points, WFLW, (255, 0, 0)).any()
    points[54] = 30
    assert draw_points(image, points, WFLW, (255, 0, 0))[30, 30].any()
