"""Recipes: the published values, files, old names, and wrong values."""

import dataclasses
import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from canthus.runtime.errors import InputError
from canthus.trainer.augmentation.appearance import change_appearance
from canthus.trainer.augmentation.augment import augment
from canthus.trainer.faces.formats import open_set
from canthus.trainer.objective import learning_rate_factor
from canthus.trainer.packs.batches import Batches
from canthus.trainer.packs.pack import write_pack
from canthus.trainer.recipe import (
    SMALL_NETWORK,
    Recipe,
    change,
    default_recipe,
    find_recipe,
    load_recipe,
    named_recipes,
)
from canthus.trainer.renamed_keys import RENAMED_KEYS
from support.shards import NEAR, middle_of_dot, write_shard


def test_student_is_the_default_recipe():
    assert find_recipe("student") == Recipe() == default_recipe(SMALL_NETWORK)


def test_other_students_have_the_default_recipe_with_their_own_maps_and_crops():
    assert default_recipe("student") == change(Recipe(), {"network": "student", "sigma": 1.5})
    assert default_recipe("student_lean") == change(Recipe(), {"network": "student_lean", "sigma": 1.1, "size": 96})


def test_published_recipe_has_the_published_values():
    recipe = find_recipe("wflw-published")
    values = (recipe.network, recipe.size, recipe.stride, recipe.sigma, recipe.offset_loss, recipe.offset_weight)
    assert values == ("hrnet_w18_skps", 256, 4, 2.0, "adaptive-wing", 1.0)
    assert (recipe.near_weight, recipe.decode, recipe.precision, recipe.choose_with_flip) == (0, "peak", "fp32", True)
    assert (recipe.learning_rate, recipe.weight_decay, recipe.batch, recipe.epochs) == (2e-3, 5e-4, 64, 80)
    assert (recipe.warm_up, recipe.schedule, recipe.milestones) == (500, "step", (40, 60))
    how = recipe.augmentation
    assert (how.published, how.flip_p, how.rotation, how.scale, how.shift) == (True, 0.5, 45, (0.75, 1.25), 0)
    assert (how.brightness_contrast_p, how.hsv_p, how.blur_p, how.noise_p) == (0.5, 0.5, 0.5, 0.1)
    assert (how.dropout_p, how.dropout_holes, how.dropout_size) == (0.5, (1, 8), (0.1, 0.2))
    assert (how.squeeze_p, how.occluder_p, how.downscale_p, how.jpeg_p, how.webcam_p, how.color_p) == (0,) * 6
    assert (recipe.held_out, recipe.ema_decay, recipe.clip_grad_norm) == (0, 0, 0)
    assert (recipe.negative_fraction, recipe.profile_weight) == (0, 1)


def test_published_recipe_for_cofw_does_not_scale_boxes():
    recipe, wflw = find_recipe("cofw-published"), find_recipe("wflw-published")
    assert (recipe.epochs, recipe.batch, recipe.milestones) == (160, 16, (80, 120))
    assert recipe.augmentation == dataclasses.replace(wflw.augmentation, scale=(1.0, 1.0))
    assert default_recipe("hrnet_w18_skps", 29) == recipe
    assert default_recipe("hrnet_w18_skps") == wflw


def test_default_hrnet_recipe_differs_from_the_published_one_where_it_says_so():
    ours, theirs = (dataclasses.asdict(find_recipe(name)) for name in ("wflw-hrnet", "wflw-published"))
    ours |= {f"augmentation.{name}": value for name, value in ours.pop("augmentation").items()}
    theirs |= {f"augmentation.{name}": value for name, value in theirs.pop("augmentation").items()}
    other = {name for name in ours if ours[name] != theirs[name]}
    assert other == {
        "network", "decode", "near_weight", "offset_loss", "offset_weight", "precision", "held_out",
        "choose_with_flip", "augmentation.published", "augmentation.uniform", "augmentation.shift",
        "augmentation.blur_sigma",
    }  # fmt: skip
    assert default_recipe("hrnet_w18") == find_recipe("wflw-hrnet")


def test_cofw_recipe_has_more_epochs_and_smaller_batches():
    recipe = default_recipe("hrnet_w18", 29)
    assert (recipe.epochs, recipe.batch, recipe.milestones) == (160, 16, (80, 120))
    assert recipe.augmentation == find_recipe("wflw-hrnet").augmentation


def test_recipe_file_extends_a_named_recipe(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('extends = "wflw-hrnet"\nbatch = 8\nmilestones = [3]\n[augmentation]\nblack_fill = false\n')
    wanted = change(find_recipe("wflw-hrnet"), {"batch": 8, "milestones": [3], "augmentation.black_fill": False})
    assert find_recipe(str(path)) == wanted
    path.write_text('extends = "mine"\n')
    with pytest.raises(InputError, match=r"mine\.toml: extends: expected one of"):
        find_recipe(str(path))
    path.write_text("batch = \n")
    with pytest.raises(InputError, match=r"mine\.toml: not a recipe"):
        find_recipe(str(path))
    with pytest.raises(InputError, match=r"mine2\.toml: cannot be read \([^']*\)$"):
        find_recipe(str(path.with_name("mine2.toml")))
    with pytest.raises(InputError, match=f"no recipe 'hrnet'; expected {', '.join(named_recipes())}"):
        find_recipe("hrnet")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("milestones", [60, 40]),
        ("milestones", ["x"]),
        ("held_out", 1),
        ("ema_decay", 1.0),
        ("clip_grad_norm", -1),
        ("clip_grad_norm", math.nan),
        ("weight_decay", -1),
        ("seed", -1),
        ("profile_weight", -1),
        ("offset_weight", -1),
        ("point_weight", -1),
        ("negative_fraction", 1.5),
        ("dataset_weights", [["wflw", -1]]),
        ("augmentation.black_fill", 1),
        ("augmentation.blur_p", 1.5),
        ("augmentation.flip_p", -0.5),
        ("augmentation.rotation", 60),
        ("augmentation.shift", -1),
        ("augmentation.scale", [0, 0]),
        ("augmentation.squeeze_min", 0),
        ("augmentation.blur", [0, 0]),
        ("augmentation.dropout_holes", [-1, 2]),
        ("augmentation.dropout_size", [1, 1]),
    ],
)
def test_value_out_of_range_is_refused(name, value):
    with pytest.raises(InputError, match=name):
        change(Recipe(), {name: value})


OLD_RECIPE = Path(__file__).with_name("recipe_0_1.json")
"""recipe.json of a run of version 0.1."""


def test_recipe_of_version_0_1_is_read_under_the_new_names():
    recipe = load_recipe(OLD_RECIPE)
    assert recipe.flip_tta
    assert recipe.dataset_weights == (("wflw", 5.0), ("turned", 0.33))
    assert (recipe.profile_weight, recipe.negative_fraction, recipe.spread_half_weight) == (4.0, 0.02, 0.02)
    assert (recipe.teacher, recipe.distillation_weight) == ("runs/large/best.safetensors", 0.5)
    assert (recipe.milestones, recipe.clip_grad_norm, recipe.ema_decay) == ((1.0,), 5.0, 0.0)
    expected = find_recipe("student-again")
    assert recipe.augmentation == expected.augmentation
    assert (recipe.epochs, recipe.batch, recipe.size) == (2.0, 4, 64)


@pytest.mark.parametrize(("old", "new"), RENAMED_KEYS.items())
def test_value_under_an_old_name_sets_the_new_one_and_both_together_are_refused(tmp_path, old, new):
    if new == "extends":
        values = {old: "wflw-hrnet"}
    else:
        section, _, key = new.rpartition(".")
        values = {old: getattr(Recipe().augmentation if section else Recipe(), key)}
        assert change(Recipe(), values) == Recipe()
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(nested(values)))
    assert load_recipe(path) == find_recipe(values.get("like", "student"))
    path.write_text(json.dumps(nested(values | {new: values[old]})))
    with pytest.raises(InputError, match=rf"mine\.json: {new}: given twice, also under its old name {old}; keep one"):
        load_recipe(path)


def nested(values: dict[str, object]) -> dict[str, object]:
    """Move `augmentation.NAME` into a table of its own."""
    inner = {name.removeprefix("augmentation."): value for name, value in values.items() if "." in name}
    return {name: value for name, value in values.items() if "." not in name} | {"augmentation": inner}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = 2026-11-26", r"seed: expected int, got datetime\.date\(2026, 11, 26\)"),
        ("milestones = [2026-11-26]", r"milestones\[0\]: expected a finite number, got datetime\.date"),
        ("[batch]\nsize = 4", "batch: expected int, got {'size': 4}"),
        ("[training]\nbatch = 4", "a recipe has no 'training'; expected one of network, size, "),
        ("augmentation = 3", "augmentation: expected a table of names and values, got 3"),
        ("[augmentation.scale]\nlow = 1", r"augmentation\.scale: expected a list of 2 \(a finite number, a finite"),
        ("network = 2026-11-26", "network: expected one of 'student', .*'hrnet_w18_skps', got datetime"),
        ("extends = 2026-11-26", "extends: expected one of cofw-hrnet, .*, got datetime"),
        ('extends = ["student"]', r"extends: expected one of .*, got \['student'\]"),
        ("learning_rate = nan", "learning_rate: expected a finite number, got nan"),
        ("[augmentation]\n'blur_sigma.low' = 1", r"a recipe has no 'augmentation\.blur_sigma\.low'"),
    ],
)
def test_wrong_value_in_a_recipe_file_is_one_line_with_file_key_expected_and_actual(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text + "\n")
    with pytest.raises(InputError, match=rf"mine\.toml: {message}") as raised:
        find_recipe(str(path))
    assert "\n" not in str(raised.value)


def test_step_schedule_divides_by_ten_and_cosine_schedule_ends_at_0():
    recipe = find_recipe("wflw-published")
    rates = {epoch: learning_rate_factor(epoch * 100, recipe, 8000) for epoch in (10, 39, 40, 59, 60, 79)}
    assert rates == pytest.approx({10: 1, 39: 1, 40: 0.1, 59: 0.1, 60: 0.01, 79: 0.01})
    warming = [learning_rate_factor(step, recipe, 8000) for step in range(501)]
    np.testing.assert_allclose(np.diff(warming[:500]), 1 / 500)
    assert warming[0] == pytest.approx(1 / 500)
    cosine = [learning_rate_factor(step, Recipe(), 8000) for step in (500, 4250, 8000)]
    assert cosine == pytest.approx([1, 0.5, 0])


def test_warm_up_takes_at_most_a_quarter_of_the_steps():
    rates = [learning_rate_factor(step, Recipe(), 454) for step in range(454)]
    assert rates[112] == max(rates) == 1
    assert rates[0] == pytest.approx(1 / 113)


def test_augmentation_of_hrnet_moves_points_with_the_image_and_rotates_up_to_45_degrees():
    how = dataclasses.replace(
        find_recipe("wflw-hrnet").augmentation,
        shift=0,
        brightness_contrast_p=0,
        hsv_p=0,
        blur_p=0,
        noise_p=0,
        dropout_p=0,
        flip_p=0,
    )
    points = (96 + 55 * np.random.default_rng(0).uniform(-1, 1, (98, 2))).astype(np.float32)
    image = np.zeros((192, 192, 3), np.uint8)
    dot = tuple(round(float(value) * 16) for value in points[60])
    cv2.circle(image, dot, 3 * 16, (255, 255, 255), -1, cv2.LINE_AA, 4)
    turns, before = [], points[72] - points[60]
    for seed in range(80):
        cut, moved = augment(image, points, 128, how, np.random.default_rng(seed))
        after = moved[72] - moved[60]
        cross = before[0] * after[1] - before[1] * after[0]
        turns.append(np.degrees(np.arctan2(cross, before @ after)))
        if moved[60].min() > 6 and moved[60].max() < 121:
            assert np.linalg.norm(middle_of_dot(cut) - moved[60]) < NEAR
    assert 40 < np.max(np.abs(turns)) <= 45.01
    assert np.std(turns) == pytest.approx(90 / 12**0.5, rel=0.2)


def test_color_augmentation_of_hrnet_changes_pixels_and_keeps_the_shape():
    image = np.random.default_rng(0).integers(60, 190, (64, 64, 3), dtype=np.uint8)
    none = dict.fromkeys(("color_p", "gray_p", "blur_p", "downscale_p", "noise_p", "jpeg_p", "dropout_p"), 0)
    for kind in ("brightness_contrast_p", "hsv_p"):
        how = dataclasses.replace(find_recipe("wflw-hrnet").augmentation, brightness_contrast_p=0, hsv_p=0, **none)
        how = dataclasses.replace(how, **{kind: 1})
        painted = change_appearance(image, how, np.random.default_rng(3))
        assert (painted.shape, painted.dtype) == (image.shape, np.uint8)
        changed = np.abs(painted.astype(int) - image).mean()
        assert 3 < changed < 80, kind


def test_dropout_of_hrnet_is_black_with_sides_of_a_tenth_to_a_fifth():
    how = dataclasses.replace(
        find_recipe("wflw-hrnet").augmentation,
        brightness_contrast_p=0,
        hsv_p=0,
        blur_p=0,
        noise_p=0,
        dropout_p=1,
        dropout_holes=(1, 1),
    )
    for seed in range(20):
        hidden = change_appearance(np.full((100, 100, 3), 200, np.uint8), how, np.random.default_rng(seed))[..., 0] == 0
        width, height = hidden.any(0).sum(), hidden.any(1).sum()
        assert 10 <= min(width, height) <= max(width, height) <= 20
        assert hidden.sum() == width * height


def test_epoch_draws_each_face_once_if_all_have_the_same_weight(tmp_path):
    write_shard(tmp_path / "shard", 12)
    pack = write_pack([open_set(tmp_path / "shard")], tmp_path / "pack", 64).pack
    batches = Batches(pack, Recipe(held_out=0, profile_weight=1, batch=4, size=32))
    epochs = [np.concatenate([batches.sample_rows(step) for step in range(first, first + 3)]) for first in (0, 3, 6)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(12))
    assert list(epochs[0]) != list(epochs[1])
    across = Batches(pack, Recipe(held_out=0, profile_weight=1, batch=5, size=32))
    drawn = np.concatenate([across.sample_rows(step) for step in range(12)])
    assert np.bincount(drawn).tolist() == [5] * 12
