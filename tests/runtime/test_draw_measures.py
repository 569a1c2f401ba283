"""Drawings of head pose, gaze and expressions."""

import numpy as np
import pytest

from canthus.runtime.draw import DRAWINGS, draw
from canthus.runtime.draw_measures import AXIS_COLORS, GAZE_COLOR
from canthus.runtime.errors import InputError
from canthus.runtime.measures import Measurer
from canthus.runtime.measures.head import included_head
from canthus.runtime.types import Faces
from canthus.runtime.wflw import POINTS

IMAGE = np.full((480, 640, 3), 128, np.uint8)


def face(size=1.5, at=(320.0, 200.0)):
    """One frontal face with measures; `size` in pixels per mm."""
    points = (included_head().shape[None, :, :2] * size + at).astype(np.float32)
    scores, ids = np.full((1, POINTS), 0.9, np.float32), np.array([0])
    return Faces(points, scores, ids, measures=Measurer().update(points, scores, ids, 0.0, (640, 480)))


def changed(drawn):
    rows, columns = np.nonzero((drawn != IMAGE).any(-1))
    return rows, columns


def test_the_axes_start_at_the_nose_and_go_right_and_down():
    faces = face()
    drawn = draw(IMAGE, faces, drawings=["pose"])
    x, y = faces.points[0, 54].round().astype(int)
    np.testing.assert_array_equal(drawn[y, x + 40], AXIS_COLORS[0])
    np.testing.assert_array_equal(drawn[y + 60, x], AXIS_COLORS[1])
    np.testing.assert_array_equal(drawn[y - 40, x], IMAGE[0, 0])


def test_gaze_at_the_camera_is_a_dot_on_each_pupil():
    faces = face()
    drawn = draw(IMAGE, faces, drawings=["gaze"])
    for x, y in faces.points[0, [96, 97]].round().astype(int):
        assert (np.abs(drawn[y - 4 : y + 5, x - 4 : x + 5].astype(int) - GAZE_COLOR).sum(-1) < 60).any()
    assert (drawn != IMAGE).any(-1).mean() < 0.01


def test_the_panel_is_beside_the_face_inside_the_image():
    rows, columns = changed(draw(IMAGE, face(), drawings=["expressions"]))
    assert columns.min() > 320 + 1.5 * 60  # right of the face
    assert columns.max() < 640
    assert len(np.unique(rows)) > 7 * 12


def panels(faces):
    """Return which pixels the panels cover, (H, W)."""
    return (draw(IMAGE, faces, drawings=["expressions"]) != IMAGE).any(-1)


def test_the_panels_cover_no_face_and_not_each_other():
    both = [face(1.0, at) for at in ((160.0, 200.0), (330.0, 200.0))]
    points = np.concatenate([one.points for one in both])
    scores, ids = np.full((2, POINTS), 0.9, np.float32), np.arange(2)
    faces = Faces(points, scores, ids, measures=Measurer().update(points, scores, ids, 0.0, (640, 480)))
    covered = panels(faces)
    for x0, y0, x1, y1 in faces.boxes.round().astype(int):
        assert not covered[y0:y1, x0:x1].any()
    assert covered.sum() > 1.9 * min(panels(one).sum() for one in both)


def test_the_panel_of_a_close_up_is_small_and_in_a_corner():
    faces = face(3.2, (320.0, 180.0))
    (left, top), (right, bottom) = faces.points[0].min(0), faces.points[0].max(0)
    assert right - left > 400
    assert bottom - top > 400
    rows, columns = np.nonzero(panels(faces))
    assert columns.max() == 639 or columns.min() == 0
    assert rows.max() == 479 or rows.min() == 0
    assert len(rows) < 0.1 * 640 * 480


@pytest.mark.parametrize("at", [(630.0, 470.0), (0.0, 0.0), (-500.0, 900.0), (1e5, -1e5)])
@pytest.mark.parametrize("size", [0.05, 1.5, 20.0])
def test_faces_at_the_border_are_drawn_without_error(at, size):
    assert draw(IMAGE, face(size, at), drawings=DRAWINGS).shape == IMAGE.shape


def test_faces_without_measures_are_drawn_without_them():
    faces = face()
    plain = Faces(faces.points, faces.scores, faces.ids)
    np.testing.assert_array_equal(draw(IMAGE, plain, drawings=DRAWINGS), draw(IMAGE, plain))


def test_only_what_is_named_is_drawn():
    np.testing.assert_array_equal(draw(IMAGE, face(), drawings=[]), IMAGE)
    both, points = (draw(IMAGE, face(), drawings=names) for names in (["points", "lines"], ["points"]))
    np.testing.assert_array_equal(both, draw(IMAGE, face(), ids=False))
    np.testing.assert_array_equal(points, draw(IMAGE, face(), lines=False, ids=False))


def test_an_unknown_drawing_is_refused():
    with pytest.raises(InputError, match=r"cannot draw nose \(expected some of points, lines, ids, pose"):
        draw(IMAGE, face(), drawings=["nose"])
