"""`canthus bench stages` and `canthus bench peers`: smoke runs, the shape of their reports, and the statistics."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from canthus.runtime import sample
from canthus.runtime.bench import peer_environments, peer_videos, peer_worker, peers, stages, startup
from canthus.runtime.bench.clip import measure_stability
from canthus.runtime.bench.machine import describe_machine
from canthus.runtime.bench.peer_accuracy import EQUIVALENTS, SHARED, LabelledFace, error_percent, read_faces
from canthus.runtime.bench.peer_environments import Candidate, make_environment
from canthus.runtime.bench.peer_process import PeerProcess
from canthus.runtime.bench.stages_report import to_markdown, to_svg
from canthus.runtime.cli import main
from canthus.runtime.errors import BackendError, InputError
from canthus.runtime.geometry import intersection_over_minimum
from canthus.runtime.pipeline import Settings
from canthus.runtime.schemes import Scheme
from canthus.runtime.types import Faces
from support.repository import REPOSITORY
from support.shape import SHAPE
from support.videos import write_video

RELEASES = sorted((REPOSITORY / "runtime" / "bench" / "releases").glob("*.json"))


def run(*arguments):
    return main(["bench", *(str(argument) for argument in arguments)])


def shape(value):
    """The keys and types of a parsed JSON value; a list has the shape of its first item."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return float if isinstance(value, int | float) and not isinstance(value, bool) else type(value)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report of a smoke run, and its folder."""
    folder = tmp_path_factory.mktemp("report")
    words = ["--model", "fast", "--precision", "float", "--size", "720p", "--faces", "1", "4", "--smoke"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(startup, "FIRST_POINTS", "")  # seconds of a test
        assert run("stages", "-o", folder, *words) == 0
    return json.loads((folder / "stages.json").read_text()), folder


def test_stages_of_each_case_are_measured(report):
    results, folder = report[0]["results"], report[1]
    assert [(result["model"], result["size"], result["faces"]) for result in results] == [
        ("fast", "720p", 1),
        ("fast", "720p", 4),
    ]
    for result in results:
        assert list(result["stages"]) == list(stages.STAGES)
        assert result["precision"]
        assert 0 < result["latency"]["median_ms"] <= result["latency"]["p99_ms"]
        for time in result["stages"].values():
            assert 0 <= time["median_ms"] <= time["p99_ms"]
    assert {path.name for path in folder.iterdir()} == {"stages.json", "stages.md", "stages.svg"}


@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.stem)
def test_report_of_a_release_has_the_shape_of_a_new_one(report, release):
    assert shape(json.loads(release.read_text())) == shape(report[0])
    assert release.stat().st_size < 30_000


def test_page_and_diagram_have_each_case(report):
    page, diagram = to_markdown(report[0]), to_svg(report[0]["results"])
    assert page.count("| fast (") == 2
    assert report[0]["machine"]["cpu"] in page
    assert diagram.count(" ms</text>") == 2


def test_report_is_replaced_only_with_overwrite(report, capsys):
    assert run("stages", "-o", report[1], "--smoke") == 1
    assert "--overwrite" in capsys.readouterr().err


def test_machine_is_described_by_processor_cores_and_versions():
    machine = describe_machine()
    assert machine["cpu"]
    assert machine["cores"] >= 1
    assert machine["versions"]["openvino"]
    assert machine["isa"] or sys.platform != "linux"


def test_given_boxes_are_those_of_every_face_of_the_clip(tmp_path):
    from canthus.runtime.detector import Detector
    from canthus.runtime.video_file import VideoFile

    stages.make_clip(tmp_path / "clip.mp4", (1280, 720), 4, 2)
    with VideoFile(tmp_path / "clip.mp4") as video:
        image = next(iter(video)).image
    given = stages._given_boxes(4)(image)
    with Detector() as detector:
        found = detector.detect(image, exhaustive=True)
    assert len(given) == 4
    for box in given:
        assert max(intersection_over_minimum(box, other) for other in found) > 0.8


def test_ratio_of_a_series_that_takes_twice_as_long_is_two():
    rng = np.random.default_rng(0)
    base = rng.normal(10, 1, 40)
    ratio, low, high = peers.bootstrap_ratio(2 * rng.normal(10, 1, 40), base)
    assert ratio == pytest.approx(2, abs=0.2)
    assert low < ratio < high
    assert high - low < 0.5


def test_peers_take_turns_on_the_same_frames(tmp_path, capsys):
    output = tmp_path / "peers.json"
    assert run("peers", "-o", output, "--no-mediapipe", "--smoke", "--model", "fast") == 0
    result = json.loads(output.read_text())
    (row,) = result["rows"]
    assert row["name"] == "canthus fast"
    assert row["frames_with_faces"] == 1
    assert row["ratio"] is None
    assert row["median_ms"] > 0
    assert "| canthus fast |" in capsys.readouterr().out


class Scripted:
    """A candidate with given times."""

    def __init__(self, name, milliseconds):
        self.name, self.version, self.milliseconds, self.asked = name, "1", milliseconds, []

    def ask(self, task):
        self.asked.append(task["first"])
        count = task["end"] - task["first"]
        return {"seconds": [self.milliseconds / 1000] * count, "found": [1] * count}


def test_every_candidate_gets_every_frame_in_every_round():
    candidates = [Scripted("canthus fast", 3.0), Scripted(peers.BASE, 4.0)]
    rows = peers.summarize(candidates, peers.measure(candidates, 30, 2), {one.name: [] for one in candidates})
    assert [one.asked[1:] for one in candidates] == [[0, 10, 20] * 2] * 2
    assert [(row.name, row.ratio) for row in rows] == [("canthus fast", 0.75), (peers.BASE, 1.0)]


def test_errors_are_those_of_faces_that_every_candidate_finds():
    candidates = [Scripted("canthus fast", 3.0), Scripted(peers.BASE, 4.0), Scripted("network only", 1.0)]
    errors = {"canthus fast": [2.0, 4.0, 9.0], peers.BASE: [3.0, 5.0, None], "network only": [None] * 3}
    rows = peers.summarize(candidates, peers.measure(candidates, 10, 1), errors)
    assert {row.name: row.error for row in rows} == {"canthus fast": 3.0, peers.BASE: 4.0, "network only": None}


def test_candidate_that_cannot_be_opened_is_left_out_with_one_line(tmp_path, capsys):
    frames = tmp_path / "frames.npy"
    np.save(frames, np.zeros((10, 64, 64, 3), np.uint8))
    missing = Candidate("dlib", "dlib", str(tmp_path / "no.dat"))
    with peers.opened([missing], frames, 1) as processes:
        assert processes == []
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("canthus bench peers: dlib is left out: it cannot be opened (")


def test_candidate_whose_process_ends_is_one_clear_error(tmp_path):
    frames = tmp_path / "frames.npy"
    np.save(frames, np.zeros((10, 64, 64, 3), np.uint8))
    with PeerProcess(Candidate("ours", "canthus", "fast"), Path(sys.executable), frames, 1) as process:
        process._process.kill()
        with pytest.raises(BackendError, match="ours: its process has ended"):
            process.ask({"first": 0, "end": 10})


def test_environment_is_made_once_and_not_left_half_made(tmp_path, monkeypatch):
    installed = []
    monkeypatch.setattr(peer_environments, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(peer_environments, "_install", lambda python, packages: installed.append(packages))
    monkeypatch.setattr(peer_environments.venv, "create", lambda folder, **_: make_python(folder))

    def make_python(folder):
        path = peer_environments._python(Path(folder))
        path.parent.mkdir(parents=True)
        path.write_text("")

    python = make_environment("mediapipe")
    assert make_environment("mediapipe") == python
    assert installed == [("mediapipe==0.10.21",)]

    def fail(python, packages):
        raise BackendError("no network")

    monkeypatch.setattr(peer_environments, "_install", fail)
    with pytest.raises(BackendError, match="no network"):
        make_environment("dlib")
    assert [path.name for path in (tmp_path / "peers").iterdir()] == [python.parent.parent.name]


def test_failed_installation_says_to_connect(monkeypatch):
    monkeypatch.setitem(peer_environments.os.environ, "PIP_NO_INDEX", "1")
    monkeypatch.setitem(peer_environments.os.environ, "PIP_FIND_LINKS", "")
    with pytest.raises(BackendError, match="connect to the network once"):
        peer_environments._install(Path(sys.executable), ("a-package-that-does-not-exist==1",))


@pytest.mark.parametrize("eyes", [((0,), (1,)), ((), ())])
def test_stability_is_measured_with_other_points_than_those_of_wflw(eyes, monkeypatch):
    scheme = Scheme("own", 3, eyes=eyes, normalizer=eyes)
    path = sample.true_points(np.array([[600.0, 300], [680, 300], [640, 360]]))
    path[:, :, 0] += np.arange(len(path))[:, None] % 2  # a jitter of one pixel

    class Video:
        frames = len(path)
        __enter__ = __exit__ = lambda self, *_: self
        __iter__ = lambda self: (SimpleNamespace(index=index, seconds=index / 30) for index in range(len(path)))  # noqa: E731

    class Tracking(Video):
        def update(self, frame):
            points = path[frame.index][None].astype(np.float32)
            return Faces(points, np.ones((1, 3), np.float32), np.zeros(1, np.int64), scheme=scheme)

    monkeypatch.setattr("canthus.runtime.video_file.VideoFile", lambda _: Video())
    monkeypatch.setattr("canthus.runtime.pipeline.Landmarker", lambda _: Tracking())
    found = measure_stability(Settings())
    size = 80 if eyes[0] else 60
    assert found.jitter_raw == pytest.approx(100 / size, abs=0.01)
    assert found.jitter_smoothed < found.jitter_raw


def test_shared_points_have_the_same_number_in_every_scheme():
    assert {len(points) for points in EQUIVALENTS.values()} == {len(SHARED)}


def test_error_is_that_of_the_shared_points_of_the_same_face():
    true = SHAPE * 100.0
    inter_ocular = np.linalg.norm(true[60] - true[72])
    moved = true + np.array([0.02 * inter_ocular, 0])
    assert error_percent(moved.tolist(), true) == pytest.approx(2)
    mesh = np.zeros((478, 2))
    mesh[list(EQUIVALENTS[478])] = moved[list(SHARED)]
    assert error_percent(mesh.tolist(), true) == pytest.approx(2)
    assert error_percent((true + inter_ocular).tolist(), true) is None  # another face
    assert error_percent(None, true) is None
    assert error_percent([], true) is None


def test_labelled_face_is_seen_with_its_surroundings():
    face = LabelledFace(Path("a.jpg"), SHAPE * 100.0 + (150, 20))
    image = np.zeros((300, 400, 3), np.uint8)
    x, y = np.round(face.points[60]).astype(int)
    image[y, x] = 255
    view, points = face.view(image)
    assert view[tuple(np.round(points[60]).astype(int)[::-1])].tolist() == [255] * 3
    assert points.min() >= 0


def test_labels_are_read_in_the_layout_of_wflw(tmp_path):
    path = tmp_path / "WFLW_annotations" / "list_98pt_rect_attr_train_test" / "list_98pt_rect_attr_test.txt"
    path.parent.mkdir(parents=True)
    numbers = " ".join(str(value) for value in range(196))
    path.write_text(f"{numbers} 0 0 9 9 0 0 0 0 0 0 a/b.jpg\n")
    (face,) = read_faces(tmp_path)
    assert face.image == tmp_path / "WFLW_images" / "a" / "b.jpg"
    assert face.points[1].tolist() == [2, 3]
    path.write_text("1 2 3 a.jpg\n")
    with pytest.raises(InputError, match="line 1 is not 196 numbers"):
        read_faces(tmp_path)
    with pytest.raises(InputError, match="give the folder that contains WFLW_annotations"):
        read_faces(tmp_path / "no")


def test_video_that_is_shorter_than_a_turn_is_refused(tmp_path):
    stages.make_clip(tmp_path / "short.mp4", (320, 180), 1, 3)
    with pytest.raises(InputError, match="has 3 frames"):
        peers.store_frames(tmp_path / "short.mp4", tmp_path / "frames.npy", 100)


def test_frames_are_stored_in_whole_turns(tmp_path):
    assert peers.store_frames(sample.CLIP, tmp_path / "frames.npy", 15) == 10
    assert np.load(tmp_path / "frames.npy", mmap_mode="r").shape == (15, 720, 1280, 3)


class ScriptedVideo:
    """A candidate that reads a video of 60 frames in a given time."""

    def __init__(self, name, seconds, reads_videos=True):
        self.name, self.seconds, self.reads_videos, self.asked = name, seconds, reads_videos, []

    def ask(self, task):
        self.asked.append(Path(task["video"]).name)
        return {"seconds": self.seconds, "frames": 60}


def test_rates_of_whole_videos_are_compared_with_the_base(tmp_path):
    candidates = [ScriptedVideo("canthus fast", 0.5), ScriptedVideo(peers.BASE, 1.0), ScriptedVideo("dlib", 9.0, False)]
    rates = peer_videos.measure_videos(candidates, tmp_path / "clip.mp4", 3)
    assert [len(one.asked) for one in candidates] == [4, 4, 0]
    rows = peer_videos.summarize_videos(rates, peers.BASE, peers.bootstrap_ratio)
    assert [row[:3] for row in rows] == [("canthus fast", 120.0, 2.0), (peers.BASE, 60.0, 1.0)]
    assert "canthus fast" in peer_videos.describe_videos(rows)
    alone = peer_videos.summarize_videos({"canthus fast": rates["canthus fast"]}, peers.BASE, peers.bootstrap_ratio)
    assert alone[0].ratio is None
    assert "times" not in peer_videos.describe_videos(alone)


def test_every_frame_of_a_video_is_read_by_both_ways(tmp_path, fake_networks):
    clip = write_video(tmp_path / "clip.mp4", [index / 25 for index in range(12)])
    shapes = []

    def look(image, index):
        shapes.append((index, image.shape))
        return 0

    assert peer_worker.read_with_canthus("fast", look, str(clip)) == 12
    assert shapes == []
    assert peer_worker.read_with_face_mesh("", look, str(clip)) == 12
    assert shapes == [(index, (64, 96, 3)) for index in range(12)]
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
