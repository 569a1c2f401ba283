"""Packs with compressed crops: read like uncompressed ones, copied, trained on, and refused if damaged."""

import csv
import errno
import zipfile

import cv2
import numpy as np
import pytest
import torch

from canthus.runtime.errors import InputError
from canthus.trainer.commands.data import command
from canthus.trainer.faces.formats import open_set
from canthus.trainer.packs.batches import Batches, load_to_gpu
from canthus.trainer.packs.crop_files import WebPCrops
from canthus.trainer.packs.pack import copy_pack, open_pack, write_pack
from canthus.trainer.recipe import Recipe, change
from canthus.trainer.train import train
from support.shards import write_shard
from support.training import TINY, UNCOMPILED

LOSS = 6.0
"""Largest mean difference of compressed crops, in gray levels. Drawn lines compress worse than photographs."""


@pytest.fixture
def packs(tmp_path):
    """The same six faces, uncompressed and compressed."""
    write_shard(tmp_path / "shard", 6)
    sets = [open_set(tmp_path / "shard")]
    plain = write_pack(sets, tmp_path / "plain", 64).pack
    return plain, write_pack(sets, tmp_path / "small", 64, webp=80).pack


def test_compressed_crops_are_those_of_the_uncompressed_pack_with_a_small_loss(packs, tmp_path):
    plain, small = packs
    assert {path.name for path in (tmp_path / "small").iterdir()} == {"crops.zip", "labels.npz"}
    assert (tmp_path / "small/crops.zip").stat().st_size < plain.crops.nbytes / 4
    difference = np.abs(np.asarray(small.crops).astype(int) - plain.crops)
    assert 0 < difference.mean() < LOSS
    np.testing.assert_array_equal(small.points, plain.points)
    assert (small.names, small.crops.shape, small.crops.nbytes) == (plain.names, plain.crops.shape, plain.crops.nbytes)


def test_compressed_crops_are_indexed_like_an_array(packs):
    crops = packs[1].crops
    whole = np.asarray(crops)
    assert isinstance(crops, WebPCrops)
    assert (len(crops), crops.ndim, crops.dtype) == (6, 4, np.uint8)
    for rows in (0, -1, np.int64(3), slice(1, 4), slice(4, 99), slice(None, None, 2), [5, 0], np.array([2, 2])):
        np.testing.assert_array_equal(crops[rows], whole[rows])
    np.testing.assert_array_equal(np.stack(list(crops)), whole)
    assert crops[6:].shape == (0, 64, 64, 3)
    with pytest.raises(IndexError):
        crops[6]


@pytest.mark.parametrize("first", [None, 80])
def test_a_new_pack_replaces_the_crops_of_the_other_kind(tmp_path, first):
    write_shard(tmp_path / "shard", 3)
    for webp in (first, None if first else 80):
        write_pack([open_set(tmp_path / "shard")], tmp_path / "pack", 64, webp=webp)
        files = {path.name for path in (tmp_path / "pack").iterdir()}
        assert files == {"crops.zip" if webp else "crops.npy", "labels.npz"}
        assert isinstance(open_pack(tmp_path / "pack").crops, WebPCrops) == bool(webp)


def test_failed_write_leaves_the_old_pack_of_the_other_kind(packs, tmp_path):
    (tmp_path / "shard/images/some/face 5.png").unlink()
    with pytest.raises(InputError, match="missing"):
        write_pack([open_set(tmp_path / "shard")], tmp_path / "plain", 96, webp=80)
    assert open_pack(tmp_path / "plain").crops.shape == (6, 64, 64, 3)
    assert {path.name for path in (tmp_path / "plain").iterdir()} == {"crops.npy", "labels.npz"}
    pack, findings = write_pack([open_set(tmp_path / "shard")], tmp_path / "plain", 96, allow_missing=True, webp=80)
    assert pack.crops.shape == (5, 96, 96, 3)
    assert list(findings.unreadable) == ["some/face 5.png"]


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def fill(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    write_shard(tmp_path / "shard", 2)
    monkeypatch.setattr(zipfile.ZipFile, "writestr", fill)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
        write_pack([open_set(tmp_path / "shard")], tmp_path / "pack", 64, webp=80)
    assert not (tmp_path / "pack").exists()


def test_copied_pack_keeps_the_compressed_crops_as_they_are(packs, tmp_path):
    with copy_pack(tmp_path / "small", tmp_path / "plain") as pack:  # a pack of the other kind
        pack.points[:] += 1
    copied = open_pack(tmp_path / "plain")
    assert {path.name for path in (tmp_path / "plain").iterdir()} == {"crops.zip", "labels.npz"}
    assert (tmp_path / "plain/crops.zip").read_bytes() == (tmp_path / "small/crops.zip").read_bytes()
    np.testing.assert_array_equal(copied.points, packs[1].points + 1)


@pytest.mark.parametrize("place", ["start", "middle", "end", "empty", "absent"])
def test_damaged_crops_are_one_line(packs, tmp_path, place):
    file = tmp_path / "small/crops.zip"
    content = bytearray(file.read_bytes())
    match place:
        case "middle":
            content[len(content) // 2] ^= 0xFF
        case "start":
            content[26:28] = b"\xff\xff"  # the length of the first name
        case "end":
            content = content[:-700]
        case "empty":
            content = bytearray()
    file.unlink()
    if place != "absent":
        file.write_bytes(content)
    with pytest.raises(InputError) as wrong:
        open_pack(tmp_path / "small")
    damaged = r"crops.zip: damaged (crop 00" if place in ("start", "middle") else "small: not a pack of faces; make one"
    assert damaged in str(wrong.value)
    assert "\n" not in str(wrong.value)


@pytest.mark.parametrize("wrong", ["other size", "no image", "compressed", "none"])
def test_zip_file_of_something_else_is_one_line(packs, tmp_path, wrong):
    image = cv2.imencode(".webp", np.zeros((32, 48, 3), np.uint8))[1].tobytes()
    with zipfile.ZipFile(tmp_path / "small/crops.zip", "w") as archive:
        if wrong != "none":
            archive.writestr("0.webp", cv2.imencode(".webp", np.zeros((64, 64, 3), np.uint8))[1].tobytes())
            method = zipfile.ZIP_DEFLATED if wrong == "compressed" else zipfile.ZIP_STORED
            archive.writestr("1.webp", b"text" if wrong == "no image" else image, method)
    with pytest.raises(InputError, match=r"not a pack of faces|damaged \(crop 1|expected points of 2 faces, got 6"):
        np.asarray(open_pack(tmp_path / "small").crops)
    if wrong in ("other size", "no image"):
        with pytest.raises(InputError, match=r"crops\.zip: damaged \(crop 1\)"):
            np.asarray(WebPCrops(tmp_path / "small/crops.zip"))


def test_labels_that_name_another_file_are_refused(packs, tmp_path):
    with np.load(tmp_path / "small/labels.npz") as labels:
        changed = {**labels, "crops": np.array("../plain/crops.npy")}
    np.savez(tmp_path / "small/labels.npz", **changed)
    with pytest.raises(InputError, match="not a pack of faces"):
        open_pack(tmp_path / "small")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("contents", ["augmented", "raw"])
def test_batches_of_a_compressed_pack_show_the_same_faces(packs, contents, workers):
    recipe = Recipe(held_out=3, batch=4, size=32)
    streams = [Batches(pack, recipe, contents=contents).stream(0, 2, workers) for pack in packs]
    for plain, small in zip(*streams, strict=True):
        torch.testing.assert_close(plain.points, small.points, rtol=0, atol=0)
        assert (plain.crops.int() - small.crops.int()).abs().float().mean() < 2 * LOSS


def test_compressed_crops_are_decoded_once_into_the_gpu_cache(packs, monkeypatch):
    class Device:
        type = "cuda"

    empty = torch.empty
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (1 << 30, 1 << 30))
    monkeypatch.setattr("torch.empty", lambda *size, device, **how: empty(*size, **how))
    cache = load_to_gpu(packs[1], Device())
    np.testing.assert_array_equal(cache, np.asarray(packs[1].crops))


def test_training_on_a_compressed_pack_writes_its_log_and_checkpoints(tmp_path):
    write_shard(tmp_path / "shard", 12)
    pack = write_pack([open_set(tmp_path / "shard")], tmp_path / "pack", 48, webp=75).pack
    train(pack, change(TINY, {"epochs": 1.0}), tmp_path / "run", UNCOMPILED)
    (row,) = csv.DictReader((tmp_path / "run/log.csv").read_text().splitlines())
    assert np.isfinite(float(row["held_out_nme"]))


def test_prepare_command_compresses_and_prints_the_size(tmp_path, capsys):
    write_shard(tmp_path / "shard", 3)
    words = ["prepare", str(tmp_path / "shard"), "-o", str(tmp_path / "pack"), "--size", "64"]
    assert command([*words, "--webp", "70"]) == 0
    assert "MB (crops.zip, WebP of quality 70)" in capsys.readouterr().out
    assert isinstance(open_pack(tmp_path / "pack").crops, WebPCrops)
    with pytest.raises(InputError, match="--overwrite"):
        command(words)
    for quality in ("0", "101", "good"):
        with pytest.raises(SystemExit, match="2"):
            command([*words, "--overwrite", "--webp", quality])
