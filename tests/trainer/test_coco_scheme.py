"""The scheme of keypoints in COCO format: an included one, from the file's names and skeleton, or from a TOML file."""

import json

import numpy as np
import pytest

from canthus.runtime.errors import InputError
from canthus.runtime.schemes import Scheme
from canthus.trainer.augmentation.augment import flip
from canthus.trainer.faces.formats import open_set
from canthus.trainer.faces.kinds import PointKind
from canthus.trainer.faces.schemes import COFW
from canthus.trainer.packs.batches import Batches
from canthus.trainer.packs.pack import open_pack, write_pack
from canthus.trainer.recipe import Recipe, change
from support.own_points import PLACES, write_own_points


def test_names_and_skeleton_make_a_scheme(tmp_path):
    scheme = open_set(write_own_points(tmp_path)).scheme
    assert (scheme.name, scheme.points, scheme.names) == ("face", 8, tuple(PLACES))
    assert scheme.mirror.tolist() == [3, 2, 1, 0, 4, 6, 5, 7]
    assert scheme.eyes == ((0, 1), (3, 2))  # of the image
    assert scheme.normalizer == ((0,), (3,))
    assert scheme.nose_tip == 4
    assert scheme.lines == ((0, 1), (2, 3), (5, 6))
    assert scheme.regions["left_eye"] == (0, 1)
    assert scheme.regions["lips"] == (5, 6)


@pytest.mark.parametrize("style", ["LeftEye", "l_eye", "lefteye", "eye.left"])
def test_left_and_right_are_found_in_any_style_of_names(style, tmp_path):
    other = {"LeftEye": "RightEye", "l_eye": "r_eye", "lefteye": "righteye", "eye.left": "eye.right"}[style]
    scheme = open_set(write_own_points(tmp_path, places={style: (30, 40), other: (70, 40), "nose": (50, 60)})).scheme
    assert scheme.mirror_pairs == ((0, 1),)
    assert scheme.eyes == ((0,), (1,))
    assert scheme.nose_tip == 2


def test_flip_pairs_replace_the_names(tmp_path):
    places = {f"eye {number}": place for number, place in enumerate(PLACES.values())}
    for pairs in ([[0, 3], [1, 2]], [["eye 0", "eye 3"], ["eye 1", "eye 2"]]):
        path = write_own_points(tmp_path, category={"keypoints": list(places), "flip_pairs": pairs}, places=places)
        assert open_set(path).scheme.mirror_pairs == ((0, 3), (1, 2))


def test_a_skeleton_that_counts_from_0_is_understood_and_lines_are_joined(tmp_path):
    category = {"keypoints": list(PLACES), "skeleton": [[0, 1], [1, 4], [4, 2], [5, 6]]}
    assert open_set(write_own_points(tmp_path, category=category)).scheme.lines == ((0, 1, 4, 2), (5, 6))


def test_a_skeleton_may_name_points(tmp_path):
    for skeleton in ([["right_eye_outer", "chin"], ["chin", "nose_tip"]], [["1", "8"], ["8", "5"]]):
        category = {"keypoints": list(PLACES), "skeleton": skeleton}
        assert open_set(write_own_points(tmp_path, category=category)).scheme.lines == ((0, 7, 4),)


GERMAN = dict(zip(["raa", "rai", "lai", "laa", "Nase", "rm", "lm", "Kinn"], PLACES.values(), strict=True))


def test_names_in_another_language_need_a_toml_file_that_may_use_them(tmp_path):
    path = write_own_points(tmp_path, places=GERMAN)
    with pytest.raises(
        InputError, match=r"mirror_pairs in a \.toml.*write mine\.toml beside mine\.json, such as mirror_pai"
    ):
        open_set(path)
    path.with_suffix(".toml").write_text(
        'mirror_pairs = [["raa", "laa"], ["rai", "lai"], ["rm", "lm"]]\neyes = [["rai", "raa"], ["lai", "laa"]]\n'
        'nose_tip = "Nase"\nlines = [["rm", "lm"]]\n[regions]\ncontour = ["Kinn"]\n'
    )
    scheme = open_set(path).scheme
    assert scheme.mirror.tolist() == [3, 2, 1, 0, 4, 6, 5, 7]
    assert scheme.eyes == ((1, 0), (2, 3))
    assert scheme.normalizer == ((0,), (3,))  # the outer pair of the eyes
    assert (scheme.nose_tip, scheme.lines, scheme.regions) == (4, ((5, 6),), {"contour": (7,)})


def test_a_toml_file_alone_makes_a_scheme(tmp_path):
    path = write_own_points(tmp_path, category={})
    path.with_suffix(".toml").write_text("mirror_pairs = [[0, 3], [1, 2], [5, 6]]\neyes = [[0, 1], [3, 2]]\n")
    scheme = open_set(path).scheme
    assert (scheme.points, scheme.normalizer, scheme.names) == (8, ((0,), (3,)), ())


def test_a_toml_file_beside_it_adds_fields_and_wins(tmp_path):
    path = write_own_points(tmp_path)
    path.with_suffix(".toml").write_text('name = "eight"\nlines = [[0, 7]]\n[colors]\nlips = [1, 2, 3]\n')
    scheme = open_set(path).scheme
    assert (scheme.name, scheme.lines, scheme.point_colors[5]) == ("eight", ((0, 7),), (1, 2, 3))
    assert scheme.eyes == ((0, 1), (3, 2))


def test_points_without_names_are_those_of_the_included_scheme(tmp_path):
    places = {str(number): (20 + number, 30 + 2 * number) for number in range(29)}
    path = write_own_points(tmp_path, category={}, places=places)
    assert open_set(path).scheme == COFW
    with pytest.raises(InputError, match=r"its 8 points per face are those of no included scheme .*keypoints and skel"):
        open_set(write_own_points(tmp_path, category={}))


def test_names_of_an_included_scheme_select_it(tmp_path):
    places = {name: (20 + number, 30 + 2 * number) for number, name in enumerate(COFW.names)}
    path = write_own_points(tmp_path, category={"keypoints": list(places)}, places=places)
    assert open_set(path).scheme == COFW


@pytest.mark.parametrize(
    ("category", "message"),
    [
        ({"keypoints": ["a", "b"]}, "expected 8 names, as many as points, got 2"),
        ({"keypoints": 8}, "expected 8 names, as many as points, got 8"),
        ({"keypoints": list("abcdefgh")}, "mirror pairs: missing, and no name of the keypoints has left or right"),
        ({"keypoints": ["left_ear", *list("bcdefgh")]}, "'left_ear' has no mirror point; give the pairs as flip_pairs"),
        ({"keypoints": list(PLACES), "flip_pairs": [[0, 8]]}, r"flip_pairs: there is no point 8 \(expected 0 to 7"),
        ({"keypoints": list(PLACES), "flip_pairs": [0, 1]}, "flip_pairs: expected pairs of points"),
        ({"keypoints": list(PLACES), "flip_pairs": [[0, 1], [1, 2]]}, "flip_pairs: point 1 occurs twice"),
        ({"keypoints": list(PLACES), "skeleton": [[1, 9]]}, r"skeleton: there is no point 9 \(expected 1 to 8"),
        ({"keypoints": list(PLACES), "skeleton": [1]}, "skeleton: expected pairs of point numbers"),
        ({"keypoints": list(PLACES), "skeleton": [[0, 8]]}, r"skeleton: there is no point 8 \(expected 0 to 7"),
        ({"keypoints": ["left_a", "right_a", *list("cdefgh")]}, "eyes: missing, and none of the points in the mirror"),
        ({"keypoints": [*list("abcdefg"), "a"], "flip_pairs": [[0, 1]]}, r"keypoints: a occurs twice"),
    ],
)
def test_a_category_that_defines_no_scheme_is_an_error_of_one_line(category, message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        open_set(write_own_points(tmp_path, category=category))
    assert str(caught.value).startswith(str(tmp_path / "mine.json"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("points = 7", "points: 7, but the faces of mine.json have 8"),
        ("eye = 3", "eye: unknown field"),
        ("eyes = [[0], [99]]", "eyes: there is no point 99"),
        ("eyes = [[0], [1", "cannot be read"),
        ("mirror_pairs = [[0]]", r"mirror_pairs: expected pairs of points, got \[\[0\]\]"),
        ("mirror_pairs = [[0, {}]]", r"mirror_pairs: there is no point \{\}"),
        ("eyes = [[3], [0]]", "eyes: the left ones are on the right of the image; swap the two lists"),
        ("eyes = [[4], [7]]", "normalizer: missing"),
        ("eyes = [[0, 1]]", "eyes: expected a list of 2"),
        ("mirror_pairs = []", "eyes: missing, and none of the points in the mirror pairs"),
        ("mirror_pairs = [[0, 3], [3, 2]]", "mirror_pairs: point 3 occurs twice"),
        ("normalizer = [[0, 3], [3, 0]]", "normalizer: expected two different groups of points"),
        ('lines = [["chin", "chi"]]', "lines: there is no point chi"),
        ('mirror_pairs = [["chin", "chi"]]', "mirror_pairs: there is no point chi"),
        (
            'mirror_pairs = []\neyes = [["right_mouth"], ["left_mouth"]]\nnormalizer = [[5], [6]]',
            "mirror_pairs: missing",
        ),
    ],
)
def test_a_toml_file_that_is_wrong_is_named(text, message, tmp_path):
    path = write_own_points(tmp_path)
    path.with_suffix(".toml").write_text(text)
    with pytest.raises(InputError, match=rf"mine\.toml.*{message}"):
        open_set(path)


def test_files_of_the_same_points_make_one_pack(tmp_path):
    paths = [write_own_points(tmp_path).rename(tmp_path / f"{name}.json") for name in ("train", "val")]
    assert len(write_pack([open_set(path) for path in paths], tmp_path / "pack", 64).pack) == 6
    paths[0].with_suffix(".toml").write_text("lines = [[0, 1]]\n")
    with pytest.raises(InputError, match=r"the same points \(.*8 of face; different: lines\); make one pack of each"):
        write_pack([open_set(path) for path in paths], tmp_path / "other", 64)


def test_a_pack_keeps_the_scheme_and_mirrors_by_it(tmp_path):
    path = write_own_points(tmp_path, count=12)
    content = json.loads(path.read_text())
    content["annotations"][2]["keypoints"][23] = 0  # the chin
    path.write_text(json.dumps(content))
    one = open_set(path)
    write_pack([one], tmp_path / "pack", 64)
    pack = open_pack(tmp_path / "pack")
    assert pack.scheme == one.scheme
    recipe = change(Recipe(), {"size": 32, "batch": 12, "negative_fraction": 0, "augmentation.flip_p": 1.0})
    batches = Batches(pack, change(recipe, {"held_out": 0, "profile_weight": 1.0}))
    batch = batches.make_batch(0)
    row = batches.sample_rows(0).tolist().index(2)
    assert pack.kinds[2].tolist().count(PointKind.UNLABELLED) == 1
    assert batch.point_weight[row].tolist() == [1, 1, 1, 1, 1, 1, 1, 0]
    assert batch.point_weight.sum() == 12 * 8 - 1
    left, right = (batch.points[:, list(eye), 0].mean() for eye in one.scheme.eyes)
    assert left < right  # also after mirroring


def test_flip_swaps_the_points_of_the_given_scheme():
    points = np.array([[1, 0], [5, 0]], np.float32)
    _, mirrored = flip(np.zeros((9, 9, 3), np.uint8), points, Scheme("two", 2, mirror_pairs=((0, 1),)))
    assert mirrored.tolist() == [[3, 0], [7, 0]]
