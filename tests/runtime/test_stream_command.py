"""`canthus stream`."""

import contextlib
import socket
import threading
import time

import numpy as np
import pytest

from canthus.runtime import pipeline
from canthus.runtime.cli import main
from canthus.runtime.commands import stream as command
from canthus.runtime.errors import InputError
from canthus.runtime.models import Manifest
from canthus.runtime.schemes import included_scheme
from canthus.runtime.streams.openseeface import PACKET
from canthus.runtime.types import Frame
from support.fakes import FakeBackend, FakeDetector, scene
from support.videos import write_video


@pytest.fixture
def fakes(monkeypatch):
    monkeypatch.setattr(pipeline, "Detector", lambda model: FakeDetector())
    monkeypatch.setattr(pipeline, "open_automatic", lambda *_: FakeBackend())


@pytest.fixture
def receiver():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(0.2)
        yield receiver


def received(receiver):
    packets = []
    with contextlib.suppress(TimeoutError):
        while True:
            packets.append(np.frombuffer(receiver.recv(65536), PACKET))
    return packets


def test_a_file_is_streamed_at_its_own_rate_and_recorded(tmp_path, fakes, receiver, capsys):
    clip = write_video(tmp_path / "clip.mp4", [number / 60 for number in range(70)])  # the last 15 are bright
    port, trace = receiver.getsockname()[1], tmp_path / "clip.trace"
    began = time.monotonic()
    assert main(["stream", "--source", str(clip), "--openseeface", str(port), "--record-trace", str(trace)]) == 0
    assert time.monotonic() - began >= 69 / 60
    shown = capsys.readouterr()
    assert shown.out == f"OpenSeeFace to 127.0.0.1:{port}\n"
    assert "network" not in shown.err
    packets = received(receiver)
    assert 1 <= len(packets) <= 15
    assert packets[0]["size"].tolist() == [[96.0, 64.0]]
    assert main(["replay", str(trace)]) == 0
    assert main(["stream", "--source", str(clip), "--vmc", str(port), "--record-trace", str(trace)]) == 1
    assert "exists already" in capsys.readouterr().err


def test_an_address_on_the_network_is_announced(tmp_path, fakes, capsys):
    clip = write_video(tmp_path / "clip.mp4", [number / 60 for number in range(3)])
    assert main(["stream", "--source", str(clip), "--osc", "192.0.2.1", "--vmc", "localhost"]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines() == ["VMC to localhost:39539", "OSC to 192.0.2.1:9000"]
    assert "others on the network can read the osc stream" in shown.err
    assert "vmc stream" not in shown.err


def test_wrong_options_are_refused(tmp_path, capsys):
    for words, reason in (
        (["--camera", "0"], "nothing to send"),
        (["--vmc", "--loop"], "--loop needs a file"),
        (["--vmc", "--vmc-shapes", "apple"], "invalid choice"),
        (["--osc", "--vmc-shapes", "vrm"], "--vmc-shapes has no effect without --vmc"),
        (["--vmc", "--clean"], "--clean has no effect without --virtual-camera"),
        (["--vmc", "--draw", "lines"], "--draw has no effect without --virtual-camera"),
        (["--virtual-camera", "--clean", "--draw", "lines"], "--draw has no effect with --clean"),
        (["--vmc", "--overwrite"], "--overwrite has no effect without --record-trace"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["stream", *words])
        assert ended.value.code == 2
        assert reason in capsys.readouterr().err
    assert main(["stream", "--vmc", "a b"]) == 2
    assert "a b: is no address" in capsys.readouterr().err
    assert main(["stream", "--vmc", "--source", str(tmp_path / "none.mp4")]) == 1
    assert "no such file" in capsys.readouterr().err


def test_a_model_with_other_points_sends_them_without_measures(tmp_path, fakes, monkeypatch, capsys):
    model = tmp_path / "few.onnx"
    Manifest("0", "student", 64, 29, 4, scheme=included_scheme("cofw")).write(model)
    model.write_bytes(b"a network")
    for needing in ("--vmc", "--osc", "--openseeface", f"--person={tmp_path / 'me.json'}"):
        assert main(["stream", "--model", str(model), "--websocket", needing]) == 1
        reason = f"{needing.split('=')[0]} needs measures, and the model has the 29 points of COFW, not WFLW's"
        assert reason in capsys.readouterr().err
    settings = command._with_measures(pipeline.Settings(model=model), ["websocket", "virtual-camera"])
    assert not settings.measures
    assert command._with_measures(pipeline.Settings(), ["websocket"]).measures


def test_frames_that_are_late_are_left_out(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    shown = []
    for frame in command._paced(Frame(scene(), number, number / 10) for number in range(20)):
        shown.append(frame.index)
        clock[0] += 0.33  # slower than the file
    assert shown[:5] == [0, 1, 4, 7, 10]  # those that came due while the one before was processed
    assert clock[0] == pytest.approx(2.3, abs=0.5)


def test_a_file_that_is_decoded_slowly_is_still_sent(monkeypatch):
    """Every frame is late, and the first one takes longer than the whole file."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))

    def decode():
        for number in range(20):
            clock[0] += 0.2
            yield Frame(scene(), number, number / 30)

    shown = []
    for frame in command._paced(decode()):
        shown.append(frame.index)
        clock[0] += 9.0 if frame.index == 0 else 0.1
    assert shown[0] == 0
    assert len(shown) >= 8
    assert max(np.diff(shown)) <= 3


class UnpluggedCamera:
    """A camera that yields two frames, fails, is not there once, and then works again and ends."""

    def __init__(self):
        self.opened = 0

    def open(self, args):
        self.opened += 1
        if self.opened == 2:
            raise InputError("camera 0 cannot be opened")
        return contextlib.nullcontext(self.frames(fails=self.opened == 1))

    def frames(self, fails):
        yield Frame(scene((100, 100)), 0, 0.0)
        yield Frame(scene((100, 100)), 1, 0.03)
        if fails:
            raise InputError("camera 0 sends no more frames")


def test_a_camera_that_is_unplugged_is_opened_again(monkeypatch, caplog):
    camera, restarts = UnpluggedCamera(), []
    monkeypatch.setattr(command, "open_source", camera.open)
    monkeypatch.setattr(command, "RETRY_SECONDS", 0.0)
    landmarker = type("FakeLandmarker", (), {"restart": lambda _: restarts.append(True)})()
    with caplog.at_level("WARNING"):
        assert [frame.index for frame in command._live(None, landmarker)] == [0, 1, 0, 1]
    assert camera.opened == 3
    assert len(restarts) == 2
    assert len(caplog.messages) == 1


def test_a_camera_that_never_worked_is_an_error(monkeypatch):
    camera = UnpluggedCamera()
    camera.opened = 1
    monkeypatch.setattr(command, "open_source", camera.open)
    with pytest.raises(InputError, match="cannot be opened"):
        next(command._live(None, None))


def test_no_thread_is_left(tmp_path, fakes, receiver):
    clip = write_video(tmp_path / "clip.mp4", [number / 60 for number in range(3)])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    before = threading.active_count()
    assert main(["stream", "--source", str(clip), "--websocket", str(port)]) == 0
    assert threading.active_count() <= before
