"""The video codecs that can be written: their encoders, formats of pixels, and the files that store them.

Every encoder gets one packet per frame, in the order of the frames: so a run that was stopped can go on, and the last
frame can be shown as long as in the source.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import av

from canthus.runtime.errors import UsageError
from canthus.runtime.files import check_suffix
from canthus.runtime.hardware import check_encoder
from canthus.runtime.hardware_names import HARDWARE_CODECS
from canthus.runtime.media import has_many_bits
from canthus.runtime.threads import thread_limit

_HEVC = (".mp4", ".m4v", ".mov", ".mkv", ".ts")
_H264 = (*_HEVC, ".flv")
KEY_FRAME_INTERVAL = "250"
"""Frames from one key frame to the next, at most."""


@dataclass(frozen=True)
class Codec:
    """A video codec and its encoder in FFmpeg."""

    encoder: str
    suffixes: tuple[str, ...]  # of the formats that store it
    pixels: tuple[str, ...]  # format of pixels for sources of 8 bits, and for those of more
    alpha: str = ""  # format of pixels with transparency, or empty
    options: dict[str, str] = field(default_factory=dict)
    crf: int | None = None  # default quality; None if the codec has no such value
    worst: int = 51  # largest value of crf
    quality: str = "crf"  # the encoder's name of the option of this quality
    hardware: bool = False  # not every machine has it
    device: str = ""  # kind of device that frames are copied to before they are encoded; see hardware.py


CODECS = {
    "h264": Codec(
        "libx264",
        _H264,
        ("yuv420p", "yuv420p"),  # few players decode more than 8 bits
        options={"preset": "veryfast", "bf": "0"},
        crf=20,
    ),
    "hevc": Codec(
        "libx265",
        _HEVC,
        ("yuv420p", "yuv420p10le"),
        options={"preset": "fast", "x265-params": "bframes=0:log-level=error"},
        crf=24,
    ),
    "av1": Codec(
        "libsvtav1",
        (".mp4", ".mkv", ".webm"),
        ("yuv420p", "yuv420p10le"),
        options={"preset": "8", "svtav1-params": "pred-struct=1"},
        crf=30,
        worst=63,
    ),
    "vp9": Codec(
        "libvpx-vp9",
        (".webm", ".mkv", ".mp4"),
        ("yuv420p", "yuv420p"),
        alpha="yuva420p",
        options={
            "b": "0",
            "deadline": "good",
            "cpu-used": "5",
            "row-mt": "1",
            "lag-in-frames": "0",
            "auto-alt-ref": "0",
        },
        crf=31,
        worst=63,
    ),
    "prores": Codec("prores_ks", (".mov", ".mkv"), ("yuv422p10le", "yuv422p10le"), alpha="yuva444p10le"),
    "ffv1": Codec("ffv1", (".mkv",), ("", ""), alpha="bgra", options={"level": "3", "slices": "4"}),
    "qtrle": Codec("qtrle", (".mov",), ("rgb24", "rgb24"), alpha="argb"),
}
"""By the names of `--codec`. An empty format of pixels is that of the source: FFV1 is lossless."""


def _hardware_codecs() -> dict[str, Codec]:
    """Return the encoders of GPUs by their names in FFmpeg. B-frames are off, as in the others."""
    no_b = {"bf": "0"}
    makers = {
        "nvenc": Codec("", (), ("yuv420p", "p010le"), "", no_b | {"preset": "p4", "rc": "constqp"}, 24, 51, "qp"),
        "vaapi": Codec("", (), ("nv12", "p010le"), "", no_b | {"rc_mode": "CQP"}, 24, 51, "qp", device="vaapi"),
        "videotoolbox": Codec("", (), ("nv12", "p010le"), "", no_b | {"b": "12M"}),
        "qsv": Codec("", (), ("nv12", "p010le"), "", no_b, 24, 51, "global_quality"),
    }
    found = {}
    for name in HARDWARE_CODECS:
        coding, _, maker = name.partition("_")
        one = makers[maker]
        pixels = (one.pixels[0], one.pixels[0]) if coding == "h264" else one.pixels
        found[name] = replace(one, encoder=name, suffixes=CODECS[coding].suffixes, pixels=pixels, hardware=True)
    return found


CODECS |= _hardware_codecs()

VIDEO_SUFFIXES = (*_H264, ".webm")
"""Formats that store a timestamp for each frame. In an .avi or .mpg frames would change their order."""

DEFAULT_CODECS = {".webm": ("vp9", "av1"), ".flv": ("h264", "h264")}
USUAL_CODECS = ("h264", "hevc")
"""The default for sources of 8 bits, and for those of more, which stay as they are."""

DEFAULT_ALPHA_CODECS = {".mov": "prores", ".webm": "vp9", ".mkv": "ffv1"}


@dataclass(frozen=True)
class Encoding:
    """How a video is encoded. None stands for the default."""

    codec: str | None = None  # of CODECS; None = by the suffix and the bits of the source
    crf: int | None = None  # quality, 0 = best
    pixels: str | None = None  # FFmpeg's name of a format of pixels
    alpha: bool = False  # write frames (H, W, 4) RGBA
    tone_map: bool = False  # write HDR sources as SDR


def codec_for(path: Path, encoding: Encoding, source: str) -> Codec:
    """Return the codec for a file, after a check that the encoding is possible.

    source: FFmpeg's name of the format of pixels of the source.

    Raises:
        InputError: If the suffix is not one of VIDEO_SUFFIXES, or does not store the codec, or the codec has no such
            quality or format of pixels.
    """
    check_suffix(path, VIDEO_SUFFIXES, "output format")
    suffix = path.suffix.lower()
    if encoding.alpha:
        check_suffix(path, tuple(DEFAULT_ALPHA_CODECS), "format of a transparent video")
        name = encoding.codec or DEFAULT_ALPHA_CODECS[suffix]
    else:
        many_bits = _has_many_bits(encoding, source) and not encoding.tone_map
        name = encoding.codec or DEFAULT_CODECS.get(suffix, USUAL_CODECS)[many_bits]
    codec = CODECS[name]
    if suffix not in codec.suffixes:
        raise UsageError(f"{path}: cannot store {name} (expected {', '.join(codec.suffixes)})")
    if encoding.alpha and not codec.alpha:
        able = ", ".join(other for other, one in CODECS.items() if one.alpha and suffix in one.suffixes)
        raise UsageError(f"{path}: {name} has no transparency (expected {able})")
    if encoding.crf is not None and codec.crf is None:
        raise UsageError(f"--crf {encoding.crf}: {name} has no such quality; leave it out")
    if encoding.crf is not None and not 0 <= encoding.crf <= codec.worst:
        raise UsageError(f"--crf {encoding.crf}: not a quality of {name} (expected 0 to {codec.worst}, 0 is best)")
    if codec.hardware:
        check_encoder(codec.encoder, codec.pixels[0], codec.device, HARDWARE_CODECS)
    known = pixel_formats(codec)
    if encoding.pixels is not None and encoding.pixels not in known:
        raise UsageError(f"--pix-fmt {encoding.pixels}: {name} cannot encode it (expected {', '.join(known)})")
    return codec


def _has_many_bits(encoding: Encoding, source: str) -> bool:
    """Return whether the video is to have more than 8 bits, as far as its codec is not given."""
    try:
        return has_many_bits(encoding.pixels or source)
    except ValueError as error:
        raise UsageError(
            f"--pix-fmt {encoding.pixels}: FFmpeg has no such format of pixels (expected yuv420p, yuv420p10le ...)"
        ) from error


def pixel_formats(codec: Codec) -> list[str]:
    """Return FFmpeg's names of the formats of pixels that an encoder accepts."""
    if codec.device:  # its encoder takes frames of the device, which PyAV copies
        return [*dict.fromkeys(codec.pixels)]
    return [known.name for known in av.Codec(codec.encoder, "w").video_formats or ()]


def select_pixels(codec: Codec, encoding: Encoding, source: str) -> str:
    """Return the format of pixels to encode, from that of the source."""
    if encoding.pixels is not None:
        return encoding.pixels
    if encoding.alpha:
        return codec.alpha
    many_bits = has_many_bits(source)
    chosen = codec.pixels[many_bits]
    if chosen:
        return chosen
    same = source.replace("yuvj", "yuv")
    return same if same in pixel_formats(codec) else ("yuv444p10le" if many_bits else "yuv444p")


def encoder_options(codec: Codec, encoding: Encoding, large: bool) -> dict[str, str]:
    """Return the options of the encoder. `large`: the frames are so large that few may be kept in memory."""
    options = codec.options | {"g": KEY_FRAME_INTERVAL}
    if codec.encoder == "prores_ks":
        options |= {"profile": "4" if encoding.alpha else "3"}  # 4444 and HQ
    if codec.crf is not None:
        options |= {codec.quality: str(codec.crf if encoding.crf is None else encoding.crf)}
    if large and codec.encoder == "libx264":  # it would hold 20 frames of 8K, and four filtered copies of each: 2 GB
        options |= {"tune": "zerolatency", "subq": "0"}
    if thread_limit() and codec.encoder == "libx265":  # it has threads beside those that FFmpeg knows of
        options["x265-params"] += f":pools={thread_limit()}"
    return options
