"""The overlay: what each switch paints, its colors, and trails."""

import itertools
from dataclasses import fields, replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PyQt6.QtCore import QRectF
from PyQt6.QtGui import QImage, QPainter, QTransform
from PyQt6.QtWidgets import QApplication

from canthus.gui.overlay import OverlayStyle, Trails, frame_to_window, paint_faces
from canthus.gui.overlay.place import place_directions, place_points
from canthus.gui.overlay.style import COLOR_BLIND_SAFE, STANDARD, score_color, score_levels
from canthus.gui.overlay.trails import TRAIL_POINTS
from canthus.runtime.draw import OUTLINE
from canthus.runtime.measures import Measurer
from canthus.runtime.schemes import Scheme
from canthus.runtime.types import Faces
from support.shape import SHAPE
from support.viewer import application

qt = pytest.fixture(scope="session")(application)

NOTHING = OverlayStyle(points=False, lines=False, ids=False)

SKIN_TONES = (
    (246, 237, 228), (243, 231, 219), (247, 234, 208), (234, 218, 186), (215, 189, 150),
    (160, 126, 86), (130, 92, 67), (96, 65, 52), (58, 49, 42), (41, 36, 32),
)  # fmt: skip
"""The Monk skin tone scale, RGB."""


def faces_with_measures(scores: float = 0.9) -> Faces:
    points = (SHAPE * 230 + (40, 30))[None].astype(np.float32)
    values, ids = np.full((1, 98), scores, np.float32), np.array([3], np.int64)
    measures = Measurer().update(points, values, ids, 0.0, (320, 280))
    return Faces(points, values, ids, measures=measures)


def painted(style: OverlayStyle, faces: Faces, trails: Trails | None = None, scale: float = 1.0) -> NDArray[np.int64]:
    """Return what is painted on gray, (H, W, 3)."""
    image = QImage(round(320 * scale), round(280 * scale), QImage.Format.Format_RGB32)
    image.fill(0xFF808080)
    painter = QPainter(image)
    paint_faces(painter, faces, QTransform.fromScale(scale, scale), style, trails)
    painter.end()
    rows = np.frombuffer(image.constBits().asstring(image.sizeInBytes()), np.uint8).reshape(image.height(), -1, 4)
    return rows[:, : image.width(), 2::-1].astype(np.int64)


@pytest.mark.parametrize("name", [field.name for field in fields(OverlayStyle)])
def test_each_switch_changes_what_is_painted(qt: QApplication, name: str) -> None:
    faces, trails = faces_with_measures(), Trails()
    for step in range(5):
        trails.add(replace(faces, points=faces.points - 4 * np.float32(step)), 0.1 * step)
    if name == "mirrored":  # the transform of the view flips the frame
        assert frame_to_window(64, 48, QRectF(0, 0, 64, 48), mirrored=True).m11() < 0
        return
    style = replace(NOTHING, points=name in ("scores", "safe_colors"))
    on, off = (painted(replace(style, **{name: value}), faces, trails) for value in (True, False))
    assert (on != off).any()


def test_nothing_is_painted_without_faces_or_measures(qt: QApplication) -> None:
    everything = OverlayStyle(**dict.fromkeys([field.name for field in fields(OverlayStyle)], True))
    assert (painted(everything, Faces.none()) == 128).all()
    assert (painted(replace(NOTHING, pose=True, gaze=True), replace(faces_with_measures(), measures=None)) == 128).all()


def test_sizes_follow_the_face(qt: QApplication) -> None:
    small, large = (
        (painted(replace(NOTHING, points=True), faces_with_measures(), scale=scale) != 128).any(-1).mean()
        for scale in (1.0, 2.0)
    )
    assert small > large > 0.5 * small  # a fourth with dots of one size


def luminance(color: tuple[int, int, int]) -> float:
    """Relative luminance of WCAG 2."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in np.array(color) / 255]
    return float(np.dot((0.2126, 0.7152, 0.0722), linear))


def contrast(one: tuple[int, int, int], other: tuple[int, int, int]) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("palette", [STANDARD, COLOR_BLIND_SAFE])
def test_colors_are_visible_on_every_skin_tone(palette: object) -> None:
    assert isinstance(palette, type(STANDARD))
    colors = {*palette.groups, *palette.axes, palette.gaze, *(score_color(level) for level in range(12))}
    for color, tone in itertools.product(colors, SKIN_TONES):
        assert max(contrast(color, tone), contrast(OUTLINE, tone)) >= 3  # for graphics, in WCAG 2
    assert all(contrast(color, OUTLINE) >= 4.5 for color in colors)


def as_seen(color: tuple[int, int, int], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    return matrix @ np.array(color)


def test_safe_colors_differ_for_people_with_color_blindness() -> None:
    # Protanopia, deuteranopia and tritanopia (Machado, Oliveira and Fernandes, 2009, severity 1).
    visions = (
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    )
    for matrix in visions:
        for one, other in itertools.combinations(COLOR_BLIND_SAFE.groups, 2):
            assert np.linalg.norm(as_seen(one, np.array(matrix)) - as_seen(other, np.array(matrix))) > 40


def test_score_levels_go_from_the_lowest_to_the_highest_color() -> None:
    assert score_levels(np.array([-1, 0, 0.5, 1, 2], np.float32)).tolist() == [0, 0, 6, 11, 11]
    assert score_color(0) != score_color(11)


def test_directions_are_flipped_with_the_image() -> None:
    for mirrored, sign in ((False, 1), (True, -1)):
        to_window = frame_to_window(64, 48, QRectF(0, 0, 128, 96), mirrored)
        assert place_directions(np.array([3.0, 4.0]), to_window).tolist() == [3 * sign, 4]
        ends = place_points(np.array([[0, 0], [10, 0]]), to_window)
        assert ends[1, 0] - ends[0, 0] == 20 * sign


def test_trails_end_with_their_face_and_with_a_jump(qt: QApplication) -> None:
    faces, trails = faces_with_measures(), Trails()
    for step in range(31):
        trails.add(faces, 0.1 * step)
    (path,) = trails.paths()
    assert path.shape == (11, len(TRAIL_POINTS), 2)  # of the last second
    trails.add(faces, 1.0)
    assert trails.paths() == []
    trails.add(faces, 1.1)
    assert len(trails.paths()) == 1
    trails.add(Faces.none(), 1.2)
    assert trails.paths() == []


def test_a_face_is_painted_with_the_lines_and_colors_of_its_scheme(qt: QApplication) -> None:
    scheme = Scheme("two", 2, lines=((0, 1),), regions={"left_eye": (0,), "ear": (1,)}, colors={"ear": (250, 10, 10)})
    points = np.array([[[60, 100], [260, 100]]], np.float32)
    faces = Faces(points, np.ones((1, 2), np.float32), np.zeros(1, np.int64), scheme=scheme)
    trails = Trails()
    trails.add(faces, 0.0)
    trails.add(replace(faces, points=points + 5), 0.1)
    style = OverlayStyle(regions=True, numbers=True, boxes=True, trails=True, ids=False)
    image = painted(style, faces, trails)
    assert image[100, 260].tolist() == [250, 10, 10]
    assert image[100, 60].tolist() == list(scheme.point_colors[0])
    assert (image[100, 150] != 128).any()
    safe = painted(replace(style, safe_colors=True), faces, trails)
    assert safe[100, 60].tolist() == list(COLOR_BLIND_SAFE.groups[3])
    assert safe[100, 260].tolist() == [250, 10, 10]
