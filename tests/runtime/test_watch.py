"""`canthus bench watch` records memory, handles and threads of a command and of its workers."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from canthus.runtime.bench.watch import Moment, Process, describe, measure_use, sample, watch
from canthus.runtime.cli import main
from canthus.runtime.errors import InputError
from support.disk import full_disk

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "b = bytearray(50_000_000); input()"], stdin=subprocess.PIPE)
input()
"""


def moments(count=20, growth=0.0):
    """Return a run whose command has 50 MB, and its two workers 200 MB each and more over time."""
    return [
        Moment(
            float(index),
            Process(1, 50.0, 10, 1),
            tuple(Process(2 + worker, 200.0 + growth * index, 20, 4) for worker in range(2)),
        )
        for index in range(count)
    ]


def test_a_process_and_its_children_are_found():
    running = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE)
    try:
        found = None
        while not (found and found.workers and found.workers[0].memory_mb > 50):
            found = sample(running.pid, 1.5)
            assert running.poll() is None
    finally:
        running.communicate(b"\n")
    assert found.seconds == 1.5
    assert found.command.pid == running.pid
    assert found.command.threads == 1
    assert found.workers[0].handles >= 3
    assert sample(running.pid, 2.0) is None


def test_use_of_workers_is_that_of_all_and_the_most_that_of_one():
    use = measure_use(moments(growth=1.0), workers=True)
    assert (use.most_mb, use.early_handles, use.late_handles) == (219.0, 40, 40)
    assert (use.early_mb, use.late_mb) == (400 + 2 * 5.5, 400 + 2 * 17.5)
    assert measure_use(moments(growth=1.0), workers=False).late_mb == 50


def test_verdict_is_one_line():
    assert describe(moments()) == (
        "watch: 0.01 hours; command 50 MB at most, 50 to 50 MB in all, handles 10 to 10; "
        "workers 200 MB at most each of up to 2, 400 to 400 MB in all, handles 40 to 40; together 450 MB at most"
    )
    assert "workers" not in describe([one._replace(workers=()) for one in moments()])


def test_one_sample_is_enough_for_a_verdict():
    assert describe(moments(count=1)).startswith("watch: 0.00 hours; command 50 MB")


@pytest.mark.parametrize(
    ("script", "code"), [("pass", 0), ("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", 137)]
)
def test_exit_code_is_that_of_the_command_and_the_record_is_written(tmp_path, capsys, script, code):
    script = f"import time; time.sleep(0.3); {script}"
    words = ["bench", "watch", "-o", tmp_path / "run.json", "--interval", "0.05", "--", sys.executable, "-c", script]
    assert main([str(word) for word in words]) == code
    assert "wrote" in capsys.readouterr().out
    content = json.loads((tmp_path / "run.json").read_text())
    assert content["command"][1:] == ["-c", script]
    assert content["samples"][0][1][1] > 0
    assert ElementTree.parse(tmp_path / "run.svg")


def test_disk_that_becomes_full_does_not_end_the_command(tmp_path, capsys):
    script = f"import time; time.sleep(0.4); open({str(tmp_path / 'done')!r}, 'w'); raise SystemExit(3)"
    words = ["bench", "watch", "-o", tmp_path / "run.json", "--interval", "0.05", "--", sys.executable, "-c", script]
    with full_disk(10):
        assert main([str(word) for word in words]) == 3
    assert (tmp_path / "done").exists()
    shown = capsys.readouterr()
    assert f"the record is not complete: {tmp_path / 'run.json'}: cannot be written (File too large)" in shown.out
    assert "wrote" not in shown.out
    words[-1] = "import time; time.sleep(0.4)"
    with full_disk(10):
        assert main([str(word) for word in words]) == 1


def test_long_run_keeps_a_bounded_number_of_samples(monkeypatch):
    from canthus.runtime.bench import watch as module

    monkeypatch.setattr(module, "SAMPLES", 8)
    kept = []
    assert watch([sys.executable, "-c", "import time; time.sleep(1.5)"], 0.05, kept, lambda _: None) == 0
    assert 4 <= len(kept) < 8
    assert kept[-1].seconds > 0.5


def test_command_that_does_not_exist_is_one_line(tmp_path):
    with pytest.raises(InputError, match="no-such-command: cannot be run"):
        watch([str(tmp_path / "no-such-command")], 1.0, [], lambda _: None)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "x"])
def test_impossible_interval_is_refused(text, capsys):
    with pytest.raises(SystemExit):
        main(["bench", "watch", "-o", "w.json", f"--interval={text}", "--", "true"])
    assert "not a number of seconds" in capsys.readouterr().err


def test_ctrl_c_ends_the_command_and_keeps_the_record(tmp_path):
    record = tmp_path / "run.json"
    words = [
        "bench",
        "watch",
        "-o",
        record,
        "--interval",
        "0.1",
        "--",
        sys.executable,
        "-c",
        "import time; time.sleep(99)",
    ]
    process = subprocess.Popen(
        [Path(sys.executable).with_name("canthus"), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while not record.exists():
        assert process.poll() is None
    child = json.loads(record.read_text())["samples"][0][1][0]
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out.startswith(b"watch: 0.00 hours")
    assert not Path(f"/proc/{child}").exists()
    assert json.loads(record.read_text())["exit_code"] == -signal.SIGTERM
