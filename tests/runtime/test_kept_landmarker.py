"""Networks that stay open from one file to the next give the results of networks that were just opened."""

import threading

import pytest

from canthus.runtime import pipeline
from canthus.runtime.kept_landmarker import landmarker_thread, landmarkers_kept, open_landmarker
from canthus.runtime.options import Outputs
from canthus.runtime.pipeline import Settings
from canthus.runtime.types import Frame
from canthus.runtime.video_run import process_video
from support.fakes import FakeBackend, scene
from support.videos import write_video

pytestmark = pytest.mark.usefixtures("fake_networks")


@pytest.fixture
def backends(monkeypatch):
    """Return the backends that were opened and not closed yet."""
    opened = []

    class Counted(FakeBackend):
        def __init__(self):
            super().__init__()
            opened.append(self)

        def close(self):
            opened.remove(self)

    monkeypatch.setattr(pipeline, "open_automatic", lambda *_: Counted())
    return opened


def found(settings=None):
    """Return the faces of four frames: ids, points, measures."""
    with open_landmarker(settings or Settings(measures=True)) as landmarker:
        frames = [Frame(scene((100 + 9 * index, 120)), index, index / 25) for index in range(4)]
        faces = [landmarker.update(frame) for frame in frames]
    return [(one.ids.tolist(), one.points.tobytes(), one.measures and one.measures.values.tobytes()) for one in faces]


def test_kept_networks_give_the_results_of_new_ones(backends):
    new = found()
    with landmarkers_kept():
        assert found() == new
        assert len(backends) == 1
        assert found() == new
        assert len(backends) == 1
    assert backends == []


def test_without_the_block_nothing_is_kept(backends):
    found()
    assert backends == []
    assert landmarker_thread() is None


def test_other_settings_close_the_kept_networks(backends):
    with landmarkers_kept():
        found()
        first = backends[0]
        found(Settings(max_faces=2))
        assert len(backends) == 1
        assert backends[0] is not first


def test_networks_are_opened_again_after_an_error(backends):
    with landmarkers_kept():
        with pytest.raises(ValueError, match="broken"), open_landmarker(Settings()):
            raise ValueError("broken")
        assert backends == []
        found()
        assert len(backends) == 1


def test_videos_are_processed_in_one_thread_with_one_network(backends, tmp_path):
    source = write_video(tmp_path / "in.mp4", [0.0, 0.04, 0.08])
    process_video(source, Outputs(None, tmp_path / "new.csv"), Settings(), lambda *_: None)
    with landmarkers_kept():
        for name in ("a.csv", "b.csv"):
            process_video(source, Outputs(None, tmp_path / name), Settings(), lambda *_: None)
            assert len(backends) == 1
            assert [thread.name for thread in threading.enumerate() if thread.name.startswith("landmark")] == [
                "landmark_0"
            ]
    assert backends == []
    assert len({(tmp_path / name).read_bytes() for name in ("new.csv", "a.csv", "b.csv")}) == 1
