"""The virtual camera, with a fake of pyvirtualcam."""

import sys
import threading
import types

import numpy as np
import pytest

from canthus.runtime.errors import BackendError, InputError
from canthus.runtime.streams import StreamOptions, open_stream
from canthus.runtime.types import Frame
from support.heads import measured_faces

AHEAD = ((0, 0, 0), (0, 0, 600))


class FakeCamera:
    """A fake of `pyvirtualcam.Camera`, which takes frames of its size only."""

    opened: "list[FakeCamera]"
    gate: threading.Event  # frames are taken while it is set

    def __init__(self, width, height, fps, device=None):
        if device == "/dev/none":
            raise RuntimeError("'v4l2loopback' backend: no device\nfound")
        self.size, self.device, self.frames, self.closed = (width, height), device, [], False
        self.arrived = threading.Condition()
        self.opened.append(self)

    def send(self, frame):
        assert frame.shape == (self.size[1], self.size[0], 3)
        assert frame.dtype == np.uint8
        self.gate.wait(5)
        with self.arrived:
            self.frames.append(frame.copy())
            self.arrived.notify_all()

    def wait(self, count):
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.frames) >= count, 5)

    def close(self):
        self.closed = True


@pytest.fixture
def cameras(monkeypatch):
    FakeCamera.opened, FakeCamera.gate = [], threading.Event()
    FakeCamera.gate.set()
    monkeypatch.setitem(sys.modules, "pyvirtualcam", types.SimpleNamespace(Camera=FakeCamera))
    return FakeCamera.opened


def gray(width, height, number=0):
    return Frame(np.full((height, width, 3), 40, np.uint8), number, number / 30)


def show(stream, cameras, frame, faces, camera=0, count=1):
    """Send a frame and wait until the camera has it."""
    stream.send(frame, faces)
    for _ in range(500):
        if len(cameras) > camera:
            break
        threading.Event().wait(0.01)
    cameras[camera].wait(count)
    return cameras[camera].frames[-1]


def test_the_camera_shows_the_overlay(cameras):
    with open_stream("virtual-camera", "/dev/video7") as stream:
        shown = show(stream, cameras, gray(640, 480), measured_faces(AHEAD))
        assert stream.name == "virtual camera /dev/video7"
    assert (shown != 40).any()
    assert cameras[0].device == "/dev/video7"
    assert cameras[0].closed


def test_the_camera_shows_the_frame_alone(cameras):
    with open_stream("virtual-camera", "", StreamOptions(drawings=())) as stream:
        shown = show(stream, cameras, gray(641, 481), measured_faces(AHEAD))
    assert shown.shape == (480, 640, 3)  # even sides
    assert (shown == 40).all()
    assert cameras[0].device is None


def test_another_size_of_the_frames_opens_the_camera_again(cameras):
    with open_stream("virtual-camera") as stream:
        show(stream, cameras, gray(640, 480), measured_faces())
        show(stream, cameras, gray(320, 240), measured_faces(), camera=1)
    assert [camera.size for camera in cameras] == [(640, 480), (320, 240)]
    assert cameras[0].closed


def test_a_slow_camera_loses_old_frames(cameras):
    with open_stream("virtual-camera", "", StreamOptions(drawings=())) as stream:
        show(stream, cameras, gray(64, 48), measured_faces())
        FakeCamera.gate.clear()
        for number in range(50):
            stream.send(gray(64, 48, number), measured_faces())  # does not wait
        FakeCamera.gate.set()
        cameras[0].wait(2)
    assert len(cameras[0].frames) <= 4


def test_a_machine_without_a_virtual_camera_is_one_line(cameras):
    with (
        open_stream("virtual-camera", "/dev/none") as stream,
        pytest.raises(
            InputError, match=r"no virtual camera can be opened \('v4l2loopback' backend: no device found\).*modprobe"
        ),
    ):
        for _ in range(500):
            stream.send(gray(64, 48), measured_faces())
            threading.Event().wait(0.01)


def test_a_missing_library_is_named_with_its_licence(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyvirtualcam", None)
    with (
        pytest.raises(BackendError, match=r"pyvirtualcam, which is under the GPL 2.*virtual-camera"),
        open_stream("virtual-camera"),
    ):
        pass


def test_missing_libraries_of_streams_are_named(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("canthus.runtime.streams.osc")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pythonosc.osc_message_builder", None)
    with pytest.raises(BackendError, match=r"streams need pythonosc.*stream"), open_stream("osc"):
        pass
