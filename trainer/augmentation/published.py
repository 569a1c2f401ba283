"""The augmentation of the published recipe: MMPose's project "skps", with the defaults of MMPose and albumentations.

It changes the source image first, then turns and scales the upright box of the face and cuts it out with one
resampling. So the sizes of blur, noise and dropout are those of the source image, not of the crop.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from canthus.runtime.geometry import invert, roi_from_points, to_frame
from canthus.runtime.types import Roi
from canthus.trainer.augmentation.appearance import Appearance, DropoutHole, sample_brightness_contrast, sample_hsv
from canthus.trainer.augmentation.settings import Augmentation
from canthus.trainer.faces.kinds import Kinds, PointKind

ROTATION_P = 0.6
"""Probability of a rotation: MMPose's default, which the recipe keeps."""

BLUR_SIDES = (3, 5, 5, 7, 7)
"""Sides of the Gaussian kernel, pixels, each as often as albumentations 1.3 draws it. OpenCV derives its sigma."""

NOISE_VARIANCE = (10.0, 50.0)
"""Range of the variance of the noise, levels squared."""

REACH = 24.0
"""Points farther outside the crop than this, pixels, are ignored: three times sigma, 2 cells of 4 pixels."""

STEPS = ("brightness_contrast", "hsv", "blur", "noise", "dropout")
"""The order of the steps."""


def sample_affine(
    points: NDArray[np.floating], size: int, augmentation: Augmentation, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Sample the affine map (2, 3) to the crop of `size` pixels: the box of the upright points, turned and scaled."""
    box = roi_from_points(points)
    angle = math.radians(augmentation.rotation) * _truncated_normal(rng) if rng.random() < ROTATION_P else 0.0
    low, high = augmentation.scale
    side = box.side * ((low + high) / 2 + (high - low) / 2 * _truncated_normal(rng))
    shift_x, shift_y = (augmentation.shift * box.side * _truncated_normal(rng) for _ in range(2))
    return invert(to_frame(Roi(box.x + shift_x, box.y + shift_y, side, angle), size))


def _truncated_normal(rng: np.random.Generator) -> float:
    """Sample a normal distribution that is cut off at one standard deviation on either side."""
    while abs(value := float(rng.normal())) > 1:
        pass
    return value


def sample_appearance(
    side: int, image_box: NDArray[np.floating], augmentation: Augmentation, rng: np.random.Generator
) -> Appearance:
    """Sample the steps for a packed crop of `side` pixels that is a part of the source image.

    image_box: (4,) left, top, right and bottom edge of the source image, in pixels of the packed crop.
    """
    brightness_contrast = sample_brightness_contrast(rng) if rng.random() < augmentation.brightness_contrast_p else None
    hsv = sample_hsv(rng) if rng.random() < augmentation.hsv_p else None
    blur = _sample_blur(rng) if rng.random() < augmentation.blur_p else None
    noise = None
    if rng.random() < augmentation.noise_p:
        noise = math.sqrt(rng.uniform(*NOISE_VARIANCE)), int(rng.integers(2**24))
    dropout = _sample_dropout(side, image_box, augmentation, rng) if rng.random() < augmentation.dropout_p else None
    return Appearance(
        occluder=None, downscale=None, blur=blur, brightness_contrast=brightness_contrast, hsv=hsv, curves=None,
        color=None, gray=None, dropout=dropout, noise=noise, jpeg=None,
    )  # fmt: skip


def _sample_blur(rng: np.random.Generator) -> NDArray[np.float32]:
    kernel = cv2.getGaussianKernel(int(rng.choice(BLUR_SIDES)), 0)
    return np.asarray(kernel @ kernel.T, np.float32)


def _sample_dropout(
    side: int, image_box: NDArray[np.floating], augmentation: Augmentation, rng: np.random.Generator
) -> tuple[DropoutHole, ...]:
    """Sample black rectangles in the source image, with sides relative to its sides; keep those in the packed crop."""
    left, top, right, bottom = (float(edge) for edge in image_box)
    least, most = augmentation.dropout_holes
    holes = []
    for _ in range(rng.integers(round(least), round(most) + 1)):
        edges = []
        for low, high in ((left, right), (top, bottom)):
            length = rng.uniform(*augmentation.dropout_size) * (high - low)
            first = rng.uniform(low, high - length)
            edges.append((max(math.ceil(first), 0), min(math.ceil(first + length), side)))
        (x0, x1), (y0, y1) = edges
        if x1 > x0 and y1 > y0:
            holes.append(DropoutHole(x0, y0, x1 - x0, y1 - y0, np.zeros(3, np.uint8)))
    return tuple(holes)


def clear_outside(image: NDArray[np.uint8], image_box: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return a packed crop (P, P, 3) that is black outside the source image, whatever its steps added there."""
    left, top, right, bottom = (math.ceil(float(edge)) for edge in image_box)  # whole pixels of the image
    inside = np.s_[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    cleared = np.zeros_like(image)
    cleared[inside] = image[inside]
    return cleared


def ignore_far_points(kinds: Kinds, points: NDArray[np.floating], size: int) -> Kinds:
    """Return the kinds (K,) of points (K, 2) in pixels of a crop: unlabelled where the point is far outside."""
    far = ((points < -REACH) | (points > size + REACH)).any(-1)
    return np.where(far, np.uint8(PointKind.UNLABELLED), kinds).astype(np.uint8)
