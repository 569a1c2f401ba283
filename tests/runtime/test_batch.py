"""Many files: which are found, which are skipped, what a failure costs. Bright areas count as faces here."""

import csv
import functools
import json
import os
import shutil
from pathlib import Path

import av
import pytest

from canthus.runtime import video_run
from canthus.runtime.batch import process, progress
from canthus.runtime.batch.listing import VIDEO_SUFFIXES, find_sources
from canthus.runtime.batch.state import Shard
from canthus.runtime.cli import main
from canthus.runtime.errors import InputError
from canthus.runtime.pipeline import Landmarker
from canthus.runtime.tables import TableSink
from support.batch import inline
from support.fakes import scene
from support.videos import write_video

TIMES = [0.0, 0.04, 0.08]


@pytest.fixture
def clips(tmp_path, monkeypatch):
    """Return a folder with three short clips, one of them in a sub-folder. It is below the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.mp4", "b.mp4", "deep/c.mov"):
        path = tmp_path / "clips" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, TIMES)
    return tmp_path / "clips"


@pytest.fixture
def pools(monkeypatch, fake_networks):
    """Run tasks in this process; the list has the pool of each run. A dict put into it before says what is lost."""
    made = []
    monkeypatch.setattr(process, "open_pool", functools.partial(inline, made))
    return made


def run(*arguments):
    return main(["video", *map(str, arguments)])


def summary(folder):
    return {row["name"]: row for row in csv.DictReader(Path(folder, "summary.csv").read_text().splitlines())}


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


def names(*words, outputs=()):
    return [source.name for source in find_sources(words, VIDEO_SUFFIXES, outputs)]


def test_folder_of_clips_becomes_a_mirrored_folder_of_tables(clips, pools, capsys):
    assert run("clips", "--table", "tables") == 0
    assert files("tables") == [
        ".canthus-batch.jsonl",
        *(name for stem in ("a", "b", "deep/c") for name in (f"{stem}.csv", f"{stem}.csv.json")),
        "summary.csv",
    ]
    rows = summary("tables")
    assert list(rows) == ["a.mp4", "b.mp4", "deep/c.mov"]
    assert {(row["status"], row["frames"], row["attempts"], row["message"]) for row in rows.values()} == {
        ("done", "3", "1", "")
    }
    assert [row["table"] for row in rows.values()] == ["a.csv", "b.csv", "deep/c.csv"]
    output = capsys.readouterr()
    assert output.out == f"3 videos: 3 processed; wrote {Path('tables', 'summary.csv')}\n"
    assert output.err == ""


def test_table_of_a_batch_is_that_of_a_single_run(clips, pools):
    assert run("clips/a.mp4", "--table", "single.csv") == 0
    assert run("clips", "--table", "tables") == 0
    assert Path("tables/a.csv").read_bytes() == Path("single.csv").read_bytes()


def test_tables_may_lie_beside_the_clips(clips, pools):
    for _ in range(2):
        assert run("clips", "--table", "clips") == 0
    assert {"a.mp4", "a.csv", "deep/c.csv"} <= set(files("clips"))
    assert pools[1].names == []


def test_overlays_are_mirrored_beside_the_tables(clips, pools):
    assert run("clips", "--table", "out", "-o", "out") == 0
    assert {"a.mp4", "a.csv", "deep/c.mp4", "deep/c.csv"} <= set(files("out"))


def test_second_run_processes_only_what_is_new_changed_or_missing(clips, pools, capsys):
    assert run("clips", "--table", "tables") == 0
    assert run("clips", "--table", "tables") == 0
    assert pools[1].names == []
    assert {row["status"] for row in summary("tables").values()} == {"skipped"}
    assert {row["frames"] for row in summary("tables").values()} == {"3"}
    os.utime(clips / "a.mp4", (1, 1))  # the same content
    write_video(clips / "b.mp4", [*TIMES, 0.12])
    write_video(clips / "new.mp4", TIMES)
    Path("tables/deep/c.csv").unlink()
    assert run("clips", "--table", "tables") == 0
    assert sorted(pools[2].names) == ["b.mp4", "deep/c.mov", "new.mp4"]
    assert summary("tables")["b.mp4"]["frames"] == "4"
    assert capsys.readouterr().out.splitlines()[2].startswith("4 videos: 3 processed, 1 finished before")


def test_results_of_other_settings_are_replaced_only_with_overwrite(clips, pools, capsys):
    assert run("clips", "--table", "tables") == 0
    assert run("clips", "--table", "tables", "--max-faces", "1") == 1
    assert "results of other settings" in capsys.readouterr().err
    assert run("clips", "--table", "tables", "--max-faces", "1", "--overwrite") == 0
    assert len(pools[-1].names) == 3


def test_table_that_is_not_of_a_batch_is_not_replaced(clips, pools):
    Path("tables").mkdir()
    Path("tables/a.csv").write_text("mine")
    assert run("clips", "--table", "tables") == 1
    assert Path("tables/a.csv").read_text() == "mine"
    assert "use --overwrite" in summary("tables")["a.mp4"]["message"]
    assert run("clips", "--table", "tables", "--overwrite") == 0


def test_failing_file_is_tried_twice_named_and_does_not_stop_the_rest(clips, pools, capsys):
    (clips / "b.mp4").write_text("not a video")
    assert run("clips", "--table", "tables") == 1
    assert pools[0].names == ["a.mp4", "b.mp4", "deep/c.mov", "b.mp4"]
    row = summary("tables")["b.mp4"]
    assert (row["status"], row["attempts"]) == ("failed", "2")
    assert "not a readable video" in row["message"]
    output = capsys.readouterr()
    assert "2 processed, 1 failed" in output.out
    assert output.err.count("\n") == 1
    assert output.err.startswith(f"canthus video: failed: {Path('clips', 'b.mp4')}: not a readable video")


def test_part_of_a_file_that_fails_is_not_announced(clips, pools, monkeypatch, capsys):
    def failing(self, index, seconds, faces):
        write(self, index, seconds, faces)
        raise InputError("the disk is full")

    write = TableSink.write
    monkeypatch.setattr(TableSink, "write", failing)
    assert run("clips", "--table", "tables") == 1
    assert "what was written until then" not in capsys.readouterr().err
    assert files("tables") == [".canthus-batch.jsonl", "summary.csv"]


def test_summary_names_the_outputs_of_files_with_the_same_stem_also_when_they_are_skipped(clips, pools):
    shutil.copy("clips/a.mp4", "clips/a.mov")
    Path("clips/b.mp4").write_text("no video")
    for status in ("done", "skipped"):
        assert run("clips", "--table", "tables", "-o", "drawn") == 1
        rows = summary("tables")
        assert (rows["a.mov"]["status"], rows["a.mov"]["table"], rows["a.mov"]["overlay"]) == (
            status, "a.mov.csv", "a.mov.mp4"
        )  # fmt: skip
        assert rows["b.mp4"]["table"] == ""
        assert all(Path("tables", row["table"]).exists() for row in rows.values())


def test_run_without_a_terminal_prints_regularly_how_far_it_is(clips, pools, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    assert run("clips", "--table", "tables") == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("canthus video: 1 of 3 videos, about ")
    assert lines[-1] == "canthus video: 3 of 3 videos, about 0 min left"


def test_file_whose_process_ends_once_is_finished_by_the_second_attempt(clips, pools):
    pools.append({"a.mp4": 1})
    assert run("clips", "--table", "tables") == 0
    assert summary("tables")["a.mp4"]["attempts"] == "2"


def test_unexpected_error_in_one_file_is_reported_as_a_failure(clips, pools, monkeypatch):
    from canthus.runtime import video_run as video

    def fail(source, *_):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(video, "process_video", fail)
    assert run("clips", "--table", "tables") == 1
    assert "unexpected ZeroDivisionError: oops" in summary("tables")["a.mp4"]["message"]


def test_interrupted_run_goes_on_where_it_stopped(clips, pools, monkeypatch, capsys):
    from canthus.runtime import video_run as video

    process_video, done = video.process_video, []

    def interrupted(source, *arguments):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(source)
        return process_video(source, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(video, "process_video", interrupted)
        assert run("clips", "--table", "tables", "--jobs", "1") == 130
    assert "the same command does the rest" in capsys.readouterr().err
    assert files("tables") == [".canthus-batch.jsonl", "a.csv", "a.csv.json"]
    assert run("clips", "--table", "tables") == 0
    assert pools[1].names == ["b.mp4", "deep/c.mov"]


def test_line_that_a_killed_run_wrote_in_part_is_ignored(clips, pools):
    assert run("clips", "--table", "tables") == 0
    state = Path("tables/.canthus-batch.jsonl")
    lines = state.read_text().splitlines()
    state.write_text("\n".join([*lines[:-1], lines[-1][:40]]))
    last = json.loads(lines[-1])["name"]
    assert run("clips", "--table", "tables") == 0
    assert pools[1].names == [last]
    assert run("clips", "--table", "tables") == 0
    assert pools[2].names == []


@pytest.mark.parametrize("line", ['{"name": null}', '{"name": "a.mp4", "sizes": 5}', "[1]", "7", "[" * 20_000])
def test_line_of_the_state_that_is_damaged_is_ignored(clips, pools, line):
    assert run("clips", "--table", "tables") == 0
    with Path("tables/.canthus-batch.jsonl").open("a") as state:
        state.write(f"{line}\n")
    assert run("clips", "--table", "tables") == 0
    assert pools[1].names == []


def test_abandoned_drafts_of_killed_runs_are_deleted(clips, pools):
    left = Path("tables/deep/.canthus-partial-12345678-abc")
    left.mkdir(parents=True)
    (left / "c.csv").write_text("part")
    assert run("clips", "--table", "tables") == 0
    assert not left.exists()


def test_shards_share_the_files_and_a_run_without_shard_merges_them(clips, pools):
    for number in range(8):
        write_video(clips / f"{number}.mp4", TIMES)
    for part in ("1/3", "2/3", "3/3"):
        assert run("clips", "--table", "tables", "--shard", part) == 0
    shares = [set(pool.names) for pool in pools]
    assert sum(map(len, shares)) == len(set.union(*shares)) == 11
    assert all(shares)
    assert not Path("tables/summary.csv").exists()
    assert run("clips", "--table", "tables") == 0
    assert pools[-1].names == []
    assert len(summary("tables")) == 11


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "-1/2"])
def test_part_that_does_not_exist_is_wrong_usage(clips, text, capsys):
    with pytest.raises(SystemExit) as ended:
        run("clips", "--table", "tables", f"--shard={text}")
    assert ended.value.code == 2
    assert "1/8" in capsys.readouterr().err


def test_shard_of_a_name_does_not_depend_on_the_other_files():
    shards = [Shard(number, 4) for number in (1, 2, 3, 4)]
    for name in ("a.mp4", "deep/ä.mov", os.fsdecode(b"\xff.mp4")):
        assert [shard.has(name) for shard in shards].count(True) == 1


def test_patterns_lists_and_files_are_found_and_named_below_their_roots(clips):
    assert names("clips/*.mp4") == ["a.mp4", "b.mp4"]
    assert names("clips/**/*.mov") == ["deep/c.mov"]
    assert names("clips/**") == ["a.mp4", "b.mp4", "deep/c.mov"]
    assert names("clips/deep/c.mov", "clips/a.mp4") == ["c.mov", "a.mp4"]
    Path("list.txt").write_text("# takes\nclips/a.mp4\n\nclips/deep/c.mov\nmissing.mp4\n")
    assert names("@list.txt") == ["clips/a.mp4", "clips/deep/c.mov", "missing.mp4"]
    Path("list.txt").write_text("clips/a.mp4\nclips/deep/c.mov\n")
    assert names("@list.txt") == ["a.mp4", "deep/c.mov"]


def test_list_may_be_of_windows_and_name_a_file_twice(clips):
    Path("list.txt").write_bytes(b"\xef\xbb\xbfclips/a.mp4\r\nclips/b.mp4\r\nclips/./a.mp4\r\n")
    assert names("@list.txt") == ["a.mp4", "b.mp4"]
    assert names("clips/a.mp4", "clips/*.mp4", "clips") == ["a.mp4", "b.mp4", "deep/c.mov"]


def test_folders_leave_out_hidden_files_other_types_and_outputs(clips):
    for name in (".a.mp4", "._b.mp4", "note.txt", ".git/x.mp4"):
        (clips / name).parent.mkdir(exist_ok=True)
        (clips / name).write_bytes(b"")
    write_video(clips / "out" / "a.mp4", TIMES) if (clips / "out").mkdir() else write_video(clips / "D.MP4", TIMES)
    (clips / "out" / "a.mp4").write_bytes(b"")
    assert names("clips", outputs=["clips/out"]) == ["D.MP4", "a.mp4", "b.mp4", "deep/c.mov"]


def test_file_with_the_name_of_a_pattern_or_list_is_itself(clips):
    for name in ("take[1].mp4", "@take.mp4"):
        write_video(Path(name), TIMES)
        assert names(name) == [name]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["missing/"], 1, "no such file or folder"),
        (["clips/*.avi"], 1, "contains no files"),
        (["@missing.txt"], 1, "missing.txt: cannot be read"),
        (["clips/a.mp4", "clips/../other/a.mp4"], 1, "other/a.mp4: would have the same outputs as another file"),
        (["@clips/a.mp4"], 1, "is not a list of files (expected text in UTF-8"),
        (["clips", "--table", "points.csv"], 2, "is the name of a file"),
        (["clips", "-o", "clips"], 2, "would be replaced"),
    ],
)
def test_wrong_sources_are_one_line_before_any_work(clips, pools, capsys, words, code, message):
    Path("other").mkdir()
    write_video(Path("other/a.mp4"), TIMES)
    assert run("--table", "tables", "--jobs", "1", *words) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not pools


def test_two_videos_with_one_stem_get_two_tables(clips, pools):
    write_video(clips / "a.mov", [*TIMES, 0.12])
    assert run("clips", "--table", "tables") == 0
    assert {"a.mp4.csv", "a.mov.csv", "b.csv"} <= set(files("tables"))


def test_summary_of_others_is_not_replaced(clips, pools, capsys):
    Path("tables").mkdir()
    Path("tables/summary.csv").write_text("subject,score\n")
    assert run("clips", "--table", "tables") == 1
    assert "is not a summary of canthus" in capsys.readouterr().err
    assert Path("tables/summary.csv").read_text() == "subject,score\n"


def test_standard_output_is_wrong_usage_for_several_videos(clips, capsys):
    with pytest.raises(SystemExit) as ended:
        run("clips", "--table", "-")
    assert ended.value.code == 2
    assert "standard output" in capsys.readouterr().err


def test_name_that_is_not_utf8_is_kept_in_state_and_summary(clips, pools):
    name = os.fsdecode(b"\xff.mp4")
    (clips / "a.mp4").rename(clips / name)
    assert run("clips", "--table", "tables") == 0
    assert run("clips", "--table", "tables") == 0
    assert pools[1].names == []
    assert Path("tables", os.fsdecode(b"\xff.csv")).is_file()


def test_tasks_in_flight_are_bounded(clips, pools):
    for number in range(9):
        write_video(clips / f"{number}.mp4", TIMES)
    assert run("clips", "--table", "tables", "--jobs", "3") == 0
    assert pools[0].most == 3


@pytest.fixture
def long_clip(clips, monkeypatch):
    """Add a clip of 40 frames with a bright square that moves, of which a checkpoint is saved at every fourth."""
    monkeypatch.setattr(video_run, "CHECKPOINT_INTERVAL", 4)
    with av.open(str(clips / "long.mp4"), "w") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for index in range(40):
            frame = scene((40 + index, 50), side=60, size=(120, 160))
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode(None))
    return clips / "long.mp4"


@pytest.fixture
def updated(monkeypatch):
    """Return a list of the frames that are processed, and let a frame raise an error: `updated[1][FRAME] = ERROR`."""
    frames, errors = [], {}
    update = Landmarker.update

    def counting(self, frame):
        frames.append(frame.index)
        if frame.index in errors:
            raise errors.pop(frame.index)
        return update(self, frame)

    monkeypatch.setattr(Landmarker, "update", counting)
    return frames, errors


def hidden(folder):
    return [path.name for path in Path(folder).iterdir() if path.name.startswith(".canthus-partial-")]


def test_stopped_batch_goes_on_inside_a_clip_with_the_same_table(long_clip, pools, updated, capsys):
    frames, errors = updated
    assert run(long_clip, "--table", "single.csv", "-o", "single.mp4") == 0
    errors[30] = KeyboardInterrupt()
    assert run(long_clip, "--table", "out", "-o", "out", "--jobs", "1") == 130
    assert all(path.name.startswith(".") for path in Path("out").iterdir())
    assert len(hidden("out")) == 2
    del frames[:]
    assert run(long_clip, "--table", "out", "-o", "out", "--jobs", "1") == 0
    assert frames[0] >= 16
    assert Path("out/long.csv").read_bytes() == Path("single.csv").read_bytes()
    assert hidden("out") == []
    assert summary("out")["long.mp4"]["frames"] == summary("out")["long.mp4"]["frames_with_faces"] == "40"
    assert "resume" not in capsys.readouterr().err


def test_clip_that_failed_is_tried_again_from_its_start(long_clip, pools, updated):
    frames, errors = updated
    errors[30] = InputError("the network failed")
    assert run(long_clip, "--table", "out", "--jobs", "1") == 0
    assert frames.count(0) == 2
    assert summary("out")["long.mp4"]["attempts"] == "2"
    assert hidden("out") == []


def test_stopped_clip_of_other_settings_starts_again_without_a_message(long_clip, pools, updated, capsys):
    frames, errors = updated
    errors[30] = KeyboardInterrupt()
    assert run(long_clip, "--table", "out", "--jobs", "1") == 130
    del frames[:]
    capsys.readouterr()
    assert run(long_clip, "--table", "out", "--jobs", "1", "--max-faces", "2") == 0
    assert frames[0] == 0
    assert capsys.readouterr().err == ""


def test_part_of_the_work_keeps_what_stopped_runs_of_other_parts_left(clips, pools):
    left = Path("tables/.canthus-partial-12345678-abc")
    left.mkdir(parents=True)
    assert run("clips", "--table", "tables", "--shard", "1/2") == 0
    assert left.exists()


def test_part_of_the_work_leaves_nothing_of_a_clip_whose_process_ends_each_time(long_clip, pools, updated):
    _, errors = updated
    errors[30] = KeyboardInterrupt()
    assert run(long_clip, "--table", "out", "--jobs", "1") == 130
    assert len(hidden("out")) == 1
    codes = []
    for part in ("1/2", "2/2"):
        pools.append({"long.mp4": 9})
        codes.append(run(long_clip, "--table", "out", "--jobs", "1", "--shard", part))
    assert sorted(codes) == [0, 1]
    assert hidden("out") == []
