"""A run of `canthus video` that was stopped goes on as if it had not been. Bright areas count as faces here."""

import errno
import os
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from canthus.runtime import read_table, stopped_runs, video_run
from canthus.runtime.cli import main
from canthus.runtime.codecs import CODECS
from canthus.runtime.errors import InputError
from canthus.runtime.files import Draft
from canthus.runtime.pipeline import Landmarker
from canthus.runtime.saved_state import load_state, save_state
from canthus.runtime.video_file import VideoFile
from support.disk import full_disk

pytestmark = pytest.mark.usefixtures("fake_networks")

FRAMES, INTERVAL = 60, 8


@pytest.fixture
def clip(tmp_path, monkeypatch):
    """Return a video of a bright square that moves, with irregular times and a tone; without a face in its middle."""
    monkeypatch.setattr(video_run, "CHECKPOINT_INTERVAL", INTERVAL)
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.integers(20, 60, FRAMES))
    with av.open(str(tmp_path / "clip.mp4"), "w") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        tone = file.add_stream("aac", rate=44_100, layout="mono")
        for index, ticks in enumerate(times.tolist()):
            image = np.zeros((120, 160, 3), np.uint8)
            if not 20 <= index < 26:
                image[20 + index // 3 : 80 + index // 3, 5 + index : 65 + index] = 255
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = ticks - times[0], stream.codec_context.time_base
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
        samples = av.AudioFrame.from_ndarray(
            rng.integers(-999, 999, (1, 90_000), np.int16), format="s16", layout="mono"
        )
        samples.sample_rate, samples.pts = 44_100, 0
        file.mux(tone.encode(samples))
        file.mux(tone.encode(None))
    return tmp_path / "clip.mp4"


def run(clip, folder, *options, suffix=".mp4", table=".csv"):
    folder.mkdir(exist_ok=True)
    words = ["video", clip, "-o", folder / f"o{suffix}", "--table", folder / f"t{table}", "--measures", *options]
    return main([str(word) for word in words])


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def stop(monkeypatch, frame, folder=None, error=KeyboardInterrupt):
    """Let the next run stop at a frame; keep a copy of what is on the disk then in `folder`."""
    update = Landmarker.update

    def stopping(self, image):
        if image.index >= frame:
            if folder is not None:
                shutil.copytree(folder, folder.with_name("killed"), ignore=shutil.ignore_patterns("*.new"))
            raise error
        return update(self, image)

    monkeypatch.setattr(Landmarker, "update", stopping)
    return lambda: monkeypatch.setattr(Landmarker, "update", update)


def kill(monkeypatch, clip, folder, frame, **formats):
    """Leave what a run leaves on the disk that is killed after a number of frames."""
    undo = stop(monkeypatch, frame, folder)
    run(clip, folder, "--resume", **formats)
    undo()
    shutil.rmtree(folder)
    folder.with_name("killed").rename(folder)


def tracks(path):
    """Return the times of the video packets, those of the audio with their content, and the number of frames."""
    with av.open(str(path)) as file:
        packets = [packet for packet in file.demux() if packet.dts is not None]
        audio = [(packet.pts, bytes(packet)) for packet in packets if packet.stream.type == "audio"]
        times = [packet.pts for packet in packets if packet.stream.type == "video"]
    with VideoFile(path) as video:
        return times, audio, len(list(video))


@pytest.mark.parametrize(
    ("suffix", "table"),
    [(".mp4", ".csv"), (".mkv", ".parquet"), (".webm", ".npz"), (".ts", ".jsonl"), (".mov", ".feather")],
)
def test_killed_run_goes_on_with_the_same_table_and_video(clip, tmp_path, monkeypatch, suffix, table):
    formats = {"suffix": suffix, "table": table}
    assert run(clip, tmp_path / "whole", **formats) == 0
    for frame in (13, 30, 55) if suffix == ".mp4" else (45,):
        kill(monkeypatch, clip, tmp_path / "out", frame, **formats)
    assert run(clip, tmp_path / "out", "--resume", **formats) == 0
    assert (tmp_path / "out" / f"t{table}").read_bytes() == (tmp_path / "whole" / f"t{table}").read_bytes()
    assert tracks(tmp_path / "out" / f"o{suffix}") == tracks(tmp_path / "whole" / f"o{suffix}")
    assert names(tmp_path / "out") == names(tmp_path / "whole")


def test_run_goes_on_from_a_checkpoint_and_not_from_the_start(clip, tmp_path, monkeypatch):
    kill(monkeypatch, clip, tmp_path / "out", 50)
    counted = []
    update = Landmarker.update
    monkeypatch.setattr(Landmarker, "update", lambda self, frame: counted.append(frame.index) or update(self, frame))
    assert run(clip, tmp_path / "out", "--resume") == 0
    assert 0 < counted[0] <= 48
    assert counted[0] % INTERVAL == 0
    assert counted[-1] == FRAMES - 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError("the network failed")])
def test_stopped_run_leaves_parts_that_can_be_used_and_says_so(clip, tmp_path, monkeypatch, capsys, error):
    undo = stop(monkeypatch, 30, error=error)
    assert run(clip, tmp_path / "out") == (130 if error is KeyboardInterrupt else 1)
    undo()
    message = capsys.readouterr().err
    assert "o.partial.mp4 and " in message
    assert "t.partial.csv: what was written until then; --resume goes on" in message
    shown = {name for name in names(tmp_path / "out") if not name.startswith(".")}
    assert shown == {"o.partial.mp4", "t.partial.csv", "t.partial.csv.json"}
    table = read_table(tmp_path / "out" / "t.partial.csv")
    assert np.unique(table.frame).tolist() == list(range(len(np.unique(table.frame))))
    assert table.metadata["settings"]["max_faces"] == 8
    assert len(tracks(tmp_path / "out" / "o.partial.mp4")[0]) == table.frame[-1] + 1
    assert run(clip, tmp_path / "whole") == 0
    assert run(clip, tmp_path / "out", "--resume") == 0
    assert names(tmp_path / "out") == ["o.mp4", "t.csv", "t.csv.json"]
    assert (tmp_path / "out" / "t.csv").read_bytes() == (tmp_path / "whole" / "t.csv").read_bytes()


def test_checkpoint_that_cannot_be_written_names_the_output(clip, tmp_path, monkeypatch, capsys):
    def full(self, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert run(clip, tmp_path / "out") == 1
    assert f"{tmp_path / 'out' / 'o.mp4'}: cannot be written (No space left on device)" in capsys.readouterr().err


@pytest.mark.parametrize("table", [".csv", ".parquet"])
def test_disk_that_becomes_full_loses_nothing(clip, tmp_path, capsys, table):
    with full_disk(60_000):
        assert run(clip, tmp_path / "out", table=table) == 1
    message = capsys.readouterr().err
    assert "stopped; " in message
    assert "--resume goes on" in message
    assert "cannot be written (File too large)" in message
    shown = {name for name in names(tmp_path / "out") if not name.startswith(".")}
    assert "o.partial.mp4" in shown
    assert not {"o.mp4", f"t{table}"} & shown
    assert run(clip, tmp_path / "out", "--resume", table=table) == 0
    assert "no stopped run" not in capsys.readouterr().err
    assert run(clip, tmp_path / "whole", table=table) == 0
    assert names(tmp_path / "out") == names(tmp_path / "whole")
    assert (tmp_path / "out" / f"t{table}").read_bytes() == (tmp_path / "whole" / f"t{table}").read_bytes()
    assert tracks(tmp_path / "out" / "o.mp4") == tracks(tmp_path / "whole" / "o.mp4")


def test_last_checkpoints_are_kept_because_the_encoder_holds_frames(tmp_path):
    saved = stopped_runs.Checkpoints(tmp_path, {})
    count = stopped_runs.CHECKPOINTS + 3
    for frames in range(count):
        saved.save(stopped_runs.Checkpoint(stopped_runs.Progress(frames), b""))
    kept = sorted(int(path.stem) for path in tmp_path.glob("*.checkpoint"))
    assert kept == list(range(3, count))


def test_newest_checkpoint_that_the_video_reaches_is_used_and_later_ones_are_deleted(tmp_path, monkeypatch):
    output, other = tmp_path / "o.mp4", tmp_path / "t.csv"
    draft = Draft(output)
    draft.file.touch()
    draft.leave()
    saved = stopped_runs.Checkpoints(draft.folder, {"settings": 1})
    for frames in (8, 12, 16, 24):
        saved.save(stopped_runs.Checkpoint(stopped_runs.Progress(frames), b"state"))
    monkeypatch.setattr(stopped_runs, "count_packets", lambda path: 15)
    assert stopped_runs.find_stopped_run([output, other], {"settings": 1}, output) is None  # one has no draft
    found = stopped_runs.find_stopped_run([output], {"settings": 1}, output)
    assert found.checkpoint == stopped_runs.Checkpoint(stopped_runs.Progress(12), b"state")
    assert sorted(int(path.stem) for path in draft.folder.glob("*.checkpoint")) == [8, 12]


@pytest.mark.parametrize("place", [0, -1])
def test_change_at_the_start_or_the_end_of_a_source_is_noticed(tmp_path, monkeypatch, place):
    monkeypatch.setattr(stopped_runs, "IDENTITY_BYTES", 4)
    content = bytearray(range(20))
    (tmp_path / "a").write_bytes(content)
    before = stopped_runs.run_identity(tmp_path / "a", {})
    content[place] ^= 1
    (tmp_path / "a").write_bytes(content)
    assert stopped_runs.run_identity(tmp_path / "a", {}) != before


def test_new_run_deletes_what_a_stopped_one_has_left(clip, tmp_path, monkeypatch):
    undo = stop(monkeypatch, 30)
    run(clip, tmp_path / "out")
    undo()
    (tmp_path / "out" / "my.partial.mp4").write_text("mine")
    assert run(clip, tmp_path / "out") == 0
    assert names(tmp_path / "out") == ["my.partial.mp4", "o.mp4", "t.csv", "t.csv.json"]


def test_run_that_is_stopped_before_its_first_frame_leaves_nothing(clip, tmp_path, monkeypatch):
    stop(monkeypatch, 0)
    assert run(clip, tmp_path / "out") == 130
    assert names(tmp_path / "out") == []


def test_run_that_goes_on_and_is_stopped_at_once_loses_nothing(clip, tmp_path, monkeypatch):
    kill(monkeypatch, clip, tmp_path / "out", 50)
    undo = stop(monkeypatch, 0)
    assert run(clip, tmp_path / "out", "--resume") == 130
    undo()
    assert run(clip, tmp_path / "out", "--resume") == 0
    assert run(clip, tmp_path / "whole") == 0
    assert (tmp_path / "out" / "t.csv").read_bytes() == (tmp_path / "whole" / "t.csv").read_bytes()


@pytest.mark.parametrize(
    ("options", "different"),
    [(["--max-faces", "1"], "settings"), (["--no-lines"], "drawings"), (["--every", "2"], "selection of frames")],
)
def test_run_with_other_options_does_not_go_on(clip, tmp_path, monkeypatch, capsys, options, different):
    kill(monkeypatch, clip, tmp_path / "out", 50)
    before = names(tmp_path / "out")
    capsys.readouterr()
    assert run(clip, tmp_path / "out", "--resume", *options) == 1
    assert f"the stopped run differs in {different}; give the same options" in capsys.readouterr().err
    assert names(tmp_path / "out") == before


def test_other_source_does_not_go_on(clip, tmp_path, monkeypatch, capsys):
    kill(monkeypatch, clip, tmp_path / "out", 50)
    clip.write_bytes(clip.read_bytes() + b"\0")
    assert run(clip, tmp_path / "out", "--resume") == 1
    assert "differs in source" in capsys.readouterr().err


def test_resume_without_a_stopped_run_starts_and_says_so(clip, tmp_path, capsys):
    assert run(clip, tmp_path / "out", "--resume") == 0
    assert "no stopped run to go on with" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{"frames": 8, "with_faces": 8, "position": 10}\n' + b"cos\nsystem\n."]
)
def test_damaged_checkpoint_is_one_clear_error_or_ignored(clip, tmp_path, monkeypatch, capsys, content):
    kill(monkeypatch, clip, tmp_path / "out", 50)
    for path in tmp_path.glob("out/.canthus-*/*.checkpoint"):
        path.write_bytes(content)
    capsys.readouterr()
    code = run(clip, tmp_path / "out", "--resume")
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert ("no stopped run" in error) if code == 0 else ("damaged" in error)


@pytest.mark.parametrize("head", ['{"frames": "8"}', '{"frames": -1}', '{"frames": 1e400}', "[" * 50_000, "\xff", "[]"])
def test_checkpoint_whose_numbers_are_none_is_passed_over(tmp_path, head):
    (tmp_path / "8.checkpoint").write_bytes(head.encode("latin-1") + b"\nstate")
    assert stopped_runs._read_checkpoint(tmp_path / "8.checkpoint") is None


class Harmful:
    def __reduce__(self):
        return os.system, ("touch harmful",)


@pytest.mark.parametrize(
    "content", [b"\x80\x05B\xff\xff\xff\x7f", b"\x80\x05\x8e" + b"\xff" * 8, b"(" * 100_000, b"N\x72\xff\xff\xff\x7f."]
)
def test_damaged_state_is_one_clear_error(content):
    with pytest.raises(InputError, match="the state of the stopped run is damaged") as raised:
        load_state(content)
    assert "\n" not in str(raised.value)


def test_state_of_other_classes_is_not_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for value in (Harmful(), Path("x"), stopped_runs.Progress()):
        with pytest.raises(InputError, match="is not a part of it"):
            load_state(save_state({"tracker": value}))
    assert not list(tmp_path.iterdir())


def test_table_on_standard_output_cannot_go_on(clip, capsys):
    assert main(["video", str(clip), "--table", "-", "--resume"]) == 2
    assert "-: cannot go on; give -o and --table with file names" in capsys.readouterr().err


@pytest.mark.parametrize("codec", [name for name, one in CODECS.items() if name != "qtrle" and not one.hardware])
def test_video_of_each_codec_goes_on(clip, tmp_path, monkeypatch, codec):
    formats = {"suffix": ".mkv"}
    assert run(clip, tmp_path / "whole", "--codec", codec, **formats) == 0
    undo = stop(monkeypatch, 50)
    assert run(clip, tmp_path / "out", "--codec", codec, **formats) == 130
    undo()
    assert run(clip, tmp_path / "out", "--codec", codec, "--resume", **formats) == 0
    assert tracks(tmp_path / "out" / "o.mkv") == tracks(tmp_path / "whole" / "o.mkv")
