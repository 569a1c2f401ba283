"""slurm_array.sh: which part each job of an array does, and a run under a real Slurm."""

import csv
import os
import subprocess
from pathlib import Path

import pytest

from canthus.runtime import batch
from support import slurm_node
from support.videos import write_video

SCRIPT = Path(batch.__file__).parent / "slurm_array.sh"
TIMEOUT = 600


@pytest.mark.parametrize(("number", "part"), [("3", ["--shard", "3/8"]), ("0", [])], ids=["a part", "the merge"])
def test_a_job_of_the_array_runs_its_part(tmp_path, number, part):
    (tmp_path / "canthus").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "canthus").chmod(0o755)
    own = {"SLURM_ARRAY_TASK_ID": number, "SLURM_ARRAY_TASK_MAX": "8", "SLURM_CPUS_PER_TASK": "2"}
    environment = {**os.environ, **own, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    words = ["video", "my clips", "--table", "tables"]
    done = subprocess.run(["bash", SCRIPT, *words], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [*words, "--jobs", "1", "--threads", "2", *part]


@pytest.mark.slurm
def test_array_and_merge_under_slurm_process_every_clip(tmp_path):
    if missing := slurm_node.missing_requirement():
        pytest.skip(f"no Slurm here: {missing}")
    (tmp_path / "clips").mkdir()
    for number in range(4):
        write_video(tmp_path / "clips" / f"{number}.mp4", [0.0, 0.04, 0.08])
    words = [str(SCRIPT), "video", "clips", "--table", "tables", "--cpu"]
    with slurm_node.slurm_node() as environment:

        def submit(*options):
            command = ["sbatch", "--parsable", "--cpus-per-task=1", "--output=%A-%a.out", "--wait", *options, *words]
            done = subprocess.run(
                command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
            )
            outputs = [path.read_text() for path in tmp_path.glob("*.out")]
            assert done.returncode == 0, (done.stderr, outputs)

        submit("--array=1-2")
        assert not (tmp_path / "tables" / "summary.csv").exists()
        submit("--array=0-0")
    rows = list(csv.DictReader((tmp_path / "tables" / "summary.csv").read_text().splitlines()))
    assert [(row["name"], row["status"]) for row in rows] == [(f"{number}.mp4", "skipped") for number in range(4)]
