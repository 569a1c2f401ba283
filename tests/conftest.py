import os
import signal
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest

from canthus.runtime import pipeline, wflw
from canthus.runtime.types import FaceBox

if TYPE_CHECKING:
    from canthus.trainer.packs.pack import Pack

REPOSITORY = Path(__file__).parent.parent
FACES = REPOSITORY.parent / "shared" / "data"


def _arc(count: int, x: float, y: float, wide: float, high: float, start: float, turn: float) -> np.ndarray:
    angles = np.radians(start + turn * np.linspace(0, 1, count))
    return np.stack([x + wide * np.cos(angles), y + high * np.sin(angles)], 1)


SHAPE = np.concatenate(
    [
        _arc(33, 0.5, 0.3, 0.5, 0.7, 180, -180),
        _arc(9, 0.27, 0.12, 0.15, 0.06, 180, 320),
        _arc(9, 0.73, 0.12, 0.15, 0.06, 180, 320),
        np.stack([np.full(4, 0.5), np.linspace(0.3, 0.52, 4)], 1),
        _arc(5, 0.5, 0.56, 0.1, 0.04, 180, -180),
        _arc(8, 0.28, 0.3, 0.1, 0.04, 180, 315),
        _arc(8, 0.72, 0.3, 0.1, 0.04, 180, 315),
        _arc(12, 0.5, 0.78, 0.18, 0.08, 180, 330),
        _arc(8, 0.5, 0.78, 0.12, 0.03, 180, 315),
        [[0.28, 0.3], [0.72, 0.3]],
    ]
).astype(np.float32)
"""A crude face of 98 points in the unit square, upright, in the order of WFLW."""


@pytest.fixture
def real_faces() -> Path:
    """The folder of real faces that developers have beside the repository."""
    if not FACES.is_dir():
        pytest.skip(f"no real faces at {FACES}")
    return FACES


def write_video(
    path: Path,
    times: list[float],
    size: tuple[int, int] = (96, 64),
    sound: str | None = None,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    rate: int = 44_100,
    pixel_aspect: Fraction = Fraction(1),
) -> Path:
    """A video whose frame i is a grey of 20 + 2 i, shown from times[i] on, with one second or more of a tone."""
    tick = Fraction(1, 90_000)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        stream.codec_context.time_base, stream.codec_context.sample_aspect_ratio = tick, pixel_aspect
        tone = file.add_stream(sound, rate=rate, layout="mono") if sound else None
        for index, seconds in enumerate(times):
            image = np.full((size[1], size[0], 3), 20 + 2 * index, np.uint8)
            picture = av.VideoFrame.from_ndarray(image, format="rgb24")
            picture.pts, picture.time_base = round(seconds / tick), tick
            file.mux(stream.encode(picture))
        file.mux(stream.encode(None))
        if tone:
            wave = 8000 * np.sin(np.arange(round(rate * max(times[-1], 1.0))) / 16)
            samples = av.AudioFrame.from_ndarray(wave.astype(np.int16)[None], format="s16", layout="mono")
            samples.sample_rate, samples.pts = rate, 0
            file.mux(tone.encode(samples))
            file.mux(tone.encode(None))
    return path


class FakeBackend:
    """Takes the bright part of a crop for a face: SHAPE spread over it, scored by how full it is."""

    name = "fake"
    size = 64

    def __init__(self) -> None:
        self.batches: list[int] = []

    def predict(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.batches.append(len(crops))
        points = np.zeros((len(crops), wflw.POINTS, 2), np.float32)
        scores = np.zeros((len(crops), wflw.POINTS), np.float32)
        for place, crop in enumerate(crops):
            rows, columns = np.nonzero(crop[..., 0] > 128)
            if len(rows) > 100:
                low = np.array([columns.min(), rows.min()])
                points[place] = low + SHAPE * (np.array([columns.max(), rows.max()]) - low)
                scores[place] = 0.9
        return points, scores

    def close(self) -> None:
        pass

    def __enter__(self) -> "FakeBackend":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture
def fake_backend() -> FakeBackend:
    return FakeBackend()


def bright_boxes(image: np.ndarray) -> list[FaceBox]:
    """A detector for made-up frames: the bounding box of what is bright in each half of the picture."""
    boxes = []
    half = image.shape[1] // 2
    for left in (0, half):
        rows, columns = np.nonzero(image[:, left : left + half, 0] > 128)
        if len(rows):
            boxes.append(FaceBox(columns.min() + left, rows.min(), columns.max() + left + 1, rows.max() + 1, 0.9))
    return boxes


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> "Pack":
    """A pack of 30 made-up faces, 48 pixels each."""
    from canthus.trainer.faces.formats import open_set
    from canthus.trainer.packs.pack import write_pack
    from test_trainer_data import write_shard

    folder = tmp_path_factory.mktemp("faces")
    write_shard(folder / "shard", 30)
    return write_pack([open_set(folder / "shard")], folder / "pack", 48)


class PretendedDetector:
    """Finds what is bright."""

    def detect(self, image: np.ndarray, thorough: bool = False) -> list[FaceBox]:
        return bright_boxes(image)

    glance = detect

    def close(self) -> None:
        pass


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Landmarkers have no network and no detector of their own: what is bright is a face."""
    monkeypatch.setattr(pipeline, "open_backend", lambda model: FakeBackend())
    monkeypatch.setattr(pipeline, "Detector", lambda model: PretendedDetector())
    monkeypatch.setattr(pipeline, "_first_use", lambda name: None)


@pytest.fixture(autouse=True, scope="session")
def hear_ctrl_c() -> None:
    """A shell that starts the tests in the background has them ignore Ctrl-C, and the commands would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def quiet_bars(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No progress bars; and the cache of who runs the tests stays the one that is used."""
    monkeypatch.setenv("TQDM_DISABLE", "1")
    os.environ.pop("CANTHUS_DEBUG", None)
    return None
