"""Recorded traces and their replay."""

import io
import json
import zipfile

import numpy as np
import pytest

from canthus.runtime import pipeline
from canthus.runtime.cli import main
from canthus.runtime.errors import InputError
from canthus.runtime.pipeline import Landmarker, Settings
from canthus.runtime.processing import Inputs, Processing, Processor
from canthus.runtime.schemes import Scheme, included_scheme
from canthus.runtime.tables import read_table
from canthus.runtime.trace import Recorder, complete_trace, replay
from canthus.runtime.trace.format import VERSION, read_chunks, read_header
from canthus.runtime.tracker import TrackerSettings
from canthus.runtime.types import Faces, Frame
from support.fakes import FakeBackend, FakeDetector, bright_boxes, scene
from support.videos import write_video

FRAMES = 12


def moving(places):
    """Return frames in which faces move: `places` gives them for each frame."""
    return [Frame(scene(*places(number)), number, number / 30) for number in range(FRAMES)]


def one_face(number):
    return [(100 + 3 * number, 100 + number)]


def two_faces_and_none(number):
    return [] if 4 <= number < 6 else [(100 + 2 * number, 90), (450 - 3 * number, 140)]


class FewPoints(FakeBackend):
    """A fake network with the first 29 points, as if they were COFW's."""

    scheme = included_scheme("cofw")

    def predict(self, crops):
        points, scores = super().predict(crops)
        return points[:, : self.scheme.points], scores[:, : self.scheme.points]


def record(path, frames, processing=None, detect=bright_boxes, before=None, chunk_frames=256, backend=FakeBackend):
    """Record a trace with fakes, and return the faces."""
    processing = processing or Processing(measures=True)
    found = []
    with Recorder(path, "fakes", chunk_frames) as recorder:
        recorder.start(processing, "fake", backend.scheme)
        processor = Processor(recorder.watch(Inputs(detect, backend())), processing)
        for frame in frames:
            if before:
                before(frame.index, processor, recorder)
            recorder.start_frame(frame)
            found.append(processor.update(frame))
            recorder.end_frame(found[-1])
    return found


def assert_equal_bits(replayed, faces):
    assert replayed.same
    for name in ("points", "scores", "ids", "detection_scores"):
        assert getattr(replayed.faces, name).tobytes() == getattr(faces, name).tobytes()
    if faces.measures is not None:
        assert replayed.faces.measures.values.tobytes() == faces.measures.values.tobytes()


@pytest.mark.parametrize("places", [one_face, two_faces_and_none], ids=["one face", "two faces that vanish"])
@pytest.mark.parametrize(
    "processing",
    [Processing(measures=True), Processing(TrackerSettings(1), None, False)],
    ids=["measured", "neither smoothed nor measured"],
)
def test_a_replay_gives_the_same_bits(tmp_path, places, processing):
    path = tmp_path / "clip.trace"
    faces = record(path, moving(places), processing)
    assert sum(map(len, faces)) >= 8
    again = list(replay(path))
    assert len(again) == FRAMES
    for replayed, found in zip(again, faces, strict=True):
        assert_equal_bits(replayed, found)


def test_a_replay_repeats_a_detector_in_the_background(tmp_path):
    calls = []

    def late(image):
        """Answer every third call, with the boxes of the first of the three."""
        calls.append(image)
        if len(calls) % 3:
            return None
        return bright_boxes(calls[-3])

    path = tmp_path / "clip.trace"
    faces = record(path, moving(one_face), detect=late)
    assert len(faces[0]) == 0
    assert len(faces[-1]) == 1
    for replayed, found in zip(replay(path), faces, strict=True):
        assert_equal_bits(replayed, found)


def test_a_replay_repeats_restarts_and_calibrations(tmp_path):
    def before(index, processor, recorder):
        if index == 5:
            processor.restart()
            recorder.add_restart()
        if index == 8:
            processor.calibrate()
            recorder.add_calibration()

    path = tmp_path / "clip.trace"
    faces = record(path, moving(one_face), before=before)
    assert faces[4].ids.tolist() == [0]
    assert faces[5].ids.tolist() == [1]
    for replayed, found in zip(replay(path), faces, strict=True):
        assert_equal_bits(replayed, found)


def test_a_trace_of_several_chunks_and_pixels_that_are_not_square(tmp_path):
    path = tmp_path / "clip.trace"
    frames = [Frame(frame.image, frame.index, frame.seconds, 1.25) for frame in moving(one_face)]
    faces = record(path, frames, chunk_frames=5)
    assert [len(chunk["index"]) for chunk in read_chunks(path)] == [5, 5, 2]
    for replayed, found in zip(replay(path), faces, strict=True):
        assert_equal_bits(replayed, found)


def test_other_processing_gives_other_numbers(tmp_path):
    path = tmp_path / "clip.trace"
    record(path, moving(one_face))
    rough = list(replay(path, Processing(smoothing=None)))
    assert [one.same for one in rough] == [False] * FRAMES  # no measures either
    points = [one.faces.points for one in rough]
    smooth = [one.faces.points for one in replay(path)]
    assert np.array_equal(points[0], smooth[0])
    assert not np.array_equal(points[5], smooth[5])


def test_numpy_reads_a_trace(tmp_path):
    path = tmp_path / "clip.trace"
    record(path, moving(one_face))
    with np.load(path) as arrays:
        np.testing.assert_allclose(arrays["000000/seconds"], np.arange(FRAMES) / 30)
        assert arrays["000000/points"].shape[1:] == (98, 2)


def test_a_tracker_that_asks_for_other_regions_is_named(tmp_path):
    path = tmp_path / "clip.trace"
    record(path, moving(one_face))
    rewrite(path, "000000/regions", lambda regions: regions + 5)
    with pytest.raises(InputError, match=r"in frame 0 the tracker looks at other regions, which was not recorded"):
        list(replay(path))


def test_the_header_has_the_scheme_of_the_points(tmp_path):
    path, scheme = tmp_path / "clip.trace", Scheme("two", 2, eyes=((0,), (1,)))
    with Recorder(path) as recorder:
        recorder.start(Processing(), "fake", scheme)
        recorder.start_frame(Frame(np.zeros((4, 4, 3), np.uint8), 0, 0.0))
        recorder.end_frame(Faces.none(scheme))
    assert read_header(path).scheme == scheme


def test_a_discarded_recording_leaves_nothing(tmp_path):
    recorder = Recorder(tmp_path / "clip.trace")
    recorder.start(Processing(), "fake")
    recorder.discard()
    recorder.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_recording_without_frames_writes_no_file(tmp_path):
    record(tmp_path / "clip.trace", [])
    assert list(tmp_path.iterdir()) == []


def rewrite(path, name, change):
    """Change an array of a trace; None removes it."""
    with zipfile.ZipFile(path) as archive:
        parts = {one: archive.read(one) for one in archive.namelist()}
    changed = change(np.load(io.BytesIO(parts.pop(f"{name}.npy"))))
    with zipfile.ZipFile(path, "w") as archive:
        for one, content in parts.items():
            archive.writestr(one, content)
        if changed is not None:
            with archive.open(f"{name}.npy", "w") as file:
                np.save(file, changed)


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("000000/points", lambda points: points[:-1], "points is"),
        ("000000/points", lambda points: points.astype(np.float64), "points is .* float64"),
        ("000000/boxes", lambda boxes: boxes[:-1], "boxes_found does not agree"),
        ("000000/size", lambda size: -size, "impossible size"),
        ("000000/size", lambda size: size * 0 + 32_768, "impossible size"),
        ("000000/pixel_aspect", lambda aspects: aspects + np.inf, "pixel_aspect is not a number"),
        ("000000/pixel_aspect", lambda aspects: -aspects, "pixel aspect is not above 0"),
        ("000000/boxes", lambda boxes: boxes + np.inf, "boxes is not a number"),
        ("000000/regions", lambda regions: regions + np.nan, "regions is not a number"),
        ("000000/seconds", lambda seconds: seconds * np.nan, "not a number"),
        ("000000/predictions", lambda counts: counts - 9, "predictions does not agree"),
        ("000000/digest", lambda digest: None, "digest.npy"),
    ],
)
def test_a_damaged_trace_is_one_line(tmp_path, name, change, reason):
    path = tmp_path / "clip.trace"
    record(path, moving(one_face))
    rewrite(path, name, change)
    with pytest.raises(InputError, match=rf"clip.trace: is damaged \(part 000000: .*{reason}") as raised:
        list(replay(path))
    assert "\n" not in str(raised.value)


def test_a_damaged_header_of_an_array_is_one_line(tmp_path):
    path = tmp_path / "clip.trace"
    record(path, moving(one_face))
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts["000000/digest.npy"] = parts["000000/digest.npy"].replace(b"(12, 8)", b"\xa712, 8)")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with pytest.raises(InputError, match=r"clip.trace: is damaged \(part 000000: "):
        list(replay(path))


def test_files_that_are_no_trace_are_one_line(tmp_path):
    path = tmp_path / "clip.trace"
    path.mkdir()
    with pytest.raises(InputError, match="is a folder, a pipe or a device"):
        read_header(path)
    path.rmdir()
    path.write_bytes(b"GIF89a")
    with pytest.raises(InputError, match="is not a trace"):
        read_header(path)
    with pytest.raises(InputError, match="No such file"):
        read_header(tmp_path / "other.trace")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("trace.json", json.dumps({"version": VERSION + 1}))
    with pytest.raises(InputError, match=f"version {VERSION + 1}.*update canthus"):
        read_header(path)
    with zipfile.ZipFile(path, "w") as archive:
        person = {"neutral": {}, "closed_aspect": [0.1, 0.1], "head": []}
        archive.writestr("trace.json", json.dumps({"processing": {"person": person}}))
    with pytest.raises(InputError, match=r"clip.trace: is not a trace, or is damaged \(neutral must have"):
        read_header(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("trace.json", json.dumps({"processing": {"smoothing": "much"}}))
    with pytest.raises(InputError, match=r"is not a trace, or is damaged \(processing.smoothing"):
        read_header(path)


def test_the_command_compares_and_writes_the_table(tmp_path, capsys):
    path = tmp_path / "clip.trace"
    record(path, moving(one_face))
    table = tmp_path / "points.csv"
    assert main(["replay", str(path), "--table", str(table)]) == 0
    shown = capsys.readouterr().out
    assert f"{FRAMES} frames, {FRAMES} with faces, recorded from fakes" in shown
    assert "the same numbers" in shown
    assert len(table.read_text().splitlines()) == FRAMES + 1
    rewrite(path, "000000/digest", lambda digest: digest + (np.arange(FRAMES) == 7)[:, None].astype(np.uint8))
    assert main(["replay", str(path)]) == 1
    assert "other numbers from frame 7 on" in capsys.readouterr().out


def test_the_table_of_a_trace_has_the_points_of_its_scheme(tmp_path):
    path, table = tmp_path / "clip.trace", tmp_path / "points.csv"
    faces = record(path, moving(one_face), Processing(), backend=FewPoints)
    assert main(["replay", str(path), "--table", str(table)]) == 0
    read = read_table(table)
    np.testing.assert_allclose(read.points[0], faces[0].points[0], atol=0.01)
    assert read.points.shape == (FRAMES, 29, 2)
    assert read.metadata["scheme"]["name"] == "COFW"


@pytest.mark.parametrize("suffix", [".csv", ".npz"])
def test_a_damaged_trace_leaves_no_table(tmp_path, capsys, suffix):
    path = tmp_path / "clip.trace"
    record(path, moving(one_face))
    rewrite(path, "000000/points", lambda points: points[:-1])
    assert main(["replay", str(path), "--table", str(tmp_path / f"points{suffix}")]) == 1
    assert "clip.trace: is damaged" in capsys.readouterr().err
    assert [each.name for each in tmp_path.iterdir()] == ["clip.trace"]


def test_canthus_video_records_a_trace(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "Detector", lambda model: FakeDetector())
    monkeypatch.setattr(pipeline, "open_automatic", lambda *_: FakeBackend())
    clip = write_video(tmp_path / "clip.mp4", [number / 30 for number in range(70)])  # the last frames are bright
    trace = tmp_path / "clip.trace"
    assert main(["video", str(clip), "--record-trace", str(trace), "--measures"]) == 0
    assert f"70 frames, 15 with faces; wrote {trace}" in capsys.readouterr().out
    assert main(["replay", str(trace)]) == 0
    shown = capsys.readouterr().out
    assert "70 frames, 15 with faces, recorded from clip.mp4" in shown
    assert "the same numbers" in shown
    assert main(["video", str(clip), "--record-trace", str(trace)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["video", str(clip), "--record-trace", str(tmp_path / "clip.npz")]) == 2
    assert "unsupported name of a trace (supported: .trace)" in capsys.readouterr().err


@pytest.fixture
def landmarker(monkeypatch):
    monkeypatch.setattr(pipeline, "Detector", lambda model: FakeDetector())
    monkeypatch.setattr(pipeline, "open_automatic", lambda *_: FakeBackend())
    with Landmarker(Settings(measures=True)) as opened:
        yield opened


def test_a_trace_that_begins_in_the_middle_goes_on_with_the_faces_that_are_tracked(tmp_path, landmarker):
    path = tmp_path / "clip.trace"
    frames = moving(two_faces_and_none)
    landmarker.tracker.settings = TrackerSettings(max_faces=3)
    before = [landmarker.update(frame) for frame in frames[:3]]
    assert before[-1].ids.tolist() == [0, 1]
    with Recorder(path) as recorder:
        landmarker.record(recorder)
        faces = [landmarker.update(frame) for frame in frames[3:10]]
        landmarker.record(None)
        after = [landmarker.update(frame) for frame in frames[10:]]
    assert after[-1].ids.tolist() == faces[-1].ids.tolist()
    again = list(replay(path))
    assert len(again) == 7
    assert again[0].faces.ids.tolist() == [0, 1]
    for replayed, found in zip(again, faces, strict=True):
        assert_equal_bits(replayed, found)
    assert read_header(path).processing.tracker.max_faces == 3


@pytest.mark.parametrize("content", [b"nothing", b"\x80\x05}\x94.", b"cos\nsystem\n."])
def test_a_damaged_state_at_the_start_of_a_trace_is_one_line(tmp_path, landmarker, content):
    path = tmp_path / "clip.trace"
    with Recorder(path) as recorder:
        landmarker.record(recorder)
        landmarker.update(moving(one_face)[0])
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in (parts | {"state": content}).items():
            archive.writestr(name, part)
    with pytest.raises(InputError, match=r"clip\.trace: is damaged \(the state at its start"):
        list(replay(path))


@pytest.mark.parametrize("cut", [0, 40, 400])
def test_a_trace_whose_recording_was_killed_is_completed(tmp_path, cut):
    path, killed = tmp_path / "clip.trace", tmp_path / "killed.trace"
    recorder = Recorder(path, "fakes", chunk_frames=4)
    recorder.start(Processing(), "fake")
    processor = Processor(recorder.watch(Inputs(bright_boxes, FakeBackend())), Processing())
    for frame in moving(one_face)[:10]:
        recorder.start_frame(frame)
        recorder.end_frame(processor.update(frame))
    content = recorder.draft.file.read_bytes()  # as after a kill: the last two frames are in memory
    recorder.discard()
    killed.write_bytes(content[: len(content) - cut])
    assert complete_trace(killed)
    again = list(replay(killed))
    assert [one.index for one in again] == list(range(8 if cut == 0 else 4))
    assert all(one.same for one in again)


def test_nothing_is_recovered_of_a_trace_without_a_whole_chunk(tmp_path):
    path = tmp_path / "clip.trace"
    for content in (b"", b"PK\x03\x04" + bytes(40), b"no archive, but some text of enough length"):
        path.write_bytes(content)
        assert not complete_trace(path)
    with pytest.raises(InputError, match="cannot be read"):
        complete_trace(tmp_path / "missing.trace")


def test_overwriting_nothing_is_a_wrong_option(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["replay", str(tmp_path / "t.trace"), "--overwrite"])
    assert "--overwrite has no effect without --table" in capsys.readouterr().err
