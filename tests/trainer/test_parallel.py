"""Training with several processes gives the result of one."""

import csv
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from canthus.runtime.errors import BackendError, InputError
from canthus.trainer import run as run_module
from canthus.trainer import train as training
from canthus.trainer.commands.train import command
from canthus.trainer.networks.checkpoint import load
from canthus.trainer.packs.batches import Batches, Process
from canthus.trainer.packs.pack import Pack
from canthus.trainer.parallel import World
from canthus.trainer.recipe import Recipe
from canthus.trainer.run import TrainOptions
from support.training import ERRORS_AGREE, LOSSES_AGREE, SETTINGS, UNCOMPILED, pack_folder


def torchrun(faces: Pack, run: Path, *words: str, **settings: object) -> subprocess.Popen:
    options = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "canthus.trainer.commands"]
    pack = pack_folder(faces)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    return subprocess.Popen(
        [sys.executable, *start, "train", pack, "-o", str(run), *words, *options],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
    )  # fmt: skip


def read_log(run: Path) -> list[tuple[float, ...]]:
    rows = csv.DictReader((run / "log.csv").read_text().splitlines())
    return [(float(row["step"]), float(row["loss"]), float(row["held_out_nme"])) for row in rows]


def test_two_processes_train_stop_and_resume_like_one(faces, tmp_path):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    training.train(faces, Recipe(**SETTINGS), alone, UNCOMPILED)

    first = torchrun(faces, shared, "--workers", "1", **SETTINGS)
    while not (shared / "log.csv").is_file() and first.poll() is None:
        time.sleep(0.02)
    first.send_signal(signal.SIGTERM)  # as Slurm does
    first.communicate(timeout=120)
    stopped = load(shared / "last").metadata["step"]
    assert load(alone / "last").metadata["step"] > stopped >= 2
    second = torchrun(faces, shared, "--resume")
    output, _ = second.communicate(timeout=120)
    assert second.returncode == 0, output
    assert output.count("the best checkpoint: ") == 1

    one, two = np.array(read_log(alone)), np.array(read_log(shared))
    np.testing.assert_array_equal(two[:, 0], one[:, 0])
    np.testing.assert_allclose(two[:, 1], one[:, 1], rtol=LOSSES_AGREE)
    np.testing.assert_allclose(two[:, 2], one[:, 2], rtol=ERRORS_AGREE)
    assert load(alone / "last").weights.keys() == load(shared / "last").weights.keys()


def test_processes_split_each_batch_and_the_validation_faces(faces):
    recipe = Recipe(size=32, batch=6, held_out=3)
    whole = Batches(faces, recipe)
    parts = [Batches(faces, recipe, process=Process(rank, 3)) for rank in range(3)]
    for step in range(3):
        together = torch.cat([part.make_batch(step).crops for part in parts])
        assert torch.equal(together, whole.make_batch(step).crops)
    validated = sum(len(batch.crops) for part in parts for batch in part.validation())
    assert validated == len(whole.validation_rows)
    with pytest.raises(InputError, match="a batch of 6 cannot be split over 4 processes"):
        Batches(faces, recipe, process=Process(0, 4))


@pytest.mark.skipif(sys.platform != "linux", reason="worker processes are used on Linux only")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_batches_do_not_depend_on_the_number_of_workers(faces):
    batches = Batches(faces, Recipe(size=32, batch=4, held_out=3))
    made = [[batch.crops for batch in batches.stream(2, 9, workers)] for workers in (0, 1, 2)]
    assert [len(one) for one in made] == [7, 7, 7]
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*made, strict=True))


@pytest.mark.skipif(sys.platform != "linux", reason="worker processes are used on Linux only")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_workers_ignore_ctrl_c_until_the_step_is_complete(faces, tmp_path, monkeypatch):
    schedule = run_module.learning_rate_factor

    def press_ctrl_c(step: int, *rest: object) -> float:
        if step == 2:
            workers = multiprocessing.active_children()
            assert len(workers) == 2
            for worker in workers:  # as a terminal does
                os.kill(worker.pid, signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return schedule(step, *rest)

    monkeypatch.setattr(run_module, "learning_rate_factor", press_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        training.train(faces, Recipe(**SETTINGS), tmp_path, TrainOptions(compile=False, workers=2))
    assert load(tmp_path / "last").metadata["step"] == 3
    monkeypatch.undo()
    training.train(faces, Recipe(**SETTINGS), tmp_path, TrainOptions(resume=True, compile=False, workers=2))


def test_gpus_option_starts_torchrun_and_refuses_more_gpus_than_there_are(faces, tmp_path, monkeypatch):
    words = [pack_folder(faces), "-o", str(tmp_path / "run"), "--gpus", "2"]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(InputError, match="torch finds 0 CUDA GPUs; to start processes on the CPU: torchrun"):
        command(words)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    started = []

    def execv(program: str, words: list[str]) -> None:
        started.append((program, words))
        raise SystemExit

    monkeypatch.setattr("os.execv", execv)
    with pytest.raises(SystemExit):
        command(words)
    ((program, started_words),) = started
    assert program == started_words[0] == sys.executable
    assert started_words[1:] == [
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "canthus.trainer.commands", "train",
        *words,
    ]  # fmt: skip


def test_out_of_memory_error_advises_a_smaller_batch(faces, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nSee ...")

    monkeypatch.setattr(run_module, "normalize", fail)
    with pytest.raises(BackendError, match=r"smaller batch \(--set batch=4\)"):
        training.train(faces, Recipe(**SETTINGS), tmp_path, UNCOMPILED)


def test_slurm_file_starts_torchrun_with_the_variables_of_slurm(tmp_path):
    srun = 'echo "$1"; shift; exec "$@"'
    for name, does in (("srun", srun), ("scontrol", "echo node-7"), ("torchrun", 'echo "$@"')):
        (tmp_path / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {
        "SLURM_JOB_NODELIST": "node-[7-8]", "SLURM_NNODES": "2", "SLURM_JOB_ID": "42", "SLURM_GPUS_ON_NODE": "4",
        "SLURM_CPUS_PER_TASK": "64",
    }  # fmt: skip
    batch = ["bash", str(Path(training.__file__).parent / "slurm.sh"), "train", "faces", "-o", "a run"]
    path = f"{tmp_path}:{os.environ['PATH']}"
    output = subprocess.run(batch, env={"PATH": path, **slurm}, capture_output=True, text=True, check=True).stdout
    assert output.split() == [
        "--cpus-per-task=64", "--nnodes=2", "--nproc-per-node=4", "--rdzv-id=42", "--rdzv-backend=c10d",
        "--rdzv-endpoint=node-7:20042", "--no-python", "canthus", "train", "faces", "-o", "a", "run",
    ]  # fmt: skip


def test_world_of_one_process():
    world = World(torch.device("cpu"))
    assert world.first
    assert world.sum(1.0, 2.0) == [1.0, 2.0]
    assert world.any(True)
    assert not world.any(False)
    assert world.default_workers() == 0
