"""The commands video, images, bench and doctor on the sample clip, and on inputs that are wrong."""

import contextlib
import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from canthus.runtime import models, sample
from canthus.runtime.calibration import IDENTITY
from canthus.runtime.cli import main
from canthus.runtime.commands import doctor
from canthus.runtime.models import find_gpu_model, find_model, read_manifest
from canthus.runtime.pipeline import Landmarker, Settings
from canthus.runtime.schemes import included_scheme
from canthus.runtime.types import Frame
from canthus.runtime.video_file import VideoFile
from support.videos import write_video

CANTHUS = [str(Path(sys.executable).with_name("canthus"))]
STILL = [step / 30 for step in range(20)]


def run(*arguments):
    return main([str(argument) for argument in arguments])


def failed(capsys, code=1):
    """Return the single line that a failed command wrote to stderr."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.fixture
def clip(tmp_path):
    """Return the first 1.5 seconds of the sample clip."""
    import av

    path = tmp_path / "clip.mp4"
    with av.open(str(sample.CLIP)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.pts is None or float(packet.pts * packet.time_base) > 1.5:
                continue
            packet.stream = stream
            target.mux(packet)
    return path


def test_video_writes_an_overlay_and_a_table(clip, tmp_path, capsys):
    overlay, table = tmp_path / "o.mp4", tmp_path / "t.csv"
    assert run("video", clip, "-o", overlay, "--table", table) == 0
    rows = list(csv.DictReader(table.read_text().splitlines()))
    with VideoFile(clip) as video:
        times = [frame.seconds for frame in video]
    assert [int(row["frame"]) for row in rows] == list(range(len(times)))
    assert [float(row["seconds"]) for row in rows] == pytest.approx(times, abs=1e-4)
    assert {row["face"] for row in rows} == {"0"}
    with VideoFile(overlay) as video:
        assert [frame.seconds for frame in video] == pytest.approx(times, abs=1e-3)
    assert capsys.readouterr().err == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "o.mp4", "t.csv", "t.csv.json"]


def test_points_are_on_the_face_of_the_sample(clip, tmp_path):
    """Compare pupils, base of the nose, mouth corners and chin with their places in the portrait, measured by hand."""
    measured = {
        96: (203, 101.5),
        97: (246.3, 103.5),
        57: (225, 131.5),
        76: (202.5, 140.5),
        82: (247, 138),
        16: (225, 178.5),
    }
    run("video", clip, "--table", tmp_path / "t.csv")
    row = next(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    to_frame = sample.motion()[0]
    eyes = np.linalg.norm(np.subtract(measured[96], measured[97])) * np.hypot(*to_frame[:, 0])
    for point, position in measured.items():
        expected = to_frame[:, :2] @ position + to_frame[:, 2]
        found = float(row[f"x_{point}"]), float(row[f"y_{point}"])
        tolerance = 0.16 if point == 16 else 0.12  # the position of the chin along the jaw is ambiguous
        assert np.linalg.norm(found - expected) < tolerance * eyes, (point, found, expected)


def test_pixel_aspect_does_not_move_the_points(clip):
    """DV tapes and HDV store squeezed frames. If the pixel aspect is ignored, the points are 3 % off."""
    with VideoFile(clip) as video:
        frame = next(iter(video))
    height, width = frame.image.shape[:2]
    squeezed = cv2.resize(frame.image, (width, height * 11 // 16), interpolation=cv2.INTER_AREA)
    with Landmarker(Settings(gpu=False)) as landmarker:
        points = landmarker.update(frame).points[0]
        landmarker.restart()
        found = landmarker.update(Frame(squeezed, 0, 0.0, 11 / 16)).points[0]
    distance = np.linalg.norm((found + 0.5) * (1, height / len(squeezed)) - 0.5 - points, axis=1).mean()
    assert distance < 0.005 * np.linalg.norm(points[60] - points[72])


CLOSE_TWO_MODELS = """
import gc, signal
from canthus.runtime.backends import open_backend
from canthus.runtime.models import find_model

first, second = open_backend(find_model("fast")), open_backend(find_model("accurate"))
first.close()
del first
gc.collect()
second.close()
del second
gc.collect()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("stopped")
"""


def test_ctrl_c_after_two_models_were_closed_does_not_crash():
    done = subprocess.run([sys.executable, "-c", CLOSE_TWO_MODELS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "stopped\n")


@pytest.mark.parametrize("model", ["fast", "accurate"])
@pytest.mark.parametrize("light", [0, 3])
def test_track_ends_when_the_camera_is_covered(clip, model, light):
    rng = np.random.default_rng(0)
    with VideoFile(clip) as video, Landmarker(Settings(model=model, gpu=False)) as landmarker:
        for frame in video:
            assert len(landmarker.update(frame).ids) == 1
        for number in range(1, 11):
            dark = np.clip(rng.normal(light, light, frame.image.shape), 0, 255).astype(np.uint8)
            left = landmarker.update(Frame(dark, frame.index + number, frame.seconds + number / 30))
        assert len(left.ids) == 0


def test_video_without_faces_writes_a_row_for_each_frame_and_an_overlay(tmp_path):
    source = write_video(tmp_path / "gray.mp4", STILL)
    assert run("video", source, "-o", tmp_path / "o.mp4", "--table", tmp_path / "t.csv") == 0
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert [row["face"] for row in rows] == [""] * len(STILL)
    with VideoFile(tmp_path / "o.mp4") as video:
        assert len(list(video)) == len(STILL)


@pytest.mark.parametrize("name", ["absent.mp4", "text.mp4"])
def test_source_that_is_not_a_video_is_one_clear_error(tmp_path, capsys, name):
    (tmp_path / "text.mp4").write_text("not a video\n")
    assert run("video", tmp_path / name, "-o", tmp_path / "o.mp4") == 1
    assert name in failed(capsys)
    assert not (tmp_path / "o.mp4").exists()


def test_existing_output_is_not_replaced(clip, tmp_path, capsys):
    (tmp_path / "o.mp4").write_text("old")
    assert run("video", clip, "-o", tmp_path / "o.mp4") == 1
    assert "--overwrite" in failed(capsys)
    assert (tmp_path / "o.mp4").read_text() == "old"


def test_source_is_not_overwritten(clip, capsys):
    before = clip.read_bytes()
    assert run("video", clip, "-o", clip, "--overwrite") == 2
    assert "is the source;" in failed(capsys)
    assert clip.read_bytes() == before


@pytest.mark.parametrize("name", ["p.xlsx", "p.xyz", "p"])
def test_unknown_table_format_is_refused_before_any_work(clip, tmp_path, capsys, name):
    assert run("video", clip, "--table", tmp_path / name) == 2
    assert failed(capsys).endswith(
        f"{name}: unsupported table format (supported: .csv, .jsonl, .parquet, .feather, .npz)"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize("name", ["o.avi", "o.gif", "o", "-"])
def test_unknown_video_format_is_refused_before_any_work(clip, tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert run("video", clip, "-o", name, "--table", "t.csv") == 2
    assert failed(capsys).startswith(f"canthus video: {name}: unsupported output format (supported: .mp4,")
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_table_goes_to_standard_output_and_nothing_else_does(clip, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("video", clip, "--table", "-", "-o", "o.mp4") == 0
    output = capfd.readouterr()
    assert run("video", clip, "--table", "t.csv") == 0
    assert output.out.encode() == (tmp_path / "t.csv").read_bytes()
    assert output.err.strip().endswith("with faces; wrote o.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "o.mp4", "t.csv", "t.csv.json"]


def test_reader_that_closes_the_table_ends_the_run_quietly(clip):
    words = [*CANTHUS, "video", str(clip), "--table", "-"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout.readline().startswith(b"frame,seconds,face")
        running.stdout.close()
        assert running.stderr.read() == b""
        assert running.wait(timeout=60) == 1


def test_table_on_a_full_standard_output_is_one_clear_error(clip):
    words = [*CANTHUS, "video", str(clip), "--table", "-"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "canthus video: -: cannot be written (No space left on device)\n"


def test_incomplete_audio_is_reported(tmp_path, capsys):
    once = write_video(tmp_path / "once.ts", STILL, audio="aac").read_bytes()
    (tmp_path / "twice.ts").write_bytes(once + once)
    assert run("video", tmp_path / "twice.ts", "-o", tmp_path / "o.mp4") == 0
    damage, audio = capsys.readouterr().err.strip().splitlines()
    assert "twice.ts: is damaged" in damage  # its packets are not numbered in order
    assert "o.mp4: the audio is incomplete (its timestamps go back)" in audio


def test_unwritable_output_is_refused_before_any_work(clip, tmp_path, capsys):
    assert run("video", clip, "--table", tmp_path / "nowhere" / "t.csv") == 1
    assert "cannot be written" in failed(capsys)


def test_unusable_model_is_one_clear_error(clip, tmp_path, capsys):
    (tmp_path / "text.onnx").write_text("not a model")
    assert run("video", clip, "--table", tmp_path / "t.csv", "--model", tmp_path / "text.onnx") == 1
    assert "text.onnx" in failed(capsys)
    assert run("video", clip, "--table", tmp_path / "t.csv", "--model", "nonesuch") == 1
    assert "nonesuch" in failed(capsys)
    assert not (tmp_path / "t.csv").exists()


def test_model_with_another_number_of_points_is_one_clear_error(clip, tmp_path, capsys):
    other = tmp_path / "cofw.onnx"
    other.write_bytes(find_model().read_bytes())
    cofw = included_scheme("cofw")
    dataclasses.replace(read_manifest(find_model()), points=29, scheme=cofw, calibration=IDENTITY).write(other)
    assert run("video", clip, "--table", tmp_path / "t.csv", "--model", other) == 1
    assert "29" in failed(capsys)


def test_unusable_detector_model_is_one_clear_error(clip, tmp_path, capsys):
    (tmp_path / "text.tflite").write_text("not a model")
    assert run("video", clip, "--table", tmp_path / "t.csv", "--detector-model", tmp_path / "text.tflite") == 1
    assert "text.tflite" in failed(capsys)


def test_truncated_video_is_processed_up_to_its_end(tmp_path, capsys):
    whole = write_video(tmp_path / "whole.mkv", [step / 30 for step in range(90)], size=(320, 240))
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert run("video", cut, "-o", tmp_path / "o.mp4") == 0
    frames = int(capsys.readouterr().out.split()[0])
    with VideoFile(tmp_path / "o.mp4") as video:
        assert len(list(video)) == frames > 10


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_leave_parts_that_can_be_read(tmp_path, end):
    overlay, table = tmp_path / "o.partial.mp4", tmp_path / "t.partial.csv"
    words = [*CANTHUS, "video", str(sample.CLIP), "-o", str(tmp_path / "o.mp4"), "--table", str(tmp_path / "t.csv")]
    running = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    while running.poll() is None:
        time.sleep(0.05)
        if any(draft.stat().st_size > 50_000 for draft in tmp_path.glob(".canthus-*/t.csv")):
            break
    running.send_signal(end)
    errors = running.communicate(timeout=30)[1]
    assert running.returncode == 130
    assert errors.strip().endswith("stopped")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert 0 < len(rows) < 300
    assert None not in rows[-1].values()
    with VideoFile(overlay) as video:
        assert abs(len(list(video)) - len(rows)) <= 1
    assert visible(tmp_path) == PARTS


PARTS = ["o.partial.mp4", "t.partial.csv", "t.partial.csv.json"]


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


@contextlib.contextmanager
def running_video(tmp_path):
    """Start `canthus video` on the sample clip and wait until it has written a part of both outputs."""
    words = [*CANTHUS, "video", str(sample.CLIP), "-o", str(tmp_path / "o.mp4"), "--table", str(tmp_path / "t.csv")]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        while not any(draft.stat().st_size > 50_000 for draft in tmp_path.glob(".canthus-*/t.csv")):
            assert process.poll() is None
            time.sleep(0.05)
        yield process


def test_second_ctrl_c_during_closing_loses_no_frame(tmp_path):
    with running_video(tmp_path) as running:
        for pause in (0.02, 0.1, 0.3, 0.0):
            running.send_signal(signal.SIGINT)
            time.sleep(pause)
            if running.poll() is not None:
                break
        errors = running.communicate(timeout=30)[1]
    assert running.returncode == 130
    assert errors.strip().endswith("stopped")
    rows = list(csv.DictReader((tmp_path / "t.partial.csv").read_text().splitlines()))
    with VideoFile(tmp_path / "o.partial.mp4") as video:
        assert abs(len(list(video)) - len(rows)) <= 1
    assert visible(tmp_path) == PARTS


def test_second_run_on_the_same_output_is_refused_and_the_first_one_is_untouched(tmp_path, clip, capsys):
    with running_video(tmp_path) as running:
        for option, name in (("-o", "o.mp4"), ("--table", "t.csv")):
            assert run("video", clip, option, tmp_path / name, "--overwrite") == 1
            assert f"{name}: another run is writing it; wait until it ends" in failed(capsys)
        assert running.poll() is None
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=30)
    with VideoFile(tmp_path / "o.partial.mp4") as video:
        assert list(video)


def test_killed_run_leaves_only_a_partial_folder_which_the_next_run_deletes(tmp_path, clip):
    with running_video(tmp_path) as running:
        running.kill()
    left = {path.name for path in tmp_path.iterdir()} - {"clip.mp4"}
    assert len([name for name in left if name.startswith(".canthus-partial-")]) == 2
    assert all(name.startswith(".canthus-") for name in left)
    assert run("video", clip, "-o", tmp_path / "o.mp4", "--table", tmp_path / "t.csv") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "o.mp4", "t.csv", "t.csv.json"]


@pytest.mark.parametrize("calls", [0, 3])
def test_interrupted_run_leaves_parts_of_both_outputs_or_none(clip, tmp_path, monkeypatch, calls):
    update, times = Landmarker.update, []

    def interrupted(self, frame):
        times.append(frame.seconds)
        if len(times) > calls:
            raise KeyboardInterrupt
        return update(self, frame)

    monkeypatch.setattr(Landmarker, "update", interrupted)
    assert run("video", clip, "-o", tmp_path / "o.mp4", "--table", tmp_path / "t.csv") == 130
    assert visible(tmp_path) == ["clip.mp4", *(PARTS if calls else [])]


def test_images_are_drawn_and_written_to_a_table(clip, tmp_path, capsys):
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    with VideoFile(clip) as video:
        image = next(iter(video)).image
    cv2.imwrite(str(folder / "deep" / "face.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    cv2.imwrite(str(folder / "gray.jpg"), np.full((200, 200, 3), 90, np.uint8))
    (folder / "broken.jpg").write_text("not an image")
    assert run("images", folder, "--table", tmp_path / "t.csv", "-o", tmp_path / "drawn") == 1
    assert "broken.jpg" in failed(capsys)
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert [(row["picture"], row["face"]) for row in rows] == [(str(Path("deep", "face.png")), "0"), ("gray.jpg", "")]
    drawn = cv2.imread(str(tmp_path / "drawn" / "deep" / "face.png"))
    assert (drawn != cv2.cvtColor(image, cv2.COLOR_RGB2BGR)).any()
    assert (tmp_path / "drawn" / "gray.jpg").exists()


def test_folder_without_images_is_one_clear_error(tmp_path, capsys):
    assert run("images", tmp_path, "--table", tmp_path / "t.csv") == 1
    assert "contains no images" in failed(capsys)


def test_unknown_command_is_one_clear_error(capsys):
    assert run("vidoe") == 2
    assert "vidoe" in failed(capsys)


def test_command_without_outputs_is_refused(clip, capsys):
    with pytest.raises(SystemExit) as ended:
        run("video", clip)
    assert ended.value.code == 2
    assert "nothing to write" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare, to disable the network")
def test_video_works_without_a_network(clip, tmp_path):
    offline = ["unshare", "--map-root-user", "--net"]
    if subprocess.run([*offline, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no network namespaces")
    words = [*offline, *CANTHUS, "video", str(clip), "--table", str(tmp_path / "t.csv")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_video_makes_no_network_connections(clip, tmp_path):
    """An audit hook sees every look-up and connection of Python, also in processes that a library forks."""
    log = tmp_path / "connections"
    hook = f"""
import sys
def record(event, args):
    if event in ("socket.getaddrinfo", "socket.connect"):
        print(event, args, file=open({str(log)!r}, "a"))
sys.addaudithook(record)
"""
    (tmp_path / "sitecustomize.py").write_text(hook)
    words = [*CANTHUS, "video", str(clip), "--table", str(tmp_path / "t.csv")]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    subprocess.run(words, check=True, capture_output=True, timeout=120, env=environment)
    probe = [sys.executable, "-c", "import socket; socket.getaddrinfo('localhost', 1)"]
    assert not log.exists(), log.read_text()
    subprocess.run(probe, check=True, env=environment)
    assert log.exists(), "the hook itself must work"


def test_missing_detector_model_without_a_network_is_one_clear_error(clip, tmp_path):
    environment = os.environ | {
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PIP_NO_INDEX": "1",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_FIND_LINKS": "",
    }
    words = [*CANTHUS, "video", str(clip), "--table", str(tmp_path / "t.csv")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.returncode == 1
    assert "--detector-model" in done.stderr.strip().splitlines()[-1]


def test_bench_prints_speed_and_memory(clip, capsys):
    assert run("bench", "--clip", clip) == 0
    lines = capsys.readouterr().out
    assert "frames per second" in lines
    assert ("memory" in lines) == (sys.platform == "linux")


def test_bench_of_a_clip_without_a_face_says_so(tmp_path, capsys):
    source = write_video(tmp_path / "gray.mp4", STILL)
    assert run("bench", "--clip", source, "--json") == 0
    output = capsys.readouterr()
    speed = json.loads(output.out)["speed"]
    assert (speed["frames"], speed["frames_with_faces"], speed["landmark_ms"]) == (len(STILL), 0, None)
    assert "no face found" in output.err
    assert run("bench", "--clip", source) == 0
    assert "0 with faces" in capsys.readouterr().out


def test_bench_on_a_sample_whose_face_is_not_found_measures_speed_only(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sample, "CLIP", write_video(tmp_path / "gray.mp4", STILL))
    assert run("bench", "--json") == 0
    output = capsys.readouterr()
    assert list(json.loads(output.out)) == ["backend", "speed"]
    assert "stability cannot be measured: no face found on 20 of 20 frames" in output.err


def test_an_unknown_measurement_is_wrong_usage(capsys):
    assert run("bench", "spede") == 2
    assert "unknown measurement 'spede'" in failed(capsys)


def test_doctor_fits_one_screen_and_prints_json(capsys):
    assert run("doctor") == 0
    assert len(capsys.readouterr().out.splitlines()) <= 24
    assert run("doctor", "--json") == 0
    assert "openvino" in json.loads(capsys.readouterr().out)["packages"]


def test_default_model_differs_on_a_gpu(monkeypatch):
    assert (find_model().stem, find_gpu_model().stem) == ("fast", "accurate")
    assert find_gpu_model("fast") == find_model("fast")
    included = {"fast": find_model()}
    monkeypatch.setattr(models, "included_models", lambda: included)
    assert find_gpu_model() == find_model()


@pytest.mark.parametrize(("system", "text"), [("linux", "none found"), ("win32", "try canthus view --camera 0")])
def test_doctor_reports_no_camera_only_on_linux(monkeypatch, system, text):
    report = doctor.examine() | {"cameras": []}
    monkeypatch.setattr(sys, "platform", system)
    assert text in doctor._screen(report)
