"""The Python API as users call it, and its messages for values that it cannot use."""

import copy
import pickle
import subprocess
import sys
import threading
import time
import weakref

import cv2
import numpy as np
import pytest

from canthus import runtime
from canthus.runtime import CanthusError, Faces, Frame, InputError, Landmarker, Settings, draw_faces, follow, read_image
from canthus.runtime.landmarks import VIEW_SCALES
from canthus.runtime.schemes import included_scheme
from support.fakes import FakeCapture
from support.videos import write_video

pytestmark = pytest.mark.usefixtures("fake_networks")


def image_of_a_face():
    image = np.zeros((100, 160, 3), np.uint8)
    image[20:80, 20:70] = 200
    return image


def test_every_public_name_exists_and_dir_shows_it():
    for name in runtime.__all__:
        assert callable(getattr(runtime, name)), name
    assert dir(runtime) == sorted(runtime.__all__)
    assert issubclass(InputError, CanthusError)
    with pytest.raises(AttributeError, match="no attribute 'folow'"):
        _ = runtime.folow


def test_read_picture_still_works_with_a_warning():
    with pytest.warns(DeprecationWarning, match="read_picture is now read_image") as warned:
        from canthus.runtime import read_picture
    assert read_picture is read_image
    assert warned[0].filename == __file__


def test_importing_the_api_loads_nothing_heavy():
    script = "import sys, canthus.runtime\nprint([name for name in ('cv2', 'av', 'numpy') if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "[]\n"


def test_image_is_read_landmarked_and_drawn_on(tmp_path):
    cv2.imwrite(str(tmp_path / "face.png"), image_of_a_face())
    image = read_image(tmp_path / "face.png")
    with Landmarker() as landmarker:
        faces = landmarker.landmark(image)
        assert landmarker.backend.batches[-1] == len(VIEW_SCALES)
        assert len(landmarker.landmark(image[..., ::-1])) == 1  # a BGR view, not contiguous
    assert len(faces) == 1
    assert (draw_faces(image, faces) != image).any()


@pytest.mark.parametrize(
    ("value", "description"),
    [
        (np.zeros((10, 12, 4), np.uint8), r"\(10, 12, 4\) (of )?uint8"),
        (np.zeros((10, 12), np.uint8), r"\(10, 12\) (of )?uint8"),
        (np.zeros((10, 12, 3), np.float32), r"\(10, 12, 3\) (of )?float32"),
        (np.zeros((2, 10, 12, 3), np.uint8), r"\(2, 10, 12, 3\) (of )?uint8"),
        ("face.png", "'face.png'"),
    ],
    ids=["rgba", "gray", "float", "batch", "path"],
)
def test_value_that_is_no_rgb_image_is_refused(value, description):
    with Landmarker() as landmarker, pytest.raises(InputError, match=description):
        landmarker.landmark(value)
    with pytest.raises(InputError, match=description):
        Frame(value, 0, 0.0)
    with pytest.raises(InputError, match=description):
        draw_faces(value, Faces.none())


def test_array_in_place_of_a_frame_is_refused():
    with Landmarker() as landmarker, pytest.raises(InputError, match=r"update expects Frame.*, got an array"):
        landmarker.update(image_of_a_face())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), None, "1.0"], ids=str)
def test_frame_with_a_time_that_is_no_finite_number_is_refused(value):
    with pytest.raises(InputError, match="seconds of a frame must be a finite number, got"):
        Frame(image_of_a_face(), 0, value)
    with pytest.raises(InputError, match="pixel_aspect of a frame must be a finite number, got"):
        Frame(image_of_a_face(), 0, 0.0, value)


@pytest.mark.parametrize("kind", [int, np.float32, np.float64, np.int64])
def test_frame_accepts_times_of_any_number_type(kind):
    assert Frame(image_of_a_face(), 0, kind(2)).seconds == 2


@pytest.mark.parametrize("jump", [1e9, -1e9, 1e308])
def test_faces_are_found_and_finite_during_and_after_a_jump_in_time(jump):
    with Landmarker() as landmarker:
        for index, seconds in enumerate([0.0, 0.03, jump, 0.1, 0.13]):
            faces = landmarker.update(Frame(image_of_a_face(), index, seconds))
            assert len(faces) == 1
            assert np.isfinite(faces.points).all()


def test_settings_change_without_opening_the_networks_again():
    with Landmarker(Settings(smoothing=False)) as landmarker:
        first = landmarker.update(Frame(image_of_a_face(), 0, 0.0))
        landmarker.change(Settings(measures=True, max_faces=2))
        second = landmarker.update(Frame(image_of_a_face(), 1, 0.1))
        assert first.measures is None
        assert second.measures is not None
        assert second.ids.tolist() == first.ids.tolist()
        assert landmarker.tracker.settings.max_faces == 2
        landmarker.change(Settings())
        assert landmarker.update(Frame(image_of_a_face(), 2, 0.2)).measures is None


@pytest.mark.parametrize("value", [np.nan, 0.0, 1e38])
def test_face_with_impossible_points_is_dropped_and_found_again(monkeypatch, value):
    with Landmarker() as landmarker:
        predict = landmarker.backend.predict
        counts = []
        for index in range(9):
            broken = 3 <= index < 6
            points = predict if not broken else lambda crops: (predict(crops)[0] * 0 + value, predict(crops)[1])
            monkeypatch.setattr(landmarker.backend, "predict", points)
            faces = landmarker.update(Frame(image_of_a_face(), index, index / 5))
            assert np.isfinite(faces.points).all()
            counts.append(len(faces))
    assert counts == [1, 1, 1, 0, 0, 0, 1, 1, 1]


def test_landmarker_used_in_another_thread_is_one_clear_error():
    errors = []

    def use(landmarker):
        for call in (lambda: landmarker.landmark(image_of_a_face()), lambda: landmarker.update(frame)):
            try:
                call()
            except InputError as error:
                errors.append(str(error))

    frame = Frame(image_of_a_face(), 0, 0.0)
    with Landmarker() as landmarker:
        thread = threading.Thread(target=use, args=(landmarker,), name="worker")
        thread.start()
        thread.join()
        assert len(landmarker.update(frame)) == 1
    assert len(errors) == 2
    assert all("opened in the thread 'MainThread' and is used in 'worker'" in error for error in errors)


def test_landmarker_says_that_it_cannot_be_pickled():
    with Landmarker() as landmarker:
        for copy_of in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="cannot be pickled or copied; open one in each process"):
                copy_of(landmarker)


def test_landmarker_without_close_is_freed_with_its_last_reference():
    landmarker = Landmarker()
    landmarker.update(Frame(image_of_a_face(), 0, 0.0))
    reference = weakref.ref(landmarker)
    del landmarker
    assert reference() is None


def test_wrong_settings_are_refused():
    with pytest.raises(InputError, match=r"Settings\(model=.*, got 'accurate'"):
        Landmarker("accurate")
    with pytest.raises(InputError, match="model must be a name or a path, got 3"):
        Settings(model=3)
    for count in (0, "3", 2.0, True):
        with pytest.raises(InputError, match=f"max_faces .*, got {count!r}"):
            Settings(max_faces=count)
    for name in ("smoothing", "gpu"):
        with pytest.raises(InputError, match=f"{name} must be True or False, got 'no'"):
            Settings(**{name: "no"})


def test_closed_landmarker_is_refused():
    with Landmarker() as landmarker:
        pass
    for use, value in ((landmarker.landmark, image_of_a_face()), (landmarker.update, Frame(image_of_a_face(), 0, 0.0))):
        with pytest.raises(InputError, match="this Landmarker is closed"):
            use(value)


def test_other_values_in_place_of_a_path_or_of_faces_are_refused():
    with pytest.raises(InputError, match="read_image expects the path of a file, got 3"):
        read_image(3)
    with pytest.raises(InputError, match=r"expected Faces to draw, got None; faces\[:1\]"):
        draw_faces(image_of_a_face(), None)


def test_faces_are_printed_on_one_line():
    with Landmarker() as landmarker:
        faces = landmarker.landmark(image_of_a_face())
    for value in (faces, faces[0], Frame(image_of_a_face(), 0, 0.0)):
        assert len(repr(value)) < 100


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ([image_of_a_face()], {}, r"needs the frame rate of arrays: follow\(arrays, frame_rate=30\)"),
        ([image_of_a_face()], {"frame_rate": 0}, "frame_rate must be a number above 0, got 0"),
        ([image_of_a_face()], {"frame_rate": "30"}, "frame_rate must be a number above 0, got '30'"),
        ([np.zeros((10, 12), np.uint8)], {"frame_rate": 30}, r"\(10, 12\) (of )?uint8"),
        (["a.png"], {"frame_rate": 30}, "frames or arrays in an iterable, got 'a.png'"),
        (image_of_a_face(), {"frame_rate": 30}, "several images, got an array .* a single image"),
        ("clip.mp4", {"frame_rate": 30}, "frame_rate is only for arrays"),
        (1.5, {}, "got 1.5"),
        (None, {}, "got None"),
        (-1, {}, "-1"),
    ],
)
def test_source_that_cannot_be_followed_is_refused(source, options, message):
    with pytest.raises(InputError, match=message):
        next(follow(source, **options))


@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["str", "Path"])
def test_video_is_followed_by_its_path(tmp_path, kind):
    video = write_video(tmp_path / "v.mp4", [0.0, 0.1, 0.2])
    assert [frame.index for frame, _ in follow(kind(video))] == [0, 1, 2]


def test_arrays_are_followed_with_the_times_of_their_frame_rate():
    images = [image_of_a_face() for _ in range(4)]
    found = list(follow(images, frame_rate=20))
    assert [(frame.index, frame.seconds) for frame, _ in found] == [(0, 0.0), (1, 0.05), (2, 0.1), (3, 0.15)]
    assert [faces.ids.tolist() for _, faces in found] == [[0]] * 4
    assert len(list(follow(np.stack(images), frame_rate=20))) == 4  # a video (N, H, W, 3)


class EndlessCapture(FakeCapture):
    """A camera of 100 frames per second."""

    def read(self):
        time.sleep(0.01)
        return True, image_of_a_face()


@pytest.mark.parametrize("number", [0, np.int64(0)])
def test_camera_yields_the_newest_frame(monkeypatch, number):
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: EndlessCapture())
    times, counts, before = [], [], threading.enumerate()
    for _, (frame, faces) in zip(range(5), follow(number), strict=False):
        counts.append(len(faces))
        times.append(frame.seconds)
        time.sleep(0.1)
    assert counts == sorted(counts)  # the detector does not hold the first frames up
    assert counts[-1] == 1
    assert np.diff(times).min() > 0.05
    assert set(threading.enumerate()) <= set(before)


def test_no_frame_of_an_iterable_is_lost():
    def frames():
        for index in range(20):
            yield Frame(image_of_a_face(), index, index / 30)

    for index, (frame, _) in enumerate(follow(frames())):
        time.sleep(0.005)
        assert frame.index == index
    assert index == 19


def test_command_works_without_stderr():
    script = "from canthus.runtime.cli import main; print(main(['nothing']))"
    words = ["sh", "-c", f'"{sys.executable}" -c "{script}" 2>&-']
    assert subprocess.check_output(words, text=True) == "2\n"


def test_measures_of_a_model_with_other_points_are_refused(monkeypatch, fake_backend):
    fake_backend.scheme = included_scheme("cofw")
    monkeypatch.setattr("canthus.runtime.pipeline.open_automatic", lambda *_, **__: fake_backend)
    with pytest.raises(InputError, match=r"measures need the 98 points of WFLW; this model has 29 \(COFW\)"):
        Landmarker(Settings(measures=True))
