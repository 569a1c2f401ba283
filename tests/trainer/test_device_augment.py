"""What torch makes of a batch of faces beside what OpenCV makes of each one."""

import contextlib
import dataclasses
import os
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from canthus.trainer import run as run_module
from canthus.trainer import train as training
from canthus.trainer.augmentation.augment import (
    NO_AUGMENTATION,
    NO_FACE,
    Augmentation,
    apply_appearance,
    augment,
    move_points,
    sample_transform,
)
from canthus.trainer.augmentation.device_augment import apply_transforms, collate_transforms
from canthus.trainer.commands.train import command
from canthus.trainer.faces.formats import open_set
from canthus.trainer.networks.checkpoint import load
from canthus.trainer.packs.batches import Batch, Batches, Process
from canthus.trainer.packs.pack import Pack, write_pack
from canthus.trainer.recipe import Recipe, find_recipe
from support.shape import SHAPE
from support.shards import draw_face, write_shard
from support.training import UNCOMPILED

SIZE = 96
FACES = 24

MOVED = dataclasses.replace(NO_AUGMENTATION, flip_p=0.5, rotation=20, scale=(0.8, 1.25), shift=0.06, squeeze_p=0.4)

AGREE = {
    "brightness_contrast": (0.01, 2), "color": (0.01, 4), "gray": (0.01, 1), "blur": (0.1, 1), "downscale": (0.3, 1),
    "dropout": (0.01, 1), "hsv": (0.8, 10), "jpeg": (1.5, 30), "occluder": (0.01, 4),
}  # fmt: skip
"""Grey levels by which each step differs: on average and at most. OpenCV keeps hue in whole steps of 2 degrees, and a
JPEG's coarse steps make one level's rounding into many."""

BATCHES = Recipe(size=64, batch=32, held_out=3, negative_fraction=0.2)


def roomy(room: int) -> tuple[np.ndarray, np.ndarray]:
    """Made-up faces (N, room, room, 3), softened as photographs are, and their points."""
    rng = np.random.default_rng(5)
    sides = rng.uniform(0.55, 0.7, FACES)
    points = np.array([(0.5 - side / 2 + SHAPE * side) * room for side in sides], np.float32)
    pictures = [cv2.GaussianBlur(draw_face(room, one, seed), (0, 0), room / 128) for seed, one in enumerate(points)]
    return np.stack(pictures), points


def both(how: Augmentation, room: int = 2 * SIZE, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (N, S, S, 3) by torch and by OpenCV, whose points are the same."""
    pictures, points = roomy(room)
    changes = [sample_transform(one, size, how, np.random.default_rng([1, place])) for place, one in enumerate(points)]
    made = apply_transforms(torch.from_numpy(pictures), collate_transforms(changes, size)).numpy()
    known = []
    for place, (picture, one, change) in enumerate(zip(pictures, points, changes, strict=True)):
        cut, moved = augment(picture, one, size, how, np.random.default_rng([1, place]))
        np.testing.assert_array_equal(move_points(one, change, size), moved)
        known.append(cut)
    return made, np.stack(known)


@pytest.mark.parametrize(("room", "size"), [(512, 256), (192, 128), (96, 128)])
@pytest.mark.parametrize("black", [False, True])
def test_a_batch_is_turned_squeezed_and_mirrored_as_opencv_does_it(room, size, black):
    made, known = both(dataclasses.replace(MOVED, black_fill=black), room, size)
    difference = np.abs(made.astype(int) - known)
    assert difference.max() <= 1
    assert difference.mean() < 0.01


@pytest.mark.parametrize("step", AGREE)
def test_each_step_paints_as_opencv_does(step):
    made, known = both(dataclasses.replace(NO_AUGMENTATION, **{f"{step}_p": 1}))
    plain, _ = both(NO_AUGMENTATION)
    difference = np.abs(made.astype(int) - known)
    mean, most = AGREE[step]
    assert difference.mean() < mean
    assert difference.max() <= most
    assert np.abs(plain.astype(int) - known).mean() > 4 * difference.mean()  # the step was seen at all


def test_noise_has_the_deviation_that_was_drawn_and_no_pattern():
    grey, points = torch.full((FACES, SIZE, SIZE, 3), 128, dtype=torch.uint8), roomy(SIZE)[1]
    how = dataclasses.replace(NO_AUGMENTATION, noise_p=1)
    changes = [sample_transform(one, SIZE, how, np.random.default_rng(place)) for place, one in enumerate(points)]
    changes = [dataclasses.replace(change, replicate_border=True) for change in changes]
    grain = apply_transforms(grey, collate_transforms(changes, SIZE)).numpy().astype(float) - 128
    drawn = [change.appearance.noise[0] for change in changes]
    np.testing.assert_allclose(grain.std((1, 2, 3)), drawn, rtol=0.03)
    grain /= np.array(drawn)[:, None, None, None]
    np.testing.assert_allclose(grain.mean((1, 2, 3)), 0, atol=0.03)
    for one, other in ((grain[:, 1:], grain[:, :-1]), (grain[:, :, 1:], grain[:, :, :-1]), (grain[1:], grain[:-1])):
        np.testing.assert_allclose((one * other).mean((1, 2, 3)), 0, atol=0.04)


def jpeg(image: np.ndarray, quality: int, implementation: str) -> np.ndarray:
    """The image (SIZE, SIZE, 3) after JPEG augmentation of this quality."""
    sampled = sample_transform(40 + SHAPE * 20, SIZE, NO_AUGMENTATION, np.random.default_rng(0))
    appearance = dataclasses.replace(sampled.appearance, jpeg=quality)
    if implementation == "opencv":
        return apply_appearance(image, appearance)
    sampled = dataclasses.replace(sampled, affine=np.eye(2, 3), appearance=appearance)
    return apply_transforms(torch.from_numpy(image)[None], collate_transforms([sampled], SIZE))[0].numpy()


@pytest.mark.parametrize("implementation", ["opencv", "torch"])
def test_jpeg_keeps_fine_detail_by_the_luma_weight_of_its_color(implementation):
    """Of stripes one pixel wide, only the luma is left: JPEG stores chroma at half the resolution.

    The luma is 0.299 red + 0.587 green + 0.114 blue. With red and blue swapped, blue stripes would be clearer than red.
    """
    for channel, weight in enumerate((0.299, 0.587, 0.114)):
        stripes = np.zeros((SIZE, SIZE, 3), np.uint8)
        stripes[:, ::2, channel] = 255
        left = jpeg(stripes, 95, implementation).astype(float)
        contrast = np.abs(np.diff(left, axis=1)).mean((0, 1))
        np.testing.assert_allclose(contrast[channel], 255 * weight, atol=8, err_msg=f"channel {channel}")


@pytest.mark.parametrize("implementation", ["opencv", "torch"])
@pytest.mark.parametrize("color", [(255, 0, 0), (0, 0, 255), (230, 60, 20)], ids=["red", "blue", "orange"])
def test_jpeg_errs_in_each_channel_as_a_jpeg_file_of_the_rgb_image(implementation, color):
    texture = cv2.GaussianBlur(np.random.default_rng(0).random((SIZE, SIZE)), (0, 0), 1)
    image = (np.clip(5 * texture - 2, 0, 1)[..., None] * color).astype(np.uint8)
    file = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 20])[1]
    known = cv2.cvtColor(cv2.imdecode(file, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB).astype(int)
    made = jpeg(image, 20, implementation)
    assert np.abs(made - known).mean((0, 1)).max() < 3  # levels; libjpeg clips chroma, torch does not


def test_black_holes_are_where_opencv_has_them():
    made, known = both(dataclasses.replace(NO_AUGMENTATION, dropout_p=1, dropout_holes=(1, 8), black_fill=True))
    np.testing.assert_array_equal(made == 0, known == 0)


@pytest.mark.parametrize("name", ["wflw-hrnet", "student"])
def test_all_that_a_recipe_does_comes_out_as_from_opencv(name):
    made, known = both(dataclasses.replace(find_recipe(name).augmentation, noise_p=0), 128, 64)
    assert np.abs(made.astype(int) - known).mean() < 0.5
    np.testing.assert_allclose(made.mean((1, 2)), known.mean((1, 2)), atol=1)


def test_grain_leaves_all_that_is_drawn_after_it_the_same():
    made, known = both(dataclasses.replace(NO_AUGMENTATION, noise_p=1, jpeg_p=0.5))
    np.testing.assert_allclose(made.mean((1, 2)), known.mean((1, 2)), atol=1.5)
    rough = [np.abs(np.diff(one.astype(int), axis=2)).mean((1, 2, 3)) for one in (made, known)]
    np.testing.assert_allclose(*rough, rtol=0.1)  # a JPEG smooths grain; as many in both, and as much


def test_a_webcam_is_as_dark_and_as_rough_as_from_opencv():
    made, known = both(dataclasses.replace(NO_AUGMENTATION, webcam_p=1))  # their grain differs from place to place
    np.testing.assert_allclose(made.mean((1, 2)), known.mean((1, 2)), atol=3)
    rough = [np.abs(np.diff(one.astype(int), axis=2)).mean((1, 2, 3)) for one in (made, known)]
    np.testing.assert_allclose(*rough, rtol=0.15, atol=0.3)


def test_mirrored_faces_are_the_plain_ones_mirrored():
    plain, _ = both(NO_AUGMENTATION)
    mirrored, _ = both(dataclasses.replace(NO_AUGMENTATION, flip_p=1))
    np.testing.assert_allclose(mirrored[:, :, ::-1].astype(int), plain, atol=1)


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Pack:
    folder = tmp_path_factory.mktemp("faces")
    write_shard(folder / "shard", 30)
    return write_pack([open_set(folder / "shard")], folder / "pack", 96).pack


def shows_none(batch: Batch) -> np.ndarray:
    return (batch.points == NO_FACE).all(-1).all(-1).numpy()


def test_a_raw_batch_finished_is_the_batch(faces):
    recipe = dataclasses.replace(BATCHES, augmentation=Augmentation(noise_p=0))
    one, other = (Batches(faces, recipe, contents=contents).make_batch(3) for contents in ("augmented", "raw"))
    assert other.crops.shape == (32, 96, 96, 3)
    finished = other.augmented()
    assert finished.crops.shape == one.crops.shape == (32, 64, 64, 3)
    assert finished.transforms is None
    assert torch.equal(one.points, finished.points)
    assert torch.equal(one.weight, finished.weight)
    without = shows_none(one)
    assert 1 < without.sum() < 16
    difference = (one.crops.float() - finished.crops.float()).abs().mean((1, 2, 3)).numpy()
    assert np.median(difference) < 0.5
    assert difference.max() < 3


def test_what_lies_on_a_shelf_need_not_travel(faces):
    gpu_cache = torch.from_numpy(np.array(faces.crops))
    for faceless in (0, 0.3, 1):
        recipe = dataclasses.replace(BATCHES, negative_fraction=faceless)
        whole, light = (Batches(faces, recipe, contents=contents).make_batch(1) for contents in ("raw", "cached"))
        assert light.crops.shape == (int(shows_none(whole).sum()), 96, 96, 3)
        made, known = light.augmented(gpu_cache), whole.augmented()
        assert torch.equal(made.crops, known.crops)
        assert torch.equal(made.points, known.points)
        assert torch.equal(made.weight, known.weight)


@pytest.mark.parametrize(("size", "most"), [(64, 0), (96, 0), (128, 255)])
def test_a_crop_without_a_face_is_the_very_picture_that_opencv_makes(faces, size, most):
    recipe = dataclasses.replace(BATCHES, size=size, negative_fraction=1, augmentation=NO_AUGMENTATION)
    one, other = (Batches(faces, recipe, contents=contents).make_batch(0) for contents in ("augmented", "raw"))
    assert other.crops.shape == (32, 96, 96, 3)  # smaller than 128: the picture is shrunk, and enlarged again
    assert shows_none(one).all()
    assert shows_none(other).all()
    made, known = other.augmented().crops.numpy().astype(int), one.crops.numpy()
    assert np.abs(made - known).max() <= most
    assert np.median(np.abs(made - known).mean((1, 2, 3))) < 4
    np.testing.assert_allclose(made.mean((1, 2)), known.mean((1, 2)), atol=2)


def test_the_same_seed_gives_the_same_batch_to_one_process_as_to_two(faces):
    whole = Batches(faces, BATCHES, contents="raw")
    parts = [Batches(faces, BATCHES, process=Process(rank, 2), contents="raw") for rank in range(2)]
    for step in range(2):
        once, again = (whole.make_batch(step).augmented().crops for _ in range(2))
        assert torch.equal(once, again)
        apart = torch.cat([part.make_batch(step).augmented().crops for part in parts])
        np.testing.assert_allclose(apart.numpy().astype(int), once, atol=1)  # sums in another order


def test_a_run_that_finishes_its_batches_itself_goes_on_as_it_says_to_the_same_weights(
    faces, tmp_path, monkeypatch, capsys
):
    recipe = Recipe(size=32, batch=4, epochs=1.0, warm_up=2, held_out=3)
    recipe.save(tmp_path / "recipe.json")
    unbroken, broken, finished = tmp_path / "unbroken", tmp_path / "broken", []
    schedule = run_module.learning_rate_factor

    def press_ctrl_c(step: int, *rest: object) -> float:
        if step == 2:
            signal.raise_signal(signal.SIGINT)
        return schedule(step, *rest)

    def counted(*parts: object) -> torch.Tensor:
        finished.append(parts)
        return apply_transforms(*parts)

    monkeypatch.setattr("canthus.trainer.packs.batches.apply_transforms", counted)
    monkeypatch.setattr("canthus.trainer.commands.train._has_compiler", lambda: False)
    training.train(faces, recipe, unbroken, dataclasses.replace(UNCOMPILED, augment_on="device"))
    assert len(finished) == (steps := load(unbroken / "last").metadata["step"]) > 3
    options = ["--workers", "0", "--augment-on", "device"]
    words = [str(Path(faces.crops.filename).parent), "-o", str(broken), "--recipe", str(tmp_path / "recipe.json")]
    with monkeypatch.context() as stopping:
        stopping.setattr(run_module, "learning_rate_factor", press_ctrl_c)
        assert command([*words, *options]) == 130
    told = capsys.readouterr().err.split("to continue: canthus train ")[1]
    assert shlex.split(told) == [*words[:3], "--resume", *options]
    assert command(shlex.split(told)) == 0
    assert len(finished) == 2 * steps
    one, other = (load(folder / "last").training_weights for folder in (unbroken, broken))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def as_in_training() -> Iterator[None]:
    """Products of matrices made as fast as training has them, and put back."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    """RuntimeError where a step waits for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


ALL_BUT_JPEG = dataclasses.replace(Augmentation(), hsv_p=0.5, brightness_contrast_p=0.5, webcam_p=0, jpeg_p=0)


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize(
    ("how", "mean", "most"),
    [(ALL_BUT_JPEG, 0.05, 2), (dataclasses.replace(NO_AUGMENTATION, jpeg_p=1), *AGREE["jpeg"])],
    ids=["all but JPEG", "JPEG"],
)
def test_a_gpu_finishes_a_batch_as_the_cpu_does_and_nothing_waits_for_it(faces, as_in_training, how, mean, most):
    if not torch.cuda.is_available():
        message = "torch finds no CUDA GPU"
        pytest.fail(message) if os.environ.get("CANTHUS_REQUIRE_CUDA") == "1" else pytest.skip(message)
    batch = Batches(faces, dataclasses.replace(BATCHES, augmentation=how), contents="raw").make_batch(0)
    here = batch.augmented().crops.numpy().astype(int)
    pinned, device = batch.pin_memory(), torch.device("cuda")
    pinned.to(device).augmented()  # the first time libraries are loaded, and memory is got
    with no_waiting():
        there = pinned.to(device).augmented().crops
    assert there.device.type == "cuda"
    difference = np.abs(there.cpu().numpy() - here)
    assert np.quantile(difference, 0.999) <= most
    assert difference.mean() < mean
