"""Lost frames of cut and damaged videos are noticed, and nothing is reported for whole ones."""

import av
import numpy as np
import pytest

from canthus.runtime.elementary import FrameNumbers, ends_within_packet
from canthus.runtime.errors import InputError
from canthus.runtime.video_file import VideoFile
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
    ("vp8.webm", "libvpx"),
    ("vp8.ogv", "libvpx"),
    ("wmv2.wmv", "wmv2"),
]
OTHER_FORMATS = [("mpeg2.mpg", "mpeg2video"), ("mpeg2.mxf", "mpeg2video"), ("h264.ts", "libx264")]
"""Not every cut of these is noticed."""


@pytest.mark.parametrize(("name", "codec"), [*FORMATS, *OTHER_FORMATS])
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
@pytest.mark.parametrize(("name", "codec"), [*FORMATS[:6], ("vp8.ogv", "libvpx"), *OTHER_FORMATS])
def test_hole_that_loses_frames_is_noticed(write, tmp_path, name, codec, kind):
    content = write(name, codec).read_bytes()
    size = len(content) // 8
    for part in range(4, 13):
        start = len(content) * part // 16
        hole = bytes(size) if kind == "zeros" else b""
        (tmp_path / name).write_bytes(content[:start] + hole + content[start + size :])
        frames, damaged = read(tmp_path / name)
        assert frames == FRAMES or damaged, f"{frames} frames with a hole at {part}/16"


@pytest.mark.parametrize(("name", "codec"), [("mjpeg.mkv", "mjpeg"), ("vp8.webm", "libvpx"), ("wmv2.wmv", "wmv2")])
def test_loss_of_one_frame_at_the_end_is_noticed_by_the_size_of_the_file(write, tmp_path, name, codec):
    content = write(name, codec).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) * 97 // 100])
    assert read(tmp_path / name)[1] == f"it has {len(content) * 97 // 100} of {len(content)} bytes"


def test_changed_byte_of_an_ogg_file_is_noticed_by_its_checksum(write, tmp_path):
    content = bytearray(write("vp8.ogv", "libvpx").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "changed.ogv").write_bytes(content)
    assert read(tmp_path / "changed.ogv")[1] == "a part of it is damaged"


def test_program_stream_that_ends_within_a_packet_is_noticed(write, tmp_path):
    content = write("mpeg2.mpg", "mpeg2video").read_bytes()
    (tmp_path / "cut.mpg").write_bytes(content[: content.rindex(b"\0\0\1\xba") + 100])
    assert "it ends within a packet" in read(tmp_path / "cut.mpg")[1]


def test_cut_mp4_of_fragments_is_noticed_by_the_size_of_its_last_box(write, tmp_path):
    with (
        av.open(str(write("h264.mp4", "libx264"))) as source,
        av.open(str(tmp_path / "f.mp4"), "w", container_options={"movflags": "+frag_keyframe+empty_moov"}) as file,
    ):
        stream = file.add_stream_from_template(source.streams.video[0])
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = stream
                file.mux(packet)
    whole = (tmp_path / "f.mp4").read_bytes()
    assert read(tmp_path / "f.mp4") == (FRAMES, "")
    (tmp_path / "f.mp4").write_bytes(whole + b"not a box of an .mp4")
    assert read(tmp_path / "f.mp4") == (FRAMES, "")
    (tmp_path / "f.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    frames, damage = read(tmp_path / "f.mp4")
    assert 0 < frames < FRAMES
    assert f"it has {len(whole) * 2 // 3} of " in damage


def test_avi_whose_header_counts_repeated_frames_is_not_damaged(tmp_path):
    """As FFmpeg writes one from a video with another time base: every second frame is empty."""
    times = [index / 25 for index in range(FRAMES)]
    path = write_video(tmp_path / "repeated.avi", times)
    with av.open(str(path)) as file:
        assert file.streams.video[0].frames > FRAMES
    assert read(path) == (FRAMES, "")


def test_hole_in_jpegs_that_begin_as_a_jpeg_file_is_noticed(write, tmp_path):
    """With the JFIF header of older versions FFmpeg opens them in another format."""
    content = write("mjpeg.mjpeg", "mjpeg").read_bytes()
    content = content[:2] + b"\xff\xe0\x00\x10JFIF\x00\x01\x02\x00\x00\x01\x00\x01\x00\x00" + content[2:]
    middle = len(content) // 2
    (tmp_path / "whole.mjpeg").write_bytes(content)
    (tmp_path / "hole.mjpeg").write_bytes(content[:middle] + bytes(3000) + content[middle + 3000 :])
    assert read(tmp_path / "whole.mjpeg") == (FRAMES, "")
    assert read(tmp_path / "hole.mjpeg")[1]


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


def test_cut_transport_stream_is_noticed_unless_a_packet_ends_there(write, tmp_path):
    content = write("h264.ts", "libx264").read_bytes()
    for part in range(1, 16):
        length = len(content) * part // 16 // 188 * 188 + 11 * part
        (tmp_path / "cut.ts").write_bytes(content[:length])
        assert read(tmp_path / "cut.ts")[1], f"{part}/16"


@pytest.mark.parametrize("packet", [192, 204])
def test_other_transport_streams_are_noticed_too(write, tmp_path, packet):
    """Blu-rays have the time before each packet, tuners a checksum after it."""
    content = write("h264.ts", "libx264").read_bytes()
    packets = [content[start : start + 188] for start in range(0, len(content), 188)]
    lead, trail = ((packet == size) * (size - 188) * b"\0" for size in (192, 204))
    whole = b"".join(lead + one + trail for one in packets)
    (tmp_path / "whole.ts").write_bytes(whole)
    (tmp_path / "cut.ts").write_bytes(whole[: len(whole) // 2 // packet * packet + 90])
    assert [ends_within_packet(tmp_path / name) for name in ("whole.ts", "cut.ts")] == [False, True]


def write_bare(path, codec="libx264", pixels="yuv420p", **options):
    """Write the frames of a moving texture without a container."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.options = 160, 120, pixels, options
        for index in range(FRAMES):
            image = np.roll(TEXTURE, 3 * index, 1)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(stream.encode(None))
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["zeros", "removed"])
@pytest.mark.parametrize(("name", "codec"), [("bare.h264", "libx264"), ("bare.mjpeg", "mjpeg")])
def test_hole_in_frames_without_a_container_is_noticed(tmp_path, name, codec, kind):
    """They have no times. Two halves of JPEG frames may fit together, so a hole may stay unnoticed."""
    content = write_bare(tmp_path / name, codec, "yuvj420p" if codec == "mjpeg" else "yuv420p", bf="0")
    size, unnoticed = len(content) // 8, []
    for part in range(4, 13):
        start = len(content) * part // 16
        hole = bytes(size) if kind == "zeros" else b""
        (tmp_path / name).write_bytes(content[:start] + hole + content[start + size :])
        _, damaged = read(tmp_path / name)
        unnoticed += [] if damaged else [part]
    assert len(unnoticed) <= (3 if (codec, kind) == ("mjpeg", "removed") else 0), unnoticed


def test_damaged_jpeg_of_a_stream_is_kept_as_far_as_it_can_be_decoded(tmp_path):
    content = write_bare(tmp_path / "bare.mjpeg", "mjpeg", "yuvj420p")
    middle = len(content) // 2
    (tmp_path / "bare.mjpeg").write_bytes(content[:middle] + content[middle + 200 :])
    assert read(tmp_path / "bare.mjpeg") == (FRAMES, "1 of its frames are corrupt")


@pytest.mark.parametrize(
    "options",
    [
        {"profile": "baseline"},
        {"bf": "3", "x264-params": "b-pyramid=normal:keyint=20"},
        {"x264-params": "interlaced=1"},
        {"x264-params": "cqm=jvt:slices=4"},
        {"x264-params": "intra-refresh=1:keyint=10"},
        {"pixels": "yuv444p", "x264-params": "cqm=jvt"},
        {"x264-params": "ref=1:scenecut=0:keyint=1000"},
    ],
    ids=str,
)
def test_whole_h264_without_a_container_is_not_damaged(tmp_path, options):
    write_bare(tmp_path / "bare.h264", **options)
    frames, damaged = read(tmp_path / "bare.h264")
    assert (frames, damaged) == (FRAMES, "")


@pytest.mark.parametrize(("first", "last", "missing"), [(10, 11, 1), (10, 15, 5), (20, 23, 3)])
def test_missing_frame_numbers_are_counted(tmp_path, first, last, missing):
    write_bare(tmp_path / "bare.h264", bf="0", **{"x264-params": "keyint=1000:scenecut=0"})
    with av.open(str(tmp_path / "bare.h264")) as file:
        packets = [bytes(packet) for packet in file.demux() if packet.size]
    numbers = FrameNumbers()
    assert sum(numbers.missing(packet) for packet in packets[:first] + packets[last:]) == missing
