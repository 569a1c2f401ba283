"""`Frame`, `Faces` and `Face`, and the points of WFLW and iBUG that they name."""

import math

import numpy as np
import pytest

from canthus.runtime import wflw
from canthus.runtime.errors import InputError
from canthus.runtime.schemes import Scheme, included_scheme, included_schemes
from canthus.runtime.types import Face, Faces, Frame
from support.shape import SHAPE


@pytest.fixture
def faces():
    """Three faces side by side, with ids 4, 7, 9."""
    points = np.stack([SHAPE * 100 + (200 * index, 0) for index in range(3)]).astype(np.float32)
    scores = np.repeat(np.float32([[0.9], [0.4], [0.6]]), wflw.POINTS, axis=1)
    return Faces(points, scores, np.array([4, 7, 9]), np.float32([0.8, 0.7, 0.6]))


def test_frame_leaves_the_array_of_its_caller_writable():
    image = np.zeros((8, 9, 3), np.uint8)
    frame = Frame(image, 0, 0.0)
    image[2, 3] = 7
    assert frame.image[2, 3].tolist() == [7, 7, 7]  # a view, not a copy
    with pytest.raises(ValueError, match="read-only"):
        frame.image[2, 3] = 0


def test_frame_accepts_a_read_only_array():
    image = np.zeros((8, 9, 3), np.uint8)
    image.setflags(write=False)
    assert Frame(image, 0, 0.0).image.shape == (8, 9, 3)


def test_an_integer_index_returns_a_face(faces):
    face = faces[1]
    assert isinstance(face, Face)
    assert (face.id, face.face_score, face.detection_score) == (7, pytest.approx(0.4), pytest.approx(0.7))
    assert np.array_equal(face.points, faces.points[1])
    assert np.array_equal(face.scores, faces.scores[1])
    assert np.array_equal(face.box, faces.boxes[1])
    assert faces[-1].id == faces[np.int64(2)].id == 9
    with pytest.raises(IndexError):
        faces[3]


def test_iteration_returns_each_face_once(faces):
    assert [face.id for face in faces] == faces.ids.tolist()
    assert list(Faces.none()) == []


@pytest.mark.parametrize(
    ("index", "ids"),
    [
        (slice(1, None), [7, 9]),
        (slice(None, None, -1), [9, 7, 4]),
        (np.array([True, False, True]), [4, 9]),
        (np.array([False] * 3), []),
        (np.array([2, 0]), [9, 4]),
        ([1], [7]),
        ([], []),
    ],
    ids=str,
)
def test_slices_and_arrays_return_the_selected_faces(faces, index, ids):
    selected = faces[index]
    assert isinstance(selected, Faces)
    assert selected.ids.tolist() == ids
    assert [face.detection_score for face in selected] == [
        faces[faces.ids.tolist().index(one)].detection_score for one in ids
    ]


def test_faces_select_by_score(faces):
    assert faces[faces.face_scores > 0.5].ids.tolist() == [4, 9]
    assert faces[faces.detection_scores > 0.65].ids.tolist() == [4, 7]


def test_detection_scores_are_nan_by_default():
    faces = Faces(SHAPE[None], np.ones((1, 98), np.float32), np.array([0]))
    assert faces.detection_scores.dtype == np.float32
    assert math.isnan(faces[0].detection_score)
    assert Faces.none().detection_scores.shape == (0,)


def test_wrong_shapes_are_rejected_with_both_shapes():
    with pytest.raises(ValueError, match=r"points must be \(1, 98, 2\) float32, got \(1, 68, 2\) float32"):
        Faces(np.zeros((1, 68, 2), np.float32), np.zeros((1, 98), np.float32), np.array([0]))
    with pytest.raises(ValueError, match=r"detection_scores must be \(1\) float32, got \(2,\) float32"):
        Faces(SHAPE[None], np.zeros((1, 98), np.float32), np.array([0]), np.zeros(2, np.float32))
    with pytest.raises(ValueError, match=r"scores must be \(1, 98\) float32, got \(1, 98\) float64"):
        Faces(SHAPE[None], np.zeros((1, 98)), np.array([0]))
    with pytest.raises(ValueError, match=r"ids must be \(1\) int64, got \(1,\) float64"):
        Faces(SHAPE[None], np.zeros((1, 98), np.float32), np.array([0.0]))


def test_regions_lie_where_their_names_say():
    face = Face(SHAPE * 100, np.ones(98, np.float32), 0)
    sizes = {"contour": 33, "left_brow": 9, "right_brow": 9, "nose_bridge": 4, "nose_base": 5}
    sizes |= {"left_eye": 8, "right_eye": 8, "outer_lips": 12, "inner_lips": 8}
    for name, size in sizes.items():
        assert getattr(face, name).shape == (size, 2), name
    assert sum(sizes.values()) + len(wflw.PUPILS) == wflw.POINTS
    for name in ("brow", "eye"):
        left, right = getattr(face, f"left_{name}"), getattr(face, f"right_{name}")
        assert left[:, 0].max() < 50 < right[:, 0].min()
    assert face.left_pupil.shape == face.right_pupil.shape == (2,)
    assert (face.left_eye.min(0) <= face.left_pupil).all()
    assert (face.left_pupil <= face.left_eye.max(0)).all()
    assert face.outer_lips[:, 1].min() > face.nose_base[:, 1].max() > face.nose_bridge[:, 1].max()


def test_68_points_are_those_of_ibug(faces):
    """Named by Sagonas et al., 300 Faces in-the-Wild Challenge, figure 1 (here from 0)."""
    assert len(wflw.IBUG_68) == len(set(wflw.IBUG_68)) == 68
    assert faces.points_68.shape == (3, 68, 2)
    assert np.array_equal(faces[2].points_68, faces.points_68[2])
    chin, tip, nose, lip = 8, 30, 33, 62
    assert [wflw.IBUG_68[point] for point in (chin, tip, nose, lip)] == [16, 54, 57, 90]
    corners = {36: 60, 39: 64, 42: 68, 45: 72, 48: 76, 54: 82, 60: 88, 64: 92}  # of the eyes and of the mouth
    assert {point: wflw.IBUG_68[point] for point in corners} == corners


def test_68_points_are_mirrored_as_ibug_mirrors_them():
    ranges = [(range(0, 17), range(16, -1, -1)), (range(17, 27), range(26, 16, -1)), (range(27, 31), range(27, 31))]
    ranges += [(range(31, 36), range(35, 30, -1)), (range(36, 40), range(45, 41, -1)), ((40, 41), (47, 46))]
    ranges += [(range(48, 55), range(54, 47, -1)), (range(55, 60), range(59, 54, -1))]
    ranges += [(range(60, 65), range(64, 59, -1)), (range(65, 68), range(67, 64, -1))]
    for points, mirrored in ranges:
        for point, other in zip(points, mirrored, strict=True):
            assert wflw.MIRROR[wflw.IBUG_68[point]] == wflw.IBUG_68[other]


def faces_of(scheme: Scheme) -> Faces:
    points = np.random.default_rng(0).uniform(0, 9, (2, scheme.points, 2)).astype(np.float32)
    return Faces(points, np.ones((2, scheme.points), np.float32), np.array([4, 7]), scheme=scheme)


@pytest.mark.parametrize("scheme", included_schemes(), ids=lambda one: one.name)
def test_faces_keep_their_scheme_and_have_its_regions(scheme):
    faces = faces_of(scheme)
    assert faces[1:].scheme is faces[0].scheme is scheme
    for name, points in scheme.regions.items():
        np.testing.assert_array_equal(faces[0].region(name), faces.points[0, list(points)])
    assert Faces.none(scheme).points.shape == (0, scheme.points, 2)


def test_a_region_that_the_scheme_lacks_is_an_error():
    face = faces_of(included_scheme("cofw"))[0]
    with pytest.raises(InputError, match=r"COFW have no region nose_bridge \(they have left_brow, .*right_pupil\)"):
        _ = face.nose_bridge
    with pytest.raises(InputError, match="do not contain the 68"):
        _ = face.points_68


def test_68_points_of_300w_are_all_of_them():
    faces = faces_of(included_scheme("300w"))
    np.testing.assert_array_equal(faces.points_68, faces.points)
