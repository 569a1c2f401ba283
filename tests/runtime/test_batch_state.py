"""What a batch remembers of finished files."""

from pathlib import Path

import pytest

from canthus.runtime.batch import storage
from canthus.runtime.batch.state import WHOLE, Shard, State
from canthus.runtime.batch.tasks import Outcome, Task
from canthus.runtime.errors import InputError


@pytest.fixture
def task(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"video")
    (tmp_path / "a.csv").write_bytes(b"rows")
    return Task("a.mp4", str(tmp_path / "a.mp4"), {"table": str(tmp_path / "a.csv")})


def finish(state, task):
    stamp, digest = storage.stamp(task.source), storage.content_hash(Path(task.source))
    state.finish(Outcome(task, {"frames": 3}, stamp=stamp, sha256=digest, sizes={"table": 4}))


@pytest.mark.parametrize(("content", "is_finished"), [(b"rows", True), (b"row", False), (b"more rows", False)])
def test_output_of_another_size_is_written_again(tmp_path, task, content, is_finished):
    with State(str(tmp_path), "key", WHOLE) as state:
        finish(state, task)
    (tmp_path / "a.csv").write_bytes(content)
    with State(str(tmp_path), "key", WHOLE) as state:
        assert (state.find(task) is not None) == is_finished


@pytest.mark.parametrize("second", [WHOLE, Shard(1, 2), Shard(1, 3)], ids=str)
def test_second_run_of_the_same_files_is_refused_and_other_parts_are_not(tmp_path, second):
    with State(str(tmp_path), "key", Shard(1, 2)):
        with State(str(tmp_path), "key", Shard(2, 2)):
            pass
        with pytest.raises(InputError, match="another run is writing it"), State(str(tmp_path), "key", second):
            pass
    with State(str(tmp_path), "key", second):
        pass


def test_mark_of_a_killed_run_of_a_part_stops_no_other_run(tmp_path):
    (tmp_path / ".canthus-part-1-of-2").touch()
    with State(str(tmp_path), "key", WHOLE):
        pass
    assert not list(tmp_path.glob(".canthus-part-*"))


def test_part_of_the_work_remembers_its_own_files_only(tmp_path, task):
    with State(str(tmp_path), "key", WHOLE) as state:
        finish(state, task)
    parts = [Shard(number, 2) for number in (1, 2)]
    for part in parts:
        with State(str(tmp_path), "key", part) as state:
            assert state.is_started(task.name) == part.has(task.name)
    assert sum(part.has(task.name) for part in parts) == 1
