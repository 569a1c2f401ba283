"""The settings of augmentation: how strongly training faces are changed."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Augmentation:
    """How strongly training faces are changed. Names that end in `_p` are probabilities."""

    published: bool = False  # geometry and appearance of the published recipe, on the source image (published.py)
    flip_p: float = 0.5  # mirror left and right
    uniform: bool = False  # rotation and shift: uniform up to the value; else normal with it as standard deviation
    rotation: float = 20.0  # degrees; a normally distributed angle is clipped to 50
    scale: tuple[float, float] = (0.8, 1.25)  # range of the factor on the side of the region
    shift: float = 0.06  # in sides of the region
    squeeze_p: float = 0.4  # make the face narrower and shear it, as if the head was turned
    squeeze_min: float = 0.65  # smallest factor on the width
    occluder_p: float = 0.0  # draw a hand, hair, glasses, a face mask, another head or an object over the face
    black_fill: bool = False  # dropout and pixels outside the image are black, instead of varied
    brightness_contrast_p: float = 0.0  # change brightness and contrast by up to 20 % each
    hsv_p: float = 0.0  # shift hue, saturation and value
    color_p: float = 0.7  # brightness, contrast, gamma, color cast and saturation together
    gray_p: float = 0.08
    blur_p: float = 0.15  # Gaussian or motion blur
    blur_sigma: tuple[float, float] = (0.005, 0.02)  # range, in sides of the crop; motion blur is 4 times as long
    downscale_p: float = 0.25  # shrink the crop and enlarge it again, as if the face was far away
    noise_p: float = 0.15
    jpeg_p: float = 0.2
    webcam_p: float = 0.0  # imitate a cheap camera in dim light, instead of the steps from brightness_contrast_p on
    dropout_p: float = 0.4  # cover rectangles of the crop
    dropout_holes: tuple[float, float] = (1, 6)  # smallest and largest number of rectangles
    dropout_size: tuple[float, float] = (0.08, 0.28)  # range of width and height, in sides of the crop


NO_AUGMENTATION = Augmentation(
    flip_p=0, rotation=0, scale=(1, 1), shift=0, squeeze_p=0, color_p=0, gray_p=0, blur_p=0,
    downscale_p=0, noise_p=0, jpeg_p=0, dropout_p=0,
)  # fmt: skip
"""Crop the region of the face and change nothing: for validation."""
