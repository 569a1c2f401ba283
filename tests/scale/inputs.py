"""Make the inputs: many short clips, very many small images, and a video of hours. What is there already is kept."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from canthus.runtime import sample
from canthus.runtime.video_file import VideoFile

CLIP_SIZE = (320, 240)
IMAGE_SIZE = 96
FOLDER_FILES = 1000
"""Files in each sub-folder."""

FACE_SHARE = 8
"""One image of as many has a face. The others are found to have none, by more runs of the detector."""

LOOP_FRAMES = 250
RATE = 25


def make_clips(folder: Path, count: int) -> Path:
    """Write clips of 10 to 15 frames of the sample clip, each with its own place, brightness and length."""
    frames = [cv2.resize(frame, CLIP_SIZE, interpolation=cv2.INTER_AREA) for frame in _sample_frames(120)]
    for index, path in _missing(folder, count, ".mp4"):
        rng = np.random.default_rng(index)
        length, first = int(rng.integers(10, 16)), int(rng.integers(0, len(frames) - 16))
        move = np.float32([[1, 0, rng.integers(-40, 41)], [0, 1, rng.integers(-20, 21)]])
        gain = rng.uniform(0.6, 1.2)
        moved = [cv2.warpAffine(frame, move, CLIP_SIZE) for frame in frames[first : first + length]]
        _encode(path, [cv2.convertScaleAbs(frame, alpha=gain) for frame in moved])
    return folder


def make_images(folder: Path, count: int) -> Path:
    """Write JPEG images of 96 x 96 pixels, all different; one of FACE_SHARE has a face."""
    image = next(_sample_frames(1))
    height, width = image.shape[:2]
    square = cv2.cvtColor(image[:, (width - height) // 2 :][:, :height], cv2.COLOR_RGB2BGR)
    face = cv2.resize(square, (IMAGE_SIZE, IMAGE_SIZE))
    for index, path in _missing(folder, count, ".jpg"):
        rng = np.random.default_rng(index)
        if index % FACE_SHARE == 0:
            shown = cv2.convertScaleAbs(np.roll(face, int(rng.integers(-8, 9)), 1), alpha=rng.uniform(0.6, 1.2))
        else:
            shown = cv2.resize(rng.integers(0, 256, (6, 6, 3), np.uint8), (IMAGE_SIZE, IMAGE_SIZE))
        path.write_bytes(cv2.imencode(".jpg", shown)[1].tobytes())
    return folder


def make_long(path: Path, hours: float) -> Path:
    """Write a video of some hours: the packets of a short one, again and again."""
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = [cv2.resize(frame, CLIP_SIZE, interpolation=cv2.INTER_AREA) for frame in _sample_frames(LOOP_FRAMES)]
    loop, draft = path.with_name(f"loop{path.suffix}"), path.with_name(f"draft{path.suffix}")
    _encode(loop, frames)
    ticks = Fraction(1, RATE)
    with av.open(str(loop)) as source, av.open(str(draft), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.dts is not None]
        contents = [(bytes(packet), packet.is_keyframe) for packet in packets]
        for index in tqdm(range(round(3600 * hours * RATE)), "long video", unit="frame", disable=None):
            content, is_key = contents[index % len(contents)]
            packet = av.Packet(content)
            packet.pts = packet.dts = index
            packet.duration, packet.time_base, packet.stream, packet.is_keyframe = 1, ticks, stream, is_key
            target.mux(packet)
    loop.unlink()
    return draft.rename(path)


def _sample_frames(count: int) -> Iterator[NDArray[np.uint8]]:
    """Yield the first frames of the sample clip, from its start again after its end."""
    while count > 0:
        with VideoFile(sample.CLIP) as video:
            for frame, _ in zip(video, range(count), strict=False):
                count -= 1
                yield frame.image


def _missing(folder: Path, count: int, suffix: str) -> Iterator[tuple[int, Path]]:
    """Yield the number and the path of each file that is to be made."""
    for index in tqdm(range(count), folder.name, unit="file", disable=None):
        path = folder / f"{index // FOLDER_FILES:03}" / f"{index:06}{suffix}"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            yield index, path


def _encode(path: Path, frames: list[NDArray[np.uint8]]) -> None:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=RATE, options={"preset": "ultrafast", "bf": "0"})
        assert isinstance(stream, av.VideoStream), "its encoder is one of video"
        stream.width, stream.height, stream.pix_fmt = *CLIP_SIZE, "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode(None))
