"""Models are replaced while the frames go on."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PyQt6.QtWidgets import QApplication

from canthus.gui import finder as finder_module
from canthus.gui.finder import FinderState, LiveFinder, Tracking, TrackingControl, TrackingLandmarker
from canthus.gui.live_trace import LiveTrace
from canthus.gui.mailbox import Mailbox
from canthus.runtime import pipeline
from canthus.runtime.errors import ModelError
from canthus.runtime.types import Faces, Frame
from support.viewer import FakeLandmarks, application, face_at, frame, wait_for

qt = pytest.fixture(scope="session")(application)


class Models:
    """Opens models; those named "slow" when `release` is set, and "missing" never."""

    def __init__(self) -> None:
        self.opened: list[FakeLandmarks] = []
        self.release = threading.Event()

    def open(self, tracking: Tracking) -> FakeLandmarks:
        if tracking.model == "slow":
            assert self.release.wait(5)
        if tracking.model == "missing":
            raise ModelError("missing: no such model")
        self.opened.append(FakeLandmarks(tracking))
        return self.opened[-1]


@pytest.fixture
def models(qt: QApplication) -> Iterator[Models]:
    yield Models()
    assert wait_for(lambda: not [thread for thread in threading.enumerate() if thread.name == "landmarks"])


def goes_on_until(finder: LiveFinder, condition: Callable[[], bool]) -> bool:
    """Pass frames to the finder until the condition is true."""

    def step() -> bool:
        finder.update(frame())
        return condition()

    return wait_for(step)


def test_a_trace_that_begins_while_the_first_model_is_opened_waits_for_it(models: Models, tmp_path: Path) -> None:
    finder = LiveFinder(models.open, Tracking(), Mailbox())
    with LiveTrace(tmp_path / "a.trace", "fakes") as trace:
        finder.record(trace)
        with finder:
            assert wait_for(lambda: models.opened[0].trace is trace)
            finder.change(Tracking(model="accurate"))
            assert goes_on_until(finder, lambda: len(models.opened) == 2 and models.opened[0].closed)
            assert models.opened[1].trace is None  # it ends with the model


def test_frames_go_on_with_the_old_model_until_the_new_one_is_open(models: Models) -> None:
    with LiveFinder(models.open, Tracking(model="fast"), Mailbox()) as finder:
        assert len(finder.update(frame())) == 1
        finder.change(Tracking(model="slow"))
        assert finder.states.take() == FinderState("fast", opening=True)
        for _ in range(3):
            assert len(finder.update(frame())) == 1
        assert finder.backend_name == "fast"
        models.release.set()
        assert goes_on_until(finder, lambda: finder.backend_name == "slow")
        assert finder.states.take() == FinderState("slow")
        assert wait_for(lambda: models.opened[0].closed)
    for model in models.opened:
        assert model.closed
        assert len(set(model.threads)) == 1
        assert model.threads[0] is not threading.current_thread()


def test_a_model_that_cannot_be_opened_leaves_the_one_before(models: Models) -> None:
    with LiveFinder(models.open, Tracking(model="fast"), Mailbox()) as finder:
        finder.update(frame())
        finder.change(Tracking(model="missing"))
        assert goes_on_until(
            finder, lambda: finder.states.take() == FinderState("fast", error="missing: no such model")
        )
        assert len(finder.update(frame())) == 1


def test_a_first_model_that_cannot_be_opened_is_an_error(models: Models) -> None:
    states: Mailbox[FinderState] = Mailbox()
    with pytest.raises(ModelError), LiveFinder(models.open, Tracking(model="missing"), states):
        pass
    assert states.take() == FinderState(error="missing: no such model")


def test_the_control_passes_its_settings_to_each_finder(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finder_module, "TrackingLandmarker", lambda tracking, live: models.open(tracking))
    control = TrackingControl(Tracking(max_faces=1))
    control.change(Tracking(max_faces=2))
    with control.open(live=True) as finder:
        control.change(Tracking(max_faces=3))
        control.calibrate()
        finder.update(frame())
        assert [tracking.max_faces for tracking in models.opened[0].trackings] == [2, 3]
        assert models.opened[0].calibrations == 1
    with control.open(live=False):
        assert models.opened[1].trackings[0].max_faces == 3


def test_only_the_last_of_several_choices_is_used(models: Models) -> None:
    with LiveFinder(models.open, Tracking(model="fast"), Mailbox()) as finder:
        finder.change(Tracking(model="slow"))
        finder.change(Tracking(model="accurate"))
        models.release.set()
        assert goes_on_until(finder, lambda: finder.backend_name == "accurate")
        assert wait_for(lambda: sum(not model.closed for model in models.opened) == 1)


def test_other_settings_need_no_other_model(models: Models) -> None:
    with LiveFinder(models.open, Tracking(), Mailbox()) as finder:
        finder.update(frame())
        finder.change(Tracking(max_faces=2))
        finder.calibrate()
        finder.update(frame())
        assert len(models.opened) == 1
        assert models.opened[0].trackings[-1].max_faces == 2
        assert models.opened[0].calibrations == 1


def test_an_error_of_a_frame_is_raised(models: Models) -> None:
    with LiveFinder(models.open, Tracking(), Mailbox()) as finder:
        finder.update(frame())
        models.opened[0].update = lambda frame: 1 / 0  # type: ignore[method-assign]
        with pytest.raises(ZeroDivisionError):
            finder.update(frame())


class FakeLandmarker:
    """The runtime's landmarker without networks."""

    class Tracker:
        settings = pipeline.TrackerSettings()

    def __init__(self, settings: pipeline.Settings, live: bool) -> None:
        self.tracker, self.changes = self.Tracker(), [settings]

    def change(self, settings: pipeline.Settings) -> None:
        self.changes.append(settings)

    def update(self, frame: Frame) -> Faces:
        low, high = face_at(1, 1), face_at(2, 2)
        points = np.concatenate([low.points, high.points])
        scores = np.concatenate([low.scores * 0.25, high.scores * 0.75])
        return Faces(points, scores, np.array([0, 1], np.int64))


def test_settings_reach_the_landmarker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "Landmarker", FakeLandmarker)
    tracking = Tracking(detection_interval=0.2, max_faces=3)
    landmarks = TrackingLandmarker(tracking, live=False)
    fake = landmarks._landmarker
    assert isinstance(fake, FakeLandmarker)
    assert fake.tracker.settings.detection_interval == 0.2
    assert landmarks.update(frame()).ids.tolist() == [0, 1]
    landmarks.change(replace(tracking, min_score=0.5, smoothing=False))
    assert landmarks.update(frame()).ids.tolist() == [1]
    assert fake.changes[-1] == pipeline.Settings(max_faces=3, smoothing=False)
