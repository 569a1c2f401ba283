"""slurm.sh under a real Slurm; support/slurm_node.py lists what that needs."""

import csv
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from canthus.trainer import train as training
from canthus.trainer.commands.evaluate import command as evaluate
from canthus.trainer.faces.formats import open_set
from canthus.trainer.networks.checkpoint import load
from canthus.trainer.packs.pack import open_pack, write_pack
from canthus.trainer.recipe import Recipe
from support import slurm_node
from support.shards import write_shard
from support.training import ERRORS_AGREE, LOSSES_AGREE, SETTINGS, UNCOMPILED

pytestmark = pytest.mark.slurm
BATCH = Path(training.__file__).parent / "slurm.sh"
TIMEOUT = 900  # seconds for a job on a busy machine
NME_AGREES = 1e-3  # NME in %, measured by one process and by two


class Slurm:
    """Submits jobs with two CPU processes from a folder, and waits for them."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.folder = folder
        own = {"PROCESSES": "2", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "CUDA_VISIBLE_DEVICES": ""}
        self._environment = {**environment, **own}

    def submit(self, *words: str, after: str = "") -> str:
        """Submit slurm.sh with arguments, after the job `after` has ended; return the number of the job."""
        depends = [f"--dependency=afterany:{after}"] if after else []
        cpu = ["--gpus-per-node=0", "--cpus-per-task=1", "--output=%j.out"]
        return self("sbatch", "--parsable", *cpu, *depends, str(BATCH), *words)

    def end(self, job: str) -> str:
        """Wait until a job has ended, and return its state."""
        until = time.monotonic() + TIMEOUT
        while (state := self("squeue", "--noheader", "--format=%T", "--states=all", f"--jobs={job}")) in (
            "PENDING", "CONFIGURING", "RUNNING", "COMPLETING",
        ):  # fmt: skip
            assert time.monotonic() < until, f"{state}\n{self.output(job)}"
            time.sleep(0.5)
        return state

    def output(self, job: str) -> str:
        out = self.folder / f"{job}.out"
        return out.read_text() if out.is_file() else ""

    def __call__(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self._environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture
def slurm(tmp_path) -> Iterator[Slurm]:
    if missing := slurm_node.missing_requirement():
        pytest.skip(f"no Slurm here: {missing}")
    with slurm_node.slurm_node() as environment:
        yield Slurm(environment, tmp_path)


def read_log(run: Path) -> np.ndarray:
    rows = csv.DictReader((run / "log.csv").read_text().splitlines())
    return np.array([(float(row["step"]), float(row["loss"]), float(row["held_out_nme"])) for row in rows])


def test_run_stopped_by_slurm_resumes_in_the_next_job_and_is_measured_in_a_third(slurm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_shard(tmp_path / "shard", 30)
    write_pack([open_set(tmp_path / "shard")], tmp_path / "pack", 48)
    training.train(open_pack(tmp_path / "pack"), Recipe(**SETTINGS), tmp_path / "alone", UNCOMPILED)

    settings = [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]
    first = slurm.submit("train", "pack", "-o", "run", "--workers", "1", *settings)
    second = slurm.submit("train", "pack", "-o", "run", "--resume", after=first)
    until = time.monotonic() + TIMEOUT
    while not (tmp_path / "run" / "log.csv").is_file():
        assert time.monotonic() < until, slurm.output(first)
        time.sleep(0.02)
    slurm("scancel", "--signal=TERM", first)  # Slurm does this before the time limit, because of --signal in slurm.sh
    assert slurm.end(first) == "FAILED"
    stopped = load(tmp_path / "run" / "last").metadata["step"]
    assert 2 <= stopped < load(tmp_path / "alone" / "last").metadata["step"], slurm.output(first)
    assert slurm.end(second) == "COMPLETED", slurm.output(second)
    assert slurm.output(second).count("the best checkpoint") == 1
    one, two = read_log(tmp_path / "alone"), read_log(tmp_path / "run")
    np.testing.assert_array_equal(two[:, 0], one[:, 0])
    np.testing.assert_allclose(two[:, 1], one[:, 1], rtol=LOSSES_AGREE)
    np.testing.assert_allclose(two[:, 2], one[:, 2], rtol=ERRORS_AGREE)

    measure = ["--model", "run/best.safetensors", "--wflw", "shard", "--json"]
    third = slurm.submit("eval", *measure, "two.json")
    assert slurm.end(third) == "COMPLETED", slurm.output(third)
    assert evaluate([*measure, "one.json"]) == 0
    alone, shared = (json.loads((tmp_path / name).read_text()) for name in ("one.json", "two.json"))
    assert shared["faces"] == alone["faces"] == 30
    assert shared["nme"] == pytest.approx(alone["nme"], abs=NME_AGREES)


def test_slurm_node_leaves_no_processes_or_files():
    if missing := slurm_node.missing_requirement():
        pytest.skip(f"no Slurm here: {missing}")
    before = set(Path("/tmp").iterdir())
    with slurm_node.slurm_node() as environment:
        answer = subprocess.run(["srun", "hostname"], env=environment, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stderr
        folder = Path(environment["SLURM_CONF"]).parent
        running = subprocess.run(["pgrep", "-f", str(folder)], capture_output=True, text=True, check=False).stdout
    assert running
    assert not [number for number in running.split() if Path(f"/proc/{number}").exists()]
    assert not {path for path in set(Path("/tmp").iterdir()) - before if path.name.startswith("slurm-")}
