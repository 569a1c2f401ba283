"""What `draw` puts on an image: visible, readable, and in proportion to the face."""

import numpy as np
import pytest

from canthus.runtime import wflw
from canthus.runtime.draw import draw
from canthus.runtime.schemes import Scheme
from canthus.runtime.types import Faces
from support.shape import SHAPE

SKIN_TONES = [(255, 224, 196), (224, 172, 136), (160, 104, 72), (92, 60, 44), (40, 26, 20)]


def one_face(span, x, y, score=0.95, face_id=0):
    """A face whose points are `span` pixels high, with its upper left corner at (x, y)."""
    points = (SHAPE - SHAPE.min(0)) * span / np.ptp(SHAPE, axis=0).max() + (x, y)
    return Faces(
        points[None].astype(np.float32), np.full((1, wflw.POINTS), score, np.float32), np.array([face_id], np.int64)
    )


def plain(color=(128, 128, 128), size=(300, 300)):
    return np.full((*size, 3), color, np.uint8)


def change(image, faces, **options):
    """How much each pixel of an image changes, as the largest change of a channel."""
    return np.abs(draw(image, faces, **options).astype(int) - image).max(2)


def test_the_given_image_does_not_change():
    image = plain()
    assert (draw(image, one_face(200, 50, 80)) != image).any()
    assert (image == 128).all()


def test_an_image_without_faces_is_copied():
    image = plain()
    copy = draw(image, Faces.none())
    assert np.array_equal(copy, image)
    assert not np.shares_memory(copy, image)


@pytest.mark.parametrize("tone", SKIN_TONES, ids=str)
@pytest.mark.parametrize("span", [60, 200])
def test_every_line_is_visible_on_every_skin_tone(tone, span):
    faces, image = one_face(span, 50, 80), plain(tone)
    changed = change(image, faces, ids=False)
    for chain in wflw.LINES:
        middles = (faces.points[0, list(chain[:-1])] + faces.points[0, list(chain[1:])]) / 2
        for x, y in np.round(middles).astype(int):
            assert changed[y - 1 : y + 2, x - 1 : x + 2].max() > 30


def test_dots_grow_with_the_face():
    """The area of 98 dots without lines, in pixels that change strongly."""
    areas = [(change(plain(), one_face(span, 40, 60), lines=False, ids=False) > 60).sum() for span in (100, 200)]
    assert areas[1] > 2 * areas[0]


@pytest.mark.parametrize(("span", "share"), [(20, 0.5), (40, 0.35), (60, 0.3)])
def test_a_small_face_is_not_covered(span, share):
    """The mean opacity of the overlay over the face; black on white would be 1."""
    faces = one_face(span, 50, 50)
    white, black = (draw(plain(tone, (120, 120)), faces, ids=False) for tone in ((255,) * 3, (0,) * 3))
    opacity = 1 - (white.astype(float) - black).mean(2) / 255
    x0, y0, x1, y1 = faces.boxes[0].astype(int)
    assert opacity[y0 : y1 + 1, x0 : x1 + 1].mean() < share


def test_points_of_low_score_are_faint():
    strong, faint = (change(plain(), one_face(200, 50, 80, score), lines=False, ids=False) for score in (0.9, 0.3))
    assert 0 < faint.max() < 0.6 * strong.max()
    assert (faint > 0).sum() < (strong > 0).sum()  # without outline


def test_id_is_light_text_on_a_dark_label_above_the_face():
    faces, image = one_face(120, 90, 150), plain((200, 200, 200))
    changed = np.abs(draw(image, faces).astype(int) - draw(image, faces, ids=False)).max(2) > 0
    rows, columns = np.nonzero(changed)
    assert rows.max() < faces.boxes[0, 1]
    assert columns.mean() == pytest.approx(faces.boxes[0, [0, 2]].mean(), abs=2)
    label = draw(image, faces)[rows.min() : rows.max(), columns.min() : columns.max()]
    assert label.min() < 90
    assert label.max() > 235


@pytest.mark.parametrize("span", [20, 60, 200])
def test_all_ids_look_different(span):
    labels = [draw(plain(), one_face(span, 60, 120, face_id=number)) for number in (0, 1, 3, 6, 8, 9, 10, 108)]
    for place, one in enumerate(labels):
        for other in labels[place + 1 :]:
            assert (np.abs(one.astype(int) - other).max(2) > 100).sum() >= 4


def test_a_face_at_the_edge_is_drawn_as_far_as_it_is_inside():
    image = plain()
    for x, y in ((-100, 80), (200, 80), (50, -120), (50, 220), (-500, -500)):
        changed = change(image, one_face(200, x, y), ids=False)
        assert changed.any() == (x > -500)


@pytest.mark.parametrize("corner", [(-20, 5), (260, 5), (100, -20), (100, 260)])
def test_label_of_a_face_at_the_edge_is_inside_the_image(corner):
    sizes = []
    for x, y in (corner, (100, 150)):
        faces = one_face(50, x, y, face_id=8888)
        sizes.append((draw(plain(), faces) != draw(plain(), faces, ids=False)).any(2).sum())
    assert sizes[0] > 0.9 * sizes[1]


def test_a_face_that_is_not_finite_is_skipped():
    faces = one_face(100, 100, 100)
    faces.points[0, 3] = np.nan
    assert np.array_equal(draw(plain(), faces), plain())


def test_a_tiny_image_can_be_drawn_on():
    assert draw(plain(size=(3, 2)), one_face(30, -10, -10)).shape == (3, 2, 3)


def test_a_face_is_drawn_with_the_lines_and_colors_of_its_scheme():
    scheme = Scheme("two", 2, lines=((0, 1),), regions={"left_eye": (0,), "ear": (1,)}, colors={"ear": (250, 10, 10)})
    points = np.array([[[20, 50], [120, 50]]], np.float32)
    faces = Faces(points, np.ones((1, 2), np.float32), np.zeros(1, np.int64), scheme=scheme)
    drawn = draw(plain(), faces, ids=False)
    assert drawn[50, 120].tolist() == [250, 10, 10]
    assert drawn[50, 20].tolist() == list(scheme.point_colors[0])
    assert change(plain(), faces, ids=False)[50, 70] > 30
    assert not change(plain(), faces, ids=False, lines=False)[50, 70].any()
