"""What a killed process leaves of a video and a table, and that the complete file has its header at the start."""

import csv
import random
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from canthus.runtime import sinks
from canthus.runtime.sinks import VideoSink
from canthus.runtime.video_file import VideoFile
from support.videos import write_video

WRITE = """
import sys
import time
from pathlib import Path
import numpy as np
from canthus.runtime.sinks import VideoSink
from canthus.runtime.video_file import VideoFile
from canthus.runtime.tables import FRAMES, TableSink
from canthus.runtime.types import Faces

source, target, table = map(Path, sys.argv[1:])
faces = Faces(np.ones((6, 98, 2), np.float32), np.ones((6, 98), np.float32), np.arange(6))
with VideoFile(source) as video, VideoSink(target, video) as sink, TableSink(table, FRAMES) as rows:
    for frame in video:
        rows.write(frame.index, frame.seconds, faces)
        sink.write(frame.image, frame.seconds)
        print(frame.index, flush=True)
        time.sleep(0.005)  # so that it is killed in time on a busy machine
"""
SECOND = 30
"""Frames per second of the sources."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Return videos of 7 seconds, by the codec of their audio."""
    folder = tmp_path_factory.mktemp("sources")
    times = [index / SECOND for index in range(7 * SECOND)]
    return {
        audio: write_video(folder / name, times, audio=audio, rate=48_000)
        for name, audio in (("a.mp4", "aac"), ("b.mp4", None), ("c.mov", "pcm_s16le"), ("d.mkv", "ac3"))
    }


def seconds(path, kind):
    """Return the times of the frames ("video") or of the sound ("audio") of a video."""
    with av.open(str(path)) as file:
        return [frame.time for frame in file.decode(**{kind: 0})]


@pytest.mark.parametrize(
    ("audio", "suffix"),
    [
        ("aac", ".mp4"),
        (None, ".mp4"),
        ("ac3", ".mp4"),
        ("pcm_s16le", ".mov"),
        ("aac", ".mkv"),
        ("pcm_s16le", ".ts"),
        ("aac", ".flv"),
    ],
)
def test_killed_process_leaves_a_video_and_a_table_up_to_the_last_seconds(tmp_path, sources, audio, suffix):
    words = [sys.executable, "-c", WRITE, sources[audio], tmp_path / f"o{suffix}", tmp_path / "t.csv"]
    least = random.randint(3 * SECOND, 4 * SECOND)
    with subprocess.Popen([*map(str, words)], stdout=subprocess.PIPE, text=True) as running:
        written = next(index for index in map(int, running.stdout) if index >= least)
        running.kill()
    assert {path.name[:17] for path in tmp_path.iterdir()} == {".canthus-partial-"}
    (video,) = tmp_path.glob(f"*/o{suffix}")
    frames = seconds(video, "video")
    assert len(frames) > written - 2.5 * SECOND  # the encoder holds some, and the last fragment is not complete
    assert np.diff(frames) == pytest.approx(1 / SECOND, abs=2e-3)
    if audio:
        sound = seconds(video, "audio")
        assert abs(frames[0] - sound[0]) < 0.1
        assert abs(frames[-1] - sound[-1]) < 0.2
    (table,) = tmp_path.glob("*/t.csv")
    content = table.read_bytes()
    assert content.endswith(b"\r\n")
    rows = list(csv.reader(content.decode().splitlines()))
    assert {len(row) for row in rows} == {303}
    assert len(rows) - 1 >= 6 * written


def boxes(path):
    """Return the kinds of the outer boxes of an .mp4."""
    content, found, start = path.read_bytes(), [], 0
    while start < len(content):
        found.append(content[start + 4 : start + 8].decode())
        start += int.from_bytes(content[start : start + 4], "big")
    return found


def copy(source, target):
    with VideoFile(source) as video, VideoSink(target, video) as sink:
        for frame in video:
            sink.write(frame.image, frame.seconds)
    return sink


@pytest.mark.parametrize(("audio", "suffix"), [("aac", ".mp4"), ("ac3", ".mp4"), (None, ".m4v"), ("pcm_s16le", ".mov")])
def test_complete_file_has_one_header_at_its_start(tmp_path, sources, audio, suffix):
    assert copy(sources[audio], tmp_path / f"o{suffix}").audio_error == ""
    assert [kind for kind in boxes(tmp_path / f"o{suffix}") if kind not in ("free", "wide")] == ["ftyp", "moov", "mdat"]
    assert [path.name for path in tmp_path.iterdir()] == [f"o{suffix}"]


@pytest.mark.parametrize(("audio", "period"), [("aac", 2.5), ("pcm_s16le", 12.0)])
def test_frames_and_audio_far_apart_keep_their_times(tmp_path, audio, period):
    """FFmpeg writes a fragment before it knows how long its last frame is shown."""
    times = [index * period for index in range(5)]
    copy(write_video(tmp_path / "in.mkv", times, audio=audio), tmp_path / "o.mp4")
    assert seconds(tmp_path / "o.mp4", "video") == pytest.approx(times, abs=2e-3)
    assert seconds(tmp_path / "o.mp4", "audio")[-1] == pytest.approx(times[-1], abs=0.1)


def test_audio_of_a_broadcast_is_played_from_the_first_fragment(tmp_path):
    """The packets of AAC in a .ts have headers of their own, which an .mp4 does not."""
    source = write_video(tmp_path / "in.ts", [index / SECOND for index in range(90)], audio="aac")
    copy(source, tmp_path / "o.mp4")
    with av.open(str(tmp_path / "o.mp4")) as file:
        assert file.streams.audio[0].codec_context.extradata
        wave = np.concatenate([part.to_ndarray()[0] for part in file.decode(audio=0)])
    assert len(wave) / 44_100 == pytest.approx(3.0, abs=0.1)
    assert np.abs(wave).max() > 0.1


def test_complete_fragments_are_kept_if_the_disk_has_no_space_for_a_second_file(tmp_path, sources, monkeypatch, caplog):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sinks.Fragments, "join", fail)
    copy(sources["aac"], tmp_path / "o.mp4")
    assert caplog.messages == [f"{tmp_path / 'o.mp4'}: its header is at its end (No space left on device)"]
    assert seconds(tmp_path / "o.mp4", "video") == pytest.approx(
        [index / SECOND for index in range(7 * SECOND)], abs=1e-4
    )
    assert seconds(tmp_path / "o.mp4", "audio")[-1] == pytest.approx(7, abs=0.1)
    assert [path.name for path in Path(tmp_path).iterdir()] == ["o.mp4"]
