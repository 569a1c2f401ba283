import signal
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from av.stream import Disposition
from av.video.reformatter import Colorspace

from canthus.runtime.bench.machine import running_threads
from canthus.runtime.codecs import Encoding
from canthus.runtime.errors import InputError
from canthus.runtime.sinks import VideoSink
from canthus.runtime.video_file import VideoFile
from support.disk import full_disk
from support.videos import write_video

UNEVEN = [0.0, 0.04, 0.2, 0.21, 0.9, 1.4]


def copy(source_path, target_path):
    """Write the frames and the audio of a video to another one; return its audio error."""
    with VideoFile(source_path) as source, VideoSink(target_path, source) as sink:
        for frame in source:
            sink.write(frame.image, frame.seconds)
    return sink.audio_error


def test_written_video_has_the_timestamps_of_its_source(tmp_path):
    copy(write_video(tmp_path / "in.mp4", UNEVEN), tmp_path / "out.mp4")
    with VideoFile(tmp_path / "out.mp4") as video:
        assert [frame.seconds for frame in video] == pytest.approx(UNEVEN, abs=1e-3)


@pytest.mark.parametrize(("name", "audio"), [("in.mp4", "aac"), ("in.mov", "pcm_s16le")])
def test_written_video_has_the_audio_of_its_source(tmp_path, name, audio):
    assert copy(write_video(tmp_path / name, UNEVEN, audio=audio), tmp_path / "out.mp4") == ""
    with av.open(str(tmp_path / "out.mp4")) as file:
        track = file.streams.audio[0]
        wave = np.concatenate([part.to_ndarray()[0] for part in file.decode(track)])
    assert track.codec_context.name == "aac"
    assert len(wave) / 44_100 == pytest.approx(1.4, abs=0.1)
    assert np.abs(wave).max() > 0.1


def packets_of_audio(path):
    with av.open(str(path)) as file:
        return [bytes(packet) for packet in file.demux(audio=0) if packet.size]


@pytest.mark.parametrize(
    ("name", "audio", "times"),
    [
        ("late.mp4", "aac", [1.3 + time for time in UNEVEN]),  # an edit list
        ("negative.mkv", "aac", [time - 0.2 for time in UNEVEN]),
        ("film.mov", "aac", [index * 1001 / 24_000 for index in range(12)]),
        ("one.mp4", "aac", [0.0]),
        ("broadcast.mkv", "mp2", UNEVEN),
    ],
)
def test_odd_source_keeps_its_frames_times_and_audio_packets(tmp_path, name, audio, times):
    source = write_video(tmp_path / name, times, audio=audio)
    target = tmp_path / f"out{source.suffix}"
    assert copy(source, target) == ""
    with VideoFile(source) as before, VideoFile(target) as after:
        read, written = ([frame.seconds for frame in video] for video in (before, after))
    assert len(written) == len(times)
    assert written == pytest.approx(read, abs=1e-9)
    assert packets_of_audio(target) == packets_of_audio(source)


def length(path):
    """Return the duration in seconds."""
    with av.open(str(path)) as file:
        return file.duration / 1_000_000


@pytest.mark.parametrize(("name", "audio"), [("in.mp4", "aac"), ("in.mov", "pcm_s16le")])
def test_audio_that_is_longer_than_the_video_is_complete(tmp_path, name, audio):
    """As in a screen recording that ends with a still scene: the last frame is shown for long."""
    source = write_video(tmp_path / name, [0.0, 0.04, 0.08], audio=audio)
    copy(source, tmp_path / "out.mp4")
    assert length(tmp_path / "out.mp4") == pytest.approx(1.0, abs=0.05)
    with VideoFile(source) as video, VideoSink(tmp_path / "stopped.mp4", video) as sink:
        sink.write(next(iter(video)).image, 0.0)
    assert length(tmp_path / "stopped.mp4") < 0.1


def test_last_frame_is_shown_as_long_as_in_the_source(tmp_path):
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


def test_last_frame_that_claims_to_last_for_days_is_written(tmp_path):
    with VideoFile(write_video(tmp_path / "in.mp4", UNEVEN)) as video, VideoSink(tmp_path / "o.mp4", video) as sink:
        for frame in video:
            sink.write(frame.image, frame.seconds)
        video.end = 1e6
    with VideoFile(tmp_path / "o.mp4") as video:
        assert len(list(video)) == len(UNEVEN)


def test_default_audio_track_is_copied_even_if_it_is_not_the_first(tmp_path):
    with av.open(str(tmp_path / "in.mp4"), "w") as file:
        video = file.add_stream("libx264", rate=30)
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        tracks = [file.add_stream("aac", rate=rate, layout="mono") for rate in (44_100, 48_000)]
        tracks[0].disposition, tracks[1].disposition = Disposition(0), Disposition.default
        file.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((64, 96, 3), np.uint8), format="rgb24")))
        file.mux(video.encode(None))
        for track in tracks:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.int16), format="s16", layout="mono")
            silence.sample_rate, silence.pts = track.rate, 0
            file.mux(track.encode(silence))
            file.mux(track.encode(None))
    copy(tmp_path / "in.mp4", tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as file:
        assert [track.rate for track in file.streams.audio] == [48_000]


def test_undecodable_audio_does_not_cost_a_frame(tmp_path):
    source = write_video(tmp_path / "in.mkv", UNEVEN, audio="aac")
    source.write_bytes(source.read_bytes().replace(b"A_AAC", b"A_NEW"))
    assert copy(source, tmp_path / "out.mp4") == "no decoder for its codec"
    with VideoFile(tmp_path / "out.mp4") as video:
        assert len(list(video)) == len(UNEVEN)


@pytest.mark.parametrize("audio", ["aac", "mp2"])
def test_audio_stays_in_sync_if_the_source_does_not_start_at_zero(tmp_path, audio):
    source = write_video(tmp_path / "in.ts", UNEVEN, audio=audio)
    assert copy(source, tmp_path / "out.mp4") == ""
    with av.open(str(tmp_path / "out.mp4")) as file:
        times = [part.time for part in file.decode(audio=0)]
    assert times[0] == pytest.approx(0, abs=0.1)
    assert times[-1] == pytest.approx(1.4, abs=0.1)


def test_audio_timestamps_that_go_back_do_not_cost_a_frame(tmp_path):
    once = write_video(tmp_path / "once.ts", UNEVEN, audio="aac").read_bytes()
    (tmp_path / "twice.ts").write_bytes(once + once)
    assert copy(tmp_path / "twice.ts", tmp_path / "out.mp4") == "its timestamps go back"
    with VideoFile(tmp_path / "out.mp4") as video:
        assert len(list(video)) == 2 * len(UNEVEN)
    assert not list(tmp_path.glob(".*"))


def test_audio_at_a_sample_rate_that_aac_lacks_is_resampled(tmp_path):
    source = write_video(tmp_path / "in.mov", UNEVEN, audio="pcm_s16le", rate=192_000)
    assert copy(source, tmp_path / "out.mp4") == ""
    with av.open(str(tmp_path / "out.mp4")) as file:
        track = file.streams.audio[0]
        assert sum(part.samples for part in file.decode(track)) / track.rate == pytest.approx(1.4, abs=0.1)


def test_audio_that_the_format_refuses_does_not_cost_a_frame(tmp_path):
    """An .mp4 stores no MP3 at 8 kHz."""
    source = write_video(tmp_path / "in.mkv", UNEVEN, audio="libmp3lame", rate=8_000)
    assert copy(source, tmp_path / "out.mp4") == "Invalid argument"
    with VideoFile(tmp_path / "out.mp4") as video:
        assert len(list(video)) == len(UNEVEN)


@pytest.mark.parametrize("name", ["out.mov", "out.m4v", "out.ts"])
def test_audio_codec_that_the_format_lacks_is_reencoded(tmp_path, name):
    source = write_video(tmp_path / "in.mkv", UNEVEN, audio="libopus", rate=48_000)
    assert copy(source, tmp_path / name) == ""
    with av.open(str(tmp_path / name)) as file:
        assert file.streams.audio[0].codec_context.name == "aac"
        assert sum(part.samples for part in file.decode(audio=0)) / 48_000 == pytest.approx(1.4, abs=0.1)


@pytest.mark.parametrize("space", ["ITU709", "ITU601"])
def test_written_video_has_the_colors_of_its_source(tmp_path, space):
    tag = {"ITU709": 1, "ITU601": 2}[space]  # FFmpeg's numbers; 2 is unspecified, as in most files of BT.601
    source = tmp_path / "in.mp4"
    with av.open(str(source), "w") as file:
        stream = file.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        coder = stream.codec_context
        coder.colorspace, coder.color_primaries, coder.color_trc, coder.color_range = tag, tag, tag, 1
        coder.sample_aspect_ratio = Fraction(16, 11)
        red = av.VideoFrame.from_ndarray(np.full((64, 96, 3), (220, 60, 40), np.uint8), format="rgb24")
        file.mux(stream.encode(red.reformat(format="yuv420p", dst_colorspace=space)))
        file.mux(stream.encode(None))
    copy(source, tmp_path / "out.mp4")
    means = []
    for path in (source, tmp_path / "out.mp4"):
        with av.open(str(path)) as file:
            planes = next(file.decode(video=0)).to_ndarray()
            coder = file.streams.video[0].codec_context
        assert (coder.colorspace, coder.color_primaries, coder.color_trc) == (tag, tag, tag)
        assert coder.sample_aspect_ratio == Fraction(16, 11)
        means.append(planes.reshape(3, -1).mean(1))  # yuv420p: two thirds are Y, one third is U and V
    assert means[0] == pytest.approx(means[1], abs=3)  # with the wrong matrix they differ by 11


def test_odd_size_loses_one_row_and_column_and_no_frame(tmp_path):
    source = write_video(tmp_path / "in.mkv", UNEVEN, size=(97, 65), codec="ffv1", pixels="yuv444p")
    copy(source, tmp_path / "out.mp4")
    with VideoFile(tmp_path / "out.mp4") as video:
        assert (video.width, video.height) == (96, 64)
        assert len(list(video)) == len(UNEVEN)


@pytest.mark.parametrize("scale", [2, 0.5])
def test_frame_of_another_size_is_resized(tmp_path, scale):
    """Recordings of video calls change their size on the way."""
    source = write_video(tmp_path / "in.mp4", UNEVEN)
    image = np.zeros((round(64 * scale), round(96 * scale), 3), np.uint8)
    image[image.shape[0] // 2 :, image.shape[1] // 2 :] = 255
    with VideoFile(source) as video, VideoSink(tmp_path / "out.mp4", video) as sink:
        sink.write(image, 0.0)
    with VideoFile(tmp_path / "out.mp4") as video:
        shown = next(iter(video)).image
    assert shown.shape == (64, 96, 3)
    assert np.argwhere(shown[..., 0] > 128).mean(0).tolist() == pytest.approx([47.5, 71.5], abs=1)


def test_frames_with_equal_times_are_all_written(tmp_path):
    with VideoFile(write_video(tmp_path / "in.mp4", UNEVEN)) as video, VideoSink(tmp_path / "o.mp4", video) as sink:
        for frame in video:
            sink.write(frame.image, 1.0)
    with VideoFile(tmp_path / "o.mp4") as video:
        assert len(list(video)) == len(UNEVEN)


def test_video_without_a_frame_leaves_no_file(tmp_path):
    with VideoFile(write_video(tmp_path / "in.mp4", UNEVEN)) as video, VideoSink(tmp_path / "o.mp4", video):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_interrupted_video_is_playable(tmp_path):
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


def test_ctrl_c_during_encoding_loses_no_frame(tmp_path):
    def interrupted(frame):
        packets = stream.encode(frame)
        if frame is not None:
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


def test_audio_whose_format_changes_ends_there_and_says_so(tmp_path):
    def encode(samples):
        raise ValueError("Frame does not match AudioResampler setup.")

    with VideoFile(write_video(tmp_path / "in.mkv", UNEVEN, audio="pcm_s16le")) as video:
        with VideoSink(tmp_path / "o.mp4", video) as sink:
            sink._audio._stream = SimpleNamespace(encode=encode)
            for frame in video:
                sink.write(frame.image, frame.seconds)
        assert sink.audio_error == "its format changes in the middle"
    with VideoFile(tmp_path / "o.mp4") as written:
        assert len(list(written)) == len(UNEVEN)


def test_full_disk_leaves_no_partial_file(tmp_path):
    with VideoFile(write_video(tmp_path / "in.mp4", UNEVEN)) as video:
        noise = np.random.default_rng(0).integers(0, 255, (60, 64, 96, 3), np.uint8)
        with (
            full_disk(),
            pytest.raises(InputError, match="cannot be written"),
            VideoSink(tmp_path / "o.mp4", video) as sink,
        ):
            for step, image in enumerate(noise):
                sink.write(image, step / 30)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


@pytest.mark.parametrize("name", ["out.xyz", "out.gif", "out.avi"])
def test_unsupported_video_format_is_refused(tmp_path, name):
    with (
        VideoFile(write_video(tmp_path / "in.mp4", UNEVEN)) as video,
        pytest.raises(InputError, match=r"unsupported output format \(supported: \.mp4"),
    ):
        VideoSink(tmp_path / name, video)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_file_name_with_colons_is_not_taken_for_a_url(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "a.mp4", UNEVEN, audio="aac").rename("2024-01-01T12:30:00.mp4")
    copy(Path("2024-01-01T12:30:00.mp4"), Path("12:31:00.mp4"))
    with VideoFile("12:31:00.mp4") as video:
        assert len(list(video)) == len(UNEVEN)


def write_audio_video(path, layout, audio="pcm_s16le", first=0.0):
    """Write a second of video from the time `first` on, and from 0 on audio in which all channels are equal."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.options = 96, 64, "yuv420p", {"bf": "0"}
        stream.codec_context.time_base = Fraction(1, 1000)
        sound = file.add_stream(audio, rate=48_000, layout=layout)
        for index in range(25):
            frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 90, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(1000 * first) + 40 * index, Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
        wave = 8000 * np.sin(np.arange(round(48_000 * (1 + first))) / 16)
        wave = wave.astype(np.int16).repeat(av.AudioLayout(layout).nb_channels)[None]
        samples = av.AudioFrame.from_ndarray(wave, format="s16", layout=layout)
        samples.sample_rate, samples.pts = 48_000, 0
        file.mux(sound.encode(samples))
        file.mux(sound.encode(None))
    return path


def copy_video(source, target):
    """Write the frames of a video and return the error of the audio."""
    with VideoFile(source) as video, VideoSink(target, video) as sink:
        for frame in video:
            sink.write(frame.image, frame.seconds)
    return sink.audio_error


def test_audio_whose_channels_have_an_order_of_their_own_is_copied_or_left_out_and_named(tmp_path):
    """FFmpeg 5 writes 7.1 in this order. PyAV ends the process if it decodes such a track."""
    source = write_audio_video(tmp_path / "own.mov", "7.1")
    content, tag = source.read_bytes(), b"chan" + bytes(4)
    assert tag + bytes.fromhex("000100000000063f") in content
    source.write_bytes(
        content.replace(tag + bytes.fromhex("000100000000063f"), tag + bytes.fromhex("0080000800000000"))
    )
    for suffix, audio, error in (("mp4", 0, "the order of its channels is not supported"), ("mov", 1, "")):
        target = tmp_path / f"copy.{suffix}"
        assert copy_video(source, target) == error
        with av.open(str(target)) as written:
            assert len(written.streams.audio) == audio
        with VideoFile(target) as video:
            assert len(list(video)) == 25


@pytest.mark.parametrize(
    ("layout", "written", "error"),
    [
        ("mono", "mono", ""),
        ("2.1", "2.1", ""),
        ("quad", "quad", ""),
        ("5.1", "5.1", ""),
        ("5.1(side)", "5.1", ""),
        ("7.1", "5.1", "its 8 channels are mixed down to 5.1"),
    ],
)
def test_reencoded_audio_keeps_its_channels(tmp_path, layout, written, error):
    source = write_audio_video(tmp_path / "in.mov", layout)
    assert copy_video(source, tmp_path / "out.mp4") == error
    with av.open(str(tmp_path / "out.mp4")) as file:
        audio = file.streams.audio[0]
        assert audio.layout.name == written
        volume = [np.abs(samples.to_ndarray()).mean(1) for samples in file.decode(audio)][5]
    # The encoder filters the low frequency channel (LFE).
    channels = [place for place, channel in enumerate(av.AudioLayout(written).channels) if channel.name != "LFE"]
    assert volume[channels[:2]] == pytest.approx(8000 / 32768 * 2 / np.pi, rel=0.1)


@pytest.mark.parametrize("audio", ["aac", "pcm_s16le"])
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_audio_before_the_first_frame_is_complete(tmp_path, audio, suffix):
    source = write_audio_video(tmp_path / "in.mov", "mono", audio, first=0.5)
    assert copy_video(source, tmp_path / f"out{suffix}") == ""
    with av.open(str(tmp_path / f"out{suffix}")) as file:
        frames = [frame.time for frame in file.decode(video=0)]
    with av.open(str(tmp_path / f"out{suffix}")) as file:
        sound = list(file.decode(audio=0))
    assert sum(samples.samples for samples in sound) / 48_000 == pytest.approx(1.5, abs=0.05)
    assert frames[0] - sound[0].time == pytest.approx(0.5, abs=0.03)
    assert np.diff(frames) == pytest.approx(0.04, abs=1e-3)


def mean_luma(path):
    """Return the mean of the luma of a video's first frame, in levels of 8 bits."""
    with av.open(str(path)) as file:
        frame = next(file.decode(video=0))
    plane, ten_bits = frame.planes[0], frame.format.name.endswith("10le")
    values = np.frombuffer(plane, np.uint16 if ten_bits else np.uint8)
    values = values.reshape(plane.height, -1)[:, : plane.width]
    return values.mean() / (4 if ten_bits else 1)


@pytest.mark.parametrize(
    ("pixels", "space"),
    [
        ("yuv420p", "ITU709"),
        ("yuv420p", "ITU601"),
        ("yuv444p", "ITU709"),
        ("yuv422p10le", "ITU709"),
        ("yuv420p10le", "ITU709"),
    ],
)
def test_written_video_is_as_bright_as_its_source(tmp_path, pixels, space):
    shades = np.linspace(10, 245, 160)[None, :, None] * np.ones((121, 1, 3)) * [1, 0.9, 0.8]
    with av.open(str(tmp_path / "in.mkv"), "w") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.options = 160, 120, pixels, {"crf": "10"}
        stream.codec_context.colorspace = Colorspace[space]
        frame = av.VideoFrame.from_ndarray(shades[:120].astype(np.uint8), format="rgb24")
        file.mux(stream.encode(frame.reformat(format=pixels, dst_colorspace=Colorspace[space])))
        file.mux(stream.encode(None))
    copy_video(tmp_path / "in.mkv", tmp_path / "out.mp4")
    assert abs(mean_luma(tmp_path / "out.mp4") - mean_luma(tmp_path / "in.mkv")) < 0.8


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_encoder_has_as_many_threads_as_are_allowed(tmp_path, monkeypatch, codec):
    started = {}
    for limit in (1, 6):
        monkeypatch.setenv("CANTHUS_THREADS", str(limit))
        write_video(tmp_path / "in.mp4", UNEVEN, size=(640, 480))
        with VideoFile(tmp_path / "in.mp4") as source:
            before = running_threads()
            with VideoSink(tmp_path / f"{limit}.mkv", source, Encoding(codec)) as sink:
                sink.write(np.zeros((480, 640, 3), np.uint8), 0.0)
                started[limit] = running_threads() - before
    assert started[1] < started[6]  # both have those that convert the colors as well
