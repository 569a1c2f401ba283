"""The overlay: points, lines and ids drawn onto a copy of a frame, for files and pictures."""

import cv2
import numpy as np
from numpy.typing import NDArray

from canthus.runtime import wflw
from canthus.runtime.types import Faces, check_image

Colour = tuple[int, int, int]

POINT_COLOURS: tuple[Colour, ...] = tuple(
    next(colour for points, colour in wflw.COLOURS if point in points) for point in range(wflw.POINTS)
)

_SHIFT = 4
"""OpenCV draws at 1/16 pixel."""


def draw(image: NDArray[np.uint8], faces: Faces, lines: bool = True, ids: bool = True) -> NDArray[np.uint8]:
    """A copy of an RGB image (H, W, 3) with the faces drawn on it; points of low score are smaller.

    Raises InputError for an image of another kind.
    """
    check_image(image)
    canvas = image.copy()
    for points, scores, face in zip(faces.points, faces.scores, faces.ids, strict=True):
        size = float(max(np.ptp(points[:, 0]), np.ptp(points[:, 1])))
        radius = max(size / 160, 0.9)
        fixed = np.round(points * (1 << _SHIFT)).astype(np.int32)
        if lines:
            thickness = max(round(size / 300), 1)
            for chain in wflw.LINES:
                colour = tuple(int(0.6 * part) for part in POINT_COLOURS[chain[0]])
                path = fixed[list(chain)].reshape(1, -1, 2)
                cv2.polylines(canvas, path, False, colour, thickness, cv2.LINE_AA, _SHIFT)
        for (x, y), score, colour in zip(fixed.tolist(), scores, POINT_COLOURS, strict=True):
            grown = round(radius * (0.5 + 0.5 * float(score)) * (1 << _SHIFT))
            cv2.circle(canvas, (x, y), grown, colour, -1, cv2.LINE_AA, _SHIFT)
        if ids:
            _label(canvas, points, int(face), size)
    return canvas


def _label(canvas: NDArray[np.uint8], points: NDArray[np.float32], face: int, size: float) -> None:
    scale = min(max(size / 260, 0.4), 1.2)
    (width, height), _ = cv2.getTextSize(str(face), cv2.FONT_HERSHEY_SIMPLEX, scale, 3)
    # Above the face, and within the picture.
    left = min(max(float(points[:, 0].min()), 0.0), canvas.shape[1] - width)
    foot = min(max(float(points[:, 1].min()) - 6 * scale, height), canvas.shape[0])
    place = (round(left), round(foot))
    for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(canvas, str(face), place, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, thickness, cv2.LINE_AA)
