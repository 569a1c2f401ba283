"""What `canthus video` reads of a video, and how it writes it: parts, codecs, 10 bits, transparency, subtitles."""

import csv
from fractions import Fraction

import av
import numpy as np
import pytest

from canthus.runtime.cli import main
from canthus.runtime.codecs import CODECS, Encoding, pixel_formats
from canthus.runtime.draw import draw
from canthus.runtime.draw_video import draw_alone, widen_drawing
from canthus.runtime.sinks import VideoSink
from canthus.runtime.tables import read_table
from canthus.runtime.types import Faces
from canthus.runtime.video_file import DeepFrame, Selection, VideoFile
from support.shape import SHAPE
from support.videos import write_video

TIMES = [0.0, 0.04, 0.1, 0.2, 0.21, 0.5, 0.54, 0.9]


def run(*words):
    return main(["video", *map(str, words)])


def rows(table):
    return list(csv.DictReader(table.read_text().splitlines()))


def copy(source, target, encoding=None, deep=False):
    with VideoFile(source) as video, VideoSink(target, video, encoding) as sink:
        for frame in video.read(Selection(), deep=deep):
            sink.write(frame.deep if isinstance(frame, DeepFrame) else frame.image, frame.seconds)
    return sink


def opened(path):
    """Return the codec, the format of pixels and the times of a video."""
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        return stream.codec_context.name, stream.codec_context.pix_fmt, [float(f.time) for f in file.decode(stream)]


@pytest.mark.usefixtures("fake_networks")
@pytest.mark.parametrize(
    ("options", "frames"),
    [
        (["--start", "0.1"], [2, 3, 4, 5, 6, 7]),
        (["--end", "0:00.2"], [0, 1, 2]),
        (["--every", "3"], [0, 3, 6]),
        (["--start", "0.04", "--end", "0.9", "--every", "2"], [1, 3, 5]),
    ],
)
def test_part_of_a_video_keeps_the_numbers_and_times_of_the_source(tmp_path, options, frames):
    source = write_video(tmp_path / "in.mp4", TIMES, audio="aac")
    assert run(source, "-o", tmp_path / "o.mp4", "--table", tmp_path / "t.csv", *options) == 0
    table = rows(tmp_path / "t.csv")
    assert [int(row["frame"]) for row in table] == frames
    assert [float(row["seconds"]) for row in table] == pytest.approx([TIMES[frame] for frame in frames], abs=1e-6)
    settings = read_table(tmp_path / "t.csv").metadata["settings"]
    for name, value in zip(options[::2], options[1::2], strict=True):
        assert settings[name.removeprefix("--")] == float(value.removeprefix("0:0"))
    expected = [TIMES[frame] - TIMES[frames[0]] for frame in frames]
    assert np.subtract(opened(tmp_path / "o.mp4")[2], opened(tmp_path / "o.mp4")[2][0]) == pytest.approx(expected)
    with av.open(str(tmp_path / "o.mp4")) as file:
        video = float(next(file.decode(video=0)).time)
    with av.open(str(tmp_path / "o.mp4")) as file:
        sound = [float(part.time) for part in file.decode(audio=0)]
    assert sound[0] == pytest.approx(video, abs=0.05)
    if "--end" in options:
        assert sound[-1] < expected[-1] + 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--start", "2", "--end", "1"], "--end 1: is not after --start 2"),
        (["--start", "90"], "in.mp4: no frame is between --start and --end; give times within the video"),
        (["--table", "{output}"], "o.mp4: is given for two outputs; choose another name for one"),
        (["--codec", "prores"], "cannot store prores (expected .mov, .mkv)"),
        (["--codec", "h264", "--crf", "70"], "--crf 70: not a quality of h264 (expected 0 to 51"),
        (["--pix-fmt", "bgra"], "--pix-fmt bgra: h264 cannot encode it (expected yuv420p,"),
        (["--pix-fmt", "yuv999"], "--pix-fmt yuv999: FFmpeg has no such format of pixels"),
        (["--overlay-only"], "unsupported format of a transparent video (supported: .mov, .webm, .mkv)"),
    ],
)
@pytest.mark.usefixtures("fake_networks")
def test_impossible_options_are_one_clear_error_before_any_work(tmp_path, capsys, options, message):
    source = write_video(tmp_path / "in.mp4", TIMES)
    output = tmp_path / "o.mp4"
    code = 1 if "90" in options else 2  # the length of the video is not known before
    assert run(source, "-o", output, *(option.format(output=output) for option in options)) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


@pytest.mark.parametrize("text", ["-1", "1:2:3:4", "1:99", "nan", "inf", "x"])
def test_wrong_time_is_wrong_usage(capsys, text):
    with pytest.raises(SystemExit):
        run("in.mp4", "-o", "o.mp4", f"--start={text}")
    assert "is not a time (expected 90, 1:30 or 0:01:30.5)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("codec", "suffix", "eight", "ten"),
    [
        ("h264", ".mp4", "yuv420p", "yuv420p"),
        ("hevc", ".mp4", "yuv420p", "yuv420p10le"),
        ("hevc", ".mov", "yuv420p", "yuv420p10le"),
        ("av1", ".mp4", "yuv420p", "yuv420p10le"),
        ("vp9", ".webm", "yuv420p", "yuv420p"),
        ("prores", ".mov", "yuv422p10le", "yuv422p10le"),
        ("ffv1", ".mkv", "yuv420p", "yuv422p10le"),
    ],
)
def test_each_codec_keeps_times_and_bits(tmp_path, codec, suffix, eight, ten):
    for pixels, written in (("yuv420p", eight), ("yuv422p10le", ten)):
        source = write_video(tmp_path / "in.mkv", TIMES, pixels=pixels)
        copy(source, tmp_path / f"o{suffix}", Encoding(codec), deep=True)
        found = opened(tmp_path / f"o{suffix}")
        assert found[1] == written
        assert found[2] == pytest.approx(TIMES, abs=1e-3)
        (tmp_path / f"o{suffix}").unlink()


@pytest.mark.parametrize(
    ("suffix", "encoding", "codec", "written"),
    [
        (".mp4", Encoding(), "hevc", "yuv420p10le"),
        (".webm", Encoding(), "libdav1d", "yuv420p10le"),
        (".flv", Encoding(), "h264", "yuv420p"),
        (".mp4", Encoding(pixels="yuv420p"), "h264", "yuv420p"),
        (".mp4", Encoding(tone_map=True), "h264", "yuv420p"),
    ],
)
def test_ten_bits_stay_ten_bits_without_a_codec(tmp_path, suffix, encoding, codec, written):
    source = write_video(tmp_path / "in.mkv", TIMES, pixels="yuv420p10le")
    copy(source, tmp_path / f"o{suffix}", encoding, deep=True)
    assert opened(tmp_path / f"o{suffix}")[:2] == (codec, written)


def test_players_of_apple_accept_hevc(tmp_path):
    copy(write_video(tmp_path / "in.mp4", TIMES), tmp_path / "o.mp4", Encoding("hevc"))
    assert b"hvc1" in (tmp_path / "o.mp4").read_bytes()


def luma_of(frame):
    """Return the luma (H, W) of a frame with 10 bits."""
    plane = frame.planes[0]
    return np.frombuffer(plane, np.uint16).reshape(plane.height, -1)[:, : plane.width].astype(int)


def write_ramp(path, transfer=16):
    """Write a 10-bit video (HEVC) of a ramp with tags of BT.2020 and a transfer: 16 PQ, 18 HLG."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx265", rate=25)
        stream.width, stream.height, stream.pix_fmt = 256, 64, "yuv420p10le"
        stream.options = {"crf": "4", "x265-params": "log-level=error"}
        coder = stream.codec_context
        coder.colorspace, coder.color_primaries, coder.color_trc, coder.color_range = 9, 9, transfer, 1
        image = np.broadcast_to(np.linspace(20_000, 30_000, 256)[None, :, None], (64, 256, 3)).astype(np.uint16)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb48le")
        frame = frame.reformat(format="yuv420p10le", dst_colorspace=9)
        for index in range(3):
            frame.pts, frame.time_base = index, Fraction(1, 25)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("transfer", [16, 18])
@pytest.mark.parametrize(("codec", "suffix"), [("hevc", ".mp4"), ("prores", ".mov"), ("ffv1", ".mkv")])
def test_ten_bits_and_tags_of_hdr_are_kept(tmp_path, transfer, codec, suffix):
    source = write_ramp(tmp_path / "in.mp4", transfer)
    copy(source, tmp_path / f"o{suffix}", Encoding(codec, 0 if codec == "hevc" else None), deep=True)
    luma = []
    for path in (source, tmp_path / f"o{suffix}"):
        with av.open(str(path)) as file:
            frame = next(file.decode(video=0))
            coder = file.streams.video[0].codec_context
            assert (coder.colorspace, coder.color_primaries, coder.color_trc) == (9, 9, transfer)
            luma.append(luma_of(frame).mean(0))
    assert len(np.unique(luma[1].round())) > 100  # 8 bits would have 40 levels here
    assert np.abs(luma[0] - luma[1]).max() < 2.5
    assert abs(np.mean(luma[0] - luma[1])) < 0.6


@pytest.mark.usefixtures("fake_networks")
def test_drawing_on_ten_bits_changes_only_what_is_drawn(tmp_path):
    with av.open(str(tmp_path / "in.mkv"), "w") as file:
        stream = file.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv444p10le"
        image = np.full((120, 160, 3), 9_000, np.uint16)
        image[20:90, 30:100] = 60_000
        frame = av.VideoFrame.from_ndarray(image, format="rgb48le").reformat(format="yuv444p10le", dst_colorspace=1)
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    assert run(tmp_path / "in.mkv", "-o", tmp_path / "o.mkv", "--codec", "ffv1") == 0
    found = []
    for name in ("in.mkv", "o.mkv"):
        with av.open(str(tmp_path / name)) as file:
            found.append(luma_of(next(file.decode(video=0))))
    changed = np.abs(found[1] - found[0]) > 8
    assert 200 < changed.sum() < 7_000
    assert not changed[95:].any()
    assert not changed[:, 110:].any()


def face():
    points = (SHAPE * 70 + 20).astype(np.float32)[None]
    return Faces(points, np.full((1, 98), 0.9, np.float32), np.array([0]))


def test_drawing_alone_blended_over_an_image_is_the_drawing_on_it():
    image = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
    alone = draw_alone((120, 160), face(), ("points", "lines", "ids")).astype(float)
    assert alone[..., 3].max() == 255
    assert (alone[100:, 120:] == 0).all()
    blended = alone[..., :3] * alone[..., 3:] / 255 + image * (1 - alone[..., 3:] / 255)
    assert np.abs(blended - draw(image, face())).max() <= 4
    assert not draw_alone((120, 160), Faces.none(), ("points",)).any()


@pytest.mark.parametrize(
    ("suffix", "codec", "decoder"),
    [(".mov", None, None), (".webm", None, "libvpx-vp9"), (".mkv", None, None), (".mov", "qtrle", None)],
)
def test_transparent_video_has_the_alpha_of_the_drawing(tmp_path, suffix, codec, decoder):
    source = write_video(tmp_path / "in.mp4", TIMES, size=(160, 120))
    alone = draw_alone((120, 160), face(), ("points", "lines"))
    with VideoFile(source) as video, VideoSink(tmp_path / f"o{suffix}", video, Encoding(codec, alpha=True)) as sink:
        for seconds in TIMES:
            sink.write(alone, seconds)
    with av.open(str(tmp_path / f"o{suffix}")) as file:
        stream = file.streams.video[0]
        if stream.codec_context.name == "prores":  # by this tag, editors know that there is transparency
            assert stream.codec_context.codec_tag == "ap4h"
        coder = av.CodecContext.create(decoder, "r") if decoder else None
        frames = [frame for packet in file.demux(stream) for frame in (coder or stream).decode(packet)]
        assert len(frames) == len(TIMES)
        shown = frames[0].to_ndarray(format="rgba")
    assert np.abs(shown[..., 3].astype(int) - alone[..., 3]).mean() < 3
    solid = alone[..., 3] == 255
    assert np.abs(shown[solid][:, :3].astype(int) - alone[solid][:, :3]).mean() < 30  # chroma is smoothed


def write_subtitles(path):
    """Write a video with two subtitles: SubRip, or WebVTT in a .webm."""
    text = "1\n00:00:00.100 --> 00:00:00.300\nfirst\n\n2\n00:00:00.500 --> 00:00:00.800\nsecond\n"
    if path.suffix == ".webm":
        bare, titles, text = "bare.webm", "s.vtt", f"WEBVTT\n\n{text}"
        write_video(path.parent / bare, TIMES, codec="libvpx-vp9")
    else:
        bare, titles, text = "bare.mp4", "s.srt", text.replace(".", ",")
        write_video(path.parent / bare, TIMES, audio="aac")
    (path.parent / titles).write_text(text)
    with (
        av.open(str(path.parent / bare)) as video,
        av.open(str(path.parent / titles)) as srt,
        av.open(str(path), "w") as file,
    ):
        streams = {stream.index: file.add_stream_from_template(stream) for stream in video.streams}
        subtitles = file.add_stream_from_template(srt.streams.subtitles[0])
        for packet in srt.demux():
            if packet.dts is not None:
                packet.stream = subtitles
                file.mux(packet)
        for packet in video.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                file.mux(packet)
    return path


def subtitles(path):
    with av.open(str(path)) as file:
        return [
            (round(float(packet.pts * packet.time_base), 3), bytes(packet))
            for packet in file.demux(file.streams.subtitles)
            if packet.dts is not None
        ]


def test_subtitles_are_copied_or_named_as_left_out(tmp_path):
    source = write_subtitles(tmp_path / "in.mkv")
    assert [text for _, text in subtitles(source)] == [b"first", b"second"]
    assert copy(source, tmp_path / "o.mkv").incomplete == ""
    assert subtitles(tmp_path / "o.mkv") == subtitles(source)
    left_out = copy(source, tmp_path / "o.mp4")
    assert left_out.audio_error == ""
    assert left_out.incomplete == "the subtitles are left out (the format does not store subrip)"


def test_webm_keeps_its_subtitles(tmp_path):
    source = write_subtitles(tmp_path / "in.webm")
    assert copy(source, tmp_path / "o.webm").incomplete == ""
    assert subtitles(tmp_path / "o.webm") == subtitles(source) != []


@pytest.mark.parametrize("tick", [Fraction(1, 15_360), Fraction(1, 24_000), Fraction(1, 90_000), Fraction(1, 25)])
def test_times_are_those_of_the_source_to_the_tick(tmp_path, tick):
    ticks = np.cumsum(np.random.default_rng(0).integers(1, max(round(0.1 / tick), 2), 30)).tolist()
    with av.open(str(tmp_path / "in.mp4"), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.time_base = tick
        for time in ticks:
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 96, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = time - ticks[0], tick
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    copy(tmp_path / "in.mp4", tmp_path / "o.mp4")
    exact = []
    for name in ("in.mp4", "o.mp4"):
        with av.open(str(tmp_path / name)) as file:
            exact.append([packet.pts * packet.time_base for packet in file.demux(video=0) if packet.dts is not None])
    assert exact[0] == exact[1]


def test_every_codec_has_its_formats_of_pixels():
    for codec in (one for one in CODECS.values() if not one.hardware):  # this machine need not have those
        assert {*codec.pixels, codec.alpha} - {""} <= set(pixel_formats(codec))


def test_white_drawn_on_16_bits_is_white_and_the_rest_keeps_its_bits():
    deep = np.array([[[0, 0, 0], [1234, 567, 65535]]], np.uint16)
    frame = DeepFrame((deep // 257).astype(np.uint8), 0, 0.0, deep=deep)
    drawn = frame.image.copy()
    drawn[0, 0] = 255
    np.testing.assert_array_equal(widen_drawing(drawn, frame), [[[65535] * 3, [1234, 567, 65535]]])
