"""Synthetic videos."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write_video(
    path: Path,
    times: list[float],
    size: tuple[int, int] = (96, 64),
    audio: str | None = None,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    rate: int = 44_100,
    pixel_aspect: Fraction = Fraction(1),
) -> Path:
    """Write a video whose frame i is gray (20 + 2 i, from 20 on again after 100) and shown from times[i] seconds on.

    audio: codec of a tone that lasts as long as the video, and one second at least. rate: its sample rate in Hz.
    """
    tick = Fraction(1, 90_000)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        stream.codec_context.time_base, stream.codec_context.sample_aspect_ratio = tick, pixel_aspect
        tone = file.add_stream(audio, rate=rate, layout="mono") if audio else None
        for index, seconds in enumerate(times):
            image = np.full((size[1], size[0], 3), 20 + 2 * index % 200, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(seconds / tick), tick
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
        if tone:
            wave = 8000 * np.sin(np.arange(round(rate * max(times[-1], 1.0))) / 16)
            samples = av.AudioFrame.from_ndarray(wave.astype(np.int16)[None], format="s16", layout="mono")
            samples.sample_rate, samples.pts = rate, 0
            file.mux(tone.encode(samples))
            file.mux(tone.encode(None))
    return path
