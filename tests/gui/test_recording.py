"""Recordings and snapshots of what the viewer shows."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PyQt6.QtGui import QImage
from PyQt6.QtWidgets import QApplication

from canthus.gui import live_trace
from canthus.gui.finder import LiveFinder, Tracking, TrackingLandmarker
from canthus.gui.live_trace import LiveTrace
from canthus.gui.mailbox import Mailbox
from canthus.gui.overlay import OverlayStyle
from canthus.gui.recording import (
    Recorder,
    RecordingFailed,
    RecordingOptions,
    Saved,
    recording_path,
    rescue_recordings,
)
from canthus.gui.snapshot import ImageReady, SnapshotFailed, Snapshots, SnapshotSaved
from canthus.gui.stream import Result
from canthus.runtime import pipeline
from canthus.runtime.errors import InputError
from canthus.runtime.measures import KnownPerson
from canthus.runtime.trace import complete_trace, replay
from canthus.runtime.types import Faces, Frame
from canthus.runtime.video_file import VideoFile
from support.disk import full_disk
from support.fakes import FakeBackend, FakeDetector, scene
from support.videos import write_video
from support.viewer import application, face_at

qt = pytest.fixture(scope="session")(application)


def result(seconds: float, level: int = 60, size: tuple[int, int] = (96, 64), faces: Faces | None = None) -> Result:
    image = np.full((size[1], size[0], 3), level, np.uint8)
    found = face_at(48, 32) if faces is None else faces
    return Result(Frame(image, round(30 * seconds), seconds), found, {"landmark": 0.01}, 0, "a fake")


def record(options: RecordingOptions, results: list[Result]) -> object:
    """Record the results and return the last state."""
    recorder = Recorder(options)
    for one in results:
        recorder.add(one)
        until = time.monotonic() + 2
        while recorder._results._items and time.monotonic() < until:  # nothing is dropped here
            time.sleep(0.001)
    recorder.stop()
    assert recorder.join(5)
    return recorder.states.take()


def times(path: Path) -> list[float]:
    with VideoFile(path) as video:
        return [frame.seconds for frame in video]


def test_recording_is_a_video_and_a_table_at_the_times_of_the_frames(qt: QApplication, tmp_path: Path) -> None:
    options = RecordingOptions(tmp_path / "a.mp4", tmp_path / "a.csv", OverlayStyle())
    seconds = [5.0, 5.1, 5.2, 5.4]
    state = record(options, [result(one) for one in seconds])
    assert state == Saved((tmp_path / "a.mp4", tmp_path / "a.csv"), pytest.approx(0.4))
    assert times(tmp_path / "a.mp4") == pytest.approx([0, 0.1, 0.2, 0.4], abs=1e-3)
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["seconds"]) for row in rows] == pytest.approx([0, 0.1, 0.2, 0.4])
    assert {path.name for path in tmp_path.iterdir()} == {"a.mp4", "a.csv", "a.csv.json"}


@pytest.mark.parametrize("style", [None, OverlayStyle()])
def test_recording_is_clean_or_annotated(qt: QApplication, tmp_path: Path, style: OverlayStyle | None) -> None:
    record(RecordingOptions(tmp_path / "a.mp4", style=style), [result(0.0), result(0.1)])
    with VideoFile(tmp_path / "a.mp4") as video:
        image = next(iter(video)).image.astype(int)
    assert (np.abs(image - 60).max() > 60) == (style is not None)


def test_recording_of_a_file_has_its_sound_and_ends_where_it_is_left(qt: QApplication, tmp_path: Path) -> None:
    source = write_video(tmp_path / "in.mp4", [index / 30 for index in range(60)], audio="aac")
    options = RecordingOptions(tmp_path / "a.mp4", file=source)
    state = record(options, [result(0.5), result(0.6), result(0.6), result(0.7), result(0.1), result(0.2)])
    assert isinstance(state, Saved)
    assert "ended where the file was left" in state.note
    assert times(tmp_path / "a.mp4") == pytest.approx([0, 0.1, 0.2], abs=1e-3)
    import av

    with av.open(str(tmp_path / "a.mp4")) as file:
        assert len(file.streams.audio) == 1


def test_recording_after_the_size_of_a_file_has_changed_has_the_new_size(qt: QApplication, tmp_path: Path) -> None:
    source = write_video(tmp_path / "in.mp4", [index / 30 for index in range(30)])
    record(RecordingOptions(tmp_path / "a.mp4", file=source), [result(0.5, size=(48, 32)), result(0.6, size=(48, 32))])
    with VideoFile(tmp_path / "a.mp4") as video:
        assert (video.width, video.height) == (48, 32)


def test_recording_of_a_camera_goes_on_after_it_was_plugged_in_again(qt: QApplication, tmp_path: Path) -> None:
    record(RecordingOptions(tmp_path / "a.mp4"), [result(5.0), result(5.1), result(0.0), result(0.1), result(9.0)])
    expected = [0, 0.1, 0.1 + 1 / 30, 0.2 + 1 / 30, 0.2 + 2 / 30]
    assert times(tmp_path / "a.mp4") == pytest.approx(expected, abs=2e-3)


def test_recording_without_frames_writes_nothing(qt: QApplication, tmp_path: Path) -> None:
    loading = replace(result(0.0), seconds={})  # the models are not open yet
    assert record(RecordingOptions(tmp_path / "a.mp4"), [loading]) == Saved(())
    assert not list(tmp_path.iterdir())


def test_recording_that_cannot_be_written_is_reported(qt: QApplication, tmp_path: Path) -> None:
    state = record(RecordingOptions(tmp_path / "missing" / "a.mp4"), [result(0.0), result(0.1)])
    assert isinstance(state, RecordingFailed)
    assert "missing" in state.error


def test_recording_on_a_disk_that_becomes_full_keeps_what_was_recorded(qt: QApplication, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 64, 96, 3), np.uint8)
    frames = [Frame(image, index, index / 30) for index, image in enumerate(noise)]
    with full_disk(60_000):
        options = RecordingOptions(tmp_path / "canthus-a.mp4", tmp_path / "canthus-a.csv")
        state = record(options, [replace(result(0.0), frame=frame) for frame in frames])
    assert isinstance(state, RecordingFailed)
    assert "cannot be written (File too large)" in state.error
    assert state.error.endswith("What was recorded until then: canthus-a.csv, canthus-a.csv.json, canthus-a.mp4.")
    assert {path.name for path in tmp_path.iterdir()} == {"canthus-a.mp4", "canthus-a.csv", "canthus-a.csv.json"}
    assert len(times(tmp_path / "canthus-a.mp4")) > 5


def test_a_slow_recording_drops_frames_and_never_waits(
    qt: QApplication, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from canthus.gui import recording

    may_write = threading.Event()
    monkeypatch.setattr(recording._Writer, "write", lambda self, result: float(may_write.wait(5)))
    recorder = Recorder(RecordingOptions(tmp_path / "a.mp4"))
    for index in range(50):
        recorder.add(result(index / 30))
    may_write.set()
    recorder.stop()
    assert recorder.join(5)
    assert recorder._results.dropped >= 50 - 2 - recording.WAITING_FRAMES


KILLED = """
import sys, time
from pathlib import Path
import numpy as np
from canthus.gui.recording import Recorder, RecordingOptions
from canthus.gui.stream import Result
from canthus.runtime.types import Faces, Frame
folder = Path(sys.argv[1])
recorder = Recorder(RecordingOptions(folder / "canthus-1.mp4", folder / "canthus-1.csv"))
for index in range(120):
    image = np.full((64, 96, 3), 60, np.uint8)
    recorder.add(Result(Frame(image, index, index / 30), Faces.none(), {"landmark": 0.01}, 0))
    while recorder._results._items:  # none is dropped
        time.sleep(0.001)
while (state := recorder.states.take()) is None or state.seconds < 119 / 30:  # the last one is written
    time.sleep(0.001)
print("recorded", flush=True)
time.sleep(20)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_recording_of_a_killed_viewer_is_found_again(qt: QApplication, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"QT_QPA_PLATFORM": "offscreen"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "recorded\n"
    assert rescue_recordings(tmp_path) == []  # it goes on
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    names = {path.name for path in rescue_recordings(tmp_path)}
    assert names == {"canthus-1.csv", "canthus-1.csv.json", "canthus-1.mp4"}
    assert times(tmp_path / "canthus-1.mp4")[-1] > 1.5
    assert not list(tmp_path.glob(".canthus-*"))  # neither a temporary folder nor a lock
    assert rescue_recordings(tmp_path) == []


@pytest.fixture
def finder(monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveFinder]:
    """Yield what finds the faces in the viewer, with a fake detector and a fake network."""
    monkeypatch.setattr(pipeline, "Detector", lambda model: FakeDetector())
    monkeypatch.setattr(pipeline, "open_automatic", lambda *_: FakeBackend())
    tracking = Tracking(measures=True)
    with LiveFinder(lambda tracking: TrackingLandmarker(tracking, False), tracking, Mailbox()) as opened:
        yield opened


def record_found(finder: LiveFinder, folder: Path, act: Callable[[int], object]) -> Saved:
    """Record what a finder finds in ten frames, after two others. `act` is called before each with its number."""
    recorder: Recorder | None = None
    attached = threading.Event()

    def record_trace(trace: LiveTrace | None) -> None:
        finder.record(trace)
        attached.set()

    for index in range(12):
        if index == 2:
            options = RecordingOptions(folder / "a.mp4", trace=folder / "a.trace", source="fakes")
            recorder = Recorder(options, record_trace)
            assert attached.wait(10)
        act(index)
        frame = Frame(scene((100 + 3 * index, 100)), index, index / 30)
        found = finder.update(frame)
        if recorder is not None:
            recorder.add(Result(frame, found, {"landmark": 0.01}, 0, "a fake"))
            while recorder._results._items:
                time.sleep(0.001)
    assert recorder is not None
    recorder.stop()
    assert recorder.join(5)
    state = recorder.states.take()
    assert isinstance(state, Saved)
    return state


def test_recording_has_a_trace_that_repeats_the_same_numbers(
    qt: QApplication, tmp_path: Path, finder: LiveFinder
) -> None:
    state = record_found(finder, tmp_path, lambda index: None)
    assert state.paths == (tmp_path / "a.mp4", tmp_path / "a.trace")
    assert state.note == ""
    frames = list(replay(tmp_path / "a.trace"))
    assert [one.index for one in frames] == list(range(2, 12))
    assert all(one.same for one in frames)
    assert frames[0].faces.measures is not None
    finder.update(Frame(scene((140, 100)), 12, 0.4))  # it goes on without a trace


def test_a_trace_loses_one_second_at_most_if_the_viewer_is_killed(
    tmp_path: Path, finder: LiveFinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_trace, "CHUNK_SECONDS", 0.0)
    with LiveTrace(tmp_path / "a.trace", "fakes") as trace:
        finder.record(trace)
        for index in range(5):
            finder.update(Frame(scene((100, 100)), index, index / 5))
        (tmp_path / "killed.trace").write_bytes(trace.draft.file.read_bytes())
    assert complete_trace(tmp_path / "killed.trace")
    assert [one.index for one in replay(tmp_path / "killed.trace") if one.same] == [0, 1, 2, 3, 4]


def test_a_trace_ends_where_the_settings_are_changed(qt: QApplication, tmp_path: Path, finder: LiveFinder) -> None:
    def act(index: int) -> None:
        if index == 8:
            finder.change(Tracking(measures=True, max_faces=2))

    state = record_found(finder, tmp_path, act)
    assert state.note == "The trace ends where the settings were changed."
    assert [one.index for one in replay(tmp_path / "a.trace")] == list(range(2, 8))


def test_a_trace_that_cannot_be_written_does_not_spoil_the_recording(
    qt: QApplication, tmp_path: Path, finder: LiveFinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from canthus.runtime.trace import Recorder as TraceRecorder

    def fail(*_: object) -> None:
        raise InputError("a.trace: cannot be written (No space left on device)")

    monkeypatch.setattr(TraceRecorder, "end_frame", fail)
    state = record_found(finder, tmp_path, lambda index: None)
    assert state.paths == (tmp_path / "a.mp4",)
    assert state.note == "There is no trace: a.trace: cannot be written (No space left on device)."


def test_the_person_of_the_largest_face_is_known(qt: QApplication, finder: LiveFinder) -> None:
    finder.update(Frame(scene(), 0, 0.0))
    future = finder.person()
    assert future is not None
    assert future.result() is None
    finder.update(Frame(scene((100, 100)), 1, 1.0))
    future = finder.person()
    assert future is not None
    assert isinstance(future.result(), KnownPerson)


def test_a_killed_trace_without_a_whole_second_is_deleted(tmp_path: Path) -> None:
    draft = tmp_path / ".canthus-partial-1"
    draft.mkdir()
    (draft / "canthus-1.trace").write_bytes(b"PK" + bytes(100))
    (draft / "canthus-1.csv").write_text("frame\n")
    assert [path.name for path in rescue_recordings(tmp_path)] == ["canthus-1.csv"]
    assert [path.name for path in tmp_path.iterdir()] == ["canthus-1.csv"]


def test_names_of_recordings_are_new(tmp_path: Path) -> None:
    first = recording_path(tmp_path, ".mp4", now=0.0)
    first.touch()
    assert recording_path(tmp_path, ".mp4", now=0.0).name == first.stem + "-2.mp4"


def take(states: Mailbox, snapshots: Snapshots) -> object:
    snapshots.join(5)
    return states.take()


def test_snapshot_is_an_image_with_its_points_as_json(qt: QApplication, tmp_path: Path) -> None:
    snapshots = Snapshots()
    snapshots.save(result(1.5), OverlayStyle(), tmp_path / "a.png", "clip.mp4")
    assert take(snapshots.states, snapshots) == SnapshotSaved(tmp_path / "a.png")
    image = QImage(str(tmp_path / "a.png"))
    assert (image.width(), image.height()) == (96, 64)
    assert image.pixelColor(2, 2).red() == 60
    content = json.loads((tmp_path / "a.json").read_text())
    assert (content["source"], content["seconds"], content["width"]) == ("clip.mp4", 1.5, 96)
    (face,) = content["faces"]
    assert face["id"] == 7
    assert np.array(face["points"]).shape == (98, 2)


def test_image_for_the_clipboard_is_clean_without_a_style(qt: QApplication) -> None:
    snapshots = Snapshots()
    for style, plain in ((None, True), (OverlayStyle(), False)):
        snapshots.copy(result(1.5), style)
        state = take(snapshots.states, snapshots)
        assert isinstance(state, ImageReady)
        assert (state.image.pixelColor(48, 32).red() == 60) == plain


def test_snapshot_that_cannot_be_written_is_reported(qt: QApplication, tmp_path: Path) -> None:
    snapshots = Snapshots()
    snapshots.save(result(1.5), None, tmp_path / "missing" / "a.png", "clip.mp4")
    state = take(snapshots.states, snapshots)
    assert isinstance(state, SnapshotFailed)
    assert "missing" in state.error
