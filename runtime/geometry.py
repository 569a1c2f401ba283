"""Convert a box or points to a square region, a region to an affine and a crop, and compare boxes and regions.

The network is trained on squares whose side is 1.25 times the longer side of the box of the points. The functions
here aim at that square.
"""

import math
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from canthus.runtime.types import Crops, FaceBox, Roi

MARGIN = 1.25
"""Side of the region relative to the longer side of the box of the points (the value of the published recipe)."""

# MediaPipe's box is tighter and higher than the region of the points. In sides of the box: medians over 2974 training
# faces, measured with `canthus data fit-boxes` (5th to 95th percentile: 1.04 to 1.33 and 0.05 to 0.16).
BOX_SCALE = 1.15
BOX_SHIFT_Y = 0.10

TAPS, TAP_SPACING = 2, 1.75
"""Samples per crop pixel along each axis where a crop is smaller than its region, and the largest distance between two
samples, in pixels of the reduced frame. A bilinear sample covers two pixels. The result differs from the mean over the
area of a crop pixel by 0.3 to 0.5 gray levels on a face; one sample, by up to 1.2."""

MAX_TAPS = 4
"""Samples along each axis, at most, where the frame cannot be reduced further."""

MAX_SHRINK = 16
"""The frame is reduced by at most this factor before it is sampled. Larger regions than 64 crops side by side do not
occur."""

MAX_WARP_SIDE = 2**15 - 2
"""Longest side of an image that OpenCV warps: it stores coordinates in 16 bits."""


_UNCHANGED = np.eye(2, 3)
_UNCHANGED.setflags(write=False)


def roi_from_points(points: NDArray[np.floating], angle: float = 0.0) -> Roi:
    """Return the square around points (K, 2) in frame pixels, rotated by `angle` radians."""
    return rois_from_points(points[None], np.array([angle]))[0]


def rois_from_points(points: NDArray[np.floating], angles: NDArray[np.floating]) -> list[Roi]:
    """Return the squares around the points (N, K, 2) of faces in frame pixels, rotated by `angles` (N,) radians."""
    turns = [(math.cos(angle), math.sin(angle), angle) for angle in angles.tolist()]
    to_squares = np.array([[[cos, sin], [-sin, cos]] for cos, sin, _ in turns]).reshape(-1, 2, 2)
    rotated = points @ to_squares.swapaxes(1, 2)  # to the axes of the squares
    rois = []
    for (x0, y0, x1, y1), (cos, sin, angle) in zip(extents(rotated), turns, strict=True):
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        side = max(MARGIN * max(x1 - x0, y1 - y0), 1.0)
        rois.append(Roi(cos * x - sin * y, sin * x + cos * y, side, angle))
    return rois


def extents(points: NDArray[np.floating]) -> list[tuple[float, float, float, float]]:
    """Return the box of the points (N, K, 2) of each face: x0, y0, x1, y1."""
    x, y = np.ascontiguousarray(points.transpose(2, 0, 1))  # (2, N, K): NumPy reduces along the last axis fastest
    return list(zip(x.min(1).tolist(), y.min(1).tolist(), x.max(1).tolist(), y.max(1).tolist(), strict=True))


def roi_from_box(box: FaceBox) -> Roi:
    """Return the square for a box of the detector, rotated by the roll of the box."""
    side = max(box.x1 - box.x0, box.y1 - box.y0)
    down = BOX_SHIFT_Y * side
    return Roi(
        x=(box.x0 + box.x1) / 2 - down * math.sin(box.roll),
        y=(box.y0 + box.y1) / 2 + down * math.cos(box.roll),
        side=max(BOX_SCALE * side, 1.0),
        angle=box.roll,
    )


def to_frame(roi: Roi, size: int) -> NDArray[np.float64]:
    """Return the (2, 3) affine from pixels of a `size` x `size` crop of a region to frame pixels.

    The crop's pixels tile the region: its edges are the outer edges of the crop's outer pixels, not their centers.
    """
    step = roi.side / size
    cos, sin = math.cos(roi.angle) * step, math.sin(roi.angle) * step
    center = (size - 1) / 2
    return np.array(
        [
            [cos, -sin, roi.x - (cos - sin) * center],
            [sin, cos, roi.y - (sin + cos) * center],
        ]
    )


def invert(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the inverse of a (2, 3) affine."""
    linear = np.linalg.inv(affine[:, :2])
    return np.hstack([linear, -linear @ affine[:, 2:]])


def to_square_pixels(image: NDArray[np.uint8], pixel_aspect: float) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Stretch an image (H, W, 3) until its pixels are square, and return it with the (2, 3) affine back to its pixels.

    An image that has square pixels is returned as it is.

    pixel_aspect: width of a pixel on the screen over its height. It is clipped to 1/4 ... 4, as damaged files have
    values that would need gigabytes.
    """
    if pixel_aspect == 1:
        return image, _UNCHANGED
    height, width = image.shape[:2]
    aspect = min(max(pixel_aspect, 1 / 4), 4.0)
    size = round(width * max(aspect, 1.0)), round(height * max(1 / aspect, 1.0))
    stretched = cv2.resize(image, size).astype(np.uint8, copy=False)
    back = np.array([width, height]) / size
    return stretched, np.hstack([np.diag(back), back[:, None] / 2 - 0.5])


def transform(affine: NDArray[np.float64], points: NDArray[np.floating]) -> NDArray[np.float32]:
    """Apply affines (..., 2, 3) to points (..., K, 2). Values too large for float32 become infinity or NaN."""
    with np.errstate(over="ignore", invalid="ignore"):  # a network that fails may give any value
        x, y = points[..., 0].astype(np.float64), points[..., 1].astype(np.float64)
        moved = np.empty(points.shape, np.float32)
        for axis in range(2):  # a matrix product takes five times as long
            a, b, c = (affine[..., axis, column, None] for column in range(3))
            moved[..., axis] = a * x + b * y + c
        return moved


def sampling(roi: Roi, size: int, max_shrink: int = MAX_SHRINK) -> tuple[int, int]:
    """Return how `crop` samples a region: the factor by which it reduces the frame first, and the samples per axis.

    The factor is a power of two. So each crop pixel is a mean over its whole area, also if it covers many pixels.
    """
    pixels, shrink = roi.side / size, 1  # frame pixels per crop pixel
    while pixels > TAPS * TAP_SPACING * shrink and shrink < max_shrink:
        shrink *= 2
    limit = TAPS if pixels <= TAPS * TAP_SPACING * shrink else MAX_TAPS
    return shrink, min(max(round(pixels / shrink), 1), limit)


def crop(image: NDArray[np.uint8], roi: Roi, size: int, max_shrink: int = MAX_SHRINK) -> NDArray[np.uint8]:
    """Cut a region out of an image as (size, size, 3); pixels outside the image are black.

    Bilinear. When the crop is smaller than the region, each crop pixel is the mean of 2 x 2 bilinear samples, and the
    image is reduced before, by at most `max_shrink`, if that is not enough; see `sampling`.
    """
    cut = np.empty((size, size, 3), np.uint8)
    _crop_into(cut, image, roi, max_shrink)
    return cut


def _crop_into(cut: NDArray[np.uint8], image: NDArray[np.uint8], roi: Roi, max_shrink: int = MAX_SHRINK) -> None:
    """Write the crop of a region to a contiguous array (size, size, 3)."""
    size = len(cut)
    shrink, taps = sampling(roi, size, max_shrink)
    part, roi = _reduce(image, roi, shrink)
    # OpenCV warps and reduces images of four channels more than twice as fast as those of three.
    pixels = cv2.warpAffine(
        cv2.cvtColor(part, cv2.COLOR_RGB2RGBA),
        to_frame(roi, size * taps),
        (size * taps, size * taps),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
    )
    if taps > 1:
        pixels = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA)
    cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB, dst=cut)


def _reduce(image: NDArray[np.uint8], roi: Roi, shrink: int) -> tuple[NDArray[np.uint8], Roi]:
    """Return the part of an image around a region, reduced by at least `shrink`, and the region in its pixels.

    The part is halved repeatedly, which OpenCV does five times faster than a reduction by 4 or 8. The blocks of pixels
    are aligned to the image, and not to the region, so that a region that moves does not change them. The result is
    small enough for cv2.warpAffine.
    """
    reach = roi.side / 2 * (abs(math.cos(roi.angle)) + abs(math.sin(roi.angle))) + 2 * shrink
    (x0, x1), (y0, y1) = (
        [min(max(math.floor(edge), 0), side - 1) for edge in (center - reach, center + reach)]
        for center, side in ((roi.x, image.shape[1]), (roi.y, image.shape[0]))
    )
    while max(x1 - x0, y1 - y0) + 2 * shrink > MAX_WARP_SIDE * shrink:
        shrink *= 2
    x0, y0 = x0 // shrink * shrink, y0 // shrink * shrink
    part = image[y0 : y1 + 1, x0 : x1 + 1]
    down, right = -part.shape[0] % shrink, -part.shape[1] % shrink  # missing to whole blocks
    if down or right:
        part = cv2.copyMakeBorder(part, 0, down, 0, right, cv2.BORDER_CONSTANT).astype(np.uint8, copy=False)
    for _ in range(shrink.bit_length() - 1):
        half = (part.shape[1] // 2, part.shape[0] // 2)
        part = cv2.resize(part, half, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    x, y = ((center + 0.5) / shrink - 0.5 for center in (roi.x - x0, roi.y - y0))
    return part, Roi(x, y, roi.side / shrink, roi.angle)


def crop_all(image: NDArray[np.uint8], rois: Sequence[Roi], size: int) -> Crops:
    """Cut every region out of an image (H, W, 3)."""
    images = np.empty((len(rois), size, size, 3), np.uint8)
    back = np.empty((len(rois), 2, 3))
    for index, roi in enumerate(rois):
        _crop_into(images[index], image, roi)
        back[index] = to_frame(roi, size)
    return Crops(images, back)


def intersection_over_minimum(one: FaceBox, other: FaceBox) -> float:
    """Return the shared area of two boxes over the area of the smaller one, in [0, 1]; their rolls are ignored."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    smaller = min((box.x1 - box.x0) * (box.y1 - box.y0) for box in (one, other))
    return max(width, 0.0) * max(height, 0.0) / smaller if smaller > 0 else 0.0


def overlaps(boxes: Sequence[FaceBox]) -> NDArray[np.float64]:
    """Return `intersection_over_minimum` of each box with each other, (N, N)."""
    x0, y0, x1, y1 = np.array([(box.x0, box.y0, box.x1, box.y1) for box in boxes], np.float64).reshape(-1, 4).T
    widths = np.minimum.outer(x1, x1) - np.maximum.outer(x0, x0)
    heights = np.minimum.outer(y1, y1) - np.maximum.outer(y0, y0)
    areas = (x1 - x0) * (y1 - y0)
    smaller = np.minimum.outer(areas, areas)
    shared = np.maximum(widths, 0) * np.maximum(heights, 0)
    return np.asarray(np.divide(shared, smaller, out=np.zeros_like(shared), where=smaller > 0))


def intersection_over_union(one: Roi, other: Roi) -> float:
    """Return the shared area of two regions over the area of their union, in [0, 1].

    Both must have the same angle; `one.angle` is used.
    """
    cos, sin = math.cos(one.angle), math.sin(one.angle)
    x, y = other.x - one.x, other.y - one.y
    distances = abs(cos * x + sin * y), abs(cos * y - sin * x)  # between the centers, along the axes of the squares
    width, height = (min(max((one.side + other.side) / 2 - apart, 0.0), one.side, other.side) for apart in distances)
    shared = width * height
    return shared / (one.side**2 + other.side**2 - shared)


def suppress_overlapping(boxes: Iterable[FaceBox], threshold: float) -> list[FaceBox]:
    """Return the boxes, highest score first, without those that overlap a better one by `threshold` or more.

    The overlap is `intersection_over_minimum`.
    """
    kept: list[FaceBox] = []
    for box in sorted(boxes, key=lambda box: -box.score):
        if all(intersection_over_minimum(box, better) < threshold for better in kept):
            kept.append(box)
    return kept
