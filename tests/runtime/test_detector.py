import math
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from canthus.runtime.detector import MIN_SCORE, MIN_SCORE_EXHAUSTIVE, Detector, _Silence, find_detector_model
from canthus.runtime.errors import InputError, ModelError


class Pretended:
    """MediaPipe's part: one face where it is bright, unless it fills half of what is seen, or lies."""

    def __init__(self, score):
        self.score, self.looks = score, 0

    def detect(self, image):
        self.looks += 1
        rows, columns = np.nonzero(image[..., 0] > 128)
        found = SimpleNamespace(detections=[])
        if len(rows) and np.ptp(rows) < image.shape[0] / 2 and np.ptp(rows) >= np.ptp(columns):
            x, y, wide, high = columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1
            box = SimpleNamespace(origin_x=x, origin_y=y, width=wide, height=high)
            eyes = [SimpleNamespace(x=place, y=0.5) for place in (0.4, 0.6)]
            found.detections.append(
                SimpleNamespace(bounding_box=box, keypoints=eyes, categories=[SimpleNamespace(score=self.score)])
            )
        return found


def detector(score=0.9):
    """A detector whose network is a pretended one."""
    made = object.__new__(Detector)
    made._detector, made._wrap, made._closed = Pretended(score), lambda image: image, True
    made._padded_next, made._last_tile = False, -1
    return made


def scene(wide, high, size=(240, 320)):
    """A dark picture with a bright face of so many pixels right and above its middle."""
    image = np.zeros((*size, 3), np.uint8)
    x, y = size[1] // 2 + 20, size[0] // 2 - 10
    image[y - high // 2 : y + high // 2, x - wide // 2 : x + wide // 2] = 255
    return image


def assert_around(box, wide, high, size=(240, 320)):
    x, y = size[1] // 2 + 20, size[0] // 2 - 10
    told = [box.x0, box.y0, box.x1, box.y1]
    assert np.allclose(told, [x - wide / 2, y - high / 2, x + wide / 2, y + high / 2], atol=4)


def test_a_plain_look_is_one_look():
    found = detector()
    assert len(found.detect(scene(60, 80))) == 1
    assert found.detect(scene(120, 160)) == []
    assert found._detector.looks == 2


@pytest.mark.parametrize("size", [(240, 320), (320, 240), (241, 241)])
def test_a_face_that_fills_the_picture_is_found_from_afar(size):
    found = detector()
    (box,) = found.detect(scene(120, 180, size), exhaustive=True)
    assert_around(box, 120, 180, size)
    assert box.roll == 0
    assert found._detector.looks == 2


def test_a_face_that_lies_is_looked_for_where_nothing_stands():
    found = detector()
    (box,) = found.detect(scene(180, 120), exhaustive=True)
    # MediaPipe's boxes are squares, and turn with the face; this one is as high as the face is long.
    assert ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2) == pytest.approx((180, 110), abs=3)
    assert abs(box.roll) == pytest.approx(math.radians(90))
    assert found._detector.looks == 4


def test_a_doubtful_face_is_told_by_a_thorough_look_alone():
    found = detector((MIN_SCORE_EXHAUSTIVE + MIN_SCORE) / 2)
    assert found.detect(scene(60, 80)) == []
    assert found.detect_in_stream(scene(60, 80)) == []
    assert len(found.detect(scene(60, 80), exhaustive=True)) == 1


def test_glances_are_one_look_each_by_turns_from_afar_until_something_is_found():
    found = detector()
    near = [len(found.detect_in_stream(scene(120, 160))) for _ in range(4)]
    assert near == [0, 1, 0, 1]
    assert [len(found.detect_in_stream(scene(60, 80))) for _ in range(2)] == [1, 1]
    assert [len(found.detect_in_stream(scene(0, 0))) for _ in range(3)] == [0, 0, 0]
    assert found._detector.looks == 9


def test_glances_find_a_small_face_in_one_part_of_the_picture_after_the_other():
    class Nearsighted(Pretended):
        def detect(self, image):
            small = np.count_nonzero(image.any((1, 2))) < max(image.shape) / 8
            return SimpleNamespace(detections=[]) if small else super().detect(image)

    found, size = detector(), (300, 600)
    found._detector = Nearsighted(0.9)
    told = [found.detect_in_stream(scene(50, 60, size)) for _ in range(6)]
    assert [len(boxes) for boxes in told] == [0, 0, 1, 0, 0, 0]  # the first and the last of three parts cut it off
    assert_around(told[2][0], 50, 60, size)
    assert found.detect(scene(50, 60, size)) == []


def test_an_empty_picture_is_refused():
    with pytest.raises(InputError, match="empty image"):
        detector().detect(np.zeros((0, 4, 3), np.uint8), exhaustive=True)


def test_what_mediapipe_remarks_at_any_look_is_not_heard_and_what_others_say_meanwhile_is(capfd):
    made = detector()
    look = made._detector.detect

    def remark(image):
        os.write(2, b"WARNING: Logging before InitGoogle() is written to STDERR\n")
        os.write(2, b"W0000 00:00:17 19 inference_runner.cc:1418] Input tensor memory is not aligned\n")
        os.write(2, b"WARNING: another thread of the application\n")
        return look(image)

    made._detector.detect = remark
    print("before", file=sys.stderr)
    assert len(made.detect(scene(40, 60))) == 1
    assert capfd.readouterr().err == "before\nWARNING: another thread of the application\n"


def stderr_goes_to():
    told = os.fstat(2)
    return told.st_dev, told.st_ino


def test_threads_that_silence_by_turns_leave_stderr_as_it_was():
    before, silence = stderr_goes_to(), _Silence()
    inside, let_go = threading.Event(), threading.Event()

    def other():
        with silence:
            inside.set()
            let_go.wait(5)

    with silence:
        thread = threading.Thread(target=other)
        thread.start()
        assert inside.wait(5)
    assert stderr_goes_to() != before
    let_go.set()
    thread.join()
    assert stderr_goes_to() == before


@pytest.mark.parametrize("start", ["os.close(2)", "sys.stderr = None"])
def test_silence_needs_no_stderr(start):
    script = f"import os, sys\n{start}\nfrom canthus.runtime.detector import _SILENCE\nwith _SILENCE:\n    print('in')"
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "in\n"


def test_a_detector_model_may_be_given_as_text(tmp_path):
    (tmp_path / "d.tflite").touch()
    assert find_detector_model(str(tmp_path / "d.tflite")) == tmp_path / "d.tflite"
    with pytest.raises(ModelError, match="no such detector model"):
        find_detector_model("nowhere.tflite")


def test_a_file_that_is_no_detector_is_told_without_the_words_of_libraries(tmp_path, capfd):
    (tmp_path / "d.tflite").write_bytes(b"none")
    with pytest.raises(ModelError, match="not a face detector"):
        Detector(tmp_path / "d.tflite")
    assert capfd.readouterr().err == ""
