"""Synthetic faces in the published file formats of the data sets."""

import json
from pathlib import Path

import cv2
import h5py
import numpy as np

from canthus.trainer.faces.schemes import COFW, W300, WFLW, Scheme
from support.other_schemes import PARTS, convert
from support.shape import SHAPE

SHAPES: dict[str, np.ndarray] = {WFLW.name: SHAPE, **{name: convert(SHAPE, parts) for name, parts in PARTS.items()}}


def draw(points: np.ndarray, size: int, seed: int, scheme: Scheme) -> np.ndarray:
    """Draw a synthetic face (size, size, 3) RGB: the lines of its scheme on a blurred background."""
    background = np.random.default_rng(seed).integers(40, 200, (4, 4, 3)).astype(np.uint8)
    image = cv2.resize(background, (size, size), interpolation=cv2.INTER_CUBIC)
    for chain in scheme.lines:
        cv2.polylines(image, [np.round(points[list(chain)]).astype(np.int32)], False, (250, 240, 230), 2)
    return image


def faces(scheme: Scheme, count: int, size: int = 140) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the points (N, K, 2) and images of synthetic faces."""
    rng = np.random.default_rng(3)
    places = [30 + rng.uniform(-9, 9, 2) + SHAPES[scheme.name] * rng.uniform(60, 80) for _ in range(count)]
    points = np.array(places, np.float32)
    return points, [draw(one, size, number, scheme) for number, one in enumerate(points)]


def write_cofw(path: Path, count: int = 6, part: str = "Tr") -> np.ndarray:
    """Write a file of COFW as MATLAB 7.3 does: columns first, images behind references, pixels counted from 1."""
    points, drawings = faces(COFW, count)
    labels = np.concatenate([points[..., 0] + 1, points[..., 1] + 1, np.zeros((count, 29))], 1)
    low, high = points.min(1), points.max(1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        references = np.empty((1, count), h5py.ref_dtype)
        for number, drawing in enumerate(drawings):
            pixels = cv2.cvtColor(drawing, cv2.COLOR_RGB2GRAY) if number == 1 else drawing
            references[0, number] = file.create_dataset(f"#refs#/{number}", data=pixels.T).ref
        file.create_dataset(f"Is{part}", data=references)
        file.create_dataset(f"phis{part}", data=labels.T)
        file.create_dataset(f"bboxes{part}", data=np.concatenate([low + 1, high - low], 1).T)
    return points


def pts(points: np.ndarray) -> str:
    """Return the text of a .pts file."""
    rows = "".join(f"{x + 1:.4f} {y + 1:.4f}\n" for x, y in points)
    return f"version: 1\nn_points:  {len(points)}\n{{\n{rows}}}\n"


def write_300w(folder: Path, count: int = 4) -> np.ndarray:
    """Write a folder of .png images, each with its .pts file, and return the points (N, 68, 2)."""
    points, drawings = faces(W300, count)
    folder.mkdir(parents=True, exist_ok=True)
    for number, (one, drawing) in enumerate(zip(points, drawings, strict=True)):
        cv2.imwrite(str(folder / f"face_{number}.png"), drawing[..., ::-1])
        (folder / f"face_{number}.pts").write_text(pts(one))
    return points


def write_coco(path: Path, scheme: Scheme, count: int = 4, images: str = "images") -> np.ndarray:
    """Write keypoints in COCO format, with the images in the folder `images` beside the file."""
    points, drawings = faces(scheme, count)
    folder = path.parent / images
    folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, list] = {"images": [], "annotations": []}
    for number, (one, drawing) in enumerate(zip(points, drawings, strict=True)):
        cv2.imwrite(str(folder / f"{number}.png"), drawing[..., ::-1])
        keypoints = np.concatenate([one, np.ones((len(one), 1))], 1).ravel().tolist()
        content["images"].append({"id": 10 + number, "file_name": f"{number}.png", "height": 140, "width": 140})
        content["annotations"].append(
            {"id": number, "image_id": 10 + number, "keypoints": keypoints, "bbox": [10, 20, 100, 90]}
        )
    path.write_text(json.dumps(content, indent=1))
    return points
