"""The detector in a thread of its own: frames do not wait for it, and its boxes are used as soon as they are there."""

import threading
import time

import pytest

from canthus.runtime.background_detector import BackgroundDetector
from canthus.runtime.errors import ModelError
from canthus.runtime.tracker import Tracker, TrackerSettings
from support.fakes import FakeDetector, bright_boxes, scene


class Paused(FakeDetector):
    """A detector that works only while its event is set."""

    def __init__(self):
        self.go = threading.Event()
        self.closed_in = None
        self.images = []

    def detect_in_stream(self, image):
        self.images.append(image)
        self.go.wait(20)
        return bright_boxes(image)

    def close(self):
        self.closed_in = threading.current_thread().name


@pytest.fixture
def paused():
    return Paused()


@pytest.fixture
def background(paused):
    with BackgroundDetector(lambda: paused) as opened:
        yield opened
        paused.go.set()


def wait(background, image):
    """Call until the boxes are known."""
    for _ in range(2000):
        boxes = background.detect_in_stream(image)
        if boxes is not None:
            return boxes
        time.sleep(0.005)
    raise AssertionError("no boxes")


def test_boxes_are_those_of_the_first_image(background, paused):
    assert background.detect_in_stream(scene((100, 120))) is None
    assert background.detect_in_stream(scene((500, 120))) is None
    paused.go.set()
    assert wait(background, scene((500, 120))) == bright_boxes(scene((100, 120)))
    assert len(paused.images) == 1


def test_detect_waits(background):
    assert background.detect(scene((100, 120))) == bright_boxes(scene((100, 120)))


def test_error_of_the_detector_is_raised_by_the_next_call(background, paused, monkeypatch):
    monkeypatch.setattr(paused, "detect_in_stream", lambda image: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        wait(background, scene())


def test_error_of_opening_is_raised_and_no_thread_is_left():
    def fail():
        raise ModelError("no model")

    with pytest.raises(ModelError, match="no model"):
        BackgroundDetector(fail)
    assert "detector" not in [thread.name for thread in threading.enumerate()]


def test_detector_is_closed_in_its_thread(paused):
    BackgroundDetector(lambda: paused).close()
    assert paused.closed_in == "detector"
    assert "detector" not in [thread.name for thread in threading.enumerate()]


def test_frames_do_not_wait_and_a_new_face_is_found_when_the_detector_is_ready(background, paused, fake_backend):
    tracker = Tracker(background.detect_in_stream, fake_backend, TrackerSettings())
    counts = [len(tracker.update(scene((100 + number, 120)), number / 30)) for number in range(5)]
    assert counts == [0] * 5
    assert tracker.detections == 1
    paused.go.set()
    while not background._running.done():
        time.sleep(0.005)
    faces = tracker.update(scene((105, 120)), 5 / 30)
    assert faces.ids.tolist() == [0]
    assert faces.points[0].mean(0)[0] == pytest.approx(105, abs=5)


def test_boxes_of_before_a_restart_are_not_used(background, paused, fake_backend):
    tracker = Tracker(background.detect_in_stream, fake_backend, TrackerSettings())
    tracker.update(scene((100, 120)), 0.0)
    tracker.restart()
    paused.go.set()
    while not background._running.done():
        time.sleep(0.005)
    assert len(tracker.update(scene((500, 120)), 0.1)) == 0
    assert len(tracker.update(scene((500, 120)), 0.2)) == 0
    while not background._running.done():
        time.sleep(0.005)
    assert len(tracker.update(scene((500, 120)), 0.3)) == 1
    assert tracker.detections == 2


@pytest.mark.parametrize("live", [False, True])
def test_landmarker_waits_for_the_detector_unless_it_is_live(monkeypatch, fake_backend, live):
    from canthus.runtime import pipeline
    from canthus.runtime.types import Frame

    paused = Paused()
    monkeypatch.setattr(pipeline, "open_automatic", lambda *_: fake_backend)
    monkeypatch.setattr(pipeline, "Detector", lambda _: paused)
    if not live:
        paused.go.set()
    with pipeline.Landmarker(live=live) as landmarker:
        faces = landmarker.update(Frame(scene((100, 120)), 0, 0.0))
        paused.go.set()
        assert len(faces) == (0 if live else 1)
        assert len(landmarker.landmark(scene((100, 120)))) == 1
