"""The fuzzer of `make fuzz` works, and a few inputs of each kind have a good outcome."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from canthus.runtime.errors import InputError
from fuzz import __main__ as fuzzer
from fuzz import worker
from fuzz.kinds import KINDS, Kind
from fuzz.mutations import mutate_bytes

CRASHING_WORKER = """
import json, os, signal, sys, time
_, seed, first, last = sys.argv[1:5]
for index in range(int(first), int(last)):
    if index == 3:
        os.kill(os.getpid(), signal.SIGSEGV)
    if index == 5:
        time.sleep(60)
    if index == 6:
        began = time.process_time()
        while time.process_time() < began + 0.1: pass
    print(json.dumps([index, "answered", "", ""]), flush=True)
"""


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"checkpoints", "overlays", "reports"}))
def test_a_few_inputs_of_each_kind_have_a_good_outcome(kind, tmp_path):
    count = 40
    outcomes = [outcome for _, outcome in fuzzer.run(kind, 1, 0, count, 20)]
    assert len(outcomes) == count
    bad = [outcome for outcome in outcomes if outcome.outcome not in fuzzer.GOOD]
    assert not bad, bad


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_seed_files_are_answered_and_the_same_each_time(kind, tmp_path):
    made = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        made.append(KINDS[kind].make(tmp_path / name))
    assert made[0] == made[1]
    for name, content in made[0].items():
        path = tmp_path / "one" / name
        path.write_bytes(content)
        assert worker.read(kind, path).outcome == "answered", name
        path.unlink()


def read_badly(path: Path) -> None:
    match path.read_bytes()[0] % 5:
        case 0:
            raise InputError(f"{path.name}: damaged")
        case 1:
            raise InputError("damaged")
        case 2:
            raise ZeroDivisionError
        case 3:
            raise MemoryError


def test_outcomes_are_distinguished(monkeypatch, tmp_path):
    monkeypatch.setitem(KINDS, "bad", Kind(lambda folder: {"a": b"a"}, read_badly, mutate_bytes))
    found = {}
    for byte in range(5):
        (tmp_path / "input").write_bytes(bytes([byte]))
        found[byte] = worker.read("bad", tmp_path / "input").outcome
    assert found == {0: "refused", 1: "unclear", 2: "traceback", 3: "memory", 4: "answered"}


def test_crash_and_hang_are_attributed_to_their_inputs_and_the_run_goes_on(monkeypatch):
    monkeypatch.setattr(fuzzer, "WORKER", ["-c", CRASHING_WORKER])
    monkeypatch.setattr(fuzzer, "IDLE_FACTOR", 1.0)
    began = time.monotonic()
    outcomes = dict(fuzzer.run("images", 1, 0, 8, 10.0))
    assert time.monotonic() - began < 55, "the process that hangs was ended"
    assert list(outcomes) == list(range(8))
    assert outcomes[3].outcome == "signal"
    assert str(int(signal.SIGSEGV)) in outcomes[3].place
    assert outcomes[5].outcome == "hang"
    assert {outcomes[index].outcome for index in (0, 1, 2, 4, 6, 7)} == {"answered"}


def test_input_with_a_bad_outcome_is_saved_and_can_be_made_again(tmp_path):
    findings = fuzzer.Findings("lists", 1, tmp_path)
    for index in range(5, 12):
        findings.add(index, worker.Outcome("traceback", "ValueError here", "why"))
    findings.add(20, worker.Outcome("refused"))
    assert findings.counts == {"traceback": 7, "refused": 1}
    saved = sorted(path.name for path in (tmp_path / "lists").iterdir() if path.suffix == ".txt")
    assert len(saved) == 2 * fuzzer.SAVED  # the seed is a .txt file itself
    (tmp_path / "seeds").mkdir()
    name, content = worker.make_input("lists", KINDS["lists"].make(tmp_path / "seeds"), 1, 5)
    assert (tmp_path / "lists" / f"1-5-{name}").read_bytes() == content


@pytest.mark.parametrize("end", ["finished", signal.SIGTERM, signal.SIGKILL])
def test_temporary_folders_are_deleted_however_the_run_ends(tmp_path, end):
    count = "5" if end == "finished" else "1000000"
    command = [sys.executable, "-m", "fuzz", "addresses", "--count", count, "-o", str(tmp_path / "found")]
    (tmp_path / "temporary").mkdir()
    environment = os.environ | {"PYTHONPATH": str(fuzzer.TESTS), "TMPDIR": str(tmp_path / "temporary")}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        if end == "finished":
            assert process.wait(60) == 0
        else:
            while not list((tmp_path / "temporary").glob("*/inputs/*")):
                time.sleep(0.05)
            process.send_signal(end)
            process.wait(60)
        until = time.monotonic() + 30
        while list((tmp_path / "temporary").iterdir()) and time.monotonic() < until:
            time.sleep(0.05)
    assert not list((tmp_path / "temporary").iterdir())
