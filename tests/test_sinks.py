import csv

import av
import numpy as np
import pytest

from canthus.runtime.errors import InputError
from canthus.runtime.sinks import FRAME_COLUMNS, TableSink, VideoSink, check_output
from canthus.runtime.sources import VideoFile
from canthus.runtime.types import Faces
from conftest import SHAPE, write_video

UNEVEN = [0.0, 0.04, 0.2, 0.21, 0.9, 1.4]


def copy(source_path, target_path):
    with VideoFile(source_path) as source, VideoSink(target_path, source) as sink:
        for frame in source:
            sink.write(frame.image, frame.seconds)


def test_the_written_video_keeps_every_time(tmp_path):
    copy(write_video(tmp_path / "in.mp4", UNEVEN), tmp_path / "out.mp4")
    with VideoFile(tmp_path / "out.mp4") as video:
        assert [frame.seconds for frame in video] == pytest.approx(UNEVEN, abs=1e-3)


@pytest.mark.parametrize(("name", "sound"), [("in.mp4", "aac"), ("in.mov", "pcm_s16le")])
def test_the_written_video_keeps_the_sound(tmp_path, name, sound):
    copy(write_video(tmp_path / name, UNEVEN, sound=sound), tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as file:
        track = file.streams.audio[0]
        wave = np.concatenate([part.to_ndarray()[0] for part in file.decode(track)])
    assert track.codec_context.name == "aac"
    assert len(wave) / 44_100 == pytest.approx(1.4, abs=0.1)
    assert np.abs(wave).max() > 0.1


def test_an_odd_size_loses_one_row_and_column_and_no_frame(tmp_path):
    source = write_video(tmp_path / "in.mkv", UNEVEN, size=(97, 65), codec="ffv1", pixels="yuv444p")
    copy(source, tmp_path / "out.mp4")
    with VideoFile(tmp_path / "out.mp4") as video:
        assert (video.width, video.height) == (96, 64)
        assert len(list(video)) == len(UNEVEN)


def test_a_video_that_is_broken_off_is_whole(tmp_path):
    source = write_video(tmp_path / "in.mp4", UNEVEN)
    with (
        pytest.raises(KeyboardInterrupt),
        VideoFile(source) as video,
        VideoSink(tmp_path / "o.mp4", video) as sink,
    ):
        for frame in video:
            sink.write(frame.image, frame.seconds)
            if frame.index == 2:
                raise KeyboardInterrupt
    with VideoFile(tmp_path / "o.mp4") as video:
        assert len(list(video)) == 3


def test_the_table_holds_what_was_found(tmp_path):
    points = np.stack([SHAPE * 100, SHAPE * 50 + 7]).astype(np.float32)
    faces = Faces(points, np.full((2, 98), 0.5, np.float32), np.array([3, 8]))
    with TableSink(tmp_path / "t.csv", FRAME_COLUMNS) as table:
        table.write(0, 0.0, Faces.none())
        table.write(1, 1 / 30, faces)
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert [row["face"] for row in rows] == ["3", "8"]
    assert [row["frame"] for row in rows] == ["1", "1"]
    assert float(rows[1]["y_97"]) == pytest.approx(points[1, 97, 1], abs=0.01)
    assert float(rows[0]["box_x1"]) == pytest.approx(points[0, :, 0].max(), abs=0.01)
    assert len(rows[0]) == 2 + 6 + 3 * 98


def test_outputs_that_cannot_be_are_told_before_any_work(tmp_path):
    (tmp_path / "there.csv").touch()
    with pytest.raises(InputError, match="--overwrite"):
        check_output(tmp_path / "there.csv", overwrite=False)
    with pytest.raises(InputError, match="cannot be written"):
        check_output(tmp_path / "nowhere" / "t.csv", overwrite=False)
    with pytest.raises(InputError, match="is a folder"):
        check_output(tmp_path, overwrite=True)
    assert check_output(tmp_path / "there.csv", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["there.csv"]


def test_a_name_that_no_video_can_have_is_told(tmp_path):
    with (
        VideoFile(write_video(tmp_path / "in.mp4", UNEVEN)) as video,
        pytest.raises(InputError, match=r"\.mp4"),
    ):
        VideoSink(tmp_path / "out.xyz", video)
