"""Sources and outputs behind addresses of fsspec: its file system in memory. Bright areas count as faces here."""

import csv
import errno
import functools
import json
import sys
from pathlib import Path

import pytest

from canthus.runtime import video_run
from canthus.runtime.batch import process, storage
from canthus.runtime.batch.summary import Row, write_summary
from canthus.runtime.cli import main
from canthus.runtime.errors import InputError
from canthus.runtime.files import Draft
from support.batch import inline
from support.videos import write_video

fsspec = pytest.importorskip("fsspec")
TIMES = [0.0, 0.04, 0.08]


@pytest.fixture
def memory(tmp_path, monkeypatch, fake_networks):
    """Return an empty file system in memory with two clips; tasks run in this process, where it is."""
    monkeypatch.chdir(tmp_path)
    system = fsspec.filesystem("memory")
    for name in ("a.mp4", "deep/b.mov"):
        clip = write_video(tmp_path / f"clip{name[-4:]}", TIMES)
        system.pipe_file(f"/clips/{name}", clip.read_bytes())
    yield system
    system.store.clear()


@pytest.fixture
def pools(monkeypatch):
    made = []
    monkeypatch.setattr(process, "open_pool", functools.partial(inline, made))
    return made


def run(*arguments):
    return main(["video", *map(str, arguments)])


def test_clips_of_a_remote_folder_become_tables_in_another(memory, pools):
    assert run("memory://clips", "--table", "memory://tables") == 0
    names = sorted(path for path in memory.find("/tables"))
    assert names == [
        "/tables/.canthus-batch.jsonl", "/tables/a.csv", "/tables/a.csv.json", "/tables/deep/b.csv",
        "/tables/deep/b.csv.json", "/tables/summary.csv",
    ]  # fmt: skip
    rows = list(csv.DictReader(memory.cat_file("/tables/summary.csv").decode().splitlines()))
    assert [row["status"] for row in rows] == ["done", "done"]


def test_remote_tables_are_those_of_local_files(memory, pools, tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").write_bytes(memory.cat_file("/clips/a.mp4"))
    assert run("clips", "--table", "tables") == 0
    assert run("memory://clips/*.mp4", "--table", "memory://tables") == 0
    assert memory.cat_file("/tables/a.csv") == (tmp_path / "tables" / "a.csv").read_bytes()


def test_second_run_on_remote_folders_processes_only_what_changed(memory, pools, tmp_path):
    for _ in range(2):
        assert run("memory://clips", "--table", "memory://tables") == 0
    assert pools[1].names == []
    memory.pipe_file("/clips/a.mp4", write_video(tmp_path / "n.mp4", [*TIMES, 0.12]).read_bytes())
    assert run("memory://clips", "--table", "memory://tables") == 0
    assert pools[2].names == ["a.mp4"]


def test_one_remote_file_has_outputs_with_names_of_their_own(memory, capsys):
    source = "memory://clips/a.mp4"
    assert run(source, "--table", "memory://out/t.csv", "-o", "memory://out/o.mp4") == 0
    assert "3 frames, 0 with faces; wrote memory://out/o.mp4 and memory://out/t.csv" in capsys.readouterr().out
    assert sorted(memory.find("/out")) == ["/out/o.mp4", "/out/t.csv", "/out/t.csv.json"]
    assert json.loads(memory.cat_file("/out/t.csv.json"))["source"]["path"] == source
    assert run(source, "--table", "t.csv") == 0
    assert Path("t.csv").read_bytes() == memory.cat_file("/out/t.csv")
    assert run("clip.mp4", "--table", "memory://out/u.parquet", "--record-trace", "memory://out/u.trace") == 0
    assert {"/out/u.parquet", "/out/u.trace"} <= set(memory.find("/out"))


def test_metadata_of_a_remote_table_names_the_address_of_its_source(memory, pools):
    assert run("memory://clips", "--table", "tables") == 0
    assert json.loads(Path("tables/a.csv.json").read_text())["source"]["path"] == "memory:///clips/a.mp4"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["memory://clips/a.mp4", "--table", "memory://out/t.csv"], "memory://out/t.csv: exists already"),
        (["memory://clips/none.mp4", "--table", "memory://out/u.csv"], "none.mp4: no such file or folder"),
        (["memory://clips", "--table", "memory://out/u.csv"], "is the name of a file (expected a folder"),
        (["memory://clips/a.mp4", "-o", "memory://clips/a.mp4", "--overwrite"], "a.mp4: is the source"),
        (["memory://clips/a.mp4", "--table", "memory://out/u.csv", "--resume"], "cannot go on at an address"),
        (["memory://out/t.csv", "--table", "memory://out/u.csv"], "memory://out/t.csv: not a readable video"),
        (["rtsp://host/1", "--table", "u.csv"], "is a live stream"),
    ],
)
def test_wrong_use_of_one_remote_file_is_one_line(memory, capsys, arguments, message):
    memory.pipe_file("/out/t.csv", b"mine")
    assert run(*arguments) in (1, 2)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert memory.cat_file("/out/t.csv") == b"mine"
    assert memory.find("/out") == ["/out/t.csv"]


def test_stopped_run_writes_nothing_at_an_address_and_says_so(memory, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(video_run, "process_video", stop)
    assert run("memory://clips/a.mp4", "--table", "memory://out/t.csv") == 130
    assert "stopped; memory://out/t.csv: not written" in capsys.readouterr().err
    assert memory.find("/out") == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ImportError("Please install gcsfs"), "gs://b/a.mp4: needs gcsfs, which is not installed: "),
        (OSError("Unable to load libjvm\nand more"), "gs://b/a.mp4: cannot be opened (Unable to load libjvm)"),
    ],
)
def test_file_system_that_cannot_be_opened_is_one_line(memory, monkeypatch, capsys, error, message):
    def fail(_):
        raise error

    monkeypatch.setattr("fsspec.core.url_to_fs", fail)
    assert run("gs://b/a.mp4", "--table", "t.csv") == 1
    output = capsys.readouterr().err
    assert message in output
    assert output.count("\n") == 1


def test_remote_sources_may_have_local_outputs_and_the_reverse(memory, pools, tmp_path):
    assert run("memory://clips/deep/b.mov", "--table", "tables") == 0
    assert (tmp_path / "tables" / "b.csv").is_file()
    assert run("clip.mp4", "--table", "memory://out") == 0
    assert memory.exists("/out/clip.csv")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("memory://missing", "no such file or folder"),
        ("memory://clips/*.avi", "contains no files"),
        ("nosuch://clips", "nosuch://clips: cannot be opened"),
    ],
)
def test_wrong_addresses_are_one_line(memory, pools, capsys, word, message):
    assert run(word, "--table", "tables") == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


class NoCredentialsError(Exception):
    """As botocore raises it."""


@pytest.mark.parametrize(
    "error",
    [NoCredentialsError("Unable to\nlocate credentials"), ConnectionError("refused"), PermissionError("denied")],
)
@pytest.mark.parametrize("failing", ["isdir", "get_file", "put_file"])
def test_errors_of_a_service_are_one_line_each(memory, pools, monkeypatch, capsys, error, failing):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(type(memory), failing, fail)
    assert run("memory://clips/a.mp4" if failing == "get_file" else "memory://clips", "--table", "memory://t") == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("canthus video")]
    assert lines
    assert all(type(error).__name__ in line for line in lines)


def test_missing_fsspec_and_ray_are_named_with_the_command_that_installs_them(memory, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    assert run("memory://clips", "--table", "tables") == 1
    assert "needs fsspec, which is not installed: " in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run("clip.mp4", "--table", "tables", "--ray", "local") == 1
    assert "--ray needs Ray, which is not installed: " in capsys.readouterr().err


def test_password_of_an_address_is_not_in_the_summary():
    rows = [
        Row("ftp://me:secret@host/a.mp4", "a.mp4", "failed", message="ftp://me:secret@host/a.mp4: cannot be read"),
        Row("clips/b@c.mp4", "b@c.mp4", "done"),
    ]
    write_summary("memory://tables", rows, ())
    text = fsspec.filesystem("memory").cat_file("/tables/summary.csv").decode()
    assert "ftp://host/a.mp4,a.mp4,failed,,0,ftp://host/a.mp4: cannot be read" in text
    assert "clips/b@c.mp4,b@c.mp4,done" in text
    assert "secret" not in text


def test_full_temporary_folder_is_named_when_an_output_is_remote(memory, tmp_path):
    def write() -> None:
        with storage.staged("memory://out/t.csv") as path, Draft(path).writing():
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match=r"memory://out/t\.csv: cannot be written(.|\n)*set TMPDIR"):
        write()


def test_missing_folders_of_a_file_address_are_created(fake_networks, tmp_path):
    write_video(tmp_path / "a.mp4", TIMES)
    folder = f"file://{tmp_path}/new/tables"
    assert run(str(tmp_path / "a.mp4"), "--table", f"{folder}/t.csv") == 0
    assert (tmp_path / "new" / "tables" / "t.csv").is_file()
