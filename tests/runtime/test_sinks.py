import csv
import os
import resource
import signal
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from av.stream import Disposition

from canthus.runtime.errors import InputError
from canthus.runtime.sinks import FRAME_COLUMNS, IMAGE_COLUMNS, TableSink, VideoSink
from canthus.runtime.sources import VideoFile
from canthus.runtime.types import Faces
from support.shape import SHAPE
from support.videos import write_video

UNEVEN = [0.0, 0.04, 0.2, 0.21, 0.9, 1.4]


def copy(source_path, target_path):
    """Carry a video over; -> why its audio is incomplete."""
    with VideoFile(source_path) as source, VideoSink(target_path, source) as sink:
        for frame in source:
            sink.write(frame.image, frame.seconds)
    return sink.audio_error


def test_the_written_video_keeps_every_time(tmp_path):
    copy(write_video(tmp_path / "in.mp4", UNEVEN), tmp_path / "out.mp4")
    with VideoFile(tmp_path / "out.mp4") as video:
        assert [frame.seconds for frame in video] == pytest.approx(UNEVEN, abs=1e-3)


@pytest.mark.parametrize(("name", "sound"), [("in.mp4", "aac"), ("in.mov", "pcm_s16le")])
def test_the_written_video_keeps_the_sound(tmp_path, name, sound):
    assert copy(write_video(tmp_path / name, UNEVEN, sound=sound), tmp_path / "out.mp4") == ""
    with av.open(str(tmp_path / "out.mp4")) as file:
        track = file.streams.audio[0]
        wave = np.concatenate([part.to_ndarray()[0] for part in file.decode(track)])
    assert track.codec_context.name == "aac"
    assert len(wave) / 44_100 == pytest.approx(1.4, abs=0.1)
    assert np.abs(wave).max() > 0.1


def length(path):
    """Seconds that a player shows."""
    with av.open(str(path)) as file:
        return file.duration / 1_000_000


@pytest.mark.parametrize(("name", "sound"), [("in.mp4", "aac"), ("in.mov", "pcm_s16le")])
def test_a_sound_that_is_longer_than_its_pictures_is_whole(tmp_path, name, sound):
    """So it is where a still scene ends a recorded screen: the last frame is shown for long."""
    source = write_video(tmp_path / name, [0.0, 0.04, 0.08], sound=sound)
    copy(source, tmp_path / "out.mp4")
    assert length(tmp_path / "out.mp4") == pytest.approx(1.0, abs=0.05)
    with VideoFile(source) as video, VideoSink(tmp_path / "broken_off.mp4", video) as sink:
        sink.write(next(iter(video)).image, 0.0)
    assert length(tmp_path / "broken_off.mp4") < 0.1


def test_the_last_picture_is_shown_as_long_as_in_the_source(tmp_path):
    with (
        av.open(str(write_video(tmp_path / "in.mp4", UNEVEN))) as source,
        av.open(str(tmp_path / "hold.mp4"), "w") as to,
    ):
        stream = to.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.duration, packet.stream = round(4 / packet.time_base) - packet.pts, stream
                to.mux(packet)
    copy(tmp_path / "hold.mp4", tmp_path / "out.mp4")
    assert length(tmp_path / "out.mp4") == pytest.approx(4.0, abs=0.01)
    copy(tmp_path / "out.mp4", tmp_path / "again.mp4")
    assert length(tmp_path / "again.mp4") == pytest.approx(4.0, abs=0.01)


def test_a_last_picture_of_days_is_written_all_the_same(tmp_path):
    with VideoFile(write_video(tmp_path / "in.mp4", UNEVEN)) as video, VideoSink(tmp_path / "o.mp4", video) as sink:
        for frame in video:
            sink.write(frame.image, frame.seconds)
        video.end = 1e6
    with VideoFile(tmp_path / "o.mp4") as video:
        assert len(list(video)) == len(UNEVEN)


def test_the_sound_that_a_player_takes_is_carried_over(tmp_path):
    """The track that is marked, not the first one."""
    with av.open(str(tmp_path / "in.mp4"), "w") as file:
        pictures = file.add_stream("libx264", rate=30)
        pictures.width, pictures.height, pictures.pix_fmt = 96, 64, "yuv420p"
        tracks = [file.add_stream("aac", rate=rate, layout="mono") for rate in (44_100, 48_000)]
        tracks[0].disposition, tracks[1].disposition = Disposition(0), Disposition.default
        file.mux(pictures.encode(av.VideoFrame.from_ndarray(np.zeros((64, 96, 3), np.uint8), format="rgb24")))
        file.mux(pictures.encode(None))
        for track in tracks:
            quiet = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.int16), format="s16", layout="mono")
            quiet.sample_rate, quiet.pts = track.rate, 0
            file.mux(track.encode(quiet))
            file.mux(track.encode(None))
    copy(tmp_path / "in.mp4", tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as file:
        assert [track.rate for track in file.streams.audio] == [48_000]


def test_a_sound_that_no_decoder_knows_costs_no_picture(tmp_path):
    source = write_video(tmp_path / "in.mkv", UNEVEN, sound="aac")
    source.write_bytes(source.read_bytes().replace(b"A_AAC", b"A_NEW"))
    assert copy(source, tmp_path / "out.mp4") == "no decoder for its codec"
    with VideoFile(tmp_path / "out.mp4") as video:
        assert len(list(video)) == len(UNEVEN)


@pytest.mark.parametrize("sound", ["aac", "mp2"])
def test_a_sound_that_does_not_begin_at_zero_stays_with_its_pictures(tmp_path, sound):
    source = write_video(tmp_path / "in.ts", UNEVEN, sound=sound)
    assert copy(source, tmp_path / "out.mp4") == ""
    with av.open(str(tmp_path / "out.mp4")) as file:
        times = [part.time for part in file.decode(audio=0)]
    assert times[0] == pytest.approx(0, abs=0.1)
    assert times[-1] == pytest.approx(1.4, abs=0.1)


def test_a_sound_whose_times_go_back_costs_no_picture(tmp_path):
    once = write_video(tmp_path / "once.ts", UNEVEN, sound="aac").read_bytes()
    (tmp_path / "twice.ts").write_bytes(once + once)
    assert copy(tmp_path / "twice.ts", tmp_path / "out.mp4") == "its timestamps go back"
    with VideoFile(tmp_path / "out.mp4") as video:
        assert len(list(video)) == 2 * len(UNEVEN)
    assert not list(tmp_path.glob(".*"))


def test_a_sound_at_a_rate_that_aac_lacks_is_heard(tmp_path):
    source = write_video(tmp_path / "in.mov", UNEVEN, sound="pcm_s16le", rate=192_000)
    assert copy(source, tmp_path / "out.mp4") == ""
    with av.open(str(tmp_path / "out.mp4")) as file:
        track = file.streams.audio[0]
        assert sum(part.samples for part in file.decode(track)) / track.rate == pytest.approx(1.4, abs=0.1)


def test_a_sound_that_the_file_refuses_costs_no_picture(tmp_path):
    """MP3 at 8 kHz, which is too slow for the standard of mp4."""
    source = write_video(tmp_path / "in.mkv", UNEVEN, sound="libmp3lame", rate=8_000)
    assert copy(source, tmp_path / "out.mp4") == "Invalid argument"
    with VideoFile(tmp_path / "out.mp4") as video:
        assert len(list(video)) == len(UNEVEN)


@pytest.mark.parametrize("name", ["out.mov", "out.m4v", "out.ts"])
def test_a_sound_that_the_file_cannot_take_is_coded_anew(tmp_path, name):
    source = write_video(tmp_path / "in.mkv", UNEVEN, sound="libopus", rate=48_000)
    assert copy(source, tmp_path / name) == ""
    with av.open(str(tmp_path / name)) as file:
        assert file.streams.audio[0].codec_context.name == "aac"
        assert sum(part.samples for part in file.decode(audio=0)) / 48_000 == pytest.approx(1.4, abs=0.1)


@pytest.mark.parametrize("space", ["ITU709", "ITU601"])
def test_colours_stay_as_a_player_shows_them(tmp_path, space):
    told = {"ITU709": 1, "ITU601": 2}[space]  # as FFmpeg numbers them; 2 says nothing, as most files of BT.601 do
    source = tmp_path / "in.mp4"
    with av.open(str(source), "w") as file:
        stream = file.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        coder = stream.codec_context
        coder.colorspace, coder.color_primaries, coder.color_trc, coder.color_range = told, told, told, 1
        coder.sample_aspect_ratio = Fraction(16, 11)
        red = av.VideoFrame.from_ndarray(np.full((64, 96, 3), (220, 60, 40), np.uint8), format="rgb24")
        file.mux(stream.encode(red.reformat(format="yuv420p", dst_colorspace=space)))
        file.mux(stream.encode(None))
    copy(source, tmp_path / "out.mp4")
    seen = []
    for path in (source, tmp_path / "out.mp4"):
        with av.open(str(path)) as file:
            picture = next(file.decode(video=0)).to_ndarray()
            coder = file.streams.video[0].codec_context
        assert (coder.colorspace, coder.color_primaries, coder.color_trc) == (told, told, told)
        assert coder.sample_aspect_ratio == Fraction(16, 11)
        seen.append(picture.reshape(3, -1).mean(1))  # two parts of Y, one of U and V
    assert seen[0] == pytest.approx(seen[1], abs=3)  # the other matrix makes 11 of it


def test_an_odd_size_loses_one_row_and_column_and_no_frame(tmp_path):
    source = write_video(tmp_path / "in.mkv", UNEVEN, size=(97, 65), codec="ffv1", pixels="yuv444p")
    copy(source, tmp_path / "out.mp4")
    with VideoFile(tmp_path / "out.mp4") as video:
        assert (video.width, video.height) == (96, 64)
        assert len(list(video)) == len(UNEVEN)


@pytest.mark.parametrize("scale", [2, 0.5])
def test_a_picture_of_another_size_is_brought_to_the_videos(tmp_path, scale):
    """Recorded calls change their size on the way."""
    source = write_video(tmp_path / "in.mp4", UNEVEN)
    image = np.zeros((round(64 * scale), round(96 * scale), 3), np.uint8)
    image[image.shape[0] // 2 :, image.shape[1] // 2 :] = 255
    with VideoFile(source) as video, VideoSink(tmp_path / "out.mp4", video) as sink:
        sink.write(image, 0.0)
    with VideoFile(tmp_path / "out.mp4") as video:
        shown = next(iter(video)).image
    assert shown.shape == (64, 96, 3)
    assert np.argwhere(shown[..., 0] > 128).mean(0).tolist() == pytest.approx([47.5, 71.5], abs=1)


def test_pictures_of_one_moment_are_shown_one_after_the_other(tmp_path):
    with VideoFile(write_video(tmp_path / "in.mp4", UNEVEN)) as video, VideoSink(tmp_path / "o.mp4", video) as sink:
        for frame in video:
            sink.write(frame.image, 1.0)
    with VideoFile(tmp_path / "o.mp4") as video:
        assert len(list(video)) == len(UNEVEN)


def test_a_video_without_a_picture_is_no_file(tmp_path):
    with VideoFile(write_video(tmp_path / "in.mp4", UNEVEN)) as video, VideoSink(tmp_path / "o.mp4", video):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


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


def test_ctrl_c_while_a_picture_is_coded_loses_none(tmp_path):
    def interrupted(picture):
        packets = stream.encode(picture)
        if picture is not None:
            signal.raise_signal(signal.SIGINT)
        return packets

    with VideoFile(write_video(tmp_path / "in.mp4", [0.0, 1 / 30])) as source:
        image = next(iter(source)).image
        with pytest.raises(KeyboardInterrupt), VideoSink(tmp_path / "out.mp4", source) as sink:
            for index in range(30):
                sink.write(image, index / 30)
            stream, sink._stream = sink._stream, SimpleNamespace(encode=interrupted)
            sink.write(image, 1.0)
    with VideoFile(tmp_path / "out.mp4") as video:
        assert len(list(video)) == 31


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


def test_a_full_disk_leaves_no_broken_file(tmp_path):
    with VideoFile(write_video(tmp_path / "in.mp4", UNEVEN)) as video:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        noise = np.random.default_rng(0).integers(0, 255, (60, 64, 96, 3), np.uint8)
        faces = Faces(np.tile(SHAPE, (50, 1, 1)), np.full((50, 98), 0.5, np.float32), np.arange(50))
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        try:
            with pytest.raises(InputError, match="cannot be written"), VideoSink(tmp_path / "o.mp4", video) as sink:
                for step, image in enumerate(noise):
                    sink.write(image, step / 30)
            with (
                pytest.raises(InputError, match="cannot be written"),
                TableSink(tmp_path / "t.csv", FRAME_COLUMNS) as table,
            ):
                table.write(0, 0.0, faces)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "t.csv").symlink_to(tmp_path / "far" / "t.csv")
    with TableSink(tmp_path / "t.csv", FRAME_COLUMNS):
        pass
    assert (tmp_path / "t.csv").is_symlink()
    assert (tmp_path / "far" / "t.csv").is_file()


def test_a_name_that_is_not_text_stands_in_the_table(tmp_path):
    name = os.fsdecode(b"\xff.png")
    points = SHAPE[None] * 100
    with TableSink(tmp_path / "t.csv", IMAGE_COLUMNS) as table:
        table.write_image(name, Faces(points, np.full((1, 98), 0.5, np.float32), np.array([0])))
    assert b"\xff.png," in (tmp_path / "t.csv").read_bytes()


@pytest.mark.parametrize("name", ["out.xyz", "out.webm", "out.avi"])
def test_a_name_that_no_video_can_have_is_told(tmp_path, name):
    with (
        VideoFile(write_video(tmp_path / "in.mp4", UNEVEN)) as video,
        pytest.raises(InputError, match=r"\.mp4"),
    ):
        VideoSink(tmp_path / name, video)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_a_time_in_a_name_is_no_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "a.mp4", UNEVEN, sound="aac").rename("2024-01-01T12:30:00.mp4")
    copy(Path("2024-01-01T12:30:00.mp4"), Path("12:31:00.mp4"))
    with VideoFile("12:31:00.mp4") as video:
        assert len(list(video)) == len(UNEVEN)
