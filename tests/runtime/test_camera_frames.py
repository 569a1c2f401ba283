import threading
import time

import cv2
import numpy as np
import pytest

from canthus.runtime import camera_frames
from canthus.runtime.camera_frames import Camera
from canthus.runtime.errors import InputError
from support.fakes import FakeCapture


def test_missing_camera_is_one_clear_error(capfd):
    with pytest.raises(InputError, match=r"camera 93 cannot be opened.*group video"):
        Camera(93)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("then", ["end", "silence"])
def test_camera_that_stops_is_an_error(monkeypatch, then):
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: FakeCapture(then=then))
    monkeypatch.setattr(camera_frames, "CAMERA_TIMEOUT", 0.2)
    frames = []
    with Camera(0) as camera, pytest.raises(InputError, match="no more frames"):
        for frame in camera:
            frames.append(frame)
    assert frames
    assert frames[0].image[0, 0].tolist() == [0, 0, 255]


def test_end_of_the_camera_is_an_error_at_once(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: FakeCapture(frames=2))
    began = time.monotonic()
    with Camera(0) as camera, pytest.raises(InputError, match="no more frames"):
        list(camera)
    assert time.monotonic() - began < camera_frames.CAMERA_TIMEOUT / 2


def test_driver_keeps_only_one_frame_so_that_none_is_old(monkeypatch):
    class Recording(FakeCapture):
        def set(self, *option):
            options.append(option)

    options = []
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: Recording())
    with Camera(0):
        assert (cv2.CAP_PROP_BUFFERSIZE, 1) in options


class Captures:
    """Replaces `cv2.VideoCapture`: gives the fakes one after the other, the last one again and again."""

    def __init__(self, monkeypatch, *captures):
        self.captures, self.opened, self.released = list(captures), 0, 0
        monkeypatch.setattr(cv2, "VideoCapture", self.open)

    def open(self, _number):
        self.opened += 1
        capture = self.captures.pop(0) if len(self.captures) > 1 else self.captures[0]
        capture.release = self.release
        return capture

    def release(self):
        self.released += 1


class Still(FakeCapture):
    """A camera that sends the same image, or with `noise` a different one each time."""

    def __init__(self, noise=False):
        super().__init__(frames=10**6)
        self.noise, self.random = noise, np.random.default_rng(0)

    def read(self):
        time.sleep(0.005)
        image = np.full((64, 64, 3), 90, np.uint8)
        if self.noise:
            image[0, 0] = self.random.integers(0, 255, 3)
        return True, image


def test_camera_that_sends_the_same_image_is_opened_again_once(monkeypatch, caplog):
    captures = Captures(monkeypatch, Still())
    monkeypatch.setattr(camera_frames, "FROZEN_TIMEOUT", 0.1)
    threads = threading.active_count()
    with Camera(0) as camera:
        for frame in camera:
            if frame.seconds > 0.5:
                break
    assert (captures.opened, captures.released, camera.reopened) == (2, 2, 1)
    assert caplog.messages == ["camera 0 has sent the same image for 0 s; it is opened again"]
    assert threading.active_count() == threads


def test_camera_that_freezes_after_every_opening_is_opened_each_time(monkeypatch):
    class Freezing(Still):
        def __init__(self):
            super().__init__(noise=True)
            self.began = time.monotonic()

        def read(self):
            self.noise = time.monotonic() - self.began < 0.05
            return super().read()

        def isOpened(self):  # noqa: N802
            self.began = time.monotonic()
            return True

    captures = Captures(monkeypatch, Freezing())
    monkeypatch.setattr(camera_frames, "FROZEN_TIMEOUT", 0.1)
    with Camera(0) as camera:
        for frame in camera:
            if captures.opened > 3:
                break
            assert frame.seconds < 5
    assert captures.released == captures.opened


def test_frozen_camera_that_cannot_be_opened_again_is_an_error(monkeypatch):
    class Gone(Still):
        def isOpened(self):  # noqa: N802
            return False

    Captures(monkeypatch, Still(), Gone())
    monkeypatch.setattr(camera_frames, "FROZEN_TIMEOUT", 0.1)
    with Camera(0) as camera, pytest.raises(InputError, match="camera 0 cannot be opened"):
        list(camera)


def test_camera_with_noise_is_not_opened_again(monkeypatch):
    captures = Captures(monkeypatch, Still(noise=True))
    monkeypatch.setattr(camera_frames, "FROZEN_TIMEOUT", 0.05)
    with Camera(0) as camera:
        for frame in camera:
            if frame.seconds > 0.3:
                break
    assert (captures.opened, captures.released) == (1, 1)


@pytest.mark.parametrize(
    "fault",
    [
        lambda: (True, None),
        lambda: (True, np.zeros((0, 0, 3), np.uint8)),
        lambda: 1 / 0,
        lambda: cv2.resize(None, (1, 1)),
    ],
    ids=["no image", "empty image", "exception", "error of OpenCV"],
)
def test_fault_of_a_driver_is_one_clear_error_and_no_traceback(monkeypatch, capfd, fault):
    class Faulty(FakeCapture):
        def read(self):
            return super().read() if self.left else fault()

    captures = Captures(monkeypatch, Faulty(frames=3))
    with Camera(0) as camera, pytest.raises(InputError, match=r"camera 0 sends no more frames.*plugged in$") as raised:
        list(camera)
    assert "\n" not in str(raised.value)
    assert captures.released == 1
    assert capfd.readouterr().err == ""


def test_at_most_two_threads_hang_in_a_driver_and_the_camera_works_again_afterwards(monkeypatch):
    class Hanging(FakeCapture):
        def read(self):
            answer.wait(20)
            return False, None

    answer = threading.Event()
    captures = Captures(monkeypatch, Hanging())
    monkeypatch.setattr(camera_frames, "CAMERA_TIMEOUT", 0.05)
    monkeypatch.setattr(camera_frames.Camera, "_hanging", {})
    monkeypatch.setattr(
        threading.Thread, "join", lambda self, timeout=None, join=threading.Thread.join: join(self, 0.05)
    )
    threads = threading.active_count()
    for attempt in range(6):
        expected = "no more frames" if attempt < 2 else "its driver does not answer"
        with pytest.raises(InputError, match=expected), Camera(0) as camera:
            list(camera)
    assert threading.active_count() == threads + 2
    assert captures.opened == 2
    answer.set()
    while threading.active_count() > threads:
        time.sleep(0.01)
    assert captures.released == 2
    captures.captures = [FakeCapture()]
    with Camera(0) as camera:
        assert next(iter(camera)).index == 0


def test_slow_consumer_gets_the_newest_frame(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: FakeCapture(frames=40))
    with Camera(0) as camera:
        frames = iter(camera)
        next(frames)
        time.sleep(0.2)
        assert next(frames).seconds > 0.1


def test_camera_whose_opening_hangs_is_an_error_within_the_limit_and_leaves_no_thread(monkeypatch):
    answer, released = threading.Event(), threading.Event()

    class Released(FakeCapture):
        def release(self):
            released.set()

    def hang(_number):
        answer.wait(20)
        return Released()

    monkeypatch.setattr(cv2, "VideoCapture", hang)
    monkeypatch.setattr(camera_frames, "OPEN_TIMEOUT", 0.1)
    monkeypatch.setattr(camera_frames.Camera, "_hanging", {})
    monkeypatch.setattr(
        threading.Thread, "join", lambda self, timeout=None, join=threading.Thread.join: join(self, 0.05)
    )
    threads = threading.active_count()
    for attempt in range(5):
        expected = "camera 0 did not open within 0 s; unplug" if attempt < 2 else "its driver does not answer"
        with pytest.raises(InputError, match=expected):
            Camera(0)
    assert threading.active_count() == threads + 2
    answer.set()
    assert released.wait(5)  # as soon as the driver answers
    until = time.monotonic() + 5
    while threading.active_count() > threads and time.monotonic() < until:
        time.sleep(0.01)
    assert threading.active_count() == threads
