"""The Python API as its users meet it, and what it answers to what it cannot take."""

import subprocess
import sys
import threading
import time
import weakref

import cv2
import numpy as np
import pytest

from canthus import runtime
from canthus.runtime import Faces, Frame, Landmarker, Settings, draw_faces, follow, read_image
from canthus.runtime.errors import InputError
from canthus.runtime.landmarks import VIEW_SCALES
from support.fakes import FakeCapture
from support.videos import write_video

pytestmark = pytest.mark.usefixtures("pretended")


def picture():
    image = np.zeros((100, 160, 3), np.uint8)
    image[20:80, 20:70] = 200
    return image


def test_every_name_that_is_exported_is_there():
    for name in runtime.__all__:
        assert callable(getattr(runtime, name)), name


def test_importing_the_api_loads_nothing_heavy():
    script = "import sys, canthus.runtime\nprint([name for name in ('cv2', 'av', 'numpy') if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "[]\n"


def test_one_picture_is_read_landmarked_and_drawn_on(tmp_path):
    cv2.imwrite(str(tmp_path / "face.png"), picture())
    image = read_image(tmp_path / "face.png")
    with Landmarker() as landmarker:
        faces = landmarker.landmark(image)
        assert landmarker.backend.batches[-1] == len(VIEW_SCALES)
        assert len(landmarker.landmark(image[..., ::-1])) == 1  # as BGR becomes RGB
    assert len(faces) == 1
    assert (draw_faces(image, faces) != image).any()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (np.zeros((10, 12, 4), np.uint8), r"\(10, 12, 4\) of uint8"),
        (np.zeros((10, 12), np.uint8), r"\(10, 12\) of uint8"),
        (np.zeros((10, 12, 3), np.float32), r"\(10, 12, 3\) of float32"),
        (np.zeros((2, 10, 12, 3), np.uint8), r"\(2, 10, 12, 3\) of uint8"),
        ("face.png", "'face.png'"),
    ],
    ids=["rgba", "grey", "float", "batch", "path"],
)
def test_what_is_no_rgb_picture_is_refused(given, told):
    with Landmarker() as landmarker, pytest.raises(InputError, match=f"got .*{told}"):
        landmarker.landmark(given)
    with pytest.raises(InputError, match=f"got .*{told}"):
        Frame(given, 0, 0.0)
    with pytest.raises(InputError, match=f"got .*{told}"):
        draw_faces(given, Faces.none())


def test_a_picture_in_place_of_a_frame_is_told():
    with Landmarker() as landmarker, pytest.raises(InputError, match=r"update expects Frame.*, got an array"):
        landmarker.update(picture())


def test_a_landmarker_that_nobody_closed_is_freed_with_its_last_name():
    landmarker = Landmarker()
    landmarker.update(Frame(picture(), 0, 0.0))
    alone = weakref.ref(landmarker)
    del landmarker
    assert alone() is None


def test_settings_that_are_none_are_told():
    with pytest.raises(InputError, match=r"Settings\(model=.*, got 'accurate'"):
        Landmarker("accurate")
    for count in (0, "3", 2.0):
        with pytest.raises(InputError, match=f"max_faces .*, got {count!r}"):
            Settings(max_faces=count)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ([picture()], r"Frame\(image, index, seconds\), not an array"),
        (1.5, "not 1.5"),
        (None, "not None"),
        (-1, "from 0"),
    ],
    ids=["arrays", "number", "nothing", "negative"],
)
def test_what_cannot_be_followed_is_refused(source, told):
    with pytest.raises(InputError, match=told):
        next(follow(source))


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_a_path_may_be_text(tmp_path, kind):
    video = write_video(tmp_path / "v.mp4", [0.0, 0.1, 0.2])
    assert [frame.index for frame, _ in follow(kind(video))] == [0, 1, 2]


class EndlessCapture(FakeCapture):
    """A camera of 100 pictures a second."""

    def read(self):
        time.sleep(0.01)
        return True, picture()


@pytest.mark.parametrize("number", [0, np.int64(0)])
def test_of_a_camera_comes_the_newest_frame(monkeypatch, number):
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: EndlessCapture())
    times, before = [], threading.enumerate()
    for _, (frame, faces) in zip(range(5), follow(number), strict=False):
        assert len(faces) == 1
        times.append(frame.seconds)
        time.sleep(0.1)
    assert np.diff(times).min() > 0.05
    assert set(threading.enumerate()) <= set(before)


def test_no_frame_of_ones_own_is_lost():
    def own():
        for index in range(20):
            yield Frame(picture(), index, index / 30)

    for place, (frame, _) in enumerate(follow(own())):
        time.sleep(0.005)
        assert frame.index == place
    assert place == 19


def test_a_command_goes_on_without_stderr_and_tells_its_errors_to_nobody():
    script = "from canthus.runtime.cli import main; print(main(['nothing']))"
    ask = ["sh", "-c", f'"{sys.executable}" -c "{script}" 2>&-']
    assert subprocess.check_output(ask, text=True) == "2\n"
