"""Conversion of decoded frames to RGB."""

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange

from canthus.runtime.media import KR_KB, to_rgb

OPENCV_ROUNDING = 0.65
"""OpenCV multiplies colors by matrices in fixed point."""


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
@pytest.mark.parametrize("size", [(128, 96), (101, 67), (1, 1), (64, 130), (2, 3)])
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
    assert np.abs(to_rgb(frame) - expected).max() <= OPENCV_ROUNDING


def test_range_of_the_frame_is_used():
    frame = av.VideoFrame(16, 16, "yuv420p")
    for plane, value in zip(frame.planes, (255, 128, 128), strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    frame.color_range = ColorRange.JPEG
    assert (to_rgb(frame) == 255).all()
    for plane, value in zip(frame.planes, (16, 128, 128), strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    assert (to_rgb(frame) == 16).all()
    frame.color_range = ColorRange.MPEG
    assert (to_rgb(frame) == 0).all()
