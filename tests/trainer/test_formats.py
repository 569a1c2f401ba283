"""Other data sets: how each marks a face, its own files, and the checks before they become a pack."""

import json
import shutil
from itertools import pairwise

import cv2
import h5py
import numpy as np
import pytest

from canthus.runtime import wflw
from canthus.runtime.errors import InputError
from canthus.runtime.geometry import roll_from_points
from canthus.trainer.augmentation.augment import flip
from canthus.trainer.commands.data import command
from canthus.trainer.evaluation.metrics import nme
from canthus.trainer.faces.contact_sheet import TILE
from canthus.trainer.faces.formats import LIST_FOLDER, format_list_line, open_set, parse_list, parse_pts
from canthus.trainer.faces.schemes import COFW, LAPA, SCHEMES, W300, WFLW, scheme_of
from canthus.trainer.packs.pack import Findings, Pack, open_pack, write_pack
from canthus.trainer.packs.summary import asymmetry, has_swapped_sides, pack_contact_sheet, summarize_pack
from support.data_sets import SHAPES, faces, pts, write_300w, write_coco, write_cofw
from support.shape import SHAPE
from support.shards import write_faces, write_shard

LEVEL = 10.0  # % of the ruler: a made-up face and its mirror image, whose brows are crude


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda one: one.name)
def test_a_mirror_undoes_itself_and_swaps_the_ruler_and_the_eyes(scheme):
    assert scheme.mirror[scheme.mirror].tolist() == list(range(scheme.points))
    for left, right in (scheme.normalizer, scheme.eyes):
        assert {int(scheme.mirror[point]) for point in left} == set(right)
    assert scheme.mirror[scheme.nose] == scheme.nose
    drawn = {frozenset(map(int, pair)) for chain in scheme.lines for pair in pairwise(chain)}
    assert {frozenset(int(scheme.mirror[point]) for point in pair) for pair in drawn} == drawn


def test_wflw_is_the_runtime_s():
    assert WFLW.mirror.tolist() == wflw.MIRROR.tolist()
    turned = SHAPE @ np.array([[0.9, 0.3], [-0.3, 0.9]], np.float32)
    assert WFLW.roll(turned) == roll_from_points(turned) != 0


@pytest.mark.parametrize("name", SHAPES)
def test_the_made_up_faces_fit_their_schemes(name):
    scheme = next(one for one in SCHEMES if one.name == name)
    assert asymmetry(SHAPES[name][None], scheme).max() < LEVEL
    mixed = np.roll(SHAPES[name], 1, axis=0)
    assert asymmetry(mixed[None], scheme).max() > 3 * LEVEL


def test_an_unknown_number_of_points_is_refused_with_those_known():
    with pytest.raises(InputError, match=r"5 points .* 98 \(WFLW\), 29 \(COFW\), 68 \(300W\)"):
        scheme_of(5)


@pytest.mark.parametrize(("scheme", "ends"), [(COFW, (8, 9)), (W300, (36, 45)), (LAPA, (66, 79)), (WFLW, (60, 72))])
def test_errors_are_divided_by_the_distance_of_the_outer_eye_corners(scheme, ends):
    true = np.random.default_rng(0).normal(0, 50, (2, scheme.points, 2))
    ocular = np.linalg.norm(true[:, ends[0]] - true[:, ends[1]], axis=-1)
    moved = true + np.stack([0.03 * ocular, 0 * ocular], -1)[:, None]
    np.testing.assert_allclose(nme(moved, true), 3)


@pytest.mark.parametrize("grey", [False, True])
def test_cofw_is_read_as_matlab_wrote_it(tmp_path, grey):
    points = write_cofw(tmp_path / "COFW_train_color.mat")
    one = open_set(tmp_path / "COFW_train_color.mat")
    assert one.scheme is COFW
    assert one.published == 1345
    np.testing.assert_allclose([face.points for face in one.faces], points, atol=1e-3)
    number = 1 if grey else 2
    _, pictures = faces(COFW, 6)
    shown = cv2.cvtColor(pictures[1], cv2.COLOR_RGB2GRAY)[..., None].repeat(3, -1) if grey else pictures[2]
    np.testing.assert_array_equal(one.image(one.faces[number].image), shown)
    face = one.faces[0]
    np.testing.assert_allclose(face.rect, [*points[0].min(0), *points[0].max(0)], atol=1e-3)


def test_cofw_s_folder_gives_the_split_asked_for(tmp_path):
    write_cofw(tmp_path / "COFW_train_color.mat", 3)
    write_cofw(tmp_path / "COFW_test_color.mat", 2, "T")
    assert len(open_set(tmp_path, "train").faces) == 3
    test = open_set(tmp_path, "test")
    assert (len(test.faces), test.published) == (2, 507)
    assert test.faces[0].image == "test/000001"


def test_a_file_that_is_not_cofw_s_says_why(tmp_path):
    path = tmp_path / "labels.mat"
    path.write_bytes(b"MATLAB 5.0 MAT-file")
    with pytest.raises(InputError, match=r"labels\.mat: not COFW's file as published, MATLAB 7.3"):
        open_set(path)
    with h5py.File(path, "w") as file:
        file.create_dataset("other", data=[1])
    with pytest.raises(InputError, match="not COFW's file"):
        open_set(path)
    write_cofw(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not COFW's file"):
        open_set(path)
    with h5py.File(write_and(path), "a") as file:
        del file["phisTr"]
        file["phisTr"] = np.zeros((58, 6))
    with pytest.raises(InputError, match=r"phisTr \(6, 87\).* got \(6, 58\)"):
        open_set(path)
    with h5py.File(write_and(path), "a") as file:
        file["phisTr"][3, 4] = np.nan
    with pytest.raises(InputError, match="face 5 of phisTr: a coordinate is not finite"):
        open_set(path)


def write_and(path):
    write_cofw(path)
    return path


def test_300w_is_read_from_the_files_beside_its_pictures(tmp_path):
    points = write_300w(tmp_path / "some")
    one = open_set(tmp_path, "train")
    assert (one.scheme, one.published) == (W300, 0)
    np.testing.assert_allclose([face.points for face in one.faces], points, atol=1e-3)
    assert one.image("some/face_2.png").shape == (140, 140, 3)


def test_300w_s_official_folders_make_the_official_lists(tmp_path):
    for number, part in enumerate(("afw", "helen/trainset", "lfpw/trainset", "helen/testset", "lfpw/testset", "ibug")):
        write_300w(tmp_path / part, number + 1)
    train, test = open_set(tmp_path, "train"), open_set(tmp_path, "test")
    assert (len(train.faces), train.published) == (1 + 2 + 3, 3148)
    assert (len(test.faces), test.published) == (4 + 5 + 6, 689)
    marks = np.sum([face.attributes for face in test.faces], 0)
    assert dict(zip(W300.subsets, marks.tolist(), strict=True)) == {"common": 9, "challenge": 6}
    shutil.rmtree(tmp_path / "ibug")
    with pytest.raises(InputError, match="missing: ibug"):
        open_set(tmp_path, "test")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nothing\n", 'line 1: expected "version: 1"'),
        (pts(SHAPES["300W"]).replace("{", "", 1), "line 1: expected"),
        (pts(SHAPES["300W"]).replace("{\n", "{\n1 2 3\n"), "line 4: expected x and y, got 3 fields"),
        (pts(SHAPES["300W"]).replace("{\n", "{\none 2\n"), "line 4: not a number"),
        (pts(SHAPES["300W"]).replace("{\n", "{\nnan 2\n"), "line 4: a coordinate is not finite"),
        (pts(SHAPES["300W"]).replace("68", "67"), "n_points tells 67, and 68 points follow"),
        (pts(SHAPE[:7]), "7 points a face"),
    ],
)
def test_a_bad_pts_file_says_where(text, why):
    with pytest.raises(InputError, match=why):
        parse_pts(text, "face.pts")


@pytest.mark.parametrize("scheme", [WFLW, COFW, W300], ids=lambda one: one.name)
@pytest.mark.parametrize("images", ["", "images", "../images"])
def test_keypoints_in_coco_s_form_are_read(tmp_path, scheme, images):
    path = tmp_path / "annotations" / "faces.json"
    path.parent.mkdir()
    points = write_coco(path, scheme, 4, images)
    one = open_set(path)
    assert one.scheme is scheme
    np.testing.assert_allclose([face.points for face in one.faces], points, atol=1e-3)
    assert one.faces[0].rect == (10, 20, 110, 110)
    assert one.image("3.png").shape == (140, 140, 3)


def test_a_face_with_a_point_that_nobody_labelled_is_left_out_and_counted(tmp_path):
    path = tmp_path / "faces.json"
    write_coco(path, COFW, 4)
    content = json.loads(path.read_text())
    content["annotations"][1]["keypoints"][5 * 3 + 2] = 0
    path.write_text(json.dumps(content))
    one = open_set(path)
    assert (len(one.faces), one.left_out) == (3, 1)
    pack, findings = write_pack([one], tmp_path / "pack", 64)
    assert "1 more have points that nobody labelled" in "\n".join(summarize_pack([one], pack, findings))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda c: c.pop("images"), "expected images"),
        (lambda c: c["annotations"][1].pop("bbox"), r"annotation 2 \(id 1\): expected image_id .* bbox"),
        (lambda c: c["annotations"][1].update(image_id=99), r"annotation 2 \(id 1\): .*99"),
        (lambda c: c["annotations"][1]["keypoints"].pop(), r"annotation 2 \(id 1\): expected 87 numbers .* got 86"),
        (lambda c: c["annotations"][0]["keypoints"].__setitem__(4, "x"), r"annotation 1 \(id 0\): not a number"),
        (lambda c: c["annotations"][0].update(keypoints=[1, 2, 1] * 19), r"annotation 1 \(id 0\): .*19 points a face"),
        (lambda c: c.update(annotations=[]), "holds no face"),
    ],
)
def test_bad_keypoints_say_where(tmp_path, change, why):
    path = tmp_path / "faces.json"
    write_coco(path, COFW, 3)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=why):
        open_set(path)


def test_broken_json_is_told_by_its_line(tmp_path):
    (tmp_path / "faces.json").write_text('{"images": [],\n"annotations": [}\n')
    with pytest.raises(InputError, match=r"faces\.json, line 2: no json"):
        open_set(tmp_path / "faces.json")


def test_a_written_line_is_read_back(tmp_path):
    write_shard(tmp_path)
    for face in open_set(tmp_path).faces:
        (again,) = parse_list(format_list_line(face), "list")
        np.testing.assert_allclose(again.points, face.points, atol=1e-3)
        assert (again.image, again.rect) == (face.image, face.rect)
        assert again.attributes.tolist() == face.attributes.tolist()


def test_faces_of_another_number_of_points_are_packed_and_flipped(tmp_path):
    points = write_cofw(tmp_path / "cofw.mat")
    pack = write_pack([open_set(tmp_path / "cofw.mat")], tmp_path / "pack", 96).pack
    assert pack.points.shape == (6, 29, 2)
    assert open_pack(tmp_path / "pack").points.shape == (6, 29, 2)
    size = np.ptp(points, axis=1).max(-1)
    np.testing.assert_allclose(np.ptp(pack.points, axis=1).max(-1), 96 / 1.4 / 1.25, rtol=1e-4)
    assert (size > 0).all()
    _, mirrored = flip(pack.crops[0], pack.points[0])
    np.testing.assert_allclose(mirrored[9], [95 - pack.points[0, 8, 0], pack.points[0, 8, 1]], atol=1e-4)


def test_a_pack_holds_one_number_of_points(tmp_path):
    write_cofw(tmp_path / "cofw.mat")
    write_shard(tmp_path / "shard")
    sets = [open_set(tmp_path / "cofw.mat"), open_set(tmp_path / "shard")]
    with pytest.raises(InputError, match=r"one number of points \(.*29, .*98\)"):
        write_pack(sets, tmp_path / "pack", 64)


def spoil(folder, first: int, count: int) -> None:
    for number in range(first, first + count):
        (folder / "images/some" / f"face {number}.png").unlink()


def test_missing_pictures_are_counted_and_listed_and_stop_the_packing(tmp_path):
    write_shard(tmp_path / "shard", 16)
    spoil(tmp_path / "shard", 0, 12)
    with pytest.raises(InputError, match="12 pictures with 12 faces are missing or unreadable") as told:
        write_pack([open_set(tmp_path / "shard")], tmp_path / "pack", 64)
    lines = str(told.value).splitlines()
    assert "--allow-missing" in lines[0]
    assert len(lines) == 1 + 10 + 1
    assert "and 2 more" in lines[-1]
    assert len((tmp_path / "pack" / "unreadable.txt").read_text().splitlines()) == 12


def test_missing_pictures_are_left_out_when_allowed(tmp_path):
    write_shard(tmp_path / "shard", 6)
    whole = write_pack([open_set(tmp_path / "shard")], tmp_path / "whole", 64).pack
    spoil(tmp_path / "shard", 1, 2)
    (tmp_path / "shard/images/some/face 4.png").write_bytes(b"no picture")
    one = open_set(tmp_path / "shard")
    pack, findings = write_pack([one], tmp_path / "pack", 64, allow_missing=True)
    np.testing.assert_array_equal(pack.crops, whole.crops[[0, 3, 5]])
    np.testing.assert_array_equal(pack.points, whole.points[[0, 3, 5]])
    assert pack.names == tuple(f"some/face {number}.png" for number in (0, 3, 5))
    told = "\n".join(summarize_pack([one], pack, findings))
    assert "left out: 3 faces, whose 3 pictures are missing or unreadable" in told
    assert told.count("is listed but missing") == 2
    assert told.count("not a readable picture") == 1
    spoil(tmp_path / "shard", 0, 1)
    spoil(tmp_path / "shard", 3, 1)
    spoil(tmp_path / "shard", 5, 1)
    with pytest.raises(InputError, match="6 pictures"):
        write_pack([one], tmp_path / "pack", 64, allow_missing=True)


@pytest.mark.parametrize("ending", [".jpg", ".png"])
def test_a_picture_cut_short_is_unreadable(tmp_path, ending, capfd):
    write_shard(tmp_path)
    image = open_set(tmp_path).image("some/face 3.png")
    content = cv2.imencode(ending, image)[1].tobytes()
    place = tmp_path / "images/some/face 3.png"
    place.write_bytes(content)
    assert open_set(tmp_path).image("some/face 3.png").shape == image.shape
    place.write_bytes(content + b"\0\0")  # some cameras fill up their files
    assert open_set(tmp_path).image("some/face 3.png").shape == image.shape
    place.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(InputError, match=r"face 3\.png is not a readable picture"):
        open_set(tmp_path).image("some/face 3.png")


def test_points_outside_their_picture_and_swapped_sides_are_told(tmp_path):
    points = write_shard(tmp_path)
    one = open_set(tmp_path)
    odd = list(one.faces)
    shifted = odd[2].points + np.array([100 - points[2, :, 0].max() + 60, 0])
    odd[2] = type(odd[2])(odd[2].image, shifted.astype(np.float32), odd[2].rect, odd[2].attributes)
    odd[4] = type(odd[4])(odd[4].image, odd[4].points[WFLW.mirror], odd[4].rect, odd[4].attributes)
    changed = type(one)(one.name, tuple(odd), one.read)
    pack, findings = write_pack([changed], tmp_path / "pack", 64)
    outside = int((shifted[:, 0] > 139.5).sum())
    assert outside > 0
    told = "\n".join(summarize_pack([changed], pack, findings))
    assert f"points outside their picture: {outside} of 588, on 1 faces; farthest, by 20.5 px: some/face 2.png" in told
    assert "seem swapped on 1 faces: some/face 4.png" in told
    assert has_swapped_sides(pack.points, WFLW).tolist() == [number == 4 for number in range(6)]
    first = Pack(pack.crops[[4]], pack.points[[4]], pack.spread[[4]], pack.source[[4]], pack.sources, (pack.names[4],))
    np.testing.assert_array_equal(pack_contact_sheet(pack)[:, :TILE], pack_contact_sheet(first)[:, :TILE])
    brows = pack.points.copy()
    both = [*wflw.LEFT_BROW, *wflw.RIGHT_BROW]
    brows[1, both] = brows[1, WFLW.mirror[both]]
    assert has_swapped_sides(brows, WFLW).tolist() == [number in (1, 4) for number in range(6)]
    assert "too few faces" in told


def test_points_in_another_order_are_told_by_the_mean_face(tmp_path):
    write_shard(tmp_path, 24)
    one = open_set(tmp_path)
    order = np.roll(np.arange(98), 5)
    mixed = tuple(type(face)(face.image, face.points[order], face.rect, face.attributes) for face in one.faces)
    changed = type(one)(one.name, mixed, one.read)
    pack = write_pack([changed], tmp_path / "pack", 64).pack
    assert "DISAGREE" in "\n".join(summarize_pack([changed], pack, Findings()))


def test_the_command_packs_checks_and_shows(tmp_path, capsys):
    write_cofw(tmp_path / "cofw" / "COFW_train_color.mat")
    assert command(["prepare", str(tmp_path / "cofw"), "-o", str(tmp_path / "pack"), "--size", "96"]) == 0
    told = capsys.readouterr().out
    assert "6 faces of 96 px, 29 points each (COFW)" in told
    assert "the published list has 1345" in told
    assert "left and right: as they should be" in told
    assert "points outside their picture: 0 of 174" in told
    assert (tmp_path / "pack" / "summary.txt").read_text() in told
    sheet = cv2.imread(str(tmp_path / "pack" / "sheet.png"))
    assert sheet.shape == (276, 6 * 256, 3)
    np.testing.assert_array_equal(sheet[..., ::-1], pack_contact_sheet(open_pack(tmp_path / "pack")))


def test_the_command_goes_on_without_missing_pictures_only_when_told(tmp_path, capsys):
    write_faces(tmp_path / "set", LIST_FOLDER + "/list_98pt_rect_attr_train.txt", "WFLW_images")
    (tmp_path / "set/WFLW_images/some/face 1.png").unlink()
    words = ["prepare", str(tmp_path / "set"), "-o", str(tmp_path / "pack"), "--size", "64"]
    with pytest.raises(InputError, match="1 pictures with 1 faces"):
        command(words)
    assert command([*words, "--allow-missing"]) == 0
    assert "5 faces of 64 px" in capsys.readouterr().out


def test_faces_of_29_points_go_all_the_way_to_a_model(tmp_path, monkeypatch):
    """data prepare, train, eval and export, as a user types them."""
    export_module = pytest.importorskip("canthus.engines.export")
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
def test_the_labelled_samples_are_read_and_make_sense(real_faces, tmp_path, name, scheme):
    one = open_set(real_faces / "samples" / name / f"test_{name}.json")
    assert one.scheme is scheme
    assert len(one.faces) >= 2
    pack, findings = write_pack([one], tmp_path / "pack", 192)
    assert not has_swapped_sides(pack.points, scheme).any()
    assert not np.any(findings.outside)
    true = np.array([face.points for face in one.faces])
    np.testing.assert_allclose(nme(true, true), 0)


@pytest.mark.faces
def test_the_one_face_with_swapped_brows_is_found(real_faces):
    faces = open_set(real_faces / "wflw-dev").faces
    found = np.flatnonzero(has_swapped_sides(np.stack([face.points for face in faces]), WFLW))
    assert [faces[row].image for row in found] == ["12--Group/12_Group_Group_12_Group_Group_12_358.jpg"]


@pytest.mark.faces
def test_a_sample_of_a_set_that_is_not_known_says_which_are(real_faces):
    with pytest.raises(InputError, match="19 points a face"):
        open_set(real_faces / "samples" / "aflw" / "test_aflw.json")
