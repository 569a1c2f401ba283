"""Readers of COFW, 300W and COCO files, point schemes, and the checks of a new pack."""

import json
import os
import shutil
import tarfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from canthus.runtime import wflw
from canthus.runtime.cli import main
from canthus.runtime.errors import InputError
from canthus.runtime.geometry import roi_from_points
from canthus.runtime.schemes import included_scheme
from canthus.trainer.augmentation.augment import flip
from canthus.trainer.commands.data import command
from canthus.trainer.evaluation.metrics import nme
from canthus.trainer.faces import wflw_lists
from canthus.trainer.faces.contact_sheet import TILE, write_image
from canthus.trainer.faces.formats import open_set
from canthus.trainer.faces.kinds import PointKind
from canthus.trainer.faces.pts import parse_pts
from canthus.trainer.faces.schemes import COFW, LAPA, SCHEMES, W300, WFLW, scheme_of
from canthus.trainer.faces.wflw_lists import LIST_FOLDER, SHARD_LIST, format_list_line, parse_list
from canthus.trainer.packs.pack import Findings, Pack, open_pack, write_pack
from canthus.trainer.packs.summary import asymmetry, has_swapped_sides, pack_contact_sheet, summarize_pack
from support.data_sets import SHAPES, faces, pts, write_300w, write_coco, write_cofw
from support.disk import full_disk
from support.shape import SHAPE
from support.shards import write_faces, write_shard

ONLY_POSIX = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")

LEVEL = 10.0  # % of the normalizer: asymmetry of the drawn faces, whose brows are not quite symmetric


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda one: one.name)
def test_mirroring_twice_gives_the_same_order_and_swaps_normalizer_ends_and_eyes(scheme):
    assert scheme.mirror[scheme.mirror].tolist() == list(range(scheme.points))
    for left, right in (scheme.normalizer, scheme.eyes):
        assert {int(scheme.mirror[point]) for point in left} == set(right)
    assert scheme.mirror[scheme.nose_tip] == scheme.nose_tip
    drawn = {frozenset(map(int, pair)) for chain in scheme.lines for pair in pairwise(chain)}
    assert {frozenset(int(scheme.mirror[point]) for point in pair) for pair in drawn} == drawn


@pytest.mark.parametrize("name", SHAPES)
def test_drawn_faces_are_symmetric_in_their_schemes(name):
    scheme = next(one for one in SCHEMES if one.name == name)
    assert asymmetry(SHAPES[name][None], scheme).max() < LEVEL
    reordered = np.roll(SHAPES[name], 1, axis=0)
    assert asymmetry(reordered[None], scheme).max() > 3 * LEVEL


def test_unknown_number_of_points_is_refused_and_the_known_ones_are_listed():
    with pytest.raises(InputError, match=r"5 points per face .* 98 \(WFLW\), 29 \(COFW\), 68 \(300W\)"):
        scheme_of(5)


@pytest.mark.parametrize(("scheme", "ends"), [(COFW, (8, 9)), (W300, (36, 45)), (LAPA, (66, 79)), (WFLW, (60, 72))])
def test_nme_divides_by_the_distance_between_the_outer_eye_corners(scheme, ends):
    true = np.random.default_rng(0).normal(0, 50, (2, scheme.points, 2))
    ocular = np.linalg.norm(true[:, ends[0]] - true[:, ends[1]], axis=-1)
    moved = true + np.stack([0.03 * ocular, 0 * ocular], -1)[:, None]
    np.testing.assert_allclose(nme(moved, true), 3)


@pytest.mark.parametrize("gray", [False, True])
def test_cofw_file_of_matlab_is_read(tmp_path, gray):
    points = write_cofw(tmp_path / "COFW_train_color.mat")
    one = open_set(tmp_path / "COFW_train_color.mat")
    assert one.scheme is COFW
    assert one.published_count == 1345
    np.testing.assert_allclose([face.points for face in one.faces], points, atol=1e-3)
    number = 1 if gray else 2
    _, images = faces(COFW, 6)
    known = cv2.cvtColor(images[1], cv2.COLOR_RGB2GRAY)[..., None].repeat(3, -1) if gray else images[2]
    np.testing.assert_array_equal(one.read_image(one.faces[number].image), known)
    face = one.faces[0]
    np.testing.assert_allclose(face.rect, [*points[0].min(0), *points[0].max(0)], atol=1e-3)


def test_folder_of_cofw_gives_the_requested_split(tmp_path):
    write_cofw(tmp_path / "COFW_train_color.mat", 3)
    write_cofw(tmp_path / "COFW_test_color.mat", 2, "T")
    assert len(open_set(tmp_path, "train").faces) == 3
    test = open_set(tmp_path, "test")
    assert (len(test.faces), test.published_count) == (2, 507)
    assert test.faces[0].image == "test/000001"


def test_error_names_what_is_wrong_with_a_cofw_file(tmp_path):
    path = tmp_path / "labels.mat"
    path.write_bytes(b"MATLAB 5.0 MAT-file")
    with pytest.raises(InputError, match=r"labels\.mat: not a published file of COFW \(expected MATLAB 7\.3"):
        open_set(path)
    with h5py.File(path, "w") as file:
        file.create_dataset("other", data=[1])
    with pytest.raises(InputError, match="not a published file of COFW"):
        open_set(path)
    write_cofw(path)
    complete = path.read_bytes()
    path.write_bytes(complete[: len(complete) // 2])
    with pytest.raises(InputError, match="not a published file of COFW"):
        open_set(path)
    with h5py.File(rewritten(path), "a") as file:
        del file["phisTr"]
        file["phisTr"] = np.zeros((58, 6))
    with pytest.raises(InputError, match=r"expected phisTr \(6, 87\).* got \(6, 58\)"):
        open_set(path)
    with h5py.File(rewritten(path), "a") as file:
        file["phisTr"][3, 4] = np.nan
    with pytest.raises(InputError, match="face 5 of phisTr: a coordinate is not finite"):
        open_set(path)


def rewritten(path):
    write_cofw(path)
    return path


def test_cofw_file_that_claims_too_many_images_is_refused_before_its_arrays_are_read(tmp_path):
    with h5py.File(tmp_path / "huge.mat", "w") as file:  # 700 GB that take no place on disk
        for name, rows, kind in (("IsTr", 1, h5py.ref_dtype), ("phisTr", 87, np.float64), ("bboxesTr", 4, np.float64)):
            file.create_dataset(name, (rows, 10**9), kind, chunks=(1, 1000))
    with pytest.raises(InputError, match=r"huge\.mat: expected .* for 1000000000 images, at most 1000000"):
        open_set(tmp_path / "huge.mat")


@pytest.mark.parametrize("kind", ["group", "huge image"])
def test_impossible_image_in_a_cofw_file_is_an_unreadable_image(tmp_path, kind):
    write_cofw(tmp_path / "faces.mat", 2)
    with h5py.File(tmp_path / "faces.mat", "a") as file:
        if kind == "group":
            other = file.create_group("other")
        else:
            other = file.create_dataset("other", (3, 10**6, 10**6), np.uint8, chunks=(1, 1000, 1000))
        file["IsTr"][0, 0] = other.ref
    labelled = open_set(tmp_path / "faces.mat")
    with pytest.raises(InputError, match=r"(damaged|too large)"):
        labelled.read_image(labelled.faces[0].image)
    assert labelled.read_image(labelled.faces[1].image).size


def test_300w_is_read_from_pts_files_beside_images(tmp_path):
    points = write_300w(tmp_path / "some")
    one = open_set(tmp_path, "train")
    assert (one.scheme, one.published_count) == (W300, 0)
    np.testing.assert_allclose([face.points for face in one.faces], points, atol=1e-3)
    assert one.read_image("some/face_2.png").shape == (140, 140, 3)


def test_official_folders_of_300w_give_the_official_splits(tmp_path):
    for number, part in enumerate(("afw", "helen/trainset", "lfpw/trainset", "helen/testset", "lfpw/testset", "ibug")):
        write_300w(tmp_path / part, number + 1)
    train, test = open_set(tmp_path, "train"), open_set(tmp_path, "test")
    assert (len(train.faces), train.published_count) == (1 + 2 + 3, 3148)
    assert (len(test.faces), test.published_count) == (4 + 5 + 6, 689)
    counts = np.sum([face.attributes for face in test.faces], 0)
    assert dict(zip(W300.subsets, counts.tolist(), strict=True)) == {"common": 9, "challenge": 6}
    shutil.rmtree(tmp_path / "ibug")
    with pytest.raises(InputError, match="missing: ibug"):
        open_set(tmp_path, "test")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing\n", 'line 1: expected "version: 1"'),
        (pts(SHAPES["300W"]).replace("{", "", 1), "line 1: expected"),
        (pts(SHAPES["300W"]).replace("{\n", "{\n1 2 3\n"), "line 4: expected x and y, got 3 fields"),
        (pts(SHAPES["300W"]).replace("{\n", "{\none 2\n"), "line 4: not a number"),
        (pts(SHAPES["300W"]).replace("{\n", "{\nnan 2\n"), "line 4: a coordinate is not finite"),
        (pts(SHAPES["300W"]).replace("68", "67"), "n_points is 67, but 68 points follow"),
        (pts(SHAPE[:7]), "7 points per face are not supported"),
    ],
)
def test_error_names_the_bad_line_of_a_pts_file(text, message):
    with pytest.raises(InputError, match=message):
        parse_pts(text, "face.pts")


@pytest.mark.parametrize("scheme", [WFLW, COFW, W300], ids=lambda one: one.name)
@pytest.mark.parametrize("images", ["", "images", "../images"])
def test_keypoints_in_coco_format_are_read(tmp_path, scheme, images):
    path = tmp_path / "annotations" / "faces.json"
    path.parent.mkdir()
    points = write_coco(path, scheme, 4, images)
    one = open_set(path)
    assert one.scheme is scheme
    np.testing.assert_allclose([face.points for face in one.faces], points, atol=1e-3)
    assert one.faces[0].rect == (10, 20, 110, 110)
    assert one.read_image("3.png").shape == (140, 140, 3)


def test_unlabelled_point_is_kept_as_such_inside_the_box_of_the_others(tmp_path):
    path = tmp_path / "faces.json"
    points = write_coco(path, COFW, 4)
    content = json.loads(path.read_text())
    lowest = int(points[1, :, 1].argmax())
    content["annotations"][1]["keypoints"][lowest * 3 : lowest * 3 + 3] = [0, 0, 0]
    content["annotations"][3]["keypoints"][2::3] = [0] * COFW.points
    path.write_text(json.dumps(content))
    one = open_set(path)
    assert len(one.faces) == 3  # without the face that has no label at all
    kinds = np.stack([face.kinds for face in one.faces])
    assert np.argwhere(kinds != PointKind.PLACED).tolist() == [[1, lowest]]
    assert kinds[1, lowest] == PointKind.UNLABELLED
    labelled = np.delete(one.faces[1].points, lowest, axis=0)
    for angle in (0.0, 0.7):
        assert roi_from_points(one.faces[1].points, angle) == roi_from_points(labelled, angle)
    pack, findings = write_pack([one], tmp_path / "pack", 64)
    assert "points: 86 placed, 1 unlabelled" in "\n".join(summarize_pack([one], pack, findings))
    np.testing.assert_array_equal(pack.kinds, kinds)
    assert pack_contact_sheet(pack).any()


def test_v_of_1_is_a_covered_point_if_the_file_has_visible_ones(tmp_path):
    path = tmp_path / "faces.json"
    write_coco(path, COFW, 2)
    content = json.loads(path.read_text())
    content["annotations"][0]["keypoints"][2::3] = [2] * COFW.points
    path.write_text(json.dumps(content))
    covered, visible = (face.kinds for face in open_set(path).faces[::-1])
    assert (covered == PointKind.COVERED).all()
    assert (visible == PointKind.PLACED).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("images"), "expected images"),
        (lambda c: c["annotations"][1].update(bbox=[1, 2]), r"annotation 2 \(id 1\): expected 4 numbers in bbox"),
        (lambda c: c["annotations"][1].update(image_id=99), r"annotation 2 \(id 1\): .*99"),
        (lambda c: c["annotations"][1]["keypoints"].pop(), r"annotation 2 \(id 1\): expected 87 numbers .* got 86"),
        (lambda c: c["annotations"][0]["keypoints"].__setitem__(4, "x"), r"annotation 1 \(id 0\): not a number"),
        (
            lambda c: c["annotations"][0].update(keypoints=[1, 2, 1] * 19),
            r"annotation 2 \(id 1\): expected 57 numbers .* got 87",
        ),
        (lambda c: c.update(annotations=[]), "contains no face with two labelled points"),
    ],
)
def test_error_names_the_bad_annotation_of_a_coco_file(tmp_path, change, message):
    path = tmp_path / "faces.json"
    write_coco(path, COFW, 3)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        open_set(path)


def test_error_names_the_line_of_invalid_json(tmp_path):
    (tmp_path / "faces.json").write_text('{"images": [],\n"annotations": [}\n')
    with pytest.raises(InputError, match=r"faces\.json: not valid JSON \(line 2: "):
        open_set(tmp_path / "faces.json")


def write_deep_json(folder: Path) -> Path:
    (folder / "deep.json").write_text(100_000 * "[" + 100_000 * "]")
    return folder / "deep.json"


def write_long_number(folder: Path) -> Path:
    (folder / "long.json").write_text('{"images": [' + 5000 * "9" + "]}")
    return folder / "long.json"


def write_huge_box(folder: Path) -> Path:
    return write_changed_coco(folder, lambda one: one.update(bbox=[10**400, 0, 1, 1]))


def write_huge_keypoint(folder: Path) -> Path:
    return write_changed_coco(folder, lambda one: one["keypoints"].__setitem__(0, 10**400))


def write_deep_keypoints(folder: Path) -> Path:
    return write_changed_coco(folder, lambda one: one.update(keypoints=[[[1, 2], 3], 4]))


def write_impossible_name(folder: Path) -> Path:
    path = folder / "faces.json"
    write_coco(path, COFW, 2)
    path.write_text(path.read_text().replace("0.png", "a\\u0000b.png"))
    return path


def write_changed_coco(folder: Path, change: Callable[[dict], object]) -> Path:
    path = folder / "faces.json"
    write_coco(path, COFW, 1)
    content = json.loads(path.read_text())
    change(content["annotations"][0])
    path.write_text(json.dumps(content))
    return path


def write_damaged_tar(folder: Path) -> Path:
    """A shard in a compressed tar file, of which one byte in the middle is changed."""
    write_shard(folder / "shard")
    path = folder / "shard.tar"
    with tarfile.open(path, "w:xz") as tar:
        tar.add(folder / "shard", ".")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    return path


def write_huge_coordinate(folder: Path) -> Path:
    """A shard with a coordinate that float32 cannot hold."""
    write_shard(folder / "huge", 1)
    list_file = folder / "huge" / SHARD_LIST
    list_file.write_text("1e39 " + list_file.read_text().partition(" ")[2])
    return folder / "huge"


def write_quality(folder: Path, content: str) -> Path:
    write_shard(folder / "shard", 1)
    (folder / "shard" / "quality.csv").write_text(content)
    return folder / "shard"


def write_named_points(folder: Path, name: str) -> Path:
    path = folder / "faces.json"
    write_coco(path, W300, 2)
    content = json.loads(path.read_text())
    names = [f"left_eye_{point}" if point < 34 else f"right_eye_{point - 34}" for point in range(68)]
    content["categories"] = [{"id": 1, "name": name, "keypoints": names}]
    for one in content["annotations"]:
        one["category_id"] = 1
    path.write_text(json.dumps(content))
    return path


HOSTILE: dict[str, Callable[[Path], Path]] = {
    "deep JSON": write_deep_json,
    "long number": write_long_number,
    "huge box": write_huge_box,
    "huge keypoint": write_huge_keypoint,
    "nested keypoints": write_deep_keypoints,
    "damaged tar": write_damaged_tar,
    "huge coordinate": write_huge_coordinate,
    "huge spread": lambda folder: write_quality(folder, "image,ensemble_sd\nsome/face 0.png,1e39\n"),
    "half a character": lambda folder: write_named_points(folder, "\ud800"),
    "spread not a number": lambda folder: write_quality(folder, "image,ensemble_sd\nsome/face 0.png,nan\n"),
    "quality with NUL": lambda folder: write_quality(folder, "image,ensemble_sd\n\0,0.1\n" + 200_000 * "x"),
}


@pytest.mark.parametrize("write", HOSTILE.values(), ids=HOSTILE)
def test_damaged_or_hostile_label_file_ends_prepare_in_one_line_that_names_it(tmp_path, capsys, write):
    path = write(tmp_path)
    assert main(["data", "prepare", str(path), "-o", str(tmp_path / "pack")]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"canthus data: {path}"), error
    assert error.count("\n") == 1, error
    assert not (tmp_path / "pack").exists()


def test_tar_file_that_unpacks_to_much_more_than_its_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(wflw_lists, "MIN_UNPACKED_BYTES", 1_000_000)
    write_shard(tmp_path / "shard", 2)
    with tarfile.open(tmp_path / "good.tar.xz", "w:xz") as tar:
        tar.add(tmp_path / "shard", ".")
    assert len(open_set(tmp_path / "good.tar.xz").faces) == 2
    (tmp_path / "shard" / "images" / "zeros.bin").write_bytes(bytes(20_000_000))
    with tarfile.open(tmp_path / "bomb.tar.xz", "w:xz") as tar:
        tar.add(tmp_path / "shard", ".")
    with pytest.raises(InputError, match=r"bomb\.tar\.xz: unpacks to more than .* MB"):
        open_set(tmp_path / "bomb.tar.xz")


def test_label_file_that_does_not_fit_into_memory_is_refused_by_its_size(tmp_path):
    with (tmp_path / "faces.json").open("wb") as file:
        file.truncate(10**12)  # sparse
    with pytest.raises(InputError, match=r"faces\.json: too large, 1000\.0 GB"):
        open_set(tmp_path / "faces.json")


def test_impossible_image_name_is_an_unreadable_image(tmp_path):
    path = write_impossible_name(tmp_path)
    with pytest.raises(InputError, match="1 images with 1 faces are missing or unreadable"):
        write_pack([open_set(path)], tmp_path / "pack", 64)


@ONLY_POSIX
@pytest.mark.parametrize("name", ["/dev/zero", "pipe"])
def test_image_that_is_a_device_or_a_pipe_is_unreadable(tmp_path, name):
    """It may never end."""
    write_shard(tmp_path / "shard", 1)
    os.mkfifo(tmp_path / "shard" / "images" / "pipe")
    list_file = tmp_path / "shard" / SHARD_LIST
    list_file.write_text(list_file.read_text().replace("some/face 0.png", name))
    with pytest.raises(InputError, match="is a folder, a pipe or a device"):
        open_set(tmp_path / "shard").read_image(name)


@ONLY_POSIX
def test_label_file_that_is_a_pipe_is_refused(tmp_path):
    write_300w(tmp_path, 1)
    os.mkfifo(tmp_path / "other.pts")
    with pytest.raises(InputError, match=r"other\.pts: is a folder, a pipe or a device"):
        open_set(tmp_path)


def test_byte_order_mark_of_a_label_file_is_skipped(tmp_path):
    write_shard(tmp_path / "shard", 2)
    list_file = tmp_path / "shard" / SHARD_LIST
    list_file.write_bytes(b"\xef\xbb\xbf" + list_file.read_bytes())
    assert len(open_set(tmp_path / "shard").faces) == 2


def test_parsing_undoes_formatting_of_a_list_line(tmp_path):
    write_shard(tmp_path)
    for face in open_set(tmp_path).faces:
        (parsed,) = parse_list(format_list_line(face), "list")
        np.testing.assert_allclose(parsed.points, face.points, atol=1e-3)
        assert (parsed.image, parsed.rect) == (face.image, face.rect)
        assert parsed.attributes.tolist() == face.attributes.tolist()


def test_faces_with_29_points_are_packed_and_flipped(tmp_path):
    points = write_cofw(tmp_path / "cofw.mat")
    pack = write_pack([open_set(tmp_path / "cofw.mat")], tmp_path / "pack", 96).pack
    assert pack.points.shape == (6, 29, 2)
    assert open_pack(tmp_path / "pack").points.shape == (6, 29, 2)
    size = np.ptp(points, axis=1).max(-1)
    np.testing.assert_allclose(np.ptp(pack.points, axis=1).max(-1), 96 / 1.4 / 1.25, rtol=1e-4)
    assert (size > 0).all()
    _, mirrored = flip(pack.crops[0], pack.points[0])
    np.testing.assert_allclose(mirrored[9], [95 - pack.points[0, 8, 0], pack.points[0, 8, 1]], atol=1e-4)


def test_pack_of_different_numbers_of_points_is_refused(tmp_path):
    write_cofw(tmp_path / "cofw.mat")
    write_shard(tmp_path / "shard")
    sets = [open_set(tmp_path / "cofw.mat"), open_set(tmp_path / "shard")]
    with pytest.raises(InputError, match=r"the same points \(.*29 of COFW, .*98 of WFLW; different: points\)"):
        write_pack(sets, tmp_path / "pack", 64)


def delete_images(folder, first: int, count: int) -> None:
    for number in range(first, first + count):
        (folder / "images/some" / f"face {number}.png").unlink()


def test_missing_images_stop_packing_and_are_listed(tmp_path):
    write_shard(tmp_path / "shard", 16)
    delete_images(tmp_path / "shard", 0, 12)
    with pytest.raises(InputError, match="12 images with 12 faces are missing or unreadable") as raised:
        write_pack([open_set(tmp_path / "shard")], tmp_path / "pack", 64)
    lines = str(raised.value).splitlines()
    assert "--allow-missing" in lines[0]
    assert len(lines) == 1 + 10 + 1
    assert "and 2 more" in lines[-1]
    assert len((tmp_path / "pack" / "unreadable.txt").read_text().splitlines()) == 12


def test_missing_images_are_left_out_if_allowed(tmp_path):
    write_shard(tmp_path / "shard", 6)
    whole = write_pack([open_set(tmp_path / "shard")], tmp_path / "whole", 64).pack
    delete_images(tmp_path / "shard", 1, 2)
    (tmp_path / "shard/images/some/face 4.png").write_bytes(b"not an image")
    one = open_set(tmp_path / "shard")
    pack, findings = write_pack([one], tmp_path / "pack", 64, allow_missing=True)
    np.testing.assert_array_equal(pack.crops, whole.crops[[0, 3, 5]])
    np.testing.assert_array_equal(pack.points, whole.points[[0, 3, 5]])
    assert pack.names == tuple(f"some/face {number}.png" for number in (0, 3, 5))
    text = "\n".join(summarize_pack([one], pack, findings))
    assert "left out: 3 faces, because 3 images are missing or unreadable" in text
    assert text.count("is listed but missing") == 2
    assert text.count("not a readable image") == 1
    delete_images(tmp_path / "shard", 0, 1)
    delete_images(tmp_path / "shard", 3, 1)
    delete_images(tmp_path / "shard", 5, 1)
    with pytest.raises(InputError, match="6 images"):
        write_pack([one], tmp_path / "pack", 64, allow_missing=True)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_image_file_that_is_cut_off_is_unreadable(tmp_path, suffix, capfd):
    write_shard(tmp_path)
    image = open_set(tmp_path).read_image("some/face 3.png")
    content = cv2.imencode(suffix, image)[1].tobytes()
    file = tmp_path / "images/some/face 3.png"
    file.write_bytes(content)
    assert open_set(tmp_path).read_image("some/face 3.png").shape == image.shape
    file.write_bytes(content + b"\0\0")  # padding, as some cameras write it
    assert open_set(tmp_path).read_image("some/face 3.png").shape == image.shape
    file.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(InputError, match=r"face 3\.png: not a readable image"):
        open_set(tmp_path).read_image("some/face 3.png")


def test_summary_reports_points_outside_images_and_swapped_sides(tmp_path):
    points = write_shard(tmp_path)
    one = open_set(tmp_path)
    odd = list(one.faces)
    shifted = odd[2].points + np.array([100 - points[2, :, 0].max() + 60, 0])
    odd[2] = type(odd[2])(odd[2].image, shifted.astype(np.float32), odd[2].rect, odd[2].attributes)
    odd[4] = type(odd[4])(odd[4].image, odd[4].points[WFLW.mirror], odd[4].rect, odd[4].attributes)
    changed = type(one)(one.name, tuple(odd), one.read_bytes)
    pack, findings = write_pack([changed], tmp_path / "pack", 64)
    outside = int((shifted[:, 0] > 139.5).sum())
    assert outside > 0
    text = "\n".join(summarize_pack([changed], pack, findings))
    assert f"points outside their image: {outside} of 588, on 1 faces; farthest, by 20.5 px: some/face 2.png" in text
    assert "seem to be swapped on 1 faces: some/face 4.png" in text
    assert has_swapped_sides(pack.points, WFLW).tolist() == [number == 4 for number in range(6)]
    rows = {name: getattr(pack, name)[[4]] for name in ("crops", "points", "spread", "source", "kinds", "image_boxes")}
    first = Pack(**rows, sources=pack.sources, names=(pack.names[4],), scheme=pack.scheme)
    np.testing.assert_array_equal(pack_contact_sheet(pack)[:, :TILE], pack_contact_sheet(first)[:, :TILE])
    brows = pack.points.copy()
    both = [*wflw.LEFT_BROW, *wflw.RIGHT_BROW]
    brows[1, both] = brows[1, WFLW.mirror[both]]
    assert has_swapped_sides(brows, WFLW).tolist() == [number in (1, 4) for number in range(6)]
    assert "too few faces" in text


def test_summary_reports_points_in_a_wrong_order(tmp_path):
    write_shard(tmp_path, 24)
    one = open_set(tmp_path)
    order = np.roll(np.arange(98), 5)
    reordered = tuple(type(face)(face.image, face.points[order], face.rect, face.attributes) for face in one.faces)
    changed = type(one)(one.name, reordered, one.read_bytes)
    pack = write_pack([changed], tmp_path / "pack", 64).pack
    assert "symmetry of the mean face: WRONG" in "\n".join(summarize_pack([changed], pack, Findings()))


def test_prepare_command_writes_pack_summary_and_contact_sheet(tmp_path, capsys):
    write_cofw(tmp_path / "cofw" / "COFW_train_color.mat")
    assert command(["prepare", str(tmp_path / "cofw"), "-o", str(tmp_path / "pack"), "--size", "96"]) == 0
    output = capsys.readouterr().out
    assert "6 faces of 96 px, 29 points each (COFW)" in output
    assert "the published list has 1345" in output
    assert "left and right: correct on all faces" in output
    assert "points outside their image: 0 of 174" in output
    assert (tmp_path / "pack" / "summary.txt").read_text() in output
    sheet = cv2.imread(str(tmp_path / "pack" / "sheet.png"))
    assert sheet.shape == (276, 6 * 256, 3)
    np.testing.assert_array_equal(sheet[..., ::-1], pack_contact_sheet(open_pack(tmp_path / "pack")))


def test_image_on_a_full_disk_leaves_the_one_before(tmp_path, capfd):
    write_image(tmp_path / "sheet.png", np.zeros((8, 8, 3), np.uint8))
    before = (tmp_path / "sheet.png").read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3)).astype(np.uint8)
    with full_disk(), pytest.raises(InputError, match=r"sheet\.png: cannot be written"):
        write_image(tmp_path / "sheet.png", noise)
    assert (tmp_path / "sheet.png").read_bytes() == before
    assert capfd.readouterr().err == ""


def test_prepare_command_leaves_missing_images_out_only_with_allow_missing(tmp_path, capsys):
    write_faces(tmp_path / "set", LIST_FOLDER + "/list_98pt_rect_attr_train.txt", "WFLW_images")
    (tmp_path / "set/WFLW_images/some/face 1.png").unlink()
    words = ["prepare", str(tmp_path / "set"), "-o", str(tmp_path / "pack"), "--size", "64"]
    with pytest.raises(InputError, match="1 images with 1 faces"):
        command(words)
    assert command([*words, "--allow-missing"]) == 0
    assert "5 faces of 64 px" in capsys.readouterr().out


def test_faces_with_29_points_are_prepared_trained_evaluated_and_exported(tmp_path, monkeypatch):
    export_module = pytest.importorskip("canthus.engines.commands.export")
    from canthus.trainer.commands.evaluate import command as evaluate
    from canthus.trainer.commands.train import command as train

    monkeypatch.setattr("canthus.trainer.commands.train._has_compiler", lambda: False)
    write_cofw(tmp_path / "COFW_train_color.mat", 24)
    write_cofw(tmp_path / "COFW_test_color.mat", 5, "T")
    pack, run, model = (str(tmp_path / name) for name in ("pack", "run", "cofw.onnx"))
    assert command(["prepare", str(tmp_path), "-o", pack, "--size", "64"]) == 0
    few = {"size": 32, "batch": 4, "epochs": 2, "warm_up": 2, "held_out": 3}
    settings = [word for name, value in few.items() for word in ("--set", f"{name}={value}")]
    assert train([pack, "-o", run, "--recipe", "student", *settings]) == 0
    assert export_module.command([f"{run}/best.safetensors", "-o", model]) == 0
    out = tmp_path / "out.json"
    words = ["--model", model, f"{run}/best.safetensors", "--data", str(tmp_path), "--flip", "--json", str(out)]
    assert evaluate(words) == 0
    exported, trained = json.loads(out.read_text())["results"]
    assert exported["faces"] == trained["faces"] == 5
    assert exported["nme"] == pytest.approx(trained["nme"], rel=0.05)
    assert exported["attributes"] == {}


@pytest.mark.faces
@pytest.mark.parametrize(("name", "scheme"), [("wflw", WFLW), ("cofw", COFW), ("300w", W300), ("lapa", LAPA)])
def test_labelled_samples_are_read_and_have_plausible_labels(real_faces, tmp_path, name, scheme):
    one = open_set(real_faces / "samples" / name / f"test_{name}.json")
    assert one.scheme is scheme
    assert len(one.faces) >= 2
    pack, findings = write_pack([one], tmp_path / "pack", 192)
    assert not has_swapped_sides(pack.points, scheme).any()
    assert not np.any(findings.outside)
    true = np.array([face.points for face in one.faces])
    np.testing.assert_allclose(nme(true, true), 0)


@pytest.mark.faces
def test_the_one_wflw_face_with_swapped_brows_is_found(real_faces):
    faces = open_set(real_faces / "wflw-dev").faces
    found = np.flatnonzero(has_swapped_sides(np.stack([face.points for face in faces]), WFLW))
    assert [faces[row].image for row in found] == ["12--Group/12_Group_Group_12_Group_Group_12_358.jpg"]


@pytest.mark.faces
@pytest.mark.parametrize("name", ["wflw", "300w", "cofw", "lapa", "aflw"])
def test_samples_have_the_scheme_of_their_set(real_faces, name):
    assert open_set(real_faces / "samples" / name / f"test_{name}.json").scheme is included_scheme(name)
