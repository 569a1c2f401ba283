"""Views that the detector runs on, and the native log lines that it removes from stderr."""

import math
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from canthus.runtime.detector import MAX_SIDE, MIN_SCORE, MIN_SCORE_EXHAUSTIVE, Detector, find_detector_model
from canthus.runtime.errors import InputError, ModelError


class FakeMediaPipe:
    """Finds the bright area of an image, unless it fills half of the image or is wider than high."""

    def __init__(self, score):
        self.score, self.runs = score, 0

    def detect(self, image):
        self.runs += 1
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


def make_detector(score=0.9):
    """Return a detector that runs a fake network."""
    detector = object.__new__(Detector)
    detector._detector, detector._wrap, detector._closed = FakeMediaPipe(score), lambda image: image, True
    detector._padded_next, detector._last_tile = False, -1
    return detector


def scene(wide, high, size=(240, 320)):
    """Return a dark image with a bright face of `wide` x `high` pixels, right of and above its center."""
    image = np.zeros((*size, 3), np.uint8)
    x, y = size[1] // 2 + 20, size[0] // 2 - 10
    image[y - high // 2 : y + high // 2, x - wide // 2 : x + wide // 2] = 255
    return image


def assert_around(box, wide, high, size=(240, 320)):
    x, y = size[1] // 2 + 20, size[0] // 2 - 10
    expected = [x - wide / 2, y - high / 2, x + wide / 2, y + high / 2]
    assert np.allclose([box.x0, box.y0, box.x1, box.y1], expected, atol=4)


@pytest.mark.parametrize("size", [(2000, 32_767), (40_000, 300), (1, 100_000)])
def test_image_with_a_long_side_is_reduced_before_mediapipe(size):
    """MediaPipe ends the process at 32767 pixels."""
    detector = make_detector()
    sides = []
    detector._wrap = lambda image: sides.append(max(image.shape)) or image
    detector.detect(np.zeros((*size, 3), np.uint8), exhaustive=True)
    detector.detect_in_stream(np.zeros((*size, 3), np.uint8))
    assert max(sides) <= MAX_SIDE


def test_boxes_of_a_reduced_image_are_in_its_own_pixels():
    size = (6000, 9000)
    assert_around(make_detector().detect(scene(400, 600, size))[0], 400, 600, size)


def test_detect_runs_the_network_once():
    detector = make_detector()
    assert len(detector.detect(scene(60, 80))) == 1
    assert detector.detect(scene(120, 160)) == []
    assert detector._detector.runs == 2


@pytest.mark.parametrize("size", [(240, 320), (320, 240), (241, 241)])
def test_large_face_is_found_in_the_padded_view(size):
    detector = make_detector()
    (box,) = detector.detect(scene(120, 180, size), exhaustive=True)
    assert_around(box, 120, 180, size)
    assert box.roll == 0
    assert detector._detector.runs == 2


def test_face_rotated_by_90_degrees_is_found_if_there_is_no_upright_one():
    detector = make_detector()
    (box,) = detector.detect(scene(180, 120), exhaustive=True)
    # MediaPipe's boxes are squares around a rotated face; the fake's box is as high as the face is wide.
    assert ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2) == pytest.approx((180, 110), abs=3)
    assert abs(box.roll) == pytest.approx(math.radians(90))
    assert detector._detector.runs == 4


def test_box_with_a_low_score_is_returned_by_exhaustive_detection_only():
    detector = make_detector((MIN_SCORE_EXHAUSTIVE + MIN_SCORE) / 2)
    assert detector.detect(scene(60, 80)) == []
    assert detector.detect_in_stream(scene(60, 80)) == []
    assert len(detector.detect(scene(60, 80), exhaustive=True)) == 1


def test_detect_in_stream_uses_the_padded_view_after_a_frame_without_faces():
    detector = make_detector()
    near = [len(detector.detect_in_stream(scene(120, 160))) for _ in range(4)]
    assert near == [0, 1, 0, 1]
    assert [len(detector.detect_in_stream(scene(60, 80))) for _ in range(2)] == [1, 1]
    assert [len(detector.detect_in_stream(scene(0, 0))) for _ in range(3)] == [0, 0, 0]
    assert detector._detector.runs == 9


def test_detect_in_stream_runs_on_one_tile_per_frame_and_finds_small_faces():
    class MissesSmallFaces(FakeMediaPipe):
        def detect(self, image):
            small = np.count_nonzero(image.any((1, 2))) < max(image.shape) / 8
            return SimpleNamespace(detections=[]) if small else super().detect(image)

    detector, size = make_detector(), (300, 600)
    detector._detector = MissesSmallFaces(0.9)
    results = [detector.detect_in_stream(scene(50, 60, size)) for _ in range(6)]
    assert [len(boxes) for boxes in results] == [0, 0, 1, 0, 0, 0]  # the first and the third tile cut the face off
    assert_around(results[2][0], 50, 60, size)
    assert detector.detect(scene(50, 60, size)) == []


def test_empty_image_is_rejected():
    with pytest.raises(InputError, match="empty image"):
        make_detector().detect(np.zeros((0, 4, 3), np.uint8), exhaustive=True)


def test_log_lines_of_mediapipe_are_removed_and_lines_of_others_are_kept(capfd):
    detector = make_detector()
    detect = detector._detector.detect

    def detect_and_log(image):
        os.write(2, b"WARNING: Logging before InitGoogle() is written to STDERR\n")
        os.write(2, b"W0000 00:00:17 19 inference_runner.cc:1418] Input tensor memory is not aligned\n")
        os.write(2, b"WARNING: another thread of the application\n")
        return detect(image)

    detector._detector.detect = detect_and_log
    print("before", file=sys.stderr)
    assert len(detector.detect(scene(40, 60))) == 1
    assert capfd.readouterr().err == "before\nWARNING: another thread of the application\n"


def test_detector_model_may_be_a_string(tmp_path):
    (tmp_path / "d.tflite").touch()
    assert find_detector_model(str(tmp_path / "d.tflite")) == tmp_path / "d.tflite"
    with pytest.raises(ModelError, match="no such detector model"):
        find_detector_model("nowhere.tflite")


def test_error_for_a_wrong_model_file_has_no_native_log_lines(tmp_path, capfd):
    (tmp_path / "d.tflite").write_bytes(b"none")
    with pytest.raises(ModelError, match="not a face detector"):
        Detector(tmp_path / "d.tflite")
    assert capfd.readouterr().err == ""


def test_the_detector_does_not_load_matplotlib_which_is_loaded_when_it_is_used():
    script = (
        "import sys\nfrom canthus.runtime.detector import Detector\n"
        "with Detector():\n    print('matplotlib' in sys.modules, 'matplotlib.pyplot' in sys.modules)\n"
        "from mediapipe.tasks.python.vision import drawing_utils\n"
        "print(callable(drawing_utils.plt.figure), 'matplotlib.pyplot' in sys.modules)\n"
        "import matplotlib.pyplot\nprint(drawing_utils.plt.figure is matplotlib.pyplot.figure)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False", "True", "True", "True"]
