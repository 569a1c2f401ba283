"""The view paints frame, faces, messages and hints at the right place."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PyQt6.QtCore import QPointF, QRectF
from PyQt6.QtGui import QFont, QImage
from PyQt6.QtWidgets import QApplication

from canthus.gui.overlay import OverlayStyle, frame_to_window
from canthus.gui.stream import Result
from canthus.gui.view import View
from canthus.runtime.draw import FAINT_BELOW
from canthus.runtime.schemes import WFLW
from canthus.runtime.types import Faces, Frame
from support.viewer import BACKGROUND, POINT, application, face_at, frame, wait_for

TOLERANCE = 3
"""Gray levels by which a painted color may differ because of antialiasing."""

qt = pytest.fixture(scope="session")(application)


def pixels(view: View) -> NDArray[np.int64]:
    """Return what the view shows, (H, W, 3) RGB."""
    image = view.grab().toImage().convertToFormat(QImage.Format.Format_RGB32)
    rows = np.frombuffer(image.constBits().asstring(image.sizeInBytes()), np.uint8).reshape(image.height(), -1, 4)
    return rows[..., 2::-1].astype(np.int64)


def view_of(faces: Faces, style: OverlayStyle, width: int = 256, height: int = 192) -> View:
    view = View(style)
    view.resize(width, height)
    view.show_result(Result(frame(), faces, {}, 0))
    return view


def test_point_is_painted_at_its_pixel(qt: QApplication) -> None:
    shown = pixels(view_of(face_at(*POINT), OverlayStyle(ids=False)))
    # A frame pixel covers 4 window pixels; the center of frame pixel x is at x + 0.5.
    x, y = int(4 * (POINT[0] + 0.5)), int(4 * (POINT[1] + 0.5))
    assert np.abs(shown[y, x] - 255).max() <= TOLERANCE  # the pupils are white and painted last
    assert np.abs(shown[y + 30, x] - BACKGROUND).max() <= TOLERANCE


def test_point_with_low_score_is_painted_faintly(qt: QApplication) -> None:
    points = np.random.default_rng(1).uniform(8, 40, (1, 98, 2)).astype(np.float32)
    strength = []
    for score in (1.0, FAINT_BELOW + 0.01, FAINT_BELOW - 0.01, 0.0):
        faces = Faces(points, np.full((1, 98), score, np.float32), np.array([0], np.int64))
        shown = pixels(view_of(faces, OverlayStyle(lines=False, ids=False)))
        strength.append(np.abs(shown - BACKGROUND).sum())
    assert strength[0] == strength[1] > 1.5 * strength[2] > 0
    assert strength[2] == strength[3]


def test_lines_are_visible_on_a_background_of_their_color(qt: QApplication) -> None:
    face, color = face_at(*POINT), WFLW.point_colors[0]
    face.points[0, :33, 0], face.points[0, :33, 1] = np.linspace(8, 56, 33), 20  # the contour as a horizontal line
    shown = []
    for lines in (False, True):
        view = View(OverlayStyle(lines=lines, ids=False))
        view.resize(256, 192)
        view.show_result(Result(Frame(np.full((48, 64, 3), color, np.uint8), 0, 0.0), face, {}, 0))
        shown.append(pixels(view)[:, 40:210])
    darker = (shown[0] - shown[1]).max(-1) > 3 * TOLERANCE
    assert darker.any(0).mean() > 0.25  # the rest is covered by the dots


def test_video_keeps_its_aspect_ratio(qt: QApplication) -> None:
    shown = pixels(view_of(Faces.none(), OverlayStyle(), width=300, height=60))
    background = (np.abs(shown - BACKGROUND).max(-1) <= TOLERANCE).sum(1)
    assert abs(int(np.median(background)) - 80) <= 2


def test_mirror_flips_points_and_image_together(qt: QApplication) -> None:
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
    assert np.abs(shown[0] - shown[1][:, ::-1]).mean() < TOLERANCE
    assert np.abs(shown[0] - shown[1]).mean() > 10 * TOLERANCE


def test_frame_is_centerd_in_the_window() -> None:
    for mirrored in (False, True):
        to_window = frame_to_window(64, 48, QRectF(0, 0, 200, 400), mirrored)
        assert to_window.map(QPointF(32, 24)) == QPointF(100, 200)
        assert to_window.mapRect(QRectF(0, 0, 64, 48)).width() == pytest.approx(200)


def test_non_square_pixels_are_shown_with_their_aspect_ratio(qt: QApplication) -> None:
    for mirrored in (False, True):
        to_window = frame_to_window(720, 576, QRectF(0, 0, 2048, 576), mirrored, 64 / 45)
        assert to_window.map(QPointF(360, 288)) == QPointF(1024, 288)
        assert to_window.mapRect(QRectF(0, 0, 720, 576)).width() == pytest.approx(1024)
    view = View(OverlayStyle())
    view.resize(300, 60)
    view.show_result(Result(replace(frame(), pixel_aspect=2.0), Faces.none(), {}, 0))
    background = (np.abs(pixels(view) - BACKGROUND).max(-1) <= TOLERANCE).sum(1)
    assert abs(int(np.median(background)) - 160) <= 2


@pytest.mark.parametrize(
    ("view_size", "pixel_aspect", "shape"),
    [
        (None, 1.0, (48, 64)),
        ((32, 100), 1.0, (24, 32)),
        ((1000, 12), 1.0, (12, 16)),
        ((640, 480), 1.0, (48, 64)),  # never enlarged
        ((64, 100), 2.0, (24, 64)),
        ((1, 1), 1.0, (1, 1)),
    ],
)
def test_frame_is_reduced_to_the_size_at_which_it_is_shown(
    view_size: tuple[int, int] | None, pixel_aspect: float, shape: tuple[int, int]
) -> None:
    result = Result(replace(frame(), pixel_aspect=pixel_aspect), Faces.none(), {}, 0, view_size=view_size)
    assert result.pixels.shape == (*shape, 4)
    assert np.abs(result.pixels[0, 0, 2::-1].astype(int) - BACKGROUND).max() <= 1


def test_points_stay_at_their_place_on_a_reduced_frame(qt: QApplication) -> None:
    shown = []
    for view_size in (None, (32, 24)):
        view = View(OverlayStyle(ids=False))
        view.resize(256, 192)
        view.show_result(Result(frame(), face_at(*POINT), {}, 0, view_size=view_size))
        shown.append(pixels(view))
    assert np.abs(shown[0] - shown[1]).max() <= TOLERANCE


def test_frame_that_stays_is_reduced_again_when_the_window_changes(qt: QApplication) -> None:
    view = View(OverlayStyle())
    sizes: list[tuple[int, int]] = []
    view.resized.connect(lambda width, height: sizes.append((width, height)))
    view.resize(16, 100)
    view.show()
    view.show_result(Result(frame(), Faces.none(), {}, 0, view_size=(16, 100)))
    first = view.painted_size
    view.resize(32, 100)
    assert wait_for(lambda: view.painted_size != first)
    assert (first, view.painted_size) == ((16, 12), (32, 24))
    assert sizes[-1] == (32, 100)
    view.close()


def test_messages_and_hints_reach_screen_readers(qt: QApplication) -> None:
    view = View(OverlayStyle())
    view.show_hint("Paused")
    assert view.accessibleName() == "Paused"
    view.show_message("Waiting", "for a camera")
    assert view.accessibleName() == "Waiting\nfor a camera"
    view.show_message("")
    view.show_hint("")
    assert view.accessibleName() == "Video"


@pytest.mark.parametrize("name", ["C:" + 12 * r"\a_folder's_name", 150 * "n" + ".mp4"])
def test_long_path_without_spaces_is_wrapped_inside_the_window(qt: QApplication, name: str) -> None:
    view = View(OverlayStyle())
    view.resize(640, 480)
    view.show_message(f"Opening {name}", f"{name}: not a readable video")
    shown = pixels(view)
    columns = np.nonzero(np.abs(shown - shown[0, 0]).max(-1) > TOLERANCE)[1]
    assert columns.min() > 0
    assert columns.max() < 639


def test_text_size_follows_the_font_of_the_user(qt: QApplication) -> None:
    heights = []
    for points in (10, 20):
        view = View(OverlayStyle())
        view.setFont(QFont(view.font().family(), points))
        view.resize(640, 480)
        view.show_hint("Space: pause  ·  L: lines  ·  I: IDs  ·  M: mirror  ·  F: full screen  ·  Q: close")
        shown = pixels(view)
        rows, columns = np.nonzero(np.abs(shown - shown[0, 0]).max(-1) > TOLERANCE)
        assert columns.min() > 0
        assert columns.max() < 639
        heights.append(np.ptp(rows))
    assert heights[1] > 1.5 * heights[0]
