"""What the view paints, and where."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PyQt6.QtCore import QPointF, QRectF
from PyQt6.QtGui import QFont, QImage
from PyQt6.QtWidgets import QApplication

from canthus.gui.overlay import TRUSTED, OverlayStyle, frame_to_window
from canthus.gui.stream import Result
from canthus.gui.view import View
from canthus.runtime.types import Faces, Frame
from support.viewer import POINT, WALL, application, face_at, frame

NEAR = 3
"""Grey levels by which a painted colour may differ, for antialiasing."""

qt = pytest.fixture(scope="session")(application)


def pixels(view: View) -> NDArray[np.int64]:
    """What the view shows, (H, W, 3) RGB."""
    image = view.grab().toImage().convertToFormat(QImage.Format.Format_RGB32)
    rows = np.frombuffer(image.constBits().asstring(image.sizeInBytes()), np.uint8).reshape(image.height(), -1, 4)
    return rows[..., 2::-1].astype(np.int64)


def view_of(faces: Faces, look: OverlayStyle, width: int = 256, height: int = 192) -> View:
    view = View(look)
    view.resize(width, height)
    view.show_result(Result(frame(), faces, {}, 0))
    return view


def test_a_point_is_painted_where_it_must_be(qt: QApplication) -> None:
    shown = pixels(view_of(face_at(*POINT), OverlayStyle(ids=False)))
    # 4 window pixels a frame pixel; the centre of frame pixel x is at x + 0.5.
    x, y = int(4 * (POINT[0] + 0.5)), int(4 * (POINT[1] + 0.5))
    assert np.abs(shown[y, x] - 255).max() <= NEAR  # the pupils, painted last, are white
    assert np.abs(shown[y + 30, x] - WALL).max() <= NEAR


def test_a_point_that_is_hardly_trusted_is_painted_faintly(qt: QApplication) -> None:
    points = np.random.default_rng(1).uniform(8, 40, (1, 98, 2)).astype(np.float32)
    strength = []
    for score in (1.0, TRUSTED + 0.01, TRUSTED - 0.01, 0.0):
        faces = Faces(points, np.full((1, 98), score, np.float32), np.array([0], np.int64))
        shown = pixels(view_of(faces, OverlayStyle(lines=False, ids=False)))
        strength.append(np.abs(shown - WALL).sum())
    assert strength[0] == strength[1] > 1.5 * strength[2] > 0
    assert strength[2] == strength[3]


def test_the_picture_keeps_its_aspect(qt: QApplication) -> None:
    shown = pixels(view_of(Faces.none(), OverlayStyle(), width=300, height=60))
    wall = (np.abs(shown - WALL).max(-1) <= NEAR).sum(1)
    assert abs(int(np.median(wall)) - 80) <= 2


def test_a_mirrored_view_mirrors_points_and_picture_together(qt: QApplication) -> None:
    striped = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    faces = Faces(
        np.random.default_rng(1).uniform(8, 40, (1, 98, 2)).astype(np.float32),
        np.ones((1, 98), np.float32),
        np.array([0], np.int64),
    )
    shown = []
    for mirrored in (False, True):
        view = View(OverlayStyle(ids=False, mirrored=mirrored))
        view.resize(256, 192)
        view.show_result(Result(Frame(striped, 0, 0.0), faces, {}, 0))
        shown.append(pixels(view))
    assert np.abs(shown[0] - shown[1][:, ::-1]).mean() < NEAR
    assert np.abs(shown[0] - shown[1]).mean() > 10 * NEAR


def test_a_map_to_the_window_is_inside_it_and_in_its_middle() -> None:
    for mirrored in (False, True):
        to_window = frame_to_window(64, 48, QRectF(0, 0, 200, 400), mirrored)
        assert to_window.map(QPointF(32, 24)) == QPointF(100, 200)
        assert to_window.mapRect(QRectF(0, 0, 64, 48)).width() == pytest.approx(200)


def test_pixels_that_are_not_square_are_shown_as_they_are_meant(qt: QApplication) -> None:
    for mirrored in (False, True):
        to_window = frame_to_window(720, 576, QRectF(0, 0, 2048, 576), mirrored, 64 / 45)
        assert to_window.map(QPointF(360, 288)) == QPointF(1024, 288)
        assert to_window.mapRect(QRectF(0, 0, 720, 576)).width() == pytest.approx(1024)
    view = View(OverlayStyle())
    view.resize(300, 60)
    view.show_result(Result(replace(frame(), pixel_aspect=2.0), Faces.none(), {}, 0))
    wall = (np.abs(pixels(view) - WALL).max(-1) <= NEAR).sum(1)
    assert abs(int(np.median(wall)) - 160) <= 2


def test_what_is_said_reaches_screen_readers(qt: QApplication) -> None:
    view = View(OverlayStyle())
    view.show_hint("Paused")
    assert view.accessibleName() == "Paused"
    view.show_message("Waiting", "for a camera")
    assert view.accessibleName() == "Waiting\nfor a camera"
    view.show_message("")
    view.show_hint("")
    assert view.accessibleName() == "Picture"


@pytest.mark.parametrize("name", ["C:" + 12 * r"\a_folder's_name", 150 * "n" + ".mp4"])
def test_a_path_without_spaces_stays_inside_the_window(qt: QApplication, name: str) -> None:
    view = View(OverlayStyle())
    view.resize(640, 480)
    view.show_message(f"Opening {name}", f"{name}: not a readable video")
    shown = pixels(view)
    columns = np.nonzero(np.abs(shown - shown[0, 0]).max(-1) > NEAR)[1]
    assert columns.min() > 0
    assert columns.max() < 639


def test_what_is_said_is_as_large_as_the_users_font(qt: QApplication) -> None:
    heights = []
    for points in (10, 20):
        view = View(OverlayStyle())
        view.setFont(QFont(view.font().family(), points))
        view.resize(640, 480)
        view.show_hint("Space pauses  ·  L lines  ·  I ids  ·  M mirror  ·  F full screen  ·  Q closes")
        shown = pixels(view)
        rows, columns = np.nonzero(np.abs(shown - shown[0, 0]).max(-1) > NEAR)
        assert columns.min() > 0
        assert columns.max() < 639
        heights.append(np.ptp(rows))
    assert heights[1] > 1.5 * heights[0]
