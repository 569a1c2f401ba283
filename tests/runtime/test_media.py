"""Conversion of decoded frames to RGB."""

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange

from canthus.runtime.media import to_rgb

KR_KB = {1: (0.2126, 0.0722), 2: (0.299, 0.114), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}
"""FFmpeg's color space number -> the weights of red and blue in the luma. Unspecified (2) is read as BT.601."""

DARKEST, BRIGHTEST = -3.1, 0.6
"""Levels. FFmpeg's fast conversion rounds down two times."""


def exact_rgb(yuv, space, full_range):
    """Convert (…, 3) YUV of 8 bits by the formulas of ITU-R BT.601, BT.709 and BT.2020."""
    kr, kb = KR_KB[space]
    luma, blue, red = np.moveaxis(np.asarray(yuv, float), -1, 0)
    luma = luma / 255 if full_range else (luma - 16) / 219
    blue, red = ((plane - 128) / (255 if full_range else 224) for plane in (blue, red))
    r, b = luma + 2 * (1 - kr) * red, luma + 2 * (1 - kb) * blue
    g = (luma - kr * r - kb * b) / (1 - kr - kb)
    return 255 * np.clip(np.stack([r, g, b], -1), 0, 1)


@pytest.mark.parametrize("space", KR_KB)
@pytest.mark.parametrize("pixels", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuvj444p"])
@pytest.mark.parametrize("size", [(128, 96), (64, 130), (102, 66), (4, 4)])
def test_colors_are_those_of_the_standards(space, pixels, size):
    width, height = size
    frame = av.VideoFrame(width, height, pixels)
    frame.colorspace = space
    rng = np.random.default_rng(0)
    full = []
    for plane in frame.planes:
        values = rng.integers(90, 160, (plane.height, plane.line_size), np.uint8)
        plane.update(values.tobytes())
        values = values[:, : plane.width]
        rows, columns = -(-height // plane.height), -(-width // plane.width)
        full.append(values.repeat(rows, 0).repeat(columns, 1)[:height, :width])
    expected = exact_rgb(np.stack(full, -1), space, pixels.startswith("yuvj"))
    error = to_rgb(frame) - expected
    assert error.min() >= DARKEST
    assert error.max() <= BRIGHTEST


@pytest.mark.parametrize("size", [(101, 67), (1, 1), (2, 3)])
def test_frames_of_odd_size_are_converted(size):
    frame = av.VideoFrame(*size, "yuv420p")
    for plane, value in zip(frame.planes, (126, 128, 128), strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    image = to_rgb(frame)
    assert image.shape == (size[1], size[0], 3)
    assert np.abs(image.astype(int) - 128).max() <= 3


def test_range_of_the_frame_is_used():
    frame = av.VideoFrame(16, 16, "yuv420p")
    for plane, value in zip(frame.planes, (255, 128, 128), strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    frame.color_range = ColorRange.JPEG
    assert to_rgb(frame).min() >= 254
    for plane, value in zip(frame.planes, (16, 128, 128), strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    assert np.abs(to_rgb(frame).astype(int) - 16).max() <= 1
    frame.color_range = ColorRange.MPEG
    assert to_rgb(frame).max() <= 1
