"""Synthetic faces as list files and shards."""

from pathlib import Path

import cv2
import numpy as np

from canthus.runtime import wflw
from canthus.trainer.faces.wflw_lists import SHARD_LIST
from support.shape import SHAPE

NEAR = 0.6  # pixels, between the center of a drawn dot and its point


def line(points: np.ndarray, image: str, attributes: str = "0 1 0 0 0 1") -> str:
    """Return a line of a WFLW list."""
    coordinates = " ".join(f"{value:.3f}" for value in points.ravel())
    return f"{coordinates} 10 20 110 120 {attributes} {image}\n"


def draw_face(size: int, points: np.ndarray, seed: int) -> np.ndarray:
    """Draw a synthetic face (size, size, 3): lines between its points on a blurred background."""
    background = np.random.default_rng(seed).integers(40, 200, (4, 4, 3)).astype(np.uint8)
    image = cv2.resize(background, (size, size), interpolation=cv2.INTER_CUBIC)
    for chain in wflw.LINES:
        cv2.polylines(image, [np.round(points[list(chain)]).astype(np.int32)], False, (250, 240, 230), 2)
    return image


def write_faces(folder: Path, list_file: Path, images: Path, count: int = 6) -> np.ndarray:
    """Write synthetic faces as image files and a list, and return their points (N, 98, 2)."""
    rng = np.random.default_rng(3)
    lines, points = [], []
    for number in range(count):
        points.append((30 + rng.uniform(-9, 9, 2) + SHAPE * rng.uniform(60, 80)).astype(np.float32))
        name = f"some/face {number}.png"
        (folder / images / name).parent.mkdir(parents=True, exist_ok=True)
        image = draw_face(140, points[-1], number)
        cv2.imwrite(str(folder / images / name), image[..., ::-1])
        lines.append(line(points[-1], name))
    (folder / list_file).parent.mkdir(parents=True, exist_ok=True)
    (folder / list_file).write_text("".join(lines))
    return np.array(points)


def write_shard(folder: Path, count: int = 6) -> np.ndarray:
    """Write a shard of synthetic faces with a spread of 0, 0.01, 0.02 …, and return their points (N, 98, 2)."""
    points = write_faces(folder, Path(SHARD_LIST), Path("images"), count)
    rows = [f"some/face {number}.png,0.0{number % 10},0.1" for number in range(count)]
    (folder / "quality.csv").write_text("\n".join(["image,ensemble_sd,yaw", *rows]) + "\n")
    return points


def middle_of_dot(image: np.ndarray) -> np.ndarray:
    """Return x, y of the brightness-weighted mean position."""
    brightness = image.astype(np.float64).sum(-1)
    rows, columns = np.indices(brightness.shape)
    return np.array([(columns * brightness).sum(), (rows * brightness).sum()]) / brightness.sum()


def write_kinds(folder: Path, rows: dict[str, str]) -> None:
    """Write human.csv: image name -> one digit per point."""
    lines = ["image,points", *(f"{image},{digits}" for image, digits in rows.items())]
    (folder / "human.csv").write_text("\n".join(lines) + "\n")


FROM_68 = "".join("1" if point in wflw.IBUG_68 else "0" for point in range(wflw.POINTS))
"""Digits of a face whose 68 points of iBUG people placed, with the others filled in."""
