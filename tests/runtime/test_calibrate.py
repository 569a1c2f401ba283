"""The file of a person, and `canthus calibrate`."""

import json

import numpy as np
import pytest

from canthus.runtime import pipeline
from canthus.runtime.cli import main
from canthus.runtime.errors import InputError
from canthus.runtime.measures import Measurer
from canthus.runtime.measures.features import FEATURES
from canthus.runtime.person_file import FORMAT, read_person, write_person
from canthus.runtime.pipeline import Settings
from support.fakes import FakeBackend, FakeDetector
from support.shape import SHAPE
from support.videos import write_video

SIZE = (640, 480)
POINTS = (np.array([200, 100]) + 220 * SHAPE)[None].astype(np.float32)
SCORES = np.full((1, 98), 0.9, np.float32)
IDS = np.array([0])


def measure(measurer, points, frames=61):
    """Return the measures of the last of some frames of the same face."""
    for number in range(frames):
        found = measurer.update(points, SCORES, IDS, number / 30, SIZE)
    return found


@pytest.fixture
def person():
    measurer = Measurer()
    assert measure(measurer, POINTS).calibrated[0] == 1
    return measurer.people()[0]


def open_mouth(points):
    changed = points.copy()
    changed[:, 93:96, 1] += 40
    changed[:, 83:88, 1] += 40
    return changed


def test_a_person_file_keeps_every_value(tmp_path, person):
    path = tmp_path / "me.json"
    write_person(path, person)
    assert read_person(path) == person
    assert json.loads(path.read_text())["format"] == FORMAT


def test_a_known_person_is_calibrated_in_the_first_frame(person):
    first = measure(Measurer(known=person), open_mouth(POINTS), frames=1)
    unknown = measure(Measurer(), open_mouth(POINTS), frames=61)
    assert first.calibrated[0] == 1
    assert first.mouth_open[0] > unknown.mouth_open[0] - 0.05
    jaw = first.as_dict(0)["jawOpen"]
    assert jaw > 0.3
    assert unknown.as_dict(0)["jawOpen"] < 0.05  # the open mouth was measured as neutral


def test_the_head_of_a_known_person_stays(person):
    measurer = Measurer(known=person)
    measure(measurer, POINTS, frames=11)
    again = measurer.people()[0]
    before, after = (np.linalg.norm(one.head_offsets) for one in (person, again))
    assert before > 10  # mm, over all points: the fakes' face is not the mean face
    assert after >= before  # a fit that started from the mean head would be nearer to it


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": "canthus person 9"}, f'expected "format": "{FORMAT}"'),
        ({"head": [[0, 0, 0]]}, "head must have 98 points, got 1"),
        ({"neutral": {"smile": 1.0}}, "neutral must have the features"),
        ({"closed_aspect": [0.2]}, "closed_aspect: expected a list of 2"),
        ({"closed_aspect": [0.2, 5.0]}, "closed_aspect must be between 0 and 1"),
        ({"neutral": dict.fromkeys(FEATURES, 1e9)}, "not a number between -1000 and 1000"),
    ],
)
def test_a_damaged_person_file_is_one_line(tmp_path, person, change, reason):
    path = tmp_path / "me.json"
    write_person(path, person)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=reason) as raised:
        read_person(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


def test_a_missing_person_file_is_an_error_before_a_model_is_opened(tmp_path):
    with pytest.raises(InputError, match=r"me.json: cannot be read \(No such file"):
        pipeline.Landmarker(Settings(person=tmp_path / "me.json", model=tmp_path / "none.onnx"))


@pytest.fixture
def fakes(monkeypatch):
    monkeypatch.setattr(pipeline, "Detector", lambda model: FakeDetector())
    monkeypatch.setattr(pipeline, "open_automatic", lambda *_: FakeBackend())


def test_the_command_writes_the_person_of_a_file(tmp_path, fakes, capsys):
    clip = write_video(tmp_path / "clip.mp4", [number / 20 for number in range(100)])
    path = tmp_path / "me.json"
    assert main(["calibrate", "-o", str(path), "--source", str(clip)]) == 0
    assert f"wrote {path}" in capsys.readouterr().out
    assert read_person(path).neutral["mouth_width"] > 10
    assert main(["calibrate", "-o", str(path), "--source", str(clip)]) == 1
    assert "exists already" in capsys.readouterr().err


def test_a_face_that_is_not_seen_long_enough_is_an_error(tmp_path, fakes, capsys):
    clip = write_video(tmp_path / "clip.mp4", [number / 30 for number in range(70)])
    assert main(["calibrate", "-o", str(tmp_path / "me.json"), "--source", str(clip)]) == 1
    assert "the face was not seen long enough (" in capsys.readouterr().err
    assert not (tmp_path / "me.json").exists()
