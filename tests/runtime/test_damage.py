"""Lost frames of cut and damaged videos are noticed, and nothing is reported for whole ones."""

import av
import numpy as np
import pytest

from canthus.runtime.errors import InputError
from canthus.runtime.sources import VideoFile
from support.videos import write_video

FRAMES = 50
TEXTURE = np.random.default_rng(0).integers(0, 255, (15, 20, 3), np.uint8).repeat(8, 0).repeat(8, 1)


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    """Return a function that writes a moving texture in the format of a name: (file name, codec) -> path."""
    folder = tmp_path_factory.mktemp("whole")

    def write(name, codec):
        path = folder / name
        options = {"movflags": "+faststart"} if path.suffix == ".mp4" else {}
        with av.open(str(path), "w", container_options=options) as file:
            stream = file.add_stream(codec, rate=25)
            stream.width, stream.height = 160, 120
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for index in range(FRAMES):
                image = np.roll(TEXTURE, 3 * index, 1)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            file.mux(stream.encode(None))
        return path

    return write


def read(path):
    """Return the number of frames of a video, and what is wrong with it."""
    try:
        with VideoFile(path) as video:
            return len(list(video)), video.damaged
    except InputError as error:
        return 0, str(error)


FORMATS = [
    ("h264.avi", "libx264"),
    ("mpeg4.avi", "mpeg4"),
    ("mjpeg.avi", "mjpeg"),
    ("h264.mkv", "libx264"),
    ("mjpeg.mkv", "mjpeg"),
    ("h264.flv", "libx264"),
    ("h264.mp4", "libx264"),
    ("mjpeg.mjpeg", "mjpeg"),
]


@pytest.mark.parametrize(("name", "codec"), [*FORMATS, ("mpeg2.mpg", "mpeg2video"), ("h264.ts", "libx264")])
def test_whole_video_is_not_damaged(write, name, codec):
    assert read(write(name, codec)) == (FRAMES, "")


@pytest.mark.parametrize(("name", "codec"), FORMATS)
def test_every_cut_that_loses_frames_is_noticed(write, tmp_path, name, codec):
    content = write(name, codec).read_bytes()
    for part in range(1, 16):
        (tmp_path / name).write_bytes(content[: len(content) * part // 16])
        frames, damaged = read(tmp_path / name)
        assert frames == FRAMES or damaged, f"{frames} frames after {part}/16"


@pytest.mark.parametrize("kind", ["zeros", "removed"])
@pytest.mark.parametrize(("name", "codec"), [*FORMATS[:6], ("mpeg2.mpg", "mpeg2video"), ("h264.ts", "libx264")])
def test_hole_that_loses_frames_is_noticed(write, tmp_path, name, codec, kind):
    content = write(name, codec).read_bytes()
    size = len(content) // 8
    for part in range(4, 13):
        start = len(content) * part // 16
        hole = bytes(size) if kind == "zeros" else b""
        (tmp_path / name).write_bytes(content[:start] + hole + content[start + size :])
        frames, damaged = read(tmp_path / name)
        assert frames == FRAMES or damaged, f"{frames} frames with a hole at {part}/16"


def test_header_that_counts_more_frames_is_named(write, tmp_path):
    content = write("mjpeg.avi", "mjpeg").read_bytes()
    (tmp_path / "cut.avi").write_bytes(content[: len(content) // 2])
    assert "its header says 50 frames, but it contains" in read(tmp_path / "cut.avi")[1]


@pytest.mark.parametrize("name", ["pauses.mkv", "pauses.mp4", "pauses.ts"])
def test_video_with_pauses_between_uneven_frames_is_not_damaged(tmp_path, name):
    """A screen recording: a frame is stored when something changes."""
    times = np.cumsum([0.04, 0.12, 0.04, 0.5] * 10).tolist()
    assert read(write_video(tmp_path / name, times)) == (40, "")


def test_long_frame_of_an_mp4_is_not_a_gap(tmp_path):
    times = [step / 25 + (3 if step > 20 else 0) for step in range(40)]
    assert read(write_video(tmp_path / "long.mp4", times)) == (40, "")
