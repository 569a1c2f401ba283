"""HDR: what networks and viewers see of it, and what --tone-map writes."""

from fractions import Fraction

import av
import numpy as np
import pytest

from canthus.runtime.cli import main
from canthus.runtime.seek import SeekableVideo
from canthus.runtime.tone_mapping import (
    PEAK,
    SDR_WHITE,
    TRANSFERS,
    ToneMapper,
    compress,
    hlg_to_light,
    light_to_hlg,
    light_to_pq,
    place_drawing,
    pq_to_light,
    to_hdr,
    to_sdr,
)
from canthus.runtime.video_file import DeepFrame, Selection, VideoFile

NUMBERS = {name: number for number, name in TRANSFERS.items()}
GREY = 0.6
"""The SDR value of the left half of the test video; the right half has 800 cd/m2."""


@pytest.fixture(params=["pq", "hlg"])
def transfer(request):
    return request.param


@pytest.fixture
def video(tmp_path, transfer):
    """Write two frames of 10 bits (HEVC, BT.2020): the left half is GREY, the right half brighter than white."""
    image = np.empty((64, 96, 3))
    image[:, :48] = to_hdr(np.full((64, 48, 3), GREY), transfer)
    bright = np.full((1, 3), 800.0)
    image[:, 48:] = light_to_pq(bright) if transfer == "pq" else light_to_hlg(bright)
    with av.open(str(tmp_path / "in.mp4"), "w") as file:
        stream = file.add_stream("libx265", rate=25, options={"crf": "4", "x265-params": "log-level=error"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p10le"
        coder = stream.codec_context
        coder.colorspace, coder.color_primaries, coder.color_trc, coder.color_range = 9, 9, NUMBERS[transfer], 1
        frame = av.VideoFrame.from_ndarray(np.rint(image * 65535).astype(np.uint16), format="rgb48le")
        frame = frame.reformat(format="yuv420p10le", dst_colorspace=9)
        for index in range(2):
            frame.pts, frame.time_base = index, Fraction(1, 25)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return tmp_path / "in.mp4"


def tags(path):
    with av.open(str(path)) as file:
        coder = file.streams.video[0].codec_context
        return coder.colorspace, coder.color_primaries, coder.color_trc, coder.pix_fmt


def test_published_values_of_pq_and_hlg():
    # Report ITU-R BT.2408, table 1: reference white of 203 cd/m2 is 58 % PQ and 75 % HLG.
    assert light_to_pq(np.array(203.0)) == pytest.approx(0.58, abs=0.001)
    assert light_to_pq(np.array([0.0, 100.0, 1000.0, 10_000.0])) == pytest.approx([0, 0.508, 0.752, 1], abs=0.001)
    assert hlg_to_light(np.full((1, 3), 0.75)) == pytest.approx(203, abs=1)
    assert hlg_to_light(np.ones((1, 3))) == pytest.approx(1000, abs=1)


def test_light_and_values_are_inverse():
    values = np.random.default_rng(0).random((200, 3))
    assert light_to_pq(pq_to_light(values)) == pytest.approx(values, abs=1e-9)
    assert light_to_hlg(hlg_to_light(values)) == pytest.approx(values, abs=1e-9)


def test_curve_keeps_dark_light_never_falls_and_ends_at_white():
    light = np.linspace(0, PEAK, 500)
    mapped = compress(light)
    assert mapped[light < 90] == pytest.approx(light[light < 90], abs=0.01)
    assert (np.diff(mapped) >= 0).all()
    assert mapped[-1] == pytest.approx(SDR_WHITE, abs=0.01)


def test_sdr_colors_come_back_from_hdr(transfer):
    colors = np.random.default_rng(0).random((100, 3)) * 0.7  # below the knee of the curve
    for primaries in (1, 9, 12):
        assert to_sdr(to_hdr(colors, transfer, primaries), transfer, primaries) == pytest.approx(colors, abs=1e-3)


def test_table_of_ffmpeg_agrees_with_the_curve(transfer):
    colors = to_hdr(np.random.default_rng(0).random((16, 16, 3)) * 0.6 + 0.1, transfer)
    wide = np.rint(colors * 65535).astype(np.uint16)
    found = ToneMapper(transfer, 9).convert(av.VideoFrame.from_ndarray(wide, format="rgb48le")) / 65535
    assert np.abs(found - to_sdr(colors, transfer)).mean() < 1 / 255


def test_networks_and_viewer_get_sdr(video, transfer):
    with SeekableVideo(video) as file:
        assert (file.transfer, file.primaries, file.pixels) == (transfer, 9, "yuv420p10le")
        for frame in (next(iter(file)), next(iter(file.frames_from(0.04)))):
            grey, bright = frame.image[20:40, 10:30].mean(), frame.image[20:40, 66:86].mean()
            assert grey == pytest.approx(255 * GREY, abs=3)
            assert 225 < bright <= 255


def test_frames_to_write_are_hdr_or_sdr(video, transfer):
    with VideoFile(video) as file:
        kept, mapped = (next(file.read(Selection(), deep=True, tone_map=choice)) for choice in (False, True))
    assert isinstance(kept, DeepFrame)
    expected = to_hdr(np.full((1, 3), GREY), transfer)[0, 0]
    assert kept.deep[20:40, 10:30].mean() / 65535 == pytest.approx(expected, abs=0.005)
    assert mapped.deep[20:40, 10:30].mean() / 65535 == pytest.approx(GREY, abs=0.012)


@pytest.mark.usefixtures("fake_networks")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--codec", "h264"], (9, 9, None, "yuv420p")),
        ([], (9, 9, None, "yuv420p10le")),
        (["--tone-map"], (1, 1, 1, "yuv420p")),
        (["--tone-map", "--codec", "hevc"], (1, 1, 1, "yuv420p10le")),
    ],
)
def test_overlay_is_hdr_with_its_tags_or_sdr_on_request(video, transfer, options, expected):
    output = video.with_name("o.mp4")
    assert main(["video", str(video), "-o", str(output), *options]) == 0
    assert tags(output) == tuple(NUMBERS[transfer] if one is None else one for one in expected)
    with VideoFile(output) as written:
        image = next(iter(written)).image
    assert image[40:60, 4:24].mean() == pytest.approx(255 * GREY, abs=9)  # a step of 8 bits of PQ is 3 levels of SDR


def test_drawing_on_hdr_has_the_brightness_of_sdr_white(transfer):
    frame = np.full((4, 4, 3), 30_000, np.uint16)
    drawing = np.zeros((4, 4, 4), np.uint8)
    drawing[0, 0] = 255
    drawing[1, 1] = (255, 255, 255, 128)
    drawn = place_drawing(frame, drawing, transfer, 9)
    white = {"pq": 0.5807, "hlg": 0.75}[transfer] * 65535
    assert drawn[0, 0] == pytest.approx(white, rel=0.005)
    assert drawn[1, 1] == pytest.approx((white + 30_000) / 2, rel=0.01)
    assert (drawn[2:] == 30_000).all()


def test_bright_color_keeps_the_ratio_of_its_parts():
    light = np.array([900.0, 90.0, 45.0])
    linear = to_sdr(light_to_pq(light), "pq", 1) ** 2.4
    np.testing.assert_allclose(linear / linear[0], light / light[0], atol=1e-6)
    assert 0.9 < linear[0] < 1


def test_both_numbers_of_p3_are_the_same_and_differ_from_bt2020():
    code = light_to_pq(np.array([100.0, 20.0, 10.0]))
    np.testing.assert_array_equal(to_sdr(code, "pq", 11), to_sdr(code, "pq", 12))
    assert abs(to_sdr(code, "pq", 11) - to_sdr(code, "pq", 9)).max() > 0.01
    color = np.array([0.8, 0.3, 0.2])
    np.testing.assert_array_equal(to_hdr(color, "pq", 11), to_hdr(color, "pq", 12))


def test_frames_may_change_their_size():
    mapper = ToneMapper("pq", 9)
    for height, width in ((32, 48), (16, 64), (32, 48)):
        stored = av.VideoFrame.from_ndarray(np.full((height, width, 3), 30_000, np.uint16), format="rgb48le")
        assert mapper.convert(stored).shape == (height, width, 3)
