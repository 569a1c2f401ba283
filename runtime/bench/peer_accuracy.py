"""The error of points that several schemes have: eye corners, tip of the nose, lips."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.errors import InputError
from canthus.runtime.wflw import OUTER_CANTHI, POINTS

SHARED = (60, 64, 68, 72, 54, 76, 82, 79, 85, 90, 94)
"""Points of WFLW: corners of the eyes, tip of the nose, corners of the mouth, middles of the lips' edges."""

EQUIVALENTS: dict[int, tuple[int, ...]] = {
    POINTS: SHARED,
    68: (36, 39, 42, 45, 30, 48, 54, 51, 57, 62, 66),  # iBUG and dlib
    468: (33, 133, 362, 263, 4, 61, 291, 0, 17, 13, 14),  # MediaPipe's mesh
    478: (33, 133, 362, 263, 4, 61, 291, 0, 17, 13, 14),  # and with the irises of the attention mesh
}
"""Number of points of a scheme -> its points for `SHARED`. The schemes differ by a little even here."""

VIEW = 2.0
"""Side of the square around a face that the candidates get, over the longer side of the box of its points."""

MATCH = 0.5
"""Points that are farther from the labels on average, in inter-ocular distances, are of another face."""


LIST = Path("WFLW_annotations", "list_98pt_rect_attr_train_test", "list_98pt_rect_attr_test.txt")


class LabelledFace(NamedTuple):
    """A face with true points."""

    image: Path
    points: NDArray[np.float64]  # (98, 2) image pixels

    def view(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """Return the part of the image around the face, and the points in its pixels."""
        low, high = self.points.min(0), self.points.max(0)
        reach = VIEW / 2 * (high - low).max()
        (x0, y0), (x1, y1) = (np.floor((low + high) / 2 + sign * reach).astype(int).tolist() for sign in (-1, 1))
        x0, y0 = max(x0, 0), max(y0, 0)
        return np.ascontiguousarray(image[y0 : y1 + 1, x0 : x1 + 1]), self.points - (x0, y0)


def read_faces(folder: Path) -> list[LabelledFace]:
    """Read the labels of the test set in a folder of WFLW. Raises InputError if they cannot be read."""
    path = folder / LIST
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give the folder that contains WFLW_annotations") from error
    faces = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        try:
            points = np.array(words[: 2 * POINTS], np.float64).reshape(POINTS, 2)
        except ValueError as error:
            raise InputError(f"{path}: line {number} is not {2 * POINTS} numbers and a name ({error})") from error
        faces.append(LabelledFace(folder / "WFLW_images" / words[-1], points))
    return faces


def error_percent(points: Sequence[Sequence[float]] | None, true: NDArray[np.float64]) -> float | None:
    """Return the mean distance of the shared points in % of the inter-ocular distance.

    None without a face, for a scheme without these points, and for the points of another face.
    """
    if points is None or len(points) not in EQUIVALENTS:
        return None
    left, right = OUTER_CANTHI
    inter_ocular = np.linalg.norm(true[left] - true[right])
    found = np.array(points)[list(EQUIVALENTS[len(points)])]
    error = np.linalg.norm(found - true[list(SHARED)], axis=1).mean() / inter_ocular
    return float(100 * error) if error <= MATCH else None
