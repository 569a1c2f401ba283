"""Worker processes: real ones, with work that needs no network. What a source says is what its worker does."""

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from canthus.runtime.abandoned import delete_abandoned
from canthus.runtime.batch import workers
from canthus.runtime.batch.listing import SourceFile
from canthus.runtime.batch.progress import Table
from canthus.runtime.batch.run import _retry, run_tasks
from canthus.runtime.batch.tasks import Outcome, Task
from canthus.runtime.batch.workers import LocalPool, LogLine, Progress, describe_end
from support.batch import Scripted


@pytest.fixture
def pool():
    with LocalPool(Scripted(), 2, 1) as opened:
        yield opened


@pytest.fixture
def table():
    with Table("canthus test", None, "file", 2) as shown:
        yield shown


def task(tmp_path, name, script):
    (tmp_path / name).write_text(script)
    return Task(name, str(tmp_path / name), {"table": str(tmp_path / "out" / name)})


def test_tasks_end_as_their_sources_say_and_a_process_that_ends_is_replaced(tmp_path, pool, table, capsys):
    scripts = {"a": "write", "b": f"die {int(signal.SIGKILL)}", "c": "fail", "d": "write", "e": "bug"}
    tasks = [task(tmp_path, name, script) for name, script in scripts.items()]
    ended = {outcome.task.name: outcome for outcome in run_tasks(pool, tasks, table)}
    assert sorted(ended) == list(scripts)
    assert [ended[name].error for name in "ad"] == ["", ""]
    assert ended["a"].figures == {"threads": "1"}
    assert ended["a"].sizes == {"table": 5}
    assert (tmp_path / "out" / "a").read_text() == "write"
    assert "ended by signal 9" in ended["b"].error
    assert ended["c"].error == "this file is wrong"
    assert "unexpected ValueError: a bug" in ended["e"].error
    assert {outcome.task.attempt for outcome in ended.values() if outcome.error} == {2}
    left = {path.name for path in (tmp_path / "out").iterdir()}
    drafts = {name for name in left if name.startswith(".canthus-partial-")}  # of the killed processes
    assert left - drafts == {"a", "d"}
    delete_abandoned(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a", "d"}
    assert capsys.readouterr().err.count("canthus test: failed: ") == 3


def test_part_at_which_a_process_ends_twice_is_left_out(tmp_path, pool, table):
    parts = tuple(SourceFile(str(tmp_path / name), name) for name in ("one", "bad", "two"))
    group = Task("one", "", {"table": str(tmp_path / "group")}, parts=parts)
    (outcome,) = run_tasks(pool, [group], table)
    assert outcome.error == ""
    assert outcome.task.excluded == ("bad",)
    assert (tmp_path / "group").read_text() == "one two"


def test_part_at_which_a_process_ends_once_is_tried_again():
    task, deaths = Task("one", "", {}, parts=(SourceFile("a", "a"),)), Counter()
    again = _retry(Outcome(task, error="ended", died_at="a"), deaths)
    assert again.excluded == ()
    assert _retry(Outcome(again, error="ended", died_at="a"), deaths).excluded == ("a",)


def test_process_is_replaced_after_some_tasks(tmp_path, monkeypatch, table):
    monkeypatch.setattr(workers, "TASKS_PER_PROCESS", 2)
    with LocalPool(Scripted(), 1, 1) as pool:
        tasks = [task(tmp_path, f"{number}", "number") for number in range(3)]
        numbers = [outcome.figures["process"] for outcome in run_tasks(pool, tasks, table)]
    assert numbers[0] == numbers[1] != numbers[2]
    assert not any(Path(f"/proc/{number}").exists() for number in numbers)


def test_progress_and_messages_of_a_worker_arrive(tmp_path, pool):
    pool.submit(task(tmp_path, "a", "log"))
    events = []
    while not (events and isinstance(events[-1], Outcome)):
        events += pool.wait()
    assert LogLine("a message") in events
    assert next(event for event in events if isinstance(event, Progress))[:4] == (0, "a", 1, 10)
    assert pool.free == 2


def test_closing_ends_a_task_and_discards_what_it_wrote(tmp_path):
    with LocalPool(Scripted(), 1, 1) as pool:
        pool.submit(task(tmp_path, "a", "sleep"))
        assert isinstance(pool.wait()[0], Progress)  # it is in its work
        (worker,) = pool._workers
        process = worker.process.pid
    assert not Path(f"/proc/{process}").exists()
    assert not list((tmp_path / "out").iterdir())


def test_worker_whose_run_was_killed_stops_as_after_ctrl_c(tmp_path):
    with LocalPool(Scripted(), 1, 1) as pool:
        pool.submit(task(tmp_path, "a", "report"))
        pool.wait()
        (worker,) = pool._workers
        pool._workers = [None]
        worker.connection.close()
        worker.process.join(30)
        assert worker.process.exitcode == 0
    assert (tmp_path / "stopped").exists()


@pytest.mark.parametrize(("code", "text"), [(-11, "signal 11"), (3, "code 3"), (-9, "memory did not suffice")])
def test_the_end_of_a_process_is_described(code, text):
    assert text in describe_end(code)


def test_thread_limit_is_read_from_the_environment(monkeypatch):
    from canthus.runtime.errors import InputError
    from canthus.runtime.threads import thread_limit

    monkeypatch.delenv("CANTHUS_THREADS", raising=False)
    assert thread_limit() == 0
    monkeypatch.setenv("CANTHUS_THREADS", "3")
    assert thread_limit() == 3
    for wrong in ("0", "-1", "many"):
        monkeypatch.setenv("CANTHUS_THREADS", wrong)
        with pytest.raises(InputError, match="CANTHUS_THREADS"):
            thread_limit()
    assert os.environ["CANTHUS_THREADS"] == "many"
