"""`canthus train --minutes`: the run ends in time, with a low learning rate, and goes on elsewhere."""

import logging
import shutil
import time
from pathlib import Path

import pytest
import torch

from canthus.runtime.errors import InputError
from canthus.trainer import run as run_module
from canthus.trainer import time_limit as time_limit_module
from canthus.trainer.commands.train import command
from canthus.trainer.networks.checkpoint import load
from canthus.trainer.parallel import World
from canthus.trainer.run import Run, TrainOptions
from canthus.trainer.time_limit import EXIT_SECONDS, TimeLimit
from support.training import TINY, pack_folder

FEW = [word for one in ("size=32", "batch=4", "held_out=3", "warm_up=4", "precision=fp32") for word in ("--set", one)]

SECONDS = 12.0


class Clock:
    """A clock that only tests move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time_limit_module.time, "monotonic", lambda: self.now)


def test_schedule_goes_from_the_first_step_to_the_reserve(monkeypatch):
    clock = Clock(monkeypatch)
    limit = TimeLimit(100, started=100.0)
    limit.reserve_end(validation_seconds=2, calibration_seconds=7, parameters=25_000_000)
    assert limit.reserve == pytest.approx(2 + 7 + 10 + EXIT_SECONDS)
    clock.now += 30  # compiles the network
    assert limit.progress() == 0
    limit.count_step()
    factors = []
    while (progress := limit.progress()) < 1:
        factors.append(run_module.learning_rate_factor(limit.steps, TINY, limit.total_steps(progress)))
        clock.now += 0.5
        limit.count_step()
    assert 179.0 <= clock.now <= 180.0  # 20 s before the end; no step would have ended later
    assert len(factors) == pytest.approx(100, abs=2)
    assert max(factors) == pytest.approx(1, abs=0.01)
    assert factors[-1] < 0.01


def test_limit_shorter_than_the_first_step_ends_after_it(monkeypatch):
    clock = Clock(monkeypatch)
    limit = TimeLimit(10, started=100.0)
    clock.now += 30
    limit.count_step()
    assert limit.progress() >= 1


@pytest.fixture
def words(faces, tmp_path) -> list[str]:
    return [pack_folder(faces), "-o", str(tmp_path / "run"), "--no-compile", "--minutes", f"{SECONDS / 60}"]


@pytest.mark.usefixtures("cpu_seconds")
def test_run_with_minutes_ends_in_time_and_goes_on_in_a_copied_folder(
    words, faces, tmp_path, monkeypatch, capsys, caplog
):
    caplog.set_level(logging.INFO)
    factors: list[float] = []
    factor = run_module.learning_rate_factor

    def note(*arguments: object) -> float:
        factors.append(factor(*arguments))
        return factors[-1]

    monkeypatch.setattr(run_module, "learning_rate_factor", note)
    started = time.monotonic()
    assert command([*words, *FEW]) == 0
    assert time.monotonic() - started < SECONDS
    out = capsys.readouterr().out
    assert "held_out_nme before training" in caplog.text
    assert "the time is up; to continue: canthus train" in out
    assert f"--resume --minutes {SECONDS / 60:g}" in out
    first = load(tmp_path / "run" / "last").metadata["step"]
    assert first == len(factors) > 1
    assert factors[-1] < 0.5 * max(factors)
    rows = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert int(rows[-1].split(",")[0]) == first
    assert "calibration" in load(tmp_path / "run" / "best").metadata

    shutil.copytree(tmp_path / "run", tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "run")
    factors.clear()
    resumed = [pack_folder(faces), "-o", str(tmp_path / "elsewhere"), "--no-compile", "--resume"]
    assert command([*resumed, "--minutes", f"{SECONDS / 60}"]) == 0
    assert load(tmp_path / "elsewhere" / "last").metadata["step"] == first + len(factors)
    assert factors[-1] < 0.5 * max(factors)


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf"])
def test_minutes_must_be_above_0(words, minutes):
    with pytest.raises(SystemExit, match="2"):
        command([*words[:-1], minutes])


def test_teacher_at_resume_is_the_one_of_the_run_in_its_new_place(words, tmp_path, faces):
    (tmp_path / "run").mkdir()
    TINY.save(tmp_path / "run" / "recipe.json")
    with pytest.raises(InputError, match="this run has no teacher; resume it without --teacher"):
        command([*words, "--resume", "--teacher", str(Path("teacher.safetensors"))])


def test_all_processes_take_the_mean_progress(faces, monkeypatch):
    limit = TimeLimit(1000)
    run = Run(faces, TINY, World(torch.device("cpu")), TrainOptions(compile=False, time_limit=limit))
    monkeypatch.setattr(limit, "progress", lambda: 0.9)
    monkeypatch.setattr(World, "sum", lambda _, value: [value + 1.2])
    run.world = World(torch.device("cpu"), world_size=2)
    assert run.time_is_up()
    assert run._progress == pytest.approx(1.05)
