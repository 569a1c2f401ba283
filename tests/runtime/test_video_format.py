"""Videos that begin in the middle of their source, or that come from a camera."""

from fractions import Fraction

import av
import numpy as np
import pytest

from canthus.runtime.sinks import VideoSink
from canthus.runtime.sources import VideoFile
from canthus.runtime.video_format import VideoFormat

CHANGE = 3.0
"""Seconds after which the image becomes bright and a tone begins."""

TOLERANCE = 0.03
"""Seconds: a packet of AAC has 21 ms."""


def write_source(path, codec):
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        sound = file.add_stream(codec, rate=48_000, layout="mono")
        for index in range(100):
            level = 200 if index >= 25 * CHANGE else 40
            frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), level, np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
        times = np.arange(4 * 48_000)
        wave = np.where(times >= 48_000 * CHANGE, 8000 * np.sin(times / 16), 0)
        samples = av.AudioFrame.from_ndarray(wave.astype(np.int16)[None], format="s16", layout="mono")
        samples.sample_rate, samples.pts = 48_000, 0
        file.mux(sound.encode(samples))
        file.mux(sound.encode(None))
    return path


def onset(path):
    """Return the seconds at which the tone begins and at which the image becomes bright."""
    with av.open(str(path)) as file:
        tone = next(
            float(samples.time) + int(np.argmax(np.abs(samples.to_ndarray()) > 0.05)) / samples.sample_rate
            for samples in file.decode(audio=0)
            if np.abs(samples.to_ndarray()).max() > 0.05
        )
    with VideoFile(path) as video:
        start = video.start
        bright = next(frame.seconds for frame in video if frame.image.mean() > 120)
    return tone, start + bright


@pytest.mark.parametrize(("name", "codec"), [("in.mp4", "aac"), ("in.mov", "pcm_s16le"), ("in.mkv", "ac3")])
@pytest.mark.parametrize("begin", [0.0, 1.28, 2.6])
def test_sound_of_a_part_of_a_file_stays_with_its_frames(tmp_path, name, codec, begin):
    source, target = write_source(tmp_path / name, codec), tmp_path / "out.mp4"
    with VideoFile(source) as video, VideoSink(target, VideoFormat.of(video, begin)) as sink:
        for frame in video:
            if frame.seconds >= begin:
                sink.write(frame.image, frame.seconds - begin)
    tone, bright = onset(target)
    assert bright == pytest.approx(CHANGE - begin, abs=TOLERANCE)
    assert tone == pytest.approx(bright, abs=TOLERANCE)
    assert sink.audio_error == ""


def test_video_of_a_camera_needs_no_file(tmp_path):
    target = tmp_path / "out.mp4"
    with VideoSink(target, VideoFormat(96, 64, 30.0)) as sink:
        for index in range(5):
            sink.write(np.full((64, 96, 3), (200, 80, 40), np.uint8), index / 30)
    with VideoFile(target) as video:
        frames = list(video)
    assert [frame.seconds for frame in frames] == pytest.approx([index / 30 for index in range(5)], abs=1e-4)
    assert np.abs(frames[2].image.astype(int) - (200, 80, 40)).max() <= 4
