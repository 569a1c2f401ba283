"""Batches on a Ray cluster of two workers on this machine, one of which is killed. Skipped without Ray."""

import contextlib
import csv
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from canthus.runtime import sample
from canthus.runtime.batch import cluster as cluster_pool
from canthus.runtime.batch.options import BatchOptions
from canthus.runtime.errors import InputError
from canthus.runtime.tables import read_table

pytestmark = pytest.mark.cluster
CANTHUS = str(Path(sys.executable).with_name("canthus"))
CLIPS = 4
LIMIT = 400  # seconds of a run on a busy machine


@pytest.fixture
def clips(tmp_path):
    """Return a folder with copies of the first half second of the sample clip."""
    import av

    (tmp_path / "clips").mkdir()
    first = tmp_path / "clips" / "0.mp4"
    with av.open(str(sample.CLIP)) as source, av.open(str(first), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.pts is not None and float(packet.pts * packet.time_base) <= 0.5:
                packet.stream = stream
                target.mux(packet)
    for number in range(1, CLIPS):
        shutil.copy(first, tmp_path / "clips" / f"{number}.mp4")
    return tmp_path / "clips"


@pytest.fixture
def cluster(monkeypatch):
    """Run a Ray cluster with two CPUs, and yield its address and the folder of its session."""
    pytest.importorskip("ray")
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # a socket's path must be short
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(5)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in sockets]
    # With ports of its own, no part waits for others to choose theirs: on a busy machine that takes too long.
    names = ("port", "runtime-env-agent-port", "dashboard-agent-grpc-port", "dashboard-agent-listen-port")
    options = [f"--{name}={port}" for name, port in zip((*names, "metrics-export-port"), ports, strict=True)]
    command = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        "--block",
        "--num-cpus=2",
        f"--temp-dir={folder}",
        "--include-dashboard=false",
    ]
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = os.environ | {"RAY_raylet_start_wait_time_s": str(LIMIT)}
    head = subprocess.Popen([*command, "--node-ip-address=127.0.0.1", *options], env=environment, **quiet)
    try:
        yield f"127.0.0.1:{ports[0]}", folder
    finally:
        head.terminate()
        head.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def start(clips, table, *words):
    command = [CANTHUS, "video", str(clips), "--table", str(table), "--cpu", "--threads", "1", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(running):
    output, error = running.communicate(timeout=LIMIT)
    assert running.returncode == 0, error
    return output


def workers(folder):
    """Return the processes that run tasks in the cluster with this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cmdline").read_bytes().startswith(b"ray::perform"):
                parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
                if str(folder).encode() in Path("/proc", parent, "cmdline").read_bytes():
                    found.append(int(process.name))
    return found


def summary(folder):
    return list(csv.DictReader((folder / "summary.csv").read_text().splitlines()))


def test_tables_are_those_of_one_process_though_a_worker_is_killed(clips, tmp_path, cluster):
    address, folder = cluster
    until = time.monotonic() + LIMIT
    found = []
    while not found:
        running = start(clips, tmp_path / "ray", "--ray", address)
        while running.poll() is None and not (found := workers(folder)):
            time.sleep(0.1)
        assert found or time.monotonic() < until, running.stderr.read()  # the cluster was not ready yet
    os.kill(found[0], signal.SIGKILL)
    end(running)
    rows = summary(tmp_path / "ray")
    assert [row["status"] for row in rows] == ["done"] * CLIPS
    assert {row["attempts"] for row in rows} == {"1", "2"}

    end(start(clips, tmp_path / "fetched", "--ray", address, "--fetch"))
    end(start(clips, tmp_path / "one"))
    for number in range(CLIPS):
        tables = [read_table(tmp_path / name / f"{number}.csv") for name in ("one", "ray", "fetched")]
        assert len({table.records.tobytes() for table in tables}) == 1
    assert "finished before" in end(start(clips, tmp_path / "ray"))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("auto", "--ray auto: no cluster there (not found); --ray local starts one for this run"),
        ("local", "--ray local: Ray cannot be started on this machine (not found)"),
    ],
)
def test_ray_that_does_not_answer_is_reported_while_it_is_waited_for(monkeypatch, caplog, address, message):
    def start(*_, **__):
        while not caplog.records:
            time.sleep(0.01)
        raise ConnectionError("not found\nand more")

    monkeypatch.setattr(cluster_pool, "NOTICE_SECONDS", 0.01)
    monkeypatch.setattr(cluster_pool, "import_ray", lambda: SimpleNamespace(is_initialized=lambda: False, init=start))
    with pytest.raises(InputError) as caught:
        cluster_pool.RayPool(None, BatchOptions(ray=address))
    assert str(caught.value) == message
    assert f"--ray {address}: Ray has not answered for" in caplog.text


def test_address_without_a_cluster_is_one_line(clips, tmp_path):
    pytest.importorskip("ray")
    running = start(clips, tmp_path / "ray", "--ray", "127.0.0.1:1")
    error = running.communicate(timeout=LIMIT)[1]
    assert running.returncode == 1
    assert "--ray 127.0.0.1:1: no cluster there" in error.splitlines()[-1]
