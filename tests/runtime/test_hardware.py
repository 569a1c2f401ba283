"""Decoding and encoding by hardware: there is none in the tests, so devices and encoders are fakes."""

import logging

import av
import pytest

from canthus.runtime import codecs, hardware
from canthus.runtime.cli import main
from canthus.runtime.codecs import CODECS, Encoding, codec_for, encoder_options, select_pixels
from canthus.runtime.errors import BackendError, InputError
from canthus.runtime.hardware_names import HARDWARE_CODECS, HARDWARE_DECODERS
from canthus.runtime.sinks import VideoSink
from canthus.runtime.video_file import VideoFile
from support.videos import write_video

TIMES = [0.0, 0.04, 0.1]


@pytest.fixture
def clip(tmp_path):
    return write_video(tmp_path / "in.mp4", TIMES)


@pytest.fixture
def devices(monkeypatch):
    """Let FFmpeg have been built for cuda and vaapi, of which the CPU does the work. Return why each cannot decode."""
    problems = {"cuda": "no driver", "vaapi": "no /dev/dri"}
    hardware._warn_once.cache_clear()
    monkeypatch.setattr(hardware, "hwdevices_available", lambda: ["drm", *problems])
    monkeypatch.setattr(hardware, "HWAccel", lambda device, allow_software_fallback: None)
    monkeypatch.setattr(hardware, "why_not_decoded", lambda path, device: problems.get(device, "not built"))
    return problems


def test_options_name_what_the_code_knows():
    assert (hardware.NONE, hardware.AUTOMATIC, *hardware.DEVICES) == HARDWARE_DECODERS
    assert [name for name, codec in CODECS.items() if codec.hardware] == list(HARDWARE_CODECS)


def test_automatic_takes_the_first_device_that_decodes(clip, devices):
    devices["vaapi"] = ""
    with VideoFile(clip, "auto") as video:
        assert video.device == "vaapi"
        assert [frame.seconds for frame in video] == pytest.approx(TIMES)


def test_automatic_takes_the_cpu_and_says_so_once(clip, devices, caplog):
    with caplog.at_level(logging.WARNING, "canthus"):
        for _ in range(2):
            with VideoFile(clip, "auto") as video:
                assert video.device is None
                assert len(list(video)) == 3
    (record,) = caplog.records
    assert "(cuda: no driver; vaapi: no /dev/dri); the CPU does" in record.message


def test_named_device_that_fails_is_one_line_with_those_that_work(clip, devices):
    devices["vaapi"] = ""
    with pytest.raises(BackendError, match=r"--hwaccel cuda cannot decode it here \(no driver; able here: vaapi\)"):
        VideoFile(clip, "cuda")


def test_missing_file_is_the_error_with_a_device_too(tmp_path, devices):
    with pytest.raises(InputError, match="no such file"):
        VideoFile(tmp_path / "no.mp4", "cuda")
    (tmp_path / "text.mp4").write_text("text")
    with pytest.raises(InputError, match="not a readable video"):
        VideoFile(tmp_path / "text.mp4", "cuda")


@pytest.mark.usefixtures("fake_networks")
@pytest.mark.parametrize("device", ["vaapi", "videotoolbox", "d3d11va"])
def test_device_that_this_machine_lacks_ends_the_command_with_one_line(clip, capsys, monkeypatch, device):
    monkeypatch.setattr(hardware, "hwdevices_available", list)
    assert main(["video", str(clip), "--table", str(clip.with_name("t.csv")), "--hwaccel", device]) == 1
    error = capsys.readouterr().err
    assert f"--hwaccel {device} cannot decode it here (FFmpeg was built without it; able here: the CPU only)" in error
    assert error.count("\n") == 1


def test_real_trial_of_a_device_says_why_not_or_decodes(clip):
    for device in hardware.built_devices():
        problem = hardware.why_not_decoded(clip, device)
        assert "\n" not in problem
        if not problem:
            with VideoFile(clip, device) as video:
                assert len(list(video)) == 3


@pytest.mark.parametrize("name", HARDWARE_CODECS)
def test_encoder_that_fails_is_one_line_before_any_work(tmp_path, monkeypatch, name):
    monkeypatch.setattr(hardware, "why_not_encoded", lambda *_: "no device")
    with pytest.raises(BackendError, match=rf"--codec {name}: cannot encode here \(no device; FFmpeg was built with"):
        codec_for(tmp_path / "o.mkv", Encoding(name), "yuv420p")


@pytest.mark.usefixtures("fake_networks")
def test_encoder_that_ffmpeg_lacks_ends_the_command_with_one_line(clip, capsys, monkeypatch):
    hardware.why_not_encoded.cache_clear()
    monkeypatch.setattr(av, "codecs_available", {"libx264", "h264_nvenc"})
    output = clip.with_name("o.mp4")
    assert main(["video", str(clip), "-o", str(output), "--codec", "hevc_videotoolbox"]) == 1
    error = capsys.readouterr().err
    assert "cannot encode here (FFmpeg was built without it; FFmpeg was built with h264_nvenc)" in error
    assert error.count("\n") == 1
    assert not output.exists()


def test_encoder_of_a_gpu_writes_through_the_same_sink(clip, tmp_path, monkeypatch):
    """An encoder of the CPU takes the place of the GPU's, with the formats of pixels of the GPU's."""
    fake = codecs.replace(CODECS["h264_qsv"], encoder="libx264", options={"bf": "0"}, quality="qp")
    monkeypatch.setitem(CODECS, "h264_qsv", fake)
    monkeypatch.setattr(codecs, "check_encoder", lambda *_: None)
    with VideoFile(clip) as video, VideoSink(tmp_path / "o.mp4", video, Encoding("h264_qsv", 30)) as sink:
        for frame in video:
            sink.write(frame.image, frame.seconds)
    with VideoFile(tmp_path / "o.mp4") as video:
        assert [frame.seconds for frame in video] == pytest.approx(TIMES)


def test_quality_and_bits_of_encoders_of_gpus():
    assert encoder_options(CODECS["h264_nvenc"], Encoding("h264_nvenc", 18), False)["qp"] == "18"
    assert encoder_options(CODECS["hevc_qsv"], Encoding("hevc_qsv"), False)["global_quality"] == "24"
    assert select_pixels(CODECS["hevc_vaapi"], Encoding("hevc_vaapi"), "yuv420p10le") == "p010le"
    assert select_pixels(CODECS["h264_vaapi"], Encoding("h264_vaapi"), "yuv420p10le") == "nv12"
