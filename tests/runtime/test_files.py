"""Files appear complete or not at all, and nothing else is left in their folder."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from canthus.runtime.abandoned import claim
from canthus.runtime.bench.machine import open_handles
from canthus.runtime.errors import InputError
from canthus.runtime.files import Draft, check_output, commit_together, keep_parts, write_all, write_file
from support.disk import full_disk


def names(folder):
    return sorted(path.name for path in folder.rglob("*"))


def test_target_is_replaced_only_at_the_end_of_the_block(tmp_path):
    (tmp_path / "t.csv").write_text("old")
    with Draft(tmp_path / "t.csv") as draft:
        draft.file.write_text("new")
        assert (tmp_path / "t.csv").read_text() == "old"
    assert (tmp_path / "t.csv").read_text() == "new"
    assert names(tmp_path) == ["t.csv"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_error_in_the_block_leaves_the_old_file_and_nothing_else(tmp_path, error):
    (tmp_path / "t.csv").write_text("old")
    with pytest.raises(error), Draft(tmp_path / "t.csv") as draft:
        draft.file.write_text("half")
        (draft.folder / "scratch").mkdir()
        raise error
    assert (tmp_path / "t.csv").read_text() == "old"
    assert names(tmp_path) == ["t.csv"]


def test_drafts_of_the_same_file_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "t.csv"

    def write(letter):
        with Draft(path) as draft:
            draft.file.write_text(letter * 10_000)
            together.wait()

    together = threading.Barrier(4)
    writers = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    content = path.read_text()
    assert content == content[0] * 10_000
    assert names(tmp_path) == ["t.csv"]


def test_inner_draft_is_committed_first(tmp_path):
    engine, manifest = tmp_path / "e.engine", tmp_path / "e.json"
    with pytest.raises(InputError, match=r"e\.engine: cannot be written"), Draft(engine), Draft(manifest) as draft:
        draft.file.write_text("{}")  # and no engine
    assert names(tmp_path) == ["e.json"]


def test_full_disk_is_one_clear_error_and_leaves_the_old_file(tmp_path):
    (tmp_path / "p.png").write_bytes(b"old")
    with full_disk(), pytest.raises(InputError, match=r"p\.png: cannot be written \(File too large\)"):
        write_file(tmp_path / "p.png", bytes(30_000))
    assert (tmp_path / "p.png").read_bytes() == b"old"
    assert names(tmp_path) == ["p.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_write_permission_is_one_clear_error(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match=r"t\.csv: cannot be written \(Permission denied\)"):
            write_file(tmp_path / "t.csv", b"")
    finally:
        tmp_path.chmod(0o700)


def test_error_about_another_file_is_not_blamed_on_the_target(tmp_path):
    with pytest.raises(FileNotFoundError), Draft(tmp_path / "t.csv"):
        (tmp_path / "source.csv").read_text()


def test_file_has_the_permissions_of_any_new_file(tmp_path):
    write_file(tmp_path / "draft", b"")
    (tmp_path / "plain").touch()
    assert (tmp_path / "draft").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_name_may_be_as_long_as_the_file_system_allows(tmp_path):
    name = "漢" * 83 + "n.png"
    write_file(tmp_path / name, b"an image")
    assert names(tmp_path) == [name]


def test_symbolic_link_stays_and_its_target_is_replaced(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "t.csv").symlink_to(tmp_path / "far" / "t.csv")
    write_file(tmp_path / "t.csv", b"new")
    assert (tmp_path / "t.csv").is_symlink()
    assert (tmp_path / "far" / "t.csv").read_bytes() == b"new"


def test_unusable_outputs_are_refused_before_any_work(tmp_path):
    (tmp_path / "there.csv").touch()
    with pytest.raises(InputError, match="--overwrite"):
        check_output(tmp_path / "there.csv", overwrite=False)
    with pytest.raises(InputError, match="cannot be written"):
        check_output(tmp_path / "nowhere" / "t.csv", overwrite=False)
    with pytest.raises(InputError, match="is a folder"):
        check_output(tmp_path, overwrite=True)
    with pytest.raises(InputError, match="too long"):
        check_output(tmp_path / ("n" * 256), overwrite=False)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="a device or a pipe"):
        check_output(tmp_path / "pipe", overwrite=True)
    (tmp_path / "pipe").unlink()
    assert check_output(tmp_path / "there.csv", overwrite=True)
    assert names(tmp_path) == ["there.csv"]


HOLD = """
import sys, time
from pathlib import Path
from canthus.runtime.abandoned import claim
from canthus.runtime.files import Draft
path = Path(sys.argv[1])
with claim(path), Draft(path / "a.png" if path.is_dir() else path) as draft:
    draft.file.write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def other_run(path):
    """Start a process that has claimed an output and written half of it. It is killed at the end of the block."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("folder", [False, True])
def test_output_of_another_run_is_refused_until_that_run_ends(tmp_path, folder):
    path = tmp_path / "out"
    if folder:
        path.mkdir()
    with other_run(path):
        before = names(tmp_path)
        with pytest.raises(
            InputError, match=r"out: another run is writing it; wait until it ends, or choose"
        ) as raised:
            claim(path).__enter__()
        assert "\n" not in str(raised.value)
        assert names(tmp_path) == before
    left = [name for name in names(tmp_path) if name.startswith(".canthus-partial-")]
    assert len(left) == 1
    handles = open_handles()
    with claim(path):
        assert not [name for name in names(tmp_path) if "partial" in name]  # deleted
    assert names(tmp_path) == (["out"] if folder else [])
    assert open_handles() <= handles


def test_output_is_claimed_once_in_a_process_and_is_free_afterwards(tmp_path):
    for _ in range(2):
        with claim(tmp_path / "t.csv"):
            with pytest.raises(InputError, match="another run"):
                claim(tmp_path / "t.csv").__enter__()
            with claim(tmp_path / "other.csv"):
                pass
    assert names(tmp_path) == []


def test_claim_leaves_the_draft_of_a_living_writer_and_of_another_output(tmp_path):
    with Draft(tmp_path / "t.csv") as draft, other_run(tmp_path / "other.csv"):
        draft.file.write_text("new")
        with claim(tmp_path / "t.csv"):
            pass
    assert (tmp_path / "t.csv").read_text() == "new"
    assert any(name.startswith(".canthus-partial-") for name in names(tmp_path))


def test_claim_works_on_a_file_system_without_locks(tmp_path, monkeypatch):
    import fcntl

    def refuse(*_):
        raise OSError(95, "Operation not supported")

    with other_run(tmp_path / "t.csv"):
        pass
    monkeypatch.setattr(fcntl, "flock", refuse)
    left = names(tmp_path)
    with claim(tmp_path / "t.csv"):
        assert set(left) <= set(names(tmp_path))  # a draft that may be alive stays


def output(path, finish):
    draft = Draft(path)
    draft.file.write_text("new")
    return SimpleNamespace(draft=draft, finish=finish)


def fail():
    raise InputError("disk full")


@pytest.mark.parametrize("finish", [lambda: False, fail])
def test_no_output_gets_its_name_if_one_is_not_whole(tmp_path, finish):
    finishes = {"a": lambda: True, "b": finish, "c": lambda: True}
    outputs = [output(tmp_path / name, finish) for name, finish in finishes.items()]
    with pytest.raises(InputError, match="disk full") if finish is fail else contextlib.nullcontext():
        commit_together(outputs)
    assert names(tmp_path) == []


def test_ctrl_c_while_outputs_are_finished_is_raised_after_all_have_their_names(tmp_path):
    def interrupted():
        signal.raise_signal(signal.SIGINT)
        return True

    with pytest.raises(KeyboardInterrupt):
        commit_together([output(tmp_path / "a", interrupted), output(tmp_path / "b", interrupted)])
    assert names(tmp_path) == ["a", "b"]


class Written:
    """An output that is whole, or has a part that can be read, or none."""

    def __init__(self, path, whole=True, has_part=True):
        self.draft, self._whole, self.has_part = Draft(path), whole, has_part
        self.draft.file.write_text("rows")

    def finish(self):
        if not self._whole:
            raise InputError("no space")
        return True


def test_part_that_can_be_read_is_named_beside_one_that_cannot(tmp_path):
    outputs = [Written(tmp_path / "t.csv", whole=False), Written(tmp_path / "t.npz", whole=False, has_part=False)]
    assert keep_parts(outputs) == [tmp_path / "t.partial.csv"]
    shown = [name for name in names(tmp_path) if "partial." in name]
    assert shown == ["t.partial.csv"]
    with claim(tmp_path / "t.csv"), claim(tmp_path / "t.npz"):
        pass
    assert names(tmp_path) == []


def test_run_that_can_go_on_keeps_the_drafts_that_cannot_be_read_yet(tmp_path):
    output = Written(tmp_path / "t.npz", whole=False, has_part=False)
    assert keep_parts([output], resumable=True) == []
    assert (output.draft.folder / "t.npz").read_text() == "rows"
    output = Written(tmp_path / "o.npz", whole=False, has_part=False)
    assert keep_parts([output]) == []
    assert not output.draft.folder.exists()


def test_unbuffered_file_that_takes_a_part_gets_the_rest():
    class Slow:
        def __init__(self):
            self.content = b""

        def write(self, data):
            self.content += bytes(data[:3])
            return min(len(data), 3)

    file = Slow()
    write_all(file, b"ten bytes.")
    assert file.content == b"ten bytes."
    with pytest.raises(BlockingIOError):
        write_all(SimpleNamespace(write=lambda data: None), b"x")
