"""Labelled faces: list files, the three layouts of WFLW, packs, and the augmentation of single faces."""

import errno
import io
import itertools
import math
import os
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from canthus.runtime import wflw
from canthus.runtime.errors import InputError
from canthus.runtime.geometry import crop, roi_from_points
from canthus.runtime.types import Roi
from canthus.trainer import boxes
from canthus.trainer.augmentation.appearance import MIN_DOWNSCALED_SIDE, change_appearance
from canthus.trainer.augmentation.augment import NO_FACE, augment, flip, make_negative, random_warp, sample_transform
from canthus.trainer.augmentation.settings import NO_AUGMENTATION, Augmentation
from canthus.trainer.commands.data import command as data_command
from canthus.trainer.faces.formats import open_set
from canthus.trainer.faces.labelled import group_by_image, yaw_estimate
from canthus.trainer.faces.wflw_lists import LIST_FOLDER, SHARD_LIST, parse_list
from canthus.trainer.packs.pack import PACK_MARGIN, Pack, open_pack, write_pack
from canthus.trainer.recipe import find_recipe
from support.shape import SHAPE
from support.shards import NEAR, draw_face, line, middle_of_dot, write_faces, write_shard


def test_line_of_a_wflw_list_is_parsed():
    points = SHAPE * 100
    (face,) = parse_list(line(points, "0--Parade/a b.jpg"), "list.txt")
    np.testing.assert_allclose(face.points, points, atol=1e-3)
    assert face.rect == (10, 20, 110, 120)
    assert face.image == "0--Parade/a b.jpg"
    assert face.attributes.tolist() == [False, True, False, False, False, True]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("1 2 3 x.jpg\n", "expected 207 fields, got 4"),
        (line(SHAPE, "x.jpg").replace("0.", "zero.", 1), "not a number"),
        (line(SHAPE, "x.jpg").replace("10 20", "nan 20", 1), "a coordinate is not finite"),
    ],
)
def test_error_names_the_bad_line_of_a_list(bad, message):
    with pytest.raises(InputError, match=f"list.txt, line 3: {message}"):
        parse_list(line(SHAPE, "a.jpg") + "\n" + bad, "list.txt")


def test_empty_list_is_refused():
    with pytest.raises(InputError, match="the list is empty"):
        parse_list("\n", "list.txt")


def test_wflw_folder_shard_and_tar_file_give_the_same_faces(tmp_path):
    points = write_shard(tmp_path / "shard")
    write_faces(tmp_path / "wflw", Path(LIST_FOLDER, "list_98pt_rect_attr_train.txt"), Path("WFLW_images"))
    with tarfile.open(tmp_path / "shard.tar", "w") as shard:
        shard.add(tmp_path / "shard", ".")
    sets = [open_set(tmp_path / name, "train") for name in ("wflw", "shard", "shard.tar")]
    for one in sets:
        np.testing.assert_allclose([face.points for face in one.faces], points, atol=1e-3)
        assert one.read_image("some/face 2.png").shape == (140, 140, 3)
        np.testing.assert_array_equal(one.read_image("some/face 2.png"), draw_face(140, points[2], 2))
    assert [face.spread for face in sets[0].faces] == [0] * 6
    assert [face.spread for face in sets[1].faces] == [0, 0.01, 0.02, 0.03, 0.04, 0.05]
    assert [face.spread for face in sets[2].faces] == [face.spread for face in sets[1].faces]
    with pytest.raises(InputError, match="contains the train list of WFLW, not the test list"):
        open_set(tmp_path / "wflw", "test")


def test_image_with_several_faces_is_read_once(tmp_path):
    write_shard(tmp_path, 2)
    listed = tmp_path / SHARD_LIST
    listed.write_text(2 * listed.read_text())
    groups = list(group_by_image([open_set(tmp_path)]))
    assert [[face.image for face in faces] for _, faces in groups] == [
        ["some/face 0.png"] * 2,
        ["some/face 1.png"] * 2,
    ]


@pytest.mark.parametrize("fault", ["missing", "empty", "text"])
def test_error_names_an_unreadable_image(tmp_path, fault):
    write_shard(tmp_path)
    file = tmp_path / "images" / "some" / "face 3.png"
    file.unlink()
    if fault != "missing":
        file.write_text("" if fault == "empty" else "not an image")
    with pytest.raises(InputError, match=r"face 3\.png"):
        open_set(tmp_path).read_image("some/face 3.png")


def test_error_says_why_a_path_is_not_a_labelled_set(tmp_path):
    with pytest.raises(InputError, match="not a labelled set"):
        open_set(tmp_path)
    with pytest.raises(InputError, match="no such file or folder"):
        open_set(tmp_path / "absent")
    broken = tmp_path / "broken.tar"
    broken.write_bytes(b"not a tar file")
    with pytest.raises(InputError, match=r"damaged, or not a \.tar, \.mat or \.json file \([^\n]*$"):
        open_set(broken)
    with tarfile.open(broken, "w") as shard:
        shard.addfile(tarfile.TarInfo("other.txt"), io.BytesIO())
    with pytest.raises(InputError, match=r"not a shard \(expected list_98pt"):
        open_set(broken)
    (tmp_path / SHARD_LIST).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a text file"):
        open_set(tmp_path)


def test_tar_file_that_is_cut_off_is_refused(tmp_path):
    write_shard(tmp_path / "shard")
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as shard:
        shard.add(tmp_path / "shard", ".")
    content = path.read_bytes()
    for length in (700, len(content) // 2):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match="damaged"):
            open_set(path)


def test_error_names_the_bad_line_of_quality_csv(tmp_path):
    write_shard(tmp_path)
    (tmp_path / "quality.csv").write_text("image,ensemble_sd\nsome/face 0.png,much\n")
    with pytest.raises(InputError, match=r"quality\.csv, line 2"):
        open_set(tmp_path)


def test_face_whose_outer_eye_corners_coincide_is_left_out_with_a_warning(tmp_path, caplog):
    points = write_shard(tmp_path, 3)
    listed = tmp_path / SHARD_LIST
    lines = listed.read_text().splitlines(keepends=True)
    points[:, 60] = points[:, 72]
    flat = [line(one, f"some/face {number}.png") for number, one in enumerate(points)]
    listed.write_text(lines[0] + flat[1] + lines[2])
    assert [face.image for face in open_set(tmp_path).faces] == ["some/face 0.png", "some/face 2.png"]
    reason = "faces whose outer eye corners coincide, so that errors cannot be normalized: "
    assert caplog.messages == [f"left out of {tmp_path}: 1 {reason}some/face 1.png"]
    listed.write_text("".join(flat))
    with pytest.raises(InputError, match=f"3 {reason}"):
        open_set(tmp_path)


def test_error_for_wflw_with_only_the_other_list_names_the_option(tmp_path):
    write_faces(tmp_path, Path(LIST_FOLDER) / "list_98pt_rect_attr_test.txt", Path("WFLW_images"), 2)
    assert len(open_set(tmp_path, "test").faces) == 2
    with pytest.raises(InputError, match="with --split test"):
        open_set(tmp_path, "train")


def test_pack_has_each_face_in_the_center_with_a_margin(tmp_path):
    write_shard(tmp_path / "shard")
    made = write_pack([open_set(tmp_path / "shard")], tmp_path / "pack", 160).pack
    opened = open_pack(tmp_path / "pack")
    assert len(opened) == 6
    assert opened.names[4] == "some/face 4.png"
    np.testing.assert_array_equal(made.points, opened.points)
    np.testing.assert_allclose(opened.spread, [0, 0.01, 0.02, 0.03, 0.04, 0.05], atol=1e-6)
    for number in range(6):
        region = roi_from_points(opened.points[number])
        assert (region.x, region.y) == pytest.approx((79.5, 79.5), abs=0.01)  # the center
        assert region.side == pytest.approx(160 / PACK_MARGIN, rel=1e-4)


def fraction_outside(pack: Pack, how: Augmentation) -> float:
    """Return the fraction of augmented crops that reach outside the packed crop.

    Per face, 100 random ones and the 8 extreme ones are made.
    """
    rng = np.random.default_rng(0)
    darkest = []
    for image, points in zip(np.full_like(pack.crops, 255), pack.points, strict=True):
        darkest += [random_warp(image, points, 64, how, rng)[0].min() for _ in range(100)]
        for turn, right, down in itertools.product((-45, 45), (-0.05, 0.05), (-0.05, 0.05)):
            region = roi_from_points(points) if how.published else roi_from_points(points, math.radians(turn))
            side = region.side * 1.25
            unit = region.side if how.published else side  # of the shift
            extreme = Roi(region.x + right * unit, region.y + down * unit, side, math.radians(turn))
            darkest.append(crop(image, extreme, 64).min())
    return float(np.mean(np.array(darkest) < 250))


@pytest.mark.parametrize("name", ["wflw-hrnet", "wflw-published", "cofw-hrnet"])
def test_pack_for_a_published_recipe_contains_all_pixels_that_it_needs(tmp_path, name):
    """A square rotated by 45 degrees and enlarged by 1.25 needs 1.25 * sqrt(2) of its side; a shifted one more."""
    write_shard(tmp_path / "shard")
    how = replace(find_recipe(name).augmentation, shift=0.05)
    faces = [open_set(tmp_path / "shard")]
    assert fraction_outside(write_pack(faces, tmp_path / "wide", 160, how).pack, how) == 0
    narrow = fraction_outside(write_pack(faces, tmp_path / "narrow", 160).pack, how)
    assert narrow > (0.2 if how.published else 0.4)  # it turns fewer faces


def test_recipe_determines_the_size_of_packed_crops(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    write_shard(tmp_path / "shard", 3)
    words = ["prepare", str(tmp_path / "shard"), "-o", str(tmp_path / "pack"), "--overwrite"]
    for more, size in (([], 192), (["--recipe", "wflw-hrnet"], 512), (["--recipe", "wflw-hrnet", "--size", "96"], 96)):
        assert data_command([*words, *more]) == 0
        assert f"3 faces of {size} px" in capsys.readouterr().out
        region = roi_from_points(open_pack(tmp_path / "pack").points[0])
        assert (size / region.side > 1.6) == bool(more)
    with pytest.raises(InputError, match="no recipe 'hrnet'"):
        data_command([*words, "--recipe", "hrnet"])


def test_packed_point_lies_on_the_dot_drawn_at_it(tmp_path):
    points = write_shard(tmp_path / "shard", 1)[0]
    image = np.zeros((140, 140, 3), np.uint8)
    cv2.circle(image, tuple(round(float(value) * 16) for value in points[60]), 32, (255, 255, 255), -1, 16, 4)
    cv2.imwrite(str(tmp_path / "shard/images/some/face 0.png"), image)
    made = write_pack([open_set(tmp_path / "shard")], tmp_path / "pack", 200).pack
    assert np.linalg.norm(middle_of_dot(made.crops[0]) - made.points[0, 60]) < NEAR


def test_failed_write_leaves_the_old_pack(tmp_path):
    write_shard(tmp_path / "shard")
    write_pack([open_set(tmp_path / "shard")], tmp_path / "pack", 64)
    (tmp_path / "shard/images/some/face 5.png").unlink()
    with pytest.raises(InputError, match="missing"):
        write_pack([open_set(tmp_path / "shard")], tmp_path / "pack", 96)
    assert open_pack(tmp_path / "pack").crops.shape == (6, 64, 64, 3)
    assert {path.name for path in (tmp_path / "pack").iterdir()} == {"crops.npy", "labels.npz"}


@pytest.mark.parametrize("part", ["crops.npy", "labels.npz"])
@pytest.mark.parametrize("content", [None, b"", b"nonsense", b"PK\x03\x04cut short"])
def test_error_for_a_folder_without_a_pack_says_how_to_make_one(tmp_path, part, content):
    write_shard(tmp_path / "shard", 2)
    write_pack([open_set(tmp_path / "shard")], tmp_path, 64)
    (tmp_path / part).unlink()
    if content is not None:
        (tmp_path / part).write_bytes(content)
    with pytest.raises(InputError, match=r"canthus data prepare SET\.\.\. -o PACK"):
        open_pack(tmp_path)


@pytest.mark.parametrize(
    ("part", "content", "message"),
    [
        ("crops.npy", np.zeros((2, 8, 8), np.uint8), r"expected crops \(N, P, P, 3\) uint8, got \(2, 8, 8\)"),
        ("crops.npy", np.zeros((3, 8, 8, 3), np.uint8), "expected points of 3 faces, got 2"),
        ("spread", np.zeros(3, np.float32), "expected spread of 2 faces, got 3"),
        ("points", np.zeros((2, 98), np.float32), r"expected points \(N, K, 2\), got \(2, 98\)"),
        ("points", np.zeros((2, 5, 2), np.float32), "expected 98 points, got 5; make the pack again"),
    ],
)
def test_error_names_what_does_not_fit_in_a_pack(tmp_path, part, content, message):
    write_shard(tmp_path / "shard", 2)
    write_pack([open_set(tmp_path / "shard")], tmp_path / "pack", 64)
    if part == "crops.npy":
        np.save(tmp_path / "pack" / part, content)
    else:
        with np.load(tmp_path / "pack" / "labels.npz") as labels:
            changed = {**labels, part: content}
        np.savez(tmp_path / "pack" / "labels.npz", **changed)
    with pytest.raises(InputError, match=f"pack: {message}"):
        open_pack(tmp_path / "pack")


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve space for a file")
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EOPNOTSUPP])
def test_full_disk_is_reported_before_any_face_is_cut(tmp_path, monkeypatch, error):
    def refuse(file, start, length):
        assert length > 3 * 64 * 64 * 3
        raise OSError(error, os.strerror(error))

    write_shard(tmp_path / "shard", 3)
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    words = ["prepare", str(tmp_path / "shard"), "-o", str(tmp_path / "pack"), "--size", "64"]
    if error == errno.ENOSPC:
        with pytest.raises(InputError, match=r"pack: the crops need 3\.69e-05 GB \(No space left"):
            data_command(words)
        assert not (tmp_path / "pack").exists()
    else:  # a file system that cannot reserve space
        assert data_command(words) == 0


def test_default_crops_fit_the_recipe_for_this_machine(tmp_path, monkeypatch, capsys):
    write_shard(tmp_path / "shard", 3)
    words = ["prepare", str(tmp_path / "shard"), "-o", str(tmp_path / "pack"), "--overwrite"]
    for gpu, size, name in ((False, 192, "student"), (True, 512, "wflw-hrnet")):
        monkeypatch.setattr("torch.cuda.is_available", lambda gpu=gpu: gpu)
        assert data_command(words) == 0
        output = capsys.readouterr().out
        assert f"3 faces of {size} px" in output
        assert f"crops for recipe {name} (the default here; see --recipe)\n" in output
    assert data_command([*words, "--recipe", "student"]) == 0
    assert "3 faces of 192 px" in capsys.readouterr().out


def test_prepare_command_replaces_a_pack_only_with_overwrite(tmp_path, capsys):
    write_shard(tmp_path / "shard", 3)
    words = ["prepare", str(tmp_path / "shard"), "-o", str(tmp_path / "pack"), "--size", "64"]
    assert data_command(words) == 0
    assert "3 faces of 64 px" in capsys.readouterr().out
    with pytest.raises(InputError, match="--overwrite"):
        data_command(words)
    assert data_command([*words, "--overwrite"]) == 0
    with pytest.raises(SystemExit, match="2"):
        data_command([*words, "--size", "7"])


def test_flipping_twice_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    points = SHAPE * 40
    once = flip(image, points)
    twice_image, twice_points = flip(*once)
    np.testing.assert_array_equal(twice_image, image)
    np.testing.assert_allclose(twice_points, points, atol=1e-4)
    assert not np.array_equal(once[0], image)


def test_flipped_point_is_the_mirror_point():
    points = SHAPE * 40
    _, flipped = flip(np.zeros((40, 50, 3), np.uint8), points)
    for one, other in enumerate(wflw.MIRROR):
        assert flipped[other] == pytest.approx([49 - points[one, 0], points[one, 1]], abs=1e-4)
    assert {(60, 72), (96, 97), (0, 32), (76, 82)} <= {(k, int(m)) for k, m in enumerate(wflw.MIRROR)}


@pytest.mark.parametrize("flip_p", [0, 1])
def test_augmented_points_stay_on_the_dots_drawn_at_them(flip_p):
    how = Augmentation(
        flip_p=flip_p, squeeze_p=0.7, color_p=0, gray_p=0, blur_p=0, downscale_p=0, noise_p=0, jpeg_p=0,
        dropout_p=0,
    )  # fmt: skip
    points = 40 + SHAPE * 110
    checked = 0
    for trial in range(60):
        which = (60, 72, 16, 54, 5, 90)[trial % 6]
        image = np.zeros((192, 192, 3), np.uint8)
        dot = tuple(round(float(value) * 16) for value in points[which])
        cv2.circle(image, dot, 3 * 16, (255, 255, 255), -1, cv2.LINE_AA, 4)
        cut, moved = augment(image, points, 128, how, np.random.default_rng(trial))
        place = moved[wflw.MIRROR[which] if flip_p else which]
        if place.min() > 6 and place.max() < 121:
            checked += 1
            assert np.linalg.norm(middle_of_dot(cut) - place) < NEAR, (trial, which)
    assert checked > 40


def test_no_augmentation_crops_the_region_of_the_points():
    points = 40 + SHAPE * 110
    image = draw_face(192, points, 0)
    _, plain = augment(image, points, 128, NO_AUGMENTATION, np.random.default_rng(0))
    region = roi_from_points(plain)
    assert (region.x, region.y, region.side) == pytest.approx((63.5, 63.5, 128), abs=1e-2)


def test_change_of_appearance_keeps_shape_and_type_and_depends_only_on_the_seed():
    image = draw_face(64, SHAPE * 60, 0)
    always = Augmentation(color_p=1, gray_p=0.5, blur_p=1, downscale_p=1, noise_p=1, jpeg_p=1, dropout_p=1)
    for seed in range(20):
        painted = change_appearance(image, always, np.random.default_rng(seed))
        assert (painted.shape, painted.dtype) == ((64, 64, 3), np.uint8)
        np.testing.assert_array_equal(painted, change_appearance(image, always, np.random.default_rng(seed)))
    np.testing.assert_array_equal(change_appearance(image, NO_AUGMENTATION, np.random.default_rng(0)), image)


def test_blur_scales_with_the_size_of_the_crop():
    how = replace(NO_AUGMENTATION, blur_p=1, downscale_p=1)
    points = np.random.default_rng(0).uniform(20, 100, (98, 2)).astype(np.float32)
    for seed in range(40):
        small, large = (
            sample_transform(points, size, how, np.random.default_rng(seed)).appearance for size in (96, 288)
        )
        assert MIN_DOWNSCALED_SIDE <= small.downscale <= 96 / 1.3
        assert MIN_DOWNSCALED_SIDE <= large.downscale <= 288 / 1.3
        if isinstance(small.blur, float):
            assert large.blur == pytest.approx(3 * small.blur)
            assert 0.005 <= small.blur / 96 <= 0.02
        else:
            assert len(large.blur) <= 0.09 * 288


def test_webcam_augmentation_shows_the_same_face_darker():
    image, dim = draw_face(128, 20 + SHAPE * 90, 1), replace(NO_AUGMENTATION, webcam_p=1)
    shown = np.stack([change_appearance(image, dim, np.random.default_rng(seed)) for seed in range(20)])
    assert shown.shape == (20, 128, 128, 3)
    assert shown.dtype == np.uint8
    assert shown.mean() < 0.85 * image.mean()
    likeness = [np.corrcoef(image.mean(-1).ravel(), one.mean(-1).ravel())[0, 1] for one in shown]
    assert min(likeness) > 0.5
    np.testing.assert_array_equal(shown[3], change_appearance(image, dim, np.random.default_rng(3)))


def test_negative_crop_has_no_points():
    image, points = draw_face(192, 40 + SHAPE * 110, 0), 40 + SHAPE * 110
    for seed in range(30):
        cut, moved = make_negative(image, points, 96, Augmentation(), np.random.default_rng(seed))
        assert (cut.shape, cut.dtype) == ((96, 96, 3), np.uint8)
        assert (moved == NO_FACE).all()


def test_yaw_estimate_is_0_for_a_centered_nose_and_has_the_sign_of_its_shift():
    points = np.zeros((3, 98, 2), np.float32)
    points[:, 72] = 100, 0
    points[:, 54] = [(50, 60), (20, 60), (130, 60)]
    np.testing.assert_allclose(yaw_estimate(points), [0, -0.6, 1.0], atol=1e-6)


def test_fit_boxes_measures_the_bias_of_a_simulated_detector(tmp_path):
    points = write_shard(tmp_path, 8)

    class BiasedDetector:
        """Return a box that is 20 % smaller than the region, and too high by 10 % of its own side."""

        faces = iter(points)

        def detect(self, canvas: np.ndarray) -> list:
            face = next(self.faces)
            region = roi_from_points(face)
            shift = (len(canvas) - 140) // 2
            side = 0.8 * region.side
            x, y = region.x + shift, region.y + shift - 0.1 * side
            return [boxes.FaceBox(x - side / 2, y - side / 2, x + side / 2, y + side / 2, 0.9)]

    found = boxes.fit_boxes([open_set(tmp_path)], BiasedDetector())
    assert found.scale.median == pytest.approx(1.25, abs=1e-3)
    assert found.down.median == pytest.approx(0.1, abs=1e-3)
    assert found.right.median == pytest.approx(0, abs=1e-3)
    assert (found.faces, found.missed) == (8, 0)


@pytest.mark.faces
def test_official_wflw_layout_of_real_faces_is_read(real_faces):
    faces = open_set(real_faces / "wflw-dev").faces
    counts = np.sum([face.attributes for face in faces], axis=0)
    assert len(faces) == 98
    assert dict(zip(wflw.ATTRIBUTES, counts.tolist(), strict=True)) == {
        "pose": 12, "expression": 14, "illumination": 39, "make-up": 9, "occlusion": 29, "blur": 44,
    }  # fmt: skip
    mirror = (real_faces / "wflw_mirror.txt").read_text().replace(",", " ").split()
    assert [int(point) for point in mirror] == wflw.MIRROR.tolist()


@pytest.mark.faces
def test_real_shard_is_packed(real_faces, tmp_path):
    shard = open_set(real_faces / "pseudo98" / "pseudo98-wflwimg-0.tar")
    assert len(shard.faces) == 1311
    assert all(face.spread > 0 for face in shard.faces)
    few = type(shard)(shard.name, shard.faces[:20], shard.read_bytes)
    pack = write_pack([few], tmp_path, 96).pack
    assert len(pack) == 20
    shutil.rmtree(tmp_path)
