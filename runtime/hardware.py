"""Decode and encode video by hardware, where the FFmpeg inside PyAV offers it and this machine has it.

What FFmpeg was built with says little about a machine, so a device or an encoder is tried before it is used.
"""

import functools
import io
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av

from canthus.runtime.errors import BackendError
from canthus.runtime.media import decode, error_reason, main_track, open_media

try:
    from av.codec.hwaccel import HWAccel, hwdevices_available
except ImportError:  # an early PyAV 14
    HWAccel = None  # type: ignore[assignment, misc]

    def hwdevices_available() -> list[str]:
        """Return no devices."""
        return []


_log = logging.getLogger(__name__)

DEVICES = ("cuda", "vaapi", "videotoolbox", "d3d11va", "qsv")
"""FFmpeg's names of kinds of devices, in the order in which `auto` tries them."""

AUTOMATIC, NONE = "auto", "none"

TRIED_SIZE = (320, 192)
"""Width and height of the frame that tries an encoder. NVENC encodes none of less than 145 x 49."""

_FAILURES = (av.error.FFmpegError, OSError, RuntimeError, ValueError, TypeError)
"""What PyAV raises for missing devices, encoders and arguments."""


def built_devices() -> list[str]:
    """Return the kinds of devices that FFmpeg was built for; this machine need not have one."""
    return [name for name in DEVICES if name in hwdevices_available()]


def select_device(path: Path, wanted: str) -> str | None:
    """Return the kind of device that decodes a video; None is the CPU.

    Args:
        path: A video that the CPU can decode.
        wanted: One of DEVICES, or AUTOMATIC for the first one that decodes it, else the CPU, or NONE.

    Raises:
        BackendError: If the wanted device cannot decode the video here.
    """
    if wanted == NONE:
        return None
    problems = {}
    for name in built_devices() if wanted == AUTOMATIC else [wanted]:
        problems[name] = why_not_decoded(path, name)
        if not problems[name]:
            return name
    if wanted == AUTOMATIC:
        _warn_once("; ".join(f"{name}: {problem}" for name, problem in problems.items()) or "FFmpeg was built for none")
        return None
    able = [name for name in built_devices() if name != wanted and not why_not_decoded(path, name)]
    raise BackendError(
        f"{path}: --hwaccel {wanted} cannot decode it here ({problems[wanted]}; able here: "
        f"{', '.join(able) or 'the CPU only'}); leave it out, or use --hwaccel auto"
    )


@functools.cache
def _warn_once(problems: str) -> None:
    _log.warning("no hardware decodes the video here (%s); the CPU does", problems)


def why_not_decoded(path: Path, device: str) -> str:
    """Return why a kind of device does not decode a video here, or nothing if it does."""
    if device not in hwdevices_available():
        return "FFmpeg was built without it"
    try:
        with open_media(path, hwaccel=accelerator(device)) as container:
            stream = main_track(container.streams.video)
            if stream is None or next(decode(container, stream), None) is None:
                return "no frame was decoded"
            return "" if stream.codec_context.is_hwaccel else f"it has no decoder for {stream.codec_context.name}"
    except _FAILURES as error:
        return error_reason(error)


def accelerator(device: str | None) -> Any:
    """Return PyAV's settings of a kind of device, which decodes all frames or none; None for the CPU."""
    return HWAccel(device, allow_software_fallback=False) if device else None


def check_encoder(name: str, pixels: str, device: str, known: Iterable[str]) -> None:
    """Raise BackendError if an encoder of FFmpeg does not work here.

    pixels: the format of pixels to try; device: the kind of device it needs, or empty; known: all hardware encoders.
    """
    problem = why_not_encoded(name, pixels, device)
    if problem:
        built = ", ".join(one for one in known if one in av.codecs_available) or "no such codec"
        raise BackendError(
            f"--codec {name}: cannot encode here ({problem}; FFmpeg was built with {built})"
            "; h264, hevc and av1 are encoded by the CPU"
        )


@functools.cache
def why_not_encoded(name: str, pixels: str, device: str) -> str:
    """Return why an encoder does not work here, or nothing if it does."""
    if name not in av.codecs_available:
        return "FFmpeg was built without it"
    try:
        with av.open(io.BytesIO(), "w", format="matroska") as container:
            stream = container.add_stream(name, rate=25, **encoder_device(device))
            assert isinstance(stream, av.VideoStream), "an encoder of video"
            (stream.width, stream.height), stream.pix_fmt = TRIED_SIZE, pixels
            container.mux(stream.encode(av.VideoFrame(*TRIED_SIZE, pixels)))
            container.mux(stream.encode(None))
            return ""
    except _FAILURES as error:
        return error_reason(error)


def encoder_device(device: str) -> dict[str, Any]:
    """Return the arguments of PyAV's `add_stream` for an encoder that needs a device."""
    return {"hwaccel": accelerator(device)} if device else {}
