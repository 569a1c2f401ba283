"""Made-up faces as list files and shards."""

from pathlib import Path

import cv2
import numpy as np

from canthus.runtime import wflw
from canthus.trainer.faces.formats import SHARD_LIST
from support.shape import SHAPE

NEAR = 0.6  # pixels, between a drawn dot's middle and where its point should be


def line(points: np.ndarray, image: str, attributes: str = "0 1 0 0 0 1") -> str:
    coordinates = " ".join(f"{value:.3f}" for value in points.ravel())
    return f"{coordinates} 10 20 110 120 {attributes} {image}\n"


def draw_face(size: int, points: np.ndarray, seed: int) -> np.ndarray:
    """A face of sorts: the points joined on a soft ground."""
    ground = np.random.default_rng(seed).integers(40, 200, (4, 4, 3)).astype(np.uint8)
    image = cv2.resize(ground, (size, size), interpolation=cv2.INTER_CUBIC)
    for chain in wflw.LINES:
        cv2.polylines(image, [np.round(points[list(chain)]).astype(np.int32)], False, (250, 240, 230), 2)
    return image


def write_faces(folder: Path, list_file: Path, pictures: Path, count: int = 6) -> np.ndarray:
    """Write made-up faces as pictures and a list; returns their points (N, 98, 2)."""
    rng = np.random.default_rng(3)
    lines, points = [], []
    for number in range(count):
        points.append((30 + rng.uniform(-9, 9, 2) + SHAPE * rng.uniform(60, 80)).astype(np.float32))
        name = f"some/face {number}.png"
        (folder / pictures / name).parent.mkdir(parents=True, exist_ok=True)
        picture = draw_face(140, points[-1], number)
        cv2.imwrite(str(folder / pictures / name), picture[..., ::-1])
        lines.append(line(points[-1], name))
    (folder / list_file).parent.mkdir(parents=True, exist_ok=True)
    (folder / list_file).write_text("".join(lines))
    return np.array(points)


def write_shard(folder: Path, count: int = 6) -> np.ndarray:
    points = write_faces(folder, Path(SHARD_LIST), Path("images"), count)
    rows = [f"some/face {number}.png,0.0{number % 10},0.1" for number in range(count)]
    (folder / "quality.csv").write_text("\n".join(["image,ensemble_sd,yaw", *rows]) + "\n")
    return points


def middle_of_dot(image: np.ndarray) -> np.ndarray:
    """x, y of the centre of brightness."""
    light = image.astype(np.float64).sum(-1)
    rows, columns = np.indices(light.shape)
    return np.array([(columns * light).sum(), (rows * light).sum()]) / light.sum()
