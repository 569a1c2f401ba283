"""Keypoints in COCO format as labelling tools and scripts write them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from canthus.runtime.errors import InputError
from canthus.runtime.schemes import Scheme
from canthus.trainer.faces.contact_sheet import draw_points
from canthus.trainer.faces.formats import open_set
from canthus.trainer.faces.kinds import PointKind
from canthus.trainer.packs.pack import write_pack
from canthus.trainer.packs.summary import summarize_pack
from support.own_points import PLACES, write_own_points

HAND = {"id": 7, "name": "hand", "keypoints": ["wrist", "thumb"]}


def rewrite(path: Path, change: Callable[[dict], object]) -> Path:
    """Apply `change` to the content of the file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def of_annotations(change: Callable[[dict], object]) -> Callable[[dict], object]:
    """Return a change of each annotation."""
    return lambda content: [change(one) for one in content["annotations"]]


@pytest.mark.parametrize(
    "change",
    [
        of_annotations(lambda one: one.update(image_id=str(one["image_id"]))),
        of_annotations(lambda one: one.update(image_id=float(one["image_id"]))),
        of_annotations(lambda one: one.update(keypoints=[str(value) for value in one["keypoints"]])),
        of_annotations(lambda one: one.update(keypoints=np.reshape(one["keypoints"], (-1, 3)).tolist())),
        of_annotations(lambda one: one.update(segmentation=[], bbox=[])),
        of_annotations(lambda one: one.pop("bbox")),
        lambda content: content.update(categories=content["categories"][0]),
    ],
    ids=["text ids", "float ids", "text numbers", "nested", "empty bbox", "no bbox", "one category"],
)
def test_another_spelling_gives_the_same_faces(change, tmp_path):
    path = write_own_points(tmp_path)
    before = open_set(path)
    after = open_set(rewrite(path, change))
    assert after.scheme == before.scheme
    for one, other in zip(before.faces, after.faces, strict=True):
        np.testing.assert_array_equal(one.points, other.points)
        assert one.image == other.image


def test_the_box_of_a_face_without_bbox_is_that_of_its_labelled_points(tmp_path):
    path = rewrite(write_own_points(tmp_path), of_annotations(lambda one: one.pop("bbox")))
    rewrite(path, lambda content: content["annotations"][0]["keypoints"].__setitem__(slice(21, 24), [0, 0, 0]))
    without_chin, whole = open_set(path).faces[:2]
    assert without_chin.rect == (30, 40, 70, 75)
    assert whole.rect == (31, 40, 71, 95)


@pytest.mark.parametrize(
    ("labels", "images", "written"),
    [
        ("mine.json", "images", "images/{}"),
        ("mine.json", "train/a", "train\\a\\{}"),
        ("annotations/person_keypoints_default.json", "images/default", "{}"),
        ("annotations/person_keypoints_train2017.json", "train2017", "{}"),
        ("mine.json", "images", "/data/upload/1/{}"),
        ("mine.json", ".", "C:\\labels\\{}"),
    ],
)
def test_images_are_found_where_tools_put_them(labels, images, written, tmp_path):
    path = write_own_points(tmp_path)
    (tmp_path / labels).parent.mkdir(exist_ok=True)
    path = path.rename(tmp_path / labels)
    (tmp_path / images).mkdir(parents=True, exist_ok=True)
    for image in tmp_path.glob("*.png"):
        image.rename(tmp_path / images / image.name)
    rewrite(path, lambda content: [one.update(file_name=written.format(one["file_name"])) for one in content["images"]])
    found = open_set(path)
    assert [found.read_image(face.image).shape for face in found.faces] == 3 * [(120, 120, 3)]


def test_images_of_one_name_in_two_folders_keep_their_folders(tmp_path):
    path = write_own_points(tmp_path)
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        (tmp_path / f"{number}.png").rename(tmp_path / str(number) / "face.png")
    rewrite(path, lambda content: [one.update(file_name=f"{one['id']}/face.png") for one in content["images"]])
    assert [face.image for face in open_set(path).faces] == ["0/face.png", "1/face.png", "2/face.png"]


def test_a_missing_first_image_does_not_hide_the_others(tmp_path):
    (tmp_path / "images").mkdir()
    path = write_own_points(tmp_path)
    for image in tmp_path.glob("[12].png"):
        image.rename(tmp_path / "images" / image.name)
    (tmp_path / "0.png").unlink()
    found = open_set(path)
    assert found.read_image("1.png").shape == (120, 120, 3)
    with pytest.raises(InputError, match=r"the image 0\.png is listed but missing"):
        found.read_image("0.png")


def test_a_file_without_any_of_its_images_is_one_line_that_names_the_folders(tmp_path):
    path = write_own_points(tmp_path)
    for image in tmp_path.glob("*.png"):
        image.unlink()
    with pytest.raises(
        InputError, match=r"none of its images was found, such as 0\.png \(searched in .*images"
    ) as caught:
        open_set(path)
    assert "\n" not in str(caught.value)


def test_annotations_without_keypoints_are_left_out(tmp_path, caplog):
    path = write_own_points(tmp_path)
    extra = [{"id": 8, "image_id": 1, "bbox": [0, 0, 5, 5]}, {"id": 9, "image_id": 1, "keypoints": []}]
    rewrite(path, lambda content: content["annotations"].extend(extra))
    assert len(open_set(path).faces) == 3
    assert "left out of" in caplog.text
    assert "2 annotations" in caplog.text


@pytest.mark.parametrize("place", [0, 1])
def test_the_category_face_counts_among_several_with_keypoints(place, tmp_path):
    path = write_own_points(tmp_path)
    hand = {"id": 5, "image_id": 0, "category_id": 7, "keypoints": [1, 2, 2, 3, 4, 2], "bbox": [0, 0, 5, 5]}
    rewrite(path, of_annotations(lambda one: one.update(category_id=1)))
    rewrite(path, lambda c: (c["categories"].insert(place, HAND), c["annotations"].insert(0, hand)))
    one = open_set(path)
    assert (len(one.faces), one.scheme.names) == (3, tuple(PLACES))
    rewrite(path, lambda content: content["categories"][1 - place].update(name="animal"))
    with pytest.raises(InputError, match=r"several categories .*(animal \(3\)|hand \(1\)).*keep those of one"):
        open_set(path)


def test_categories_with_the_same_keypoints_are_one_set(tmp_path):
    path = write_own_points(tmp_path)
    rewrite(path, lambda content: content["categories"].append({**content["categories"][0], "id": 2, "name": "child"}))
    rewrite(path, of_annotations(lambda one: one.update(category_id=1 + one["image_id"] % 2)))
    assert len(open_set(path).faces) == 3


def test_coordinates_without_v_are_named_by_the_number_of_names(tmp_path):
    path = write_own_points(tmp_path, places={**PLACES, "forehead": (50, 20), "mole": (45, 70)})
    rewrite(path, of_annotations(lambda one: one["keypoints"].__delitem__(slice(2, None, 3))))
    with pytest.raises(InputError, match=r"expected 30 numbers \(x, y, v of 10 points\), got 20"):
        open_set(path)


@pytest.mark.parametrize("keypoints", [[5, 5, 2] + [0, 0, 0] * 7, [5, 5, 2] * 8], ids=["one point", "one place"])
def test_a_face_without_two_labelled_points_has_no_region_and_is_left_out(keypoints, tmp_path, caplog):
    path = rewrite(write_own_points(tmp_path), lambda content: content["annotations"][0].update(keypoints=keypoints))
    assert len(open_set(path).faces) == 2
    assert "1 annotations that are no face with two labelled points" in caplog.text


@pytest.mark.parametrize("v", [-1, 3, 0.9])
def test_another_v_than_0_1_and_2_is_an_error(v, tmp_path):
    path = rewrite(write_own_points(tmp_path), of_annotations(lambda one: one["keypoints"].__setitem__(5, v)))
    with pytest.raises(InputError, match=rf"annotation 1 .*: v is {v} \(expected 0, 1 or 2\)"):
        open_set(path)


def test_two_images_with_one_id_are_an_error(tmp_path):
    path = rewrite(write_own_points(tmp_path), lambda content: content["images"][2].update(id=0))
    with pytest.raises(InputError, match=r"two images have the id 0: 0\.png and 2\.png"):
        open_set(path)


def test_the_summary_names_points_that_no_face_has(tmp_path):
    path = write_own_points(tmp_path)
    rewrite(path, of_annotations(lambda one: one["keypoints"].__setitem__(slice(21, 24), [0, 0, 0])))
    one = open_set(path)
    pack, findings = write_pack([one], tmp_path / "pack", 64)
    assert "  never labelled, so not learned: chin (1 points)" in summarize_pack([one], pack, findings)


def test_lines_to_unlabelled_points_are_not_drawn():
    scheme = Scheme("three", 3, lines=((0, 1, 2),))
    points = np.array([[2, 16], [np.nan, np.nan], [30, 16]])
    drawn = draw_points(np.zeros((32, 32, 3), np.uint8), points, scheme, (255, 255, 255))
    assert not drawn[:, 8:24].any()
    assert drawn[16, 2].all()


def test_the_summary_does_not_claim_to_have_checked_faces_that_lack_points(tmp_path):
    path = write_own_points(tmp_path)
    rewrite(path, of_annotations(lambda one: one["keypoints"].__setitem__(slice(21, 24), [0, 0, 0])))
    one = open_set(path)
    assert all(face.kinds[7] == PointKind.UNLABELLED for face in one.faces)
    pack, findings = write_pack([one], tmp_path / "pack", 64)
    text = "\n".join(summarize_pack([one], pack, findings))
    assert "left and right: not checked" in text
    assert "correct on" not in text


def test_the_summary_says_how_many_faces_it_checked(tmp_path):
    path = write_own_points(tmp_path)
    rewrite(path, lambda content: content["annotations"][0]["keypoints"].__setitem__(slice(21, 24), [0, 0, 0]))
    one = open_set(path)
    pack, findings = write_pack([one], tmp_path / "pack", 64)
    assert "  left and right: correct on the 2 faces with labels at all points" in summarize_pack([one], pack, findings)
