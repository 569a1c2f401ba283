"""Augmentation of batches by torch gives the same as augmentation of single faces by OpenCV."""

import contextlib
import dataclasses
import os
import shlex
import signal
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
import torch

from canthus.trainer import run as run_module
from canthus.trainer import train as training
from canthus.trainer.augmentation.appearance import apply_appearance
from canthus.trainer.augmentation.augment import NO_FACE, augment, move_points, sample_transform
from canthus.trainer.augmentation.device_augment import apply_transforms, collate_transforms
from canthus.trainer.augmentation.settings import NO_AUGMENTATION, Augmentation
from canthus.trainer.commands.train import command
from canthus.trainer.faces.formats import open_set
from canthus.trainer.networks.checkpoint import load
from canthus.trainer.packs.batches import Batch, Batches, Process
from canthus.trainer.packs.pack import Pack, write_pack
from canthus.trainer.recipe import Recipe, find_recipe
from support.shape import SHAPE
from support.shards import draw_face, write_shard
from support.training import UNCOMPILED, pack_folder

SIZE = 96
FACES = 24

MOVED = dataclasses.replace(NO_AUGMENTATION, flip_p=0.5, rotation=20, scale=(0.8, 1.25), shift=0.06, squeeze_p=0.4)

TOLERANCES = {
    "brightness_contrast": (0.01, 2), "color": (0.01, 4), "gray": (0.01, 1), "blur": (0.1, 1), "downscale": (0.3, 1),
    "dropout": (0.01, 1), "hsv": (0.8, 10), "jpeg": (1.5, 30), "occluder": (0.01, 4),
}  # fmt: skip
"""Mean and largest difference of each step, in levels of 255. OpenCV rounds hue to 2 degrees, and the coarse
quantization of JPEG turns a rounding error of 1 level into many."""

BATCHES = Recipe(size=64, batch=32, held_out=3, negative_fraction=0.2)


def packed_faces(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return drawn faces (N, side, side, 3), blurred like photographs, and their points (N, 98, 2)."""
    rng = np.random.default_rng(5)
    scales = rng.uniform(0.55, 0.7, FACES)
    points = np.array([(0.5 - scale / 2 + SHAPE * scale) * side for scale in scales], np.float32)
    images = [cv2.GaussianBlur(draw_face(side, one, seed), (0, 0), side / 128) for seed, one in enumerate(points)]
    return np.stack(images), points


def torch_and_opencv(how: Augmentation, side: int = 2 * SIZE, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Return the crops (N, S, S, 3) of torch and of OpenCV, and check that their points are equal."""
    images, points = packed_faces(side)
    sampled = [sample_transform(one, size, how, np.random.default_rng([1, row])) for row, one in enumerate(points)]
    made = apply_transforms(torch.from_numpy(images), collate_transforms(sampled, size)).numpy()
    known = []
    for row, (image, one, transform) in enumerate(zip(images, points, sampled, strict=True)):
        crop, moved = augment(image, one, size, how, np.random.default_rng([1, row]))
        np.testing.assert_array_equal(move_points(one, transform, size), moved)
        known.append(crop)
    return made, np.stack(known)


@pytest.mark.parametrize(("side", "size"), [(512, 256), (192, 128), (96, 128)])
@pytest.mark.parametrize("black", [False, True])
def test_torch_warps_and_mirrors_as_opencv(side, size, black):
    made, known = torch_and_opencv(dataclasses.replace(MOVED, black_fill=black), side, size)
    difference = np.abs(made.astype(int) - known)
    assert difference.max() <= 1
    assert difference.mean() < 0.01


@pytest.mark.parametrize("step", TOLERANCES)
def test_torch_applies_each_step_as_opencv(step):
    made, known = torch_and_opencv(dataclasses.replace(NO_AUGMENTATION, **{f"{step}_p": 1}))
    plain, _ = torch_and_opencv(NO_AUGMENTATION)
    difference = np.abs(made.astype(int) - known)
    mean, most = TOLERANCES[step]
    assert difference.mean() < mean
    assert difference.max() <= most
    assert np.abs(plain.astype(int) - known).mean() > 4 * difference.mean()  # the step changed something


def test_noise_has_the_sampled_deviation_and_no_correlation():
    gray, points = torch.full((FACES, SIZE, SIZE, 3), 128, dtype=torch.uint8), packed_faces(SIZE)[1]
    how = dataclasses.replace(NO_AUGMENTATION, noise_p=1)
    sampled = [sample_transform(one, SIZE, how, np.random.default_rng(row)) for row, one in enumerate(points)]
    sampled = [dataclasses.replace(one, replicate_border=True) for one in sampled]
    noise = apply_transforms(gray, collate_transforms(sampled, SIZE)).numpy().astype(float) - 128
    deviations = [one.appearance.noise[0] for one in sampled]
    np.testing.assert_allclose(noise.std((1, 2, 3)), deviations, rtol=0.03)
    noise /= np.array(deviations)[:, None, None, None]
    np.testing.assert_allclose(noise.mean((1, 2, 3)), 0, atol=0.03)
    for one, other in ((noise[:, 1:], noise[:, :-1]), (noise[:, :, 1:], noise[:, :, :-1]), (noise[1:], noise[:-1])):
        np.testing.assert_allclose((one * other).mean((1, 2, 3)), 0, atol=0.04)


def jpeg(image: np.ndarray, quality: int, implementation: str) -> np.ndarray:
    """Return the image (SIZE, SIZE, 3) after JPEG augmentation of this quality."""
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


def test_torch_covers_the_same_dropout_holes_as_opencv():
    made, known = torch_and_opencv(
        dataclasses.replace(NO_AUGMENTATION, dropout_p=1, dropout_holes=(1, 8), black_fill=True)
    )
    np.testing.assert_array_equal(made == 0, known == 0)


@pytest.mark.parametrize("name", ["wflw-hrnet", "student"])
def test_torch_augments_with_a_recipe_as_opencv(name):
    made, known = torch_and_opencv(dataclasses.replace(find_recipe(name).augmentation, noise_p=0), 128, 64)
    assert np.abs(made.astype(int) - known).mean() < 0.5
    np.testing.assert_allclose(made.mean((1, 2)), known.mean((1, 2)), atol=1)


def test_steps_after_noise_are_the_same_as_in_opencv():
    made, known = torch_and_opencv(dataclasses.replace(NO_AUGMENTATION, noise_p=1, jpeg_p=0.5))
    np.testing.assert_allclose(made.mean((1, 2)), known.mean((1, 2)), atol=1.5)
    roughness = [np.abs(np.diff(one.astype(int), axis=2)).mean((1, 2, 3)) for one in (made, known)]
    np.testing.assert_allclose(*roughness, rtol=0.1)  # JPEG smooths the noise of the same faces


def test_webcam_step_is_as_dark_and_noisy_as_in_opencv():
    made, known = torch_and_opencv(dataclasses.replace(NO_AUGMENTATION, webcam_p=1))  # the noise differs per pixel
    np.testing.assert_allclose(made.mean((1, 2)), known.mean((1, 2)), atol=3)
    roughness = [np.abs(np.diff(one.astype(int), axis=2)).mean((1, 2, 3)) for one in (made, known)]
    np.testing.assert_allclose(*roughness, rtol=0.15, atol=0.3)


def test_flipped_crop_is_the_mirror_image_of_the_unflipped_one():
    plain, _ = torch_and_opencv(NO_AUGMENTATION)
    mirrored, _ = torch_and_opencv(dataclasses.replace(NO_AUGMENTATION, flip_p=1))
    np.testing.assert_allclose(mirrored[:, :, ::-1].astype(int), plain, atol=1)


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Pack:
    folder = tmp_path_factory.mktemp("faces")
    write_shard(folder / "shard", 30)
    return write_pack([open_set(folder / "shard")], folder / "pack", 96).pack


def is_negative(batch: Batch) -> np.ndarray:
    return (batch.points == NO_FACE).all(-1).all(-1).numpy()


def test_augmenting_a_raw_batch_gives_the_augmented_batch(faces):
    recipe = dataclasses.replace(BATCHES, augmentation=Augmentation(noise_p=0))
    one, other = (Batches(faces, recipe, contents=contents).make_batch(3) for contents in ("augmented", "raw"))
    assert other.crops.shape == (32, 96, 96, 3)
    augmented = other.augmented()
    assert augmented.crops.shape == one.crops.shape == (32, 64, 64, 3)
    assert augmented.transforms is None
    assert torch.equal(one.points, augmented.points)
    assert torch.equal(one.weight, augmented.weight)
    assert 1 < is_negative(one).sum() < 16
    difference = (one.crops.float() - augmented.crops.float()).abs().mean((1, 2, 3)).numpy()
    assert np.median(difference) < 0.5
    assert difference.max() < 3


def test_cached_batch_carries_only_negative_crops_and_gives_the_same(faces):
    gpu_cache = torch.from_numpy(np.array(faces.crops))
    for fraction in (0, 0.3, 1):
        recipe = dataclasses.replace(BATCHES, negative_fraction=fraction)
        raw, cached = (Batches(faces, recipe, contents=contents).make_batch(1) for contents in ("raw", "cached"))
        assert cached.crops.shape == (int(is_negative(raw).sum()), 96, 96, 3)
        made, known = cached.augmented(gpu_cache), raw.augmented()
        assert torch.equal(made.crops, known.crops)
        assert torch.equal(made.points, known.points)
        assert torch.equal(made.weight, known.weight)


@pytest.mark.parametrize(("size", "most"), [(64, 0), (96, 0), (128, 255)])
def test_negative_crop_is_the_same_as_from_opencv(faces, size, most):
    recipe = dataclasses.replace(BATCHES, size=size, negative_fraction=1, augmentation=NO_AUGMENTATION)
    one, other = (Batches(faces, recipe, contents=contents).make_batch(0) for contents in ("augmented", "raw"))
    assert other.crops.shape == (32, 96, 96, 3)  # for size 128, the crop is shrunk to 96 and enlarged again
    assert is_negative(one).all()
    assert is_negative(other).all()
    made, known = other.augmented().crops.numpy().astype(int), one.crops.numpy()
    assert np.abs(made - known).max() <= most
    assert np.median(np.abs(made - known).mean((1, 2, 3))) < 4
    np.testing.assert_allclose(made.mean((1, 2)), known.mean((1, 2)), atol=2)


def test_two_processes_make_the_same_batch_as_one(faces):
    whole = Batches(faces, BATCHES, contents="raw")
    parts = [Batches(faces, BATCHES, process=Process(rank, 2), contents="raw") for rank in range(2)]
    for step in range(2):
        first, second = (whole.make_batch(step).augmented().crops for _ in range(2))
        assert torch.equal(first, second)
        apart = torch.cat([part.make_batch(step).augmented().crops for part in parts])
        np.testing.assert_allclose(apart.numpy().astype(int), first, atol=1)  # another order of summation


def test_interrupted_run_that_augments_on_the_device_resumes_to_the_same_weights(faces, tmp_path, monkeypatch, capsys):
    recipe = Recipe(size=32, batch=4, epochs=1.0, warm_up=2, held_out=3)
    recipe.save(tmp_path / "recipe.json")
    unbroken, broken, calls = tmp_path / "unbroken", tmp_path / "broken", []
    schedule = run_module.learning_rate_factor

    def press_ctrl_c(step: int, *rest: object) -> float:
        if step == 2:
            signal.raise_signal(signal.SIGINT)
        return schedule(step, *rest)

    def counted(*parts: object) -> torch.Tensor:
        calls.append(parts)
        return apply_transforms(*parts)

    monkeypatch.setattr("canthus.trainer.packs.batches.apply_transforms", counted)
    monkeypatch.setattr("canthus.trainer.commands.train._has_compiler", lambda: False)
    training.train(faces, recipe, unbroken, dataclasses.replace(UNCOMPILED, augment_on="device"))
    assert len(calls) == (steps := load(unbroken / "last").metadata["step"]) > 3
    options = ["--workers", "0", "--augment-on", "device"]
    words = [pack_folder(faces), "-o", str(broken), "--recipe", str(tmp_path / "recipe.json")]
    with monkeypatch.context() as stopping:
        stopping.setattr(run_module, "learning_rate_factor", press_ctrl_c)
        assert command([*words, *options]) == 130
    advice = capsys.readouterr().err.split("to continue: canthus train ")[1]
    assert shlex.split(advice) == [*words[:3], "--resume", *options]
    assert command(shlex.split(advice)) == 0
    assert len(calls) == 2 * steps
    one, other = (load(folder / "last").training_weights for folder in (unbroken, broken))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def matmul_precision_of_training() -> Iterator[None]:
    """Set the matrix multiplication precision that training uses."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def no_synchronization() -> Iterator[None]:
    """Raise RuntimeError if the CPU waits for the GPU within the block."""
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
    [(ALL_BUT_JPEG, 0.05, 2), (dataclasses.replace(NO_AUGMENTATION, jpeg_p=1), *TOLERANCES["jpeg"])],
    ids=["all but JPEG", "JPEG"],
)
def test_gpu_augments_a_batch_as_the_cpu_without_synchronization(faces, matmul_precision_of_training, how, mean, most):
    if not torch.cuda.is_available():
        message = "torch finds no CUDA GPU"
        pytest.fail(message) if os.environ.get("CANTHUS_REQUIRE_CUDA") == "1" else pytest.skip(message)
    batch = Batches(faces, dataclasses.replace(BATCHES, augmentation=how), contents="raw").make_batch(0)
    here = batch.augmented().crops.numpy().astype(int)
    pinned, device = batch.pin_memory(), torch.device("cuda")
    pinned.to(device).augmented()  # the first call loads libraries and allocates memory
    with no_synchronization():
        there = pinned.to(device).augmented().crops
    assert there.device.type == "cuda"
    difference = np.abs(there.cpu().numpy() - here)
    assert np.quantile(difference, 0.999) <= most
    assert difference.mean() < mean
