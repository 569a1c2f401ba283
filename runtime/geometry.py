"""Box or points -> square region -> affine -> crop, and back.

The network is trained on squares 1.25 times the box of the 98 points; everything here aims at that square.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from canthus.runtime.types import Crops, FaceBox, Roi
from canthus.runtime.wflw import LEFT_EYE, RIGHT_EYE

MARGIN = 1.25
"""Side of the region over the longer side of the box of the points (the published recipe's value)."""

# MediaPipe's box is tighter and sits higher than the region of the points; in sides of the box, medians of
# `python -m canthus.trainer.boxes` over 2974 training faces (5 % to 95 %: 1.04 to 1.33, 0.05 to 0.16).
BOX_SCALE = 1.15
BOX_SHIFT_Y = 0.10

MAX_TAPS = 4


def roi_from_points(points: NDArray[np.floating], angle: float = 0.0) -> Roi:
    """The square around points (K, 2) in frame pixels, turned by `angle` radians."""
    cos, sin = math.cos(angle), math.sin(angle)
    turned = points @ np.array([[cos, -sin], [sin, cos]])  # into the square's own axes
    low, high = turned.min(0), turned.max(0)
    middle = (low + high) / 2
    side = MARGIN * float((high - low).max())
    return Roi(
        x=float(cos * middle[0] - sin * middle[1]),
        y=float(sin * middle[0] + cos * middle[1]),
        side=max(side, 1.0),
        angle=angle,
    )


def roi_from_box(box: FaceBox) -> Roi:
    """The square around a detector's box, turned by its roll."""
    side = max(box.x1 - box.x0, box.y1 - box.y0)
    down = BOX_SHIFT_Y * side
    return Roi(
        x=(box.x0 + box.x1) / 2 - down * math.sin(box.roll),
        y=(box.y0 + box.y1) / 2 + down * math.cos(box.roll),
        side=max(BOX_SCALE * side, 1.0),
        angle=box.roll,
    )


def roll_of(points: NDArray[np.floating]) -> float:
    """How far a face leans, in radians, from the centres of its eyes; points (98, 2)."""
    across = points[list(RIGHT_EYE)].mean(0) - points[list(LEFT_EYE)].mean(0)
    return math.atan2(float(across[1]), float(across[0]))


def to_frame(roi: Roi, size: int) -> NDArray[np.float64]:
    """(2, 3) affine that takes a crop pixel of a `size` x `size` crop to its frame pixel.

    The crop's `size` pixels tile the region, so its outer edges, not its outer pixel centres, meet the region's.
    """
    step = roi.side / size
    cos, sin = math.cos(roi.angle) * step, math.sin(roi.angle) * step
    middle = (size - 1) / 2
    return np.array(
        [
            [cos, -sin, roi.x - (cos - sin) * middle],
            [sin, cos, roi.y - (sin + cos) * middle],
        ]
    )


def invert(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The (2, 3) affine that undoes another."""
    linear = np.linalg.inv(affine[:, :2])
    return np.hstack([linear, -linear @ affine[:, 2:]])


def squared(image: NDArray[np.uint8], pixel_aspect: float) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """An image stretched until its pixels are square, as it is shown, and (2, 3) affine from there to its own pixels.

    At most four times, whatever a damaged file tells.
    """
    height, width = image.shape[:2]
    aspect = min(max(pixel_aspect, 1 / 4), 4.0)
    size = round(width * max(aspect, 1.0)), round(height * max(1 / aspect, 1.0))
    stretched = cv2.resize(image, size).astype(np.uint8, copy=False)
    back = np.array([width, height]) / size
    return stretched, np.hstack([np.diag(back), back[:, None] / 2 - 0.5])


def transform(affine: NDArray[np.float64], points: NDArray[np.floating]) -> NDArray[np.float32]:
    """Take points (..., K, 2) through affines (..., 2, 3)."""
    turned = points @ np.swapaxes(affine[..., :2], -1, -2) + affine[..., None, :, 2]
    return turned.astype(np.float32)


def crop(image: NDArray[np.uint8], roi: Roi, size: int) -> NDArray[np.uint8]:
    """Cut one region out as (size, size, 3); what lies outside the image is black.

    Bilinear, and area-true when shrinking: each crop pixel is the mean of up to 4 x 4 bilinear samples.
    """
    taps = min(max(round(roi.side / size), 1), MAX_TAPS)
    cut = cv2.warpAffine(
        image,
        to_frame(roi, size * taps),
        (size * taps, size * taps),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
    )
    if taps > 1:
        cut = cv2.resize(cut, (size, size), interpolation=cv2.INTER_AREA)
    return cut.astype(np.uint8, copy=False)


def crop_all(image: NDArray[np.uint8], rois: Sequence[Roi], size: int) -> Crops:
    """Cut every region out of one image (H, W, 3)."""
    images = np.zeros((len(rois), size, size, 3), np.uint8)
    back = np.zeros((len(rois), 2, 3))
    for place, roi in enumerate(rois):
        images[place] = crop(image, roi, size)
        back[place] = to_frame(roi, size)
    return Crops(images, back)
