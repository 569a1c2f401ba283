"""Files appear complete or not at all, and nothing else is left in their folder."""

import os
import resource
import threading

import pytest

from canthus.runtime.errors import InputError
from canthus.runtime.files import Draft, check_output, write_file


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
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"p\.png: cannot be written \(File too large\)"):
            write_file(tmp_path / "p.png", bytes(30_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
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
