"""Schemes are data: the included ones are sound, a user's own is checked, and manifests carry them."""

import dataclasses
import itertools
import json
import re

import numpy as np
import pytest

from canthus.runtime.errors import InputError, ModelError
from canthus.runtime.fields import FieldError
from canthus.runtime.models import Manifest, parse_manifest
from canthus.runtime.schemes import (
    WFLW,
    Scheme,
    guess_scheme,
    included_scheme,
    included_schemes,
    parse_scheme,
    read_scheme,
    scheme_values,
)

OWN = Scheme(
    "mine",
    4,
    names=("left_eye", "right_eye", "nose", "chin"),
    mirror_pairs=((0, 1),),
    normalizer=((0,), (1,)),
    eyes=((0,), (1,)),
    nose_tip=2,
    lines=((0, 2, 1),),
    regions={"left_eye": (0,), "horns": (3,)},
    colors={"horns": (1, 2, 3)},
)


@pytest.mark.parametrize("scheme", included_schemes(), ids=lambda one: one.name)
def test_included_schemes_are_complete(scheme):
    assert sorted(scheme.mirror.tolist()) == list(range(scheme.points))
    assert len(set(scheme.point_names)) == scheme.points
    left, right = scheme.eyes
    assert sorted(scheme.mirror[list(left)].tolist()) == sorted(right)
    assert scheme.mirror[list(scheme.normalizer[0])].tolist() == list(scheme.normalizer[1])
    assert scheme.mirror[scheme.nose_tip] == scheme.nose_tip
    assert {point for points in scheme.regions.values() for point in points} == set(range(scheme.points))


@pytest.mark.parametrize("scheme", included_schemes(), ids=lambda one: one.name)
def test_names_regions_and_lines_are_symmetric(scheme):
    """The mirror image of a scheme is itself with left and right swapped."""
    swapped = {"left": "right", "right": "left"}
    for name, points in scheme.regions.items():
        other = re.sub("left|right", lambda side: swapped[side[0]], name)
        assert {int(scheme.mirror[point]) for point in points} == set(scheme.regions[other])
    edges = {frozenset(edge) for line in scheme.lines for edge in itertools.pairwise(line)}
    assert {frozenset(int(scheme.mirror[point]) for point in edge) for edge in edges} == edges
    for point, name in enumerate(scheme.names):
        assert scheme.names[scheme.mirror[point]] == re.sub("left|right", lambda side: swapped[side[0]], name)


@pytest.mark.parametrize("scheme", [one for one in included_schemes() if one.wflw], ids=lambda one: one.name)
def test_the_same_points_of_wflw_are_symmetric_and_in_the_same_regions(scheme):
    other_names = {"lips": ("outer_lips", "inner_lips"), "nose": ("nose_bridge", "nose_base")}
    for point, same in enumerate(scheme.wflw):
        mirrored = scheme.wflw[scheme.mirror[point]]
        assert mirrored == (-1 if same < 0 else WFLW.mirror[same])
        name = next(name for name, points in scheme.regions.items() if point in points)
        allowed = {*other_names.get(name, (name,)), name.replace("eye", "pupil")}
        assert same < 0 or any(same in WFLW.regions.get(one, ()) for one in allowed), (point, same)


def test_points_have_the_color_of_their_region():
    assert OWN.point_colors[3] == (1, 2, 3)
    assert OWN.point_colors[0] == included_scheme("cofw").point_colors[8] == WFLW.point_colors[60]
    assert OWN.point_colors[2] not in (OWN.point_colors[0], OWN.point_colors[3])


def test_roll_of_a_scheme_without_eyes_is_0():
    points = np.random.default_rng(0).normal(size=(3, 4, 2))
    assert dataclasses.replace(OWN, eyes=((), ())).rolls(points).tolist() == [0, 0, 0]
    assert OWN.roll(np.array([[0, 0], [1, 1], [5, 5], [9, 1]])) == pytest.approx(np.pi / 4)


@pytest.mark.parametrize("scheme", [OWN, WFLW, Scheme("bare", 3)], ids=lambda one: one.name)
def test_a_scheme_is_read_as_it_was_written(scheme, tmp_path):
    assert parse_scheme(json.loads(json.dumps(scheme_values(scheme)))) == scheme
    path = tmp_path / "scheme.json"
    path.write_text(json.dumps(dataclasses.asdict(scheme)))
    assert read_scheme(path) == scheme


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lines": ((0, 4),)}, r"lines: there is no point 4 \(expected 0 to 3\)"),
        ({"nose_tip": -1}, "nose_tip: there is no point -1"),
        ({"regions": {"chin": (9,)}}, "regions: there is no point 9"),
        ({"mirror_pairs": ((0, 1), (1, 2))}, "mirror_pairs: point 1 occurs twice"),
        ({"names": ("a", "b", "c", "a")}, "names: expected 4 different names, got 3"),
        ({"names": ("a", "b", "c", "d", "a")}, "names: expected 4 different names, got 4 in a list of 5"),
        ({"eyes": ((0,), ())}, "eyes: expected points in both groups"),
        ({"eyes": ((0, 1), (1, 0))}, r"eyes: expected two different groups of points, got \[0, 1\] twice"),
        ({"lines": ((0, 1), (2,))}, r"lines: expected at least two points in each, got \[2\]"),
        ({"lines": ((),)}, "lines: expected at least two points"),
        ({"ibug_68": (0, 1)}, "ibug_68: expected 68 points, got 2"),
        ({"wflw": (60, 72, 54)}, "wflw: expected 4 points, got 3"),
        ({"name": ""}, "name: expected a name, got ''"),
        ({"name": " "}, "name: expected a name"),
        ({"name": "a\x1b[2J"}, "name: expected a name"),
        ({"colors": {"nose": (0, 255, 256)}}, "colors.nose: expected red, green and blue from 0 to 255, got"),
        ({"colors": {"nose": (-1, 0, 0)}}, "colors.nose: expected red, green and blue"),
    ],
)
def test_a_scheme_that_contradicts_itself_is_refused(changes, message):
    with pytest.raises(FieldError, match=message):
        dataclasses.replace(OWN, **changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = 3\npoints = 2", "name: expected str, got 3"),
        ("name = 'a'\npoints = 2\nskeleton = []", "skeleton: unknown field"),
        ("name = 'a'\npoints = 0", "points: expected at least 1"),
        ("name = 'a'\npoints = 10001", "points: expected at most 10000, got 10001"),
        ("name = ", "not valid TOML"),
        ("name = 'a'\npoints = 2\nwflw = [-1, 98]", "wflw: expected points of WFLW, 0 to 97, or -1 for none"),
        ("name = 'a'\npoints = 2\nwflw = [-2, 0]", "wflw: expected points of WFLW, 0 to 97, or -1 for none"),
    ],
)
def test_a_file_that_is_no_scheme_is_named(text, message, tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"own\.toml: not a scheme of points: {message}"):
        read_scheme(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_scheme(tmp_path / "none.toml")


def test_a_manifest_carries_its_scheme(tmp_path):
    model = tmp_path / "m.onnx"
    for scheme in (OWN, WFLW):
        Manifest("0", "student", 64, scheme.points, 4, scheme=scheme).write(model)
        assert parse_manifest(model).scheme == scheme


def test_a_manifest_without_a_scheme_has_that_of_its_number_of_points(tmp_path):
    model = tmp_path / "m.onnx"
    for points in (98, 29, 7):
        Manifest("0", "student", 64, points, 4, scheme=guess_scheme(points)).write(model)
        values = json.loads(model.with_suffix(".json").read_text())
        del values["scheme"]
        model.with_suffix(".json").write_text(json.dumps(values))
        assert parse_manifest(model).scheme == guess_scheme(points)
    assert guess_scheme(7).lines == ()


def test_a_manifest_with_the_scheme_of_another_model_is_refused(tmp_path):
    model = tmp_path / "m.onnx"
    Manifest("0", "student", 64, 98, 4).write(model)
    values = json.loads(model.with_suffix(".json").read_text())
    for scheme, message in (("COFW", "scheme: COFW has 29 points"), ("no", "there is no scheme 'no'")):
        model.with_suffix(".json").write_text(json.dumps(values | {"scheme": scheme}))
        with pytest.raises(ModelError, match=message):
            parse_manifest(model)
