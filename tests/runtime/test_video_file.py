import struct
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from canthus.runtime import sample
from canthus.runtime.errors import InputError
from canthus.runtime.video_file import VideoFile
from support.videos import write_video

UNEVEN = [0.0, 0.04, 0.2, 0.21, 0.9]


def test_frames_have_their_presentation_times(tmp_path):
    with VideoFile(write_video(tmp_path / "uneven.mp4", UNEVEN)) as video:
        frames = list(video)
    assert [frame.seconds for frame in frames] == pytest.approx(UNEVEN, abs=1e-3)
    assert [frame.index for frame in frames] == list(range(5))
    assert [int(frame.image.mean()) for frame in frames] == pytest.approx([20, 22, 24, 26, 28], abs=2)


def test_times_start_at_zero_and_always_increase(tmp_path):
    once = write_video(tmp_path / "once.ts", UNEVEN)  # its first timestamp is not 0
    with VideoFile(once) as video:
        assert video.start > 0.1
        assert [frame.seconds for frame in video] == pytest.approx(UNEVEN, abs=1e-3)
    (tmp_path / "twice.ts").write_bytes(once.read_bytes() * 2)
    with VideoFile(tmp_path / "twice.ts") as video:
        times = [frame.seconds for frame in video]
    assert len(times) == 10
    assert np.diff(times).min() > 0


def test_video_can_be_read_twice(tmp_path):
    with VideoFile(write_video(tmp_path / "twice.mp4", UNEVEN)) as video:
        assert [frame.seconds for frame in video] == [frame.seconds for frame in video]


def test_frame_is_read_only(tmp_path):
    with VideoFile(write_video(tmp_path / "clip.mp4", UNEVEN)) as video:
        frame = next(iter(video))
    with pytest.raises(ValueError, match="read-only"):
        frame.image[0, 0] = 255


def with_display_matrix(path, matrix):
    """Write a display matrix into the header of a video, as phones do: where its x and y axes point on the screen."""
    (a, b), (c, d) = matrix
    content = bytearray(path.read_bytes())
    # The matrix is at byte 40 of a version 0 track header (ISO 14496-12), big-endian.
    place = content.find(b"tkhd") + 44
    content[place : place + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [
        (((1, 0), (0, 1)), "top left"),
        (((0, 1), (-1, 0)), "top right"),
        (((-1, 0), (0, -1)), "bottom right"),
        (((0, -1), (1, 0)), "bottom left"),
        (((-1, 0), (0, 1)), "top right"),
        (((1, 0), (0, -1)), "bottom left"),
        (((0, 1), (1, 0)), "top left"),
        (((0, -1), (-1, 0)), "bottom right"),
    ],
    ids=["upright", "right", "half", "left", "flip", "flip half", "flip left", "flip right"],
)
def test_frames_of_a_phone_are_upright(tmp_path, matrix, corner):
    """The stored frame is white at its top left. Front cameras store flipped frames."""
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(16, 11)
        image = np.zeros((64, 96, 3), np.uint8)
        image[:32, :48] = 255
        file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(stream.encode(None))
    with VideoFile(with_display_matrix(path, matrix)) as video:
        shown = next(iter(video)).image
        wide = matrix[0][0] != 0
        assert (video.width, video.height) == ((96, 64) if wide else (64, 96))
        assert video.pixel_aspect == (Fraction(16, 11) if wide else Fraction(11, 16))
    assert shown.shape == (video.height, video.width, 3)
    down, right = (np.argwhere(shown[..., 0] > 128).mean(0) > (video.height / 2, video.width / 2)).tolist()
    assert corner == f"{'bottom' if down else 'top'} {'right' if right else 'left'}"


def test_raw_stream_and_single_image_are_videos(tmp_path):
    """Neither can be rewound, and the raw stream has no timestamps."""
    with VideoFile(write_video(tmp_path / "raw.h264", UNEVEN)) as video:
        assert [frame.seconds for frame in video] == pytest.approx([step / video.rate for step in range(5)])
    cv2.imwrite(str(tmp_path / "one.jpg"), np.zeros((64, 96, 3), np.uint8))
    with VideoFile(tmp_path / "one.jpg") as video:
        assert len(list(video)) == 1


@pytest.mark.parametrize("name", ["old.avi", "old.mkv"])
def test_frames_have_the_times_of_one_clock(tmp_path, name):
    """H.264 with B-frames. An .avi stores no presentation times; those that FFmpeg guesses are wrong."""
    with av.open(str(tmp_path / name), "w") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        noise = np.random.default_rng(0).integers(0, 255, (20, 64, 96, 3), np.uint8)
        for image in noise:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image // 8 + 90, format="rgb24")))
        file.mux(stream.encode(None))
    with VideoFile(tmp_path / name) as video:
        assert [frame.seconds for frame in video] == pytest.approx([step / 25 for step in range(20)])


def test_tag_that_is_not_utf8_does_not_cost_a_frame(tmp_path):
    for name in ("v.avi", "v.mp4", "v.mkv", "v.mov", "v.flv"):
        with av.open(str(tmp_path / name), "w") as file:
            file.metadata["title"] = "Caf@"
            stream = file.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            for _ in range(6):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 96, 3), np.uint8), format="rgb24")))
            file.mux(stream.encode(None))
        content = (tmp_path / name).read_bytes()
        assert b"Caf@" in content
        (tmp_path / name).write_bytes(content.replace(b"Caf@", "Café".encode("latin-1")))
        with VideoFile(tmp_path / name) as video:
            assert len(list(video)) == 6


def jpeg_with_exif(orientation):
    """Return a JPEG, white at its top left, whose EXIF data has an orientation from 1 to 8."""
    image = np.zeros((64, 96, 3), np.uint8)
    image[:32, :48] = 255
    plain = cv2.imencode(".jpg", image)[1].tobytes()
    exif = b"Exif\0\0II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]


@pytest.mark.parametrize("name", ["v.avi", "v.mkv", "v.jpg"])
@pytest.mark.parametrize(
    ("orientation", "corner"), [*enumerate(["TL", "TR", "BR", "BL", "TL", "TR", "BR", "BL"], start=1)], ids=str
)
def test_motion_jpeg_with_exif_data_is_upright(tmp_path, name, orientation, corner):
    """PyAV has no name for this side data of a frame."""
    path = tmp_path / name
    if path.suffix == ".jpg":
        path.write_bytes(jpeg_with_exif(orientation))
    else:
        with av.open(str(path), "w") as file:
            stream = file.add_stream("mjpeg", rate=10)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuvj420p"
            for index in range(3):
                packet = av.Packet(jpeg_with_exif(orientation))
                packet.pts = packet.dts = index
                packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 10), stream, True
                file.mux(packet)
    with VideoFile(path) as video:
        images = [frame.image for frame in video]
    assert len(images) == (1 if path.suffix == ".jpg" else 3)
    assert images[0].shape[:2] == ((64, 96) if orientation < 5 else (96, 64))
    down, right = (np.argwhere(images[0][..., 0] > 128).mean(0) > np.array(images[0].shape[:2]) / 2).tolist()
    assert corner == ("B" if down else "T") + ("R" if right else "L")


def test_video_with_too_many_pixels_is_refused_by_its_header(tmp_path, monkeypatch):
    gif = b"GIF89a" + struct.pack("<HHBBB", 16_000, 16_000, 0x80, 0, 0) + bytes(6)
    gif += b"," + struct.pack("<HHHHB", 0, 0, 16_000, 16_000, 0) + bytes([2, 2, 0x4C, 1, 0]) + b";"
    (tmp_path / "huge.gif").write_bytes(gif)
    with pytest.raises(InputError, match=r"huge.gif: too large, 16000 x 16000 pixels = 256 megapixels .*at most 36"):
        VideoFile(tmp_path / "huge.gif")
    clip = write_video(tmp_path / "clip.mp4", UNEVEN)
    monkeypatch.setenv("CANTHUS_MAX_FRAME_MEGAPIXELS", "0.006")
    with pytest.raises(InputError, match=r"96 x 64 pixels = 0\.006 megapixels .*at most 0\.006"):
        VideoFile(clip)
    monkeypatch.setenv("CANTHUS_MAX_FRAME_MEGAPIXELS", "0.007")
    with VideoFile(clip) as video:
        assert len(list(video)) == 5


def test_frames_that_become_too_large_are_not_decoded(tmp_path, monkeypatch):
    """An elementary stream may change its size at any key frame."""
    small = write_video(tmp_path / "small.h264", UNEVEN)
    large = write_video(tmp_path / "large.h264", UNEVEN, size=(960, 640))
    (tmp_path / "both.h264").write_bytes(small.read_bytes() + large.read_bytes())
    with VideoFile(tmp_path / "both.h264") as video:
        assert len(list(video)) == 10
    monkeypatch.setenv("CANTHUS_MAX_FRAME_MEGAPIXELS", "0.1")
    with VideoFile(tmp_path / "both.h264") as video:
        assert {frame.image.shape for frame in video} == {(64, 96, 3)}
    assert "cannot be decoded" in video.damaged


@pytest.mark.parametrize("space", [8, 10], ids=["YCgCo", "BT.2020 constant luminance"])
def test_rare_color_space_does_not_cost_a_frame(tmp_path, space):
    with av.open(str(tmp_path / "rare.mp4"), "w") as file:
        stream = file.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.colorspace = space
        gray = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 90, np.uint8), format="rgb24")
        file.mux(stream.encode(gray.reformat(format="yuv420p")))
        file.mux(stream.encode(None))
    with VideoFile(tmp_path / "rare.mp4") as video:
        assert next(iter(video)).image.mean() == pytest.approx(90, abs=3)


def test_truncated_video_gives_the_frames_that_can_be_decoded(tmp_path):
    whole = write_video(tmp_path / "whole.mkv", [step / 30 for step in range(90)], size=(320, 240))
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with VideoFile(cut) as video:
        assert 10 < len(list(video)) < 90
    size = whole.stat().st_size
    assert video.damaged == f"it has {size // 2} of {size} bytes"


def test_undecodable_packet_does_not_cost_later_frames(tmp_path):
    content = bytearray(sample.CLIP.read_bytes())
    with av.open(str(sample.CLIP)) as file:
        bad = list(file.demux(video=0))[100]
    content[bad.pos : bad.pos + bad.size] = bytes([255]) * bad.size
    (tmp_path / "bad.mp4").write_bytes(content)
    with VideoFile(tmp_path / "bad.mp4") as video:
        assert 295 < len(list(video)) < 300
    assert video.damaged == "1 of its packets cannot be decoded"


def test_video_that_ends_before_its_header_says_is_damaged(tmp_path):
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(sample.CLIP.read_bytes()[:700_000])
    with VideoFile(cut) as video:
        assert 100 < len(list(video)) < 290
    assert "its header says 300 frames" in video.damaged
    with VideoFile(sample.CLIP) as whole:
        assert len(list(whole)) == 300
    assert whole.damaged == ""


@pytest.mark.parametrize("name", ["counted.mp4", "uncounted.mkv"])
def test_number_of_frames_is_known_before_they_are_read(tmp_path, name):
    path = write_video(tmp_path / name, [index / 30 for index in range(20)])
    with VideoFile(path) as video:
        assert bool(video.stream.frames) == (name == "counted.mp4")
        assert video.frames == 20
        assert len(list(video)) == 20


def test_pixels_are_square_if_a_video_does_not_say(tmp_path):
    path = write_video(tmp_path / "plain.avi", [index / 30 for index in range(5)], codec="mjpeg", pixels="yuvj420p")
    with VideoFile(path) as video:
        assert not video.stream.sample_aspect_ratio or video.stream.sample_aspect_ratio == 1
        assert video.pixel_aspect == next(iter(video)).pixel_aspect == 1


def test_clip_trimmed_without_reencoding_is_not_damaged(tmp_path):
    """Its file contains the frames from the last key frame before its start. An edit list hides them."""
    trimmed = tmp_path / "trimmed.mp4"
    with av.open(str(sample.CLIP)) as source, av.open(str(trimmed), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                shift = round(3.33 / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                target.mux(packet)
    with VideoFile(trimmed) as video:
        assert (len(list(video)), video.frames, video.stream.frames) == (200, 200, 300)
    assert video.damaged == ""


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.mp4", None, "no such file"),
        (
            "text.mp4",
            b"not a video\n" * 50,
            "not a readable video .Invalid data.* expected .mp4, .*-c copy text-copy.mkv",
        ),
        ("empty.mp4", b"", "not a readable video .it is empty"),
    ],
)
def test_file_that_is_not_a_video_is_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        VideoFile(tmp_path / name)


def test_folder_is_refused_as_a_video(tmp_path):
    with pytest.raises(InputError, match="a folder or a pipe"):
        VideoFile(tmp_path)


def test_file_with_audio_only_is_refused(tmp_path):
    path = tmp_path / "audio.mp4"
    with av.open(str(path), "w") as file:
        track = file.add_stream("aac", rate=44_100, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 44_100), np.int16), format="s16", layout="mono")
        silence.sample_rate, silence.pts, silence.time_base = 44_100, 0, Fraction(1, 44_100)
        file.mux(track.encode(silence))
        file.mux(track.encode(None))
    with pytest.raises(InputError, match="no video stream"):
        VideoFile(path)
