"""Listing cameras with a fake driver of Linux."""

import os
import struct
import sys
from pathlib import Path

import pytest

from canthus.runtime import cameras
from canthus.runtime.cameras import CameraInfo, CameraMode, list_cameras

MJPG, YUYV = (int.from_bytes(name, "little") for name in (b"MJPG", b"YUYV"))
MODES = {MJPG: [(1280, 720, [(1, 30)]), (640, 480, [(1, 15), (1, 60)])], YUYV: [(640, 480, [(1, 30)])]}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists cameras as files")


def entry(values, index):
    if index >= len(values):
        raise OSError(22, "Invalid argument")
    return values[index]


def fake_ask(capabilities):
    """Return a driver of one camera; `capabilities` are those of the device."""

    def ask(_descriptor, request, question):
        values = struct.unpack_from(f"={len(question) // 4}I", question)
        match request:
            case cameras.QUERY_CAPABILITIES:
                return struct.pack("=16s32s32sIII12x", b"uvcvideo", b"Fake Cam", b"usb-1", 1, 0x84200001, capabilities)
            case cameras.LIST_FORMATS:
                return struct.pack("=III32sII12x", *values, 0, b"some", entry(list(MODES), values[0]), 0)
            case cameras.LIST_SIZES:
                width, height, _ = entry(MODES[values[1]], values[0])
                return struct.pack("=IIIII24x", *values, cameras.DISCRETE, width, height)
            case _:
                index, code, width, height = values
                intervals = next(rates for w, h, rates in MODES[code] if (w, h) == (width, height))
                return struct.pack("=IIIIIII24x", *values, cameras.DISCRETE, *entry(intervals, index))

    return ask


@pytest.fixture
def devices(tmp_path):
    for name in ("video0", "video10", "video2", "videos", "null"):
        (tmp_path / name).touch()
    return tmp_path


def test_modes_are_sorted_and_only_the_fastest_of_each_size_is_listed(
    devices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cameras, "_ask", fake_ask(cameras.CAPTURE))
    found = list_cameras(devices)
    assert [camera.number for camera in found] == [0, 2, 10]
    assert found[0] == CameraInfo(
        0, "Fake Cam", (CameraMode(1280, 720, 30.0, "MJPG"), CameraMode(640, 480, 60.0, "MJPG"))
    )
    assert str(found[0].modes[1]) == "640 \N{MULTIPLICATION SIGN} 480, 60 fps"


def test_a_device_for_metadata_is_no_camera(devices: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cameras, "_ask", fake_ask(0x00800000))
    assert list_cameras(devices) == []


def test_a_device_that_does_not_answer_is_listed_without_modes(devices: Path) -> None:
    assert list_cameras(devices)[0] == CameraInfo(0, "camera 0")  # an ordinary file has no driver


def test_requests_have_the_size_of_their_structure() -> None:
    sizes = [
        request >> 16 & 0x3FFF
        for request in (cameras.QUERY_CAPABILITIES, cameras.LIST_FORMATS, cameras.LIST_SIZES, cameras.LIST_INTERVALS)
    ]
    assert sizes == [104, 64, 44, 52]
    with pytest.raises(OSError, match="ioctl"):
        cameras._ask(os.open(os.devnull, os.O_RDONLY), cameras.LIST_FORMATS, b"")
