"""COFW's .mat files."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from canthus.runtime.errors import BackendError, InputError
from canthus.runtime.extras import install_command
from canthus.runtime.limits import IMAGE_LIMIT, check_size, current_limit
from canthus.trainer.faces.labelled import LabelledFace, LabelledSet
from canthus.trainer.faces.parsing import parse_numbers, shorten
from canthus.trainer.faces.schemes import COFW

MAX_IMAGES = 1_000_000
"""Files that claim more images are refused before their arrays are read. COFW has 1,345."""


def open_cofw(path: Path) -> LabelledSet:
    """Open COFW_train_color.mat or COFW_test_color.mat (MATLAB 7.3, which is HDF5): images, 29 points, boxes.

    MATLAB counts pixels from 1; the points are converted to count from 0.
    """
    try:
        import h5py
    except ImportError as missing:
        raise BackendError(f"{path}: COFW's files need h5py: {install_command('train')}") from missing
    try:
        with h5py.File(path, "r") as file:
            part = "Tr" if "phisTr" in file else "T"
            images = int(file[f"Is{part}"].size)
            expected = ((images, 3 * COFW.points), (images, 4))
            stored = [file[f"{name}{part}"] for name in ("phis", "bboxes")]
            shapes = tuple(tuple(one.shape[::-1]) for one in stored)
            fits = shapes == expected and images <= MAX_IMAGES  # else they are not read: they may be of any size
            labels, rects = (np.array(one, np.float64).T if fits else np.zeros(0) for one in stored)
    except (OSError, KeyError, AttributeError, TypeError, ValueError, RuntimeError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path}: not a published file of COFW (expected MATLAB 7.3 with IsTr and phisTr): {reason}"
        ) from error
    if not fits:
        raise InputError(
            f"{path}: expected phis{part} {expected[0]} (29 x, 29 y, 29 times occluded or not) and "
            f"bboxes{part} {expected[1]} for {images} images, at most {MAX_IMAGES}, got {shapes[0]} and {shapes[1]}"
        )
    if not images:
        raise InputError(f"{path}: contains no faces")
    rows = enumerate(zip(labels, rects, strict=True), start=1)
    faces = tuple(_face(path, part, number, label, rect) for number, (label, rect) in rows)

    def read_png(name: str) -> bytes:
        try:
            with h5py.File(path, "r") as file:
                reference = np.ravel(file[f"Is{part}"])[int(name.rpartition("/")[2]) - 1]
                stored = file[reference]
                check_size(name, (stored.size, 1), current_limit(IMAGE_LIMIT))
                pixels = np.array(stored, np.uint8).T  # MATLAB stores columns first; gray has no third axis
            return cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1].tobytes()
        except (KeyError, AttributeError, TypeError, cv2.error, MemoryError) as error:
            raise ValueError(f"damaged: {shorten(error)}") from error

    return LabelledSet(str(path), faces, read_png, COFW, COFW.published_counts[part != "Tr"])


def _face(path: Path, part: str, number: int, label: Sequence[float], rect: Sequence[float]) -> LabelledFace:
    """Return a face from its rows of phis (x of all points, y of all points, occlusion) and bboxes."""
    numbers = parse_numbers(label[: 2 * COFW.points], f"{path}, face {number} of phis{part}")
    points = numbers.reshape(2, COFW.points).T - 1
    x, y, width, height = parse_numbers(rect, f"{path}, face {number} of bboxes{part}").tolist()
    box = (x - 1, y - 1, x - 1 + width, y - 1 + height)
    name = f"{'train' if part == 'Tr' else 'test'}/{number:06d}"
    return LabelledFace(name, points.astype(np.float32), box, np.zeros(0, np.bool_))
