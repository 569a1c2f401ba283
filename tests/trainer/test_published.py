"""The augmentation of the published recipe: boxes, the steps on the source image, and packs without resampling."""

import dataclasses
import math
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from canthus.runtime.errors import InputError
from canthus.runtime.geometry import roi_from_points, transform
from canthus.runtime.types import Roi
from canthus.trainer.augmentation import published
from canthus.trainer.augmentation.appearance import apply_appearance
from canthus.trainer.augmentation.augment import PackedImage, apply_transform, sample_transform
from canthus.trainer.faces.formats import open_set
from canthus.trainer.faces.kinds import PointKind
from canthus.trainer.faces.schemes import WFLW
from canthus.trainer.networks.network import FlipAveragedPoints
from canthus.trainer.packs.batches import Batches
from canthus.trainer.packs.pack import open_pack, packed_region, unscaled_region, write_pack
from canthus.trainer.recipe import change, find_recipe
from canthus.trainer.run import Run, TrainOptions, _augments_on_device
from canthus.trainer.train import _set_up_gpu
from support.shards import write_shard

HOW = find_recipe("wflw-published").augmentation
GEOMETRY = dataclasses.replace(
    HOW, flip_p=0, brightness_contrast_p=0, hsv_p=0, blur_p=0, noise_p=0, dropout_p=0, scale=(1.0, 1.0)
)
SIDE, SIZE = 192, 64
ORDER = ("brightness_contrast", "hsv", "blur", "noise", "dropout")
WHOLE = PackedImage(SIDE, np.array([-0.5, -0.5, SIDE - 0.5, SIDE - 0.5]))


def some_points(seed: int = 0) -> np.ndarray:
    return (96 + 40 * np.random.default_rng(seed).uniform(-1, 1, (98, 2)) * [1, 0.6]).astype(np.float32)


def sample_affines(how, count=400):
    points = some_points()
    return points, [published.sample_affine(points, SIZE, how, np.random.default_rng(seed)) for seed in range(count)]


def test_upright_box_is_turned_and_keeps_its_center_and_side():
    points, affines = sample_affines(GEOMETRY)
    box = roi_from_points(points)
    angles = []
    for affine in affines:
        np.testing.assert_allclose(transform(affine, np.array([[box.x, box.y]]))[0], (SIZE - 1) / 2, atol=1e-6)
        assert math.hypot(*affine[0, :2]) == pytest.approx(SIZE / box.side)
        angles.append(math.degrees(math.atan2(affine[0, 1], affine[0, 0])))
    assert 40 < np.abs(angles).max() <= 45


def test_four_faces_in_ten_are_not_turned_and_small_angles_are_more_frequent():
    _, affines = sample_affines(GEOMETRY, 3000)
    angles = np.degrees([math.atan2(affine[0, 1], affine[0, 0]) for affine in affines])
    assert np.mean(np.abs(angles) < 1e-6) == pytest.approx(0.4, abs=0.03)
    turned = angles[np.abs(angles) > 1e-6] / 45
    # The share of a normal distribution cut off at its deviation; of a uniform one it is a half.
    assert np.mean(np.abs(turned) < 0.5) == pytest.approx(0.561, abs=0.03)


def test_scale_of_the_box_lies_around_one_and_is_left_out_for_cofw():
    points, affines = sample_affines(dataclasses.replace(GEOMETRY, scale=(0.75, 1.25), rotation=0))
    scales = [SIZE / roi_from_points(points).side / affine[0, 0] for affine in affines]
    assert 0.75 <= min(scales) < 0.8 < 1.2 < max(scales) <= 1.25
    assert np.mean(scales) == pytest.approx(1, abs=0.02)
    assert find_recipe("cofw-published").augmentation.scale == (1, 1)


def test_blur_is_gaussian_with_sides_of_3_to_7_pixels_of_the_image():
    how = dataclasses.replace(GEOMETRY, blur_p=1)
    sides = []
    for seed in range(60):
        kernel = published.sample_appearance(SIDE, WHOLE.image_box, how, np.random.default_rng(seed)).blur
        image = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        expected = cv2.GaussianBlur(image, kernel.shape, 0)
        assert np.abs(cv2.filter2D(image, -1, kernel).astype(int) - expected).max() <= 1
        sides.append(len(kernel))
    assert set(sides) == {3, 5, 7}
    assert sides.count(3) < sides.count(5)


def test_noise_has_a_variance_of_10_to_50():
    how = dataclasses.replace(GEOMETRY, noise_p=1)
    rngs = map(np.random.default_rng, range(100))
    deviations = [published.sample_appearance(SIDE, WHOLE.image_box, how, rng).noise[0] for rng in rngs]
    assert 10 <= min(deviations) ** 2 < 15
    assert 45 < max(deviations) ** 2 <= 50


def test_dropout_is_relative_to_the_source_image_and_often_misses_the_face():
    how = dataclasses.replace(GEOMETRY, dropout_p=1, dropout_holes=(1, 1))
    box = np.array([-800.5, -300.5, 1199.5, 699.5])  # an image of 2000 x 1000
    sizes, hits = [], 0
    for seed in range(300):
        holes = published.sample_appearance(SIDE, box, how, np.random.default_rng(seed)).dropout
        hits += len(holes)
        for hole in holes:
            assert 0 <= hole.x < hole.x + hole.width <= SIDE
            assert 0 <= hole.y < hole.y + hole.height <= SIDE
        sizes += [hole.height for hole in holes if hole.y > 0 and hole.y + hole.height < SIDE]
    assert 100 - 1 <= min(sizes) <= max(sizes) < SIDE
    assert 10 < hits < 120
    image = np.full((SIDE, SIDE, 3), 200, np.uint8)
    appearance = published.sample_appearance(SIDE, WHOLE.image_box, how, np.random.default_rng(0))
    assert not apply_appearance(image, appearance, published.STEPS)[appearance.dropout[0].area].any()


def test_brightness_contrast_and_hsv_have_the_limits_of_albumentations():
    how = dataclasses.replace(GEOMETRY, brightness_contrast_p=1, hsv_p=1)
    rngs = map(np.random.default_rng, range(200))
    sampled = [published.sample_appearance(SIDE, WHOLE.image_box, how, rng) for rng in rngs]
    shifts = np.abs([one.hsv for one in sampled]).max(0)
    assert (shifts <= [20, 30, 20]).all()
    assert (shifts > [19, 28, 19]).all()
    middle = np.array([one.brightness_contrast[100] for one in sampled])
    assert 100 * 0.8 - 51 - 1 <= middle.min() < 40
    assert 155 < middle.max() <= 100 * 1.2 + 51


def test_half_of_the_faces_are_mirrored():
    rngs = map(np.random.default_rng, range(400))
    mirrored = [sample_transform(some_points(), SIZE, HOW, rng, WHOLE).flipped for rng in rngs]
    assert np.mean(mirrored) == pytest.approx(0.5, abs=0.07)


def test_appearance_is_changed_before_the_one_resampling_and_stays_black_outside_the_image():
    how = dataclasses.replace(HOW, flip_p=0, brightness_contrast_p=1, blur_p=1, dropout_p=1, noise_p=1, hsv_p=1)
    image = np.random.default_rng(1).integers(60, 200, (SIDE, SIDE, 3), dtype=np.uint8)
    image[:, :60] = 0  # outside the source image, which begins at column 60
    source = PackedImage(SIDE, np.array([59.5, -0.5, 500, 500]))
    points = some_points()
    for seed in range(20):
        sampled = sample_transform(points, SIZE, how, np.random.default_rng(seed), source)
        assert sampled.image_box is not None
        crop, moved = apply_transform(image, points, sampled, SIZE)
        changed = apply_appearance(image, sampled.appearance, ORDER)
        changed[:, :60] = 0
        expected = cv2.warpAffine(changed, sampled.affine, (SIZE, SIZE), flags=cv2.INTER_LINEAR)
        np.testing.assert_array_equal(crop, expected)
        np.testing.assert_allclose(moved, transform(sampled.affine, points), atol=1e-4)


def test_checkpoints_are_chosen_by_the_peak_of_the_crop_and_its_mirror_image():
    parts = {"ema": SimpleNamespace(network=torch.nn.Identity()), "world": SimpleNamespace(device=torch.device("cpu"))}
    pack = SimpleNamespace(pack=SimpleNamespace(scheme=WFLW))
    for name, flips in (("wflw-published", True), ("wflw-hrnet", False)):
        run = SimpleNamespace(recipe=find_recipe(name), batches=pack, **parts)
        chooses = Run._decoding_network(run)
        assert isinstance(chooses, FlipAveragedPoints) == flips


@pytest.mark.parametrize(
    ("name", "precision", "cudnn"), [("wflw-published", "highest", False), ("student", "high", True)]
)
def test_fp32_is_trained_without_tf32_on_a_gpu(name, precision, cudnn, monkeypatch):
    set_to = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", set_to.append)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    try:
        _set_up_gpu(SimpleNamespace(device=torch.device("cuda"), first=True), find_recipe(name))
        assert (set_to, torch.backends.cudnn.allow_tf32) == ([precision], cudnn)
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = before


def test_points_far_outside_the_crop_are_ignored():
    kinds = np.full(3, PointKind.PLACED, np.uint8)
    points = np.array([[10.0, -23], [10, -25], [SIZE + 25, 10]])
    ignored = [PointKind.PLACED, PointKind.UNLABELLED, PointKind.UNLABELLED]
    assert published.ignore_far_points(kinds, points, SIZE).tolist() == ignored


def test_region_that_fits_is_cut_out_without_resampling():
    for x, y in ((50, 40.3), (51.7, 40.5)):
        for size in (32, 33):
            roi = unscaled_region(Roi(x, y, 20.7), size)
            assert roi.side == size
            assert (roi.x - (size - 1) / 2) % 1 == 0
            assert max(abs(roi.x - x), abs(roi.y - y)) <= 0.5
    assert unscaled_region(Roi(50, 40, 64.5), 64) == Roi(50, 40, 64.5)


def test_pack_of_the_published_recipe_holds_pixels_of_the_image_and_where_it_ends(tmp_path):
    write_shard(tmp_path / "shard", 6)
    labelled = open_set(tmp_path / "shard")
    pack = write_pack([labelled], tmp_path / "pack", SIDE, HOW).pack
    assert packed_region(labelled.faces[0].points, HOW).side < SIDE
    for number, face in enumerate(labelled.faces):
        image = labelled.read_image(face.image)
        left, top, right, bottom = np.round(pack.image_boxes[number] + 0.5).astype(int)
        assert (right - left, bottom - top) == image.shape[1::-1]
        np.testing.assert_allclose(pack.points[number], face.points + np.array([left, top]), atol=1e-3)
        wanted = np.zeros((SIDE, SIDE, 3), np.uint8)
        inside = np.s_[max(top, 0) : min(bottom, SIDE), max(left, 0) : min(right, SIDE)]
        wanted[inside] = image[
            inside[0].start - top : inside[0].stop - top, inside[1].start - left : inside[1].stop - left
        ]
        np.testing.assert_array_equal(pack.crops[number], wanted)
    recipe = change(find_recipe("wflw-published"), {"batch": 4, "size": 32})
    batch = Batches(pack, recipe).make_batch(0)
    assert batch.crops.shape == (4, 32, 32, 3)
    assert batch.transforms is None


def test_pack_without_image_boxes_is_read_as_if_the_images_ended_with_the_crops(tmp_path):
    write_shard(tmp_path / "shard", 3)
    write_pack([open_set(tmp_path / "shard")], tmp_path / "pack", 64)
    labels = dict(np.load(tmp_path / "pack" / "labels.npz"))
    del labels["image_boxes"]
    np.savez(tmp_path / "pack" / "labels.npz", **labels)
    assert open_pack(tmp_path / "pack").image_boxes.tolist() == [[-0.5, -0.5, 63.5, 63.5]] * 3
    labels["image_boxes"] = np.zeros((2, 4), np.float32)
    np.savez(tmp_path / "pack" / "labels.npz", **labels)
    with pytest.raises(InputError, match=r"image_boxes \(3, 4\)"):
        open_pack(tmp_path / "pack")


def test_published_augmentation_runs_in_the_workers_only():
    recipe, gpu = find_recipe("wflw-published"), torch.device("cuda")
    assert not _augments_on_device(TrainOptions(), recipe, gpu)
    assert _augments_on_device(TrainOptions(), find_recipe("wflw-hrnet"), gpu)
    with pytest.raises(InputError, match="--augment-on cpu"):
        _augments_on_device(TrainOptions(augment_on="device"), recipe, gpu)
