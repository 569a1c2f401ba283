"""`canthus train-session`: trains, measures and reports in one call that ends in time, and goes on when repeated."""

import json
import logging
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from canthus.runtime.errors import InputError, ModelError
from canthus.trainer import session as session_module
from canthus.trainer import train as training
from canthus.trainer.commands.session import command
from canthus.trainer.faces.formats import open_set
from canthus.trainer.networks.checkpoint import load
from canthus.trainer.recipe import load_recipe
from canthus.trainer.session import MAX_SHARE, TimedSet, estimate, open_sets, reserved_seconds
from support.data_sets import write_300w
from support.shards import FROM_68, write_kinds, write_shard
from support.training import TINY, pack_folder

SECONDS = 10.0
FEW = [word for one in ("size=32", "batch=4", "held_out=3", "warm_up=4", "precision=fp32") for word in ("--set", one)]


@pytest.fixture
def words(faces, tmp_path) -> list[str]:
    write_shard(tmp_path / "set", 3)
    return [pack_folder(faces), "-o", str(tmp_path / "run"), "--no-compile", "--recipe", "student", *FEW]


@pytest.mark.usefixtures("cpu_seconds")
def test_session_ends_in_time_with_a_report_and_goes_on_in_a_copied_folder(faces, words, tmp_path, capsys, caplog):
    caplog.set_level(logging.INFO)
    shard = Path(pack_folder(faces)).with_name("shard")
    names = [face.image for face in open_set(shard).faces]
    write_kinds(tmp_path / "set", dict.fromkeys([face.image for face in open_set(tmp_path / "set").faces], FROM_68))
    measured = ["--eval", str(tmp_path / "set"), "--eval-held-out", str(shard), "--minutes", f"{SECONDS / 60}"]
    started = time.monotonic()
    assert command([*words, *measured]) == 0
    assert time.monotonic() - started < SECONDS
    run = tmp_path / "run"
    first = load(run / "last").metadata["step"]
    assert first > 1
    report = (run / "report.txt").read_text()
    assert f"session 1: steps 0 to {first} in " in report
    assert "points that people placed" in report  # of the first set
    assert report.strip() in capsys.readouterr().out
    (values,) = json.loads((run / "sessions.json").read_text())
    assert values["last_step"] == first
    assert values["validation_error"] == load(run / "best").metadata["best"]
    held_out = len(open_set(shard).held_out_subset(3).faces)
    assert [one["faces"] for one in values["sets"].values()] == [3, held_out]
    assert 0 < held_out < len(names)

    shutil.copytree(run, tmp_path / "elsewhere")
    shutil.rmtree(run)
    words[2] = str(tmp_path / "elsewhere")
    assert command([*words, *measured]) == 0
    assert "--recipe, --set count for a new run only" in capsys.readouterr().out
    both = json.loads((tmp_path / "elsewhere" / "sessions.json").read_text())
    assert both[0] == values
    assert (both[1]["number"], both[1]["first_step"]) == (2, first)
    assert both[1]["former_error"] == values["validation_error"]
    assert both[1]["last_step"] == load(tmp_path / "elsewhere" / "last").metadata["step"] > first
    text = (tmp_path / "elsewhere" / "report.txt").read_text()
    assert text.startswith(report.strip())
    assert f"session 2: steps {first} to " in text


@pytest.fixture
def trained(faces, words, tmp_path, monkeypatch) -> list[str]:
    """The words of a session whose training has ended already: one step, far from the limit."""
    monkeypatch.setattr(training.Run, "time_is_up", lambda run: run.step >= 1)
    return [*words, "--minutes", "60"]


def test_set_for_which_no_time_is_left_is_named(trained, tmp_path, monkeypatch, capsys):
    write_shard(tmp_path / "late", 3)
    clock = iter(range(3))
    monkeypatch.setattr(session_module, "estimate", lambda sets, *_: [TimedSet(one, 0.0) for one in sets])
    former = session_module._LimitedBackend.predict

    def predict(backend, crops):
        if next(clock, 9) >= 3:  # after the images of the first set
            backend._deadline = 0.0
        return former(backend, crops)

    monkeypatch.setattr(session_module._LimitedBackend, "predict", predict)
    assert command([*trained, "--eval", str(tmp_path / "set"), str(tmp_path / "late")]) == 0
    assert f"{tmp_path / 'late'}: not measured, the time was up" in capsys.readouterr().out
    (values,) = json.loads((tmp_path / "run" / "sessions.json").read_text())
    assert list(values["sets"]) == [str(tmp_path / "set")]
    assert values["left_out"] == [str(tmp_path / "late")]


def test_session_without_sets_reports_the_training(trained, tmp_path, capsys):
    assert command(trained) == 0
    assert "session 1: steps 0 to 1 in " in (tmp_path / "run" / "report.txt").read_text()
    assert "the same command goes on" in capsys.readouterr().out


def test_log_of_a_run_without_checkpoint_does_not_stop_a_session(trained, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.csv").write_text("step\n1\n")
    assert command(trained) == 0
    assert len((tmp_path / "run" / "log.csv").read_text().splitlines()) == 2


def test_ctrl_c_ends_a_session_without_measurements(trained, tmp_path, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", stop)
    assert command(trained) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert not (tmp_path / "run" / "report.txt").exists()


def test_problems_are_reported_before_the_training(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "train", lambda *_: pytest.fail("trained"))
    write_300w(tmp_path / "others")
    with pytest.raises(InputError, match="no such file"):
        command([*trained, "--eval", str(tmp_path / "nowhere")])
    with pytest.raises(ModelError, match="predicts 98 points, the faces have 68"):
        command([*trained, "--eval", str(tmp_path / "others")])
    with pytest.raises(InputError, match=r"--eval-held-out: the recipe holds no faces out \(held_out=0\)"):
        command([*trained, "--set", "held_out=0", "--eval-held-out", str(tmp_path / "set")])
    with pytest.raises(SystemExit, match="2"):
        command([trained[0]])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.safetensors").touch()
    with pytest.raises(InputError, match=r"cannot go on without last\.safetensors .* --pretrained"):
        command(trained)


def test_damaged_sessions_are_one_line(trained, tmp_path):
    assert command(trained) == 0
    (tmp_path / "run" / "sessions.json").write_text("[")
    with pytest.raises(InputError, match=r"sessions\.json: cannot be read .* move the file away"):
        command(trained)


def test_set_without_a_face_to_measure_is_refused(tmp_path):
    write_shard(tmp_path / "set", 2)
    with pytest.raises(InputError, match="set, one face in 100000: no face is left to measure"):
        open_sets([], [tmp_path / "set"], 100_000)


def test_estimate_grows_with_the_number_of_images(tmp_path, monkeypatch):
    clock = [0.0]

    def measure(sets, candidates):
        clock[0] += sum(len(one.faces) for one in sets)

    monkeypatch.setattr(session_module, "evaluate", measure)
    monkeypatch.setattr(session_module.time, "monotonic", lambda: clock[0])
    counts = (2, 40)
    for count in counts:
        write_shard(tmp_path / f"set{count}", count)
    timed = estimate([open_set(tmp_path / f"set{count}") for count in counts], TINY, 98)
    assert [one.seconds for one in timed] == pytest.approx(counts)


def test_measurements_must_leave_time_for_training():
    sets = [TimedSet(open_set, 10.0), TimedSet(open_set, 30.0)]
    reserve = reserved_seconds(sets, 540)
    assert 40 < reserve < MAX_SHARE * 540
    with pytest.raises(InputError, match=r"measuring would take 0\.9 of the 1 minutes; give fewer sets, or more"):
        reserved_seconds(sets, 60)


def test_recipe_of_the_run_is_kept(trained, tmp_path):
    assert command(trained) == 0
    before = load_recipe(tmp_path / "run" / "recipe.json")
    assert command([*trained, "--set", "learning_rate=1"]) == 0
    assert load_recipe(tmp_path / "run" / "recipe.json") == before


def test_training_and_measuring_need_no_library_of_the_runtime():
    """A machine that is lent with a GPU often has PyTorch and OpenCV only."""
    absent = ("mediapipe", "openvino", "av", "PyQt6", "platformdirs", "tensorrt", "h5py", "matplotlib", "onnx")
    code = f"import sys\nfor name in {absent}: sys.modules[name] = None\nimport canthus.trainer.session\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
