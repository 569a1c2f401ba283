"""The timeline: what is marked, and what the keys and the mouse do."""

from collections.abc import Iterator

import numpy as np
import pytest
from PyQt6.QtCore import Qt
from PyQt6.QtTest import QTest
from PyQt6.QtWidgets import QApplication

from canthus.gui.theme import palette
from canthus.gui.timeline import Timeline
from support.viewer import application

qt = pytest.fixture(scope="session")(application)


@pytest.fixture
def timeline(qt: QApplication) -> Iterator[Timeline]:
    timeline = Timeline()
    timeline.resize(416, 24)
    timeline.set_duration(100.0)
    yield timeline
    timeline.deleteLater()


def test_spans_join_frames_and_separate_those_with_faces(timeline: Timeline) -> None:
    for second in np.arange(0.0, 10.0, 0.5):
        timeline.mark(second, 0.1, has_faces=second >= 5)
    timeline.mark(50.0, 0.1, has_faces=True)
    spans = timeline.spans()
    assert [has_faces for _, _, has_faces in spans] == [False, True, True]
    assert np.allclose([span[:2] for span in spans], [(0, 4.6), (4.6, 9.6), (50, 50.1)], atol=0.11)


def test_another_clip_has_no_marks(timeline: Timeline) -> None:
    timeline.mark(5.0, 1.0, has_faces=True)
    timeline.set_duration(100.0)  # the same one after a jump
    assert timeline.spans()
    timeline.set_duration(50.0)
    assert not timeline.spans()
    timeline.clear()
    timeline.mark(5.0, 1.0, has_faces=True)  # of a camera
    assert not timeline.spans()


def test_keys_jump(timeline: Timeline) -> None:
    wanted: list[float] = []
    timeline.moved.connect(wanted.append)
    timeline.show_frame(50.0)
    for key in (Qt.Key.Key_Left, Qt.Key.Key_Right, Qt.Key.Key_End, Qt.Key.Key_Right, Qt.Key.Key_Home, Qt.Key.Key_A):
        QTest.keyClick(timeline, key)
    assert wanted == [45.0, 50.0, 100.0, 100.0, 0.0]


def test_a_frame_does_not_move_the_handle_that_the_user_holds(timeline: Timeline) -> None:
    QTest.mousePress(timeline, Qt.MouseButton.LeftButton, pos=timeline.rect().center())
    assert timeline.position == pytest.approx(50, abs=0.5)
    timeline.show_frame(10.0)
    assert timeline.position == pytest.approx(50, abs=0.5)
    QTest.mouseRelease(timeline, Qt.MouseButton.LeftButton, pos=timeline.rect().center())
    timeline.show_frame(10.0)
    assert timeline.position == 10


@pytest.mark.parametrize("dark", [False, True])
def test_marks_are_painted_in_their_place(timeline: Timeline, dark: bool) -> None:
    timeline.setPalette(palette(dark))
    timeline.mark(0.0, 50.0, has_faces=True)
    image = timeline.grab().toImage()
    left, right = (image.pixelColor(x, 12) for x in (150, 350))
    assert (left, right) == (timeline.palette().accent().color(), timeline.palette().mid().color())
