"""What passes between the stages. Shapes are checked once, here, where each value is born.

Pixel centres are integers, x stands before y, colours are RGB.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.errors import InputError
from canthus.runtime.wflw import POINTS


def describe_value(value: object) -> str:
    """Describe a value on one line, for an error message."""
    if isinstance(value, np.ndarray):
        return f"an array {value.shape} of {value.dtype}"
    return f"{value!r:.40}".split("\n")[0]


def check_image(value: object) -> None:
    """Raise InputError unless a value is an array (H, W, 3) of uint8."""
    if not (isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.shape[2:] == (3,)):
        raise InputError(f"an image must be an array (H, W, 3) of uint8 in RGB, got {describe_value(value)}")


def _require(name: str, array: NDArray, shape: tuple[int | None, ...], dtype: type) -> None:
    fits = array.ndim == len(shape) and all(
        wanted in (None, got) for wanted, got in zip(shape, array.shape, strict=True)
    )
    if not fits or array.dtype != dtype:
        wanted = ", ".join("*" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} must be ({wanted}) {np.dtype(dtype)}, got {array.shape} {array.dtype}")


@dataclass(frozen=True, eq=False)
class Frame:
    """One source image. `seconds` is its presentation time, counted from the start of the source."""

    image: NDArray[np.uint8]  # (H, W, 3) RGB, read-only
    index: int
    seconds: float
    pixel_aspect: float = 1.0  # how wide a pixel is shown over how high

    def __post_init__(self) -> None:
        check_image(self.image)
        # A stray in-place draw then fails at its own line.
        self.image.setflags(write=False)


@dataclass(frozen=True)
class FaceBox:
    """A detected face: corners in frame pixels, `score` in [0, 1], `roll` in radians (0 = upright)."""

    x0: float
    y0: float
    x1: float
    y1: float
    score: float
    roll: float = 0.0


@dataclass(frozen=True)
class Roi:
    """A rotated square to crop: centre and side in frame pixels, angle in radians.

    A positive angle turns the x axis towards the y axis (clockwise on the screen).
    """

    x: float
    y: float
    side: float
    angle: float = 0.0


@dataclass(frozen=True, eq=False)
class Crops:
    """Square cut-outs of one frame and the way back to it."""

    images: NDArray[np.uint8]  # (N, S, S, 3) RGB
    to_frame: NDArray[np.float64]  # (N, 2, 3) affine: crop pixel -> frame pixel

    def __post_init__(self) -> None:
        count = len(self.images)
        _require("images", self.images, (None, None, None, 3), np.uint8)
        _require("to_frame", self.to_frame, (count, 2, 3), np.float64)


@dataclass(frozen=True, eq=False)
class Faces:
    """The faces of one frame; none is ordinary (N = 0)."""

    points: NDArray[np.float32]  # (N, 98, 2) frame pixels
    scores: NDArray[np.float32]  # (N, 98) in [0, 1]
    ids: NDArray[np.int64]  # (N,) the same number for the same face in every frame

    def __post_init__(self) -> None:
        count = len(self.ids)
        _require("points", self.points, (count, POINTS, 2), np.float32)
        _require("scores", self.scores, (count, POINTS), np.float32)
        _require("ids", self.ids, (count,), np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def none(cls) -> "Faces":
        """No face."""
        return cls(
            np.zeros((0, POINTS, 2), np.float32),
            np.zeros((0, POINTS), np.float32),
            np.zeros(0, np.int64),
        )

    @property
    def boxes(self) -> NDArray[np.float32]:
        """(N, 4) x0, y0, x1, y1 of the points of each face, frame pixels."""
        return np.concatenate([self.points.min(1), self.points.max(1)], axis=1)

    @property
    def face_scores(self) -> NDArray[np.float32]:
        """(N,) mean score of the points of each face."""
        return np.asarray(self.scores.mean(1))
