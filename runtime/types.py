"""The values that pass between the stages. Shapes and dtypes are checked here, when a value is created.

Pixel centers are integers, x comes before y, colors are RGB.
"""

import math
import numbers
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import overload

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.errors import InputError
from canthus.runtime.measures import Measures
from canthus.runtime.schemes import WFLW, Scheme


def describe_value(value: object) -> str:
    """Describe a value on one line, for an error message."""
    if isinstance(value, np.ndarray):
        return f"an array {value.shape} of {value.dtype}"
    return f"{value!r:.40}".split("\n")[0]


def check_image(value: object) -> None:
    """Raise InputError unless a value is an array (H, W, 3) of uint8."""
    if not (isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.shape[2:] == (3,)):
        raise InputError(f"an image must be an array (H, W, 3) of uint8 in RGB, got {describe_value(value)}")


def _check_number(name: str, value: object) -> None:
    """Raise InputError unless a value of a `Frame` is a finite number."""
    if not (isinstance(value, numbers.Real) and math.isfinite(value)):
        raise InputError(f"{name} of a frame must be a finite number, got {describe_value(value)}")


def _require(name: str, array: NDArray, shape: tuple[int, ...], dtype: type) -> None:
    """Raise ValueError unless an array has the shape and dtype."""
    if array.shape != shape or array.dtype != dtype:
        sizes = ", ".join(map(str, shape))
        raise ValueError(f"{name} must be ({sizes}) {np.dtype(dtype)}, got {array.shape} {array.dtype}")


@dataclass(frozen=True, eq=False)
class Frame:
    """One image of a video or camera.

    `image` is a read-only view of the given array, not a copy. If the array changes later, the frame changes too, so
    pass a copy of a buffer that will be reused. `follow` decodes each frame of a file, camera or stream into a new
    array. To draw on a frame, copy it: `frame.image.copy()`.

    Raises InputError for an image of another shape or dtype, and for a time or pixel aspect that is not finite.
    """

    image: NDArray[np.uint8] = field(repr=False)  # (H, W, 3) RGB, read-only
    index: int  # 0, 1, 2 ...
    seconds: float  # presentation time, from the start of the source
    pixel_aspect: float = 1.0  # width of a pixel on the screen over its height

    def __post_init__(self) -> None:
        check_image(self.image)
        _check_number("seconds", self.seconds)
        _check_number("pixel_aspect", self.pixel_aspect)
        view = self.image.view()
        view.setflags(write=False)
        object.__setattr__(self, "image", view)


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
    """A rotated square to crop: center and side in frame pixels, angle in radians.

    A positive angle rotates the x axis towards the y axis (clockwise on the screen).
    """

    x: float
    y: float
    side: float
    angle: float = 0.0


@dataclass(frozen=True, eq=False)
class Crops:
    """Square cut-outs of one frame, and the affines back to it."""

    images: NDArray[np.uint8]  # (N, S, S, 3) RGB
    to_frame: NDArray[np.float64]  # (N, 2, 3) affine: crop pixel -> frame pixel

    def __post_init__(self) -> None:
        count = len(self.images)
        _require("images", self.images, (count, *self.images.shape[1:3], 3), np.uint8)
        _require("to_frame", self.to_frame, (count, 2, 3), np.float64)


@dataclass(frozen=True, eq=False)
class Face:
    """One face of `Faces`.

    The regions (`contour`, `left_eye` ...) are arrays (n, 2) in frame pixels; their sizes below are those of WFLW, and
    `region` returns those of any scheme. Left and right are the image's: `left_eye` is on the left side of the image,
    so it is the right eye of a person who faces the camera.
    """

    points: NDArray[np.float32] = field(repr=False)  # (K, 2) frame pixels
    scores: NDArray[np.float32] = field(repr=False)  # (K,) in [0, 1]; see `Faces`
    id: int  # the same number for the same face in every frame
    detection_score: float = float("nan")  # see `Faces`
    scheme: Scheme = field(default=WFLW, repr=False)  # what the points are

    def __post_init__(self) -> None:
        _require("points", self.points, (self.scheme.points, 2), np.float32)
        _require("scores", self.scores, (self.scheme.points,), np.float32)

    @property
    def box(self) -> NDArray[np.float32]:
        """Bounding box of the points, (4,) x0, y0, x1, y1, in frame pixels."""
        return np.concatenate([self.points.min(0), self.points.max(0)])

    @property
    def face_score(self) -> float:
        """Mean score of the points."""
        return float(self.scores.mean())

    @property
    def points_68(self) -> NDArray[np.float32]:
        """The 68 points of iBUG 300-W and dlib, in their order, (68, 2). Raises InputError if the scheme lacks them."""
        return self.points[_points_68(self.scheme)]

    def region(self, name: str) -> NDArray[np.float32]:
        """Return the points (n, 2) of a region of the scheme. Raises InputError if the scheme has no such region."""
        if name not in self.scheme.regions:
            known = ", ".join(self.scheme.regions) or "no regions"
            raise InputError(f"the points of {self.scheme.name} have no region {name} (they have {known})")
        return self.points[list(self.scheme.regions[name])]

    @property
    def contour(self) -> NDArray[np.float32]:
        """Jaw line, (33, 2), from the left side of the image over the chin to the right."""
        return self.region("contour")

    @property
    def left_brow(self) -> NDArray[np.float32]:
        """Outline of the left brow, (9, 2): five points along its upper edge, four back along the lower one."""
        return self.region("left_brow")

    @property
    def right_brow(self) -> NDArray[np.float32]:
        """Outline of the right brow, (9, 2): five points along its upper edge, four back along the lower one."""
        return self.region("right_brow")

    @property
    def nose_bridge(self) -> NDArray[np.float32]:
        """Bridge of the nose, (4, 2), from between the eyes to the tip."""
        return self.region("nose_bridge")

    @property
    def nose_base(self) -> NDArray[np.float32]:
        """Lower edge of the nose, (5, 2), from left to right."""
        return self.region("nose_base")

    @property
    def left_eye(self) -> NDArray[np.float32]:
        """Outline of the left eye, (8, 2), clockwise from its left corner."""
        return self.region("left_eye")

    @property
    def right_eye(self) -> NDArray[np.float32]:
        """Outline of the right eye, (8, 2), clockwise from its left corner."""
        return self.region("right_eye")

    @property
    def outer_lips(self) -> NDArray[np.float32]:
        """Outer outline of the lips, (12, 2), clockwise from the left corner of the mouth."""
        return self.region("outer_lips")

    @property
    def inner_lips(self) -> NDArray[np.float32]:
        """Inner outline of the lips, (8, 2), clockwise from the left corner of the mouth."""
        return self.region("inner_lips")

    @property
    def left_pupil(self) -> NDArray[np.float32]:
        """Center of the left pupil, (2,)."""
        return np.asarray(self.region("left_pupil")[0])

    @property
    def right_pupil(self) -> NDArray[np.float32]:
        """Center of the right pupil, (2,)."""
        return np.asarray(self.region("right_pupil")[0])


def _points_68(scheme: Scheme) -> list[int]:
    if not scheme.ibug_68:
        raise InputError(f"the points of {scheme.name} do not contain the 68 of iBUG 300-W")
    return list(scheme.ibug_68)


_UNKNOWN: NDArray[np.float32] = np.zeros(0, np.float32)
"""Default of `Faces.detection_scores`, replaced by NaN for each face."""


@dataclass(frozen=True, eq=False)
class Faces:
    """The faces of one image, sorted by id; there may be none (N = 0).

    `len(faces)`, `faces[0]` and `for face in faces` work as for a list of `Face`. A slice, a boolean array or an array
    of indices returns the selected `Faces`, for example `faces[faces.face_scores > 0.5]`.

    `scores` are the probabilities that the points are accurate: that the error of a point is below 5 % of the
    inter-ocular distance that the face would have frontally. Those of the included models are calibrated. `face_scores`
    are their means over each face.
    `detection_scores` are the confidence of the face detector when it last found the face; it does not run on every
    frame. They are NaN if unknown, as in `Faces` made without them.

    `measures` are head pose, gaze and expressions, or None without `Settings(measures=True)`.

    `scheme` says what the K points are: their names, regions and lines. It is that of the model.

    Raises ValueError for arrays of other shapes or dtypes.
    """

    points: NDArray[np.float32] = field(repr=False)  # (N, K, 2) frame pixels
    scores: NDArray[np.float32] = field(repr=False)  # (N, K) in [0, 1]
    ids: NDArray[np.int64]  # (N,) the same number for the same face in every frame
    detection_scores: NDArray[np.float32] = field(default_factory=lambda: _UNKNOWN)  # (N,) in [0, 1] or NaN
    measures: Measures | None = field(default=None, repr=False)
    scheme: Scheme = field(default=WFLW, repr=False)

    def __post_init__(self) -> None:
        count = len(self.ids)
        if self.detection_scores is _UNKNOWN:
            object.__setattr__(self, "detection_scores", np.full(count, np.nan, np.float32))
        _require("points", self.points, (count, self.scheme.points, 2), np.float32)
        _require("scores", self.scores, (count, self.scheme.points), np.float32)
        _require("ids", self.ids, (count,), np.int64)
        _require("detection_scores", self.detection_scores, (count,), np.float32)
        if self.measures is not None and len(self.measures) != count:
            raise ValueError(f"measures must be those of {count} faces, got {len(self.measures)}")

    @classmethod
    def none(cls, scheme: Scheme = WFLW) -> "Faces":
        """Return no faces."""
        return cls(
            np.zeros((0, scheme.points, 2), np.float32),
            np.zeros((0, scheme.points), np.float32),
            np.zeros(0, np.int64),
            scheme=scheme,
        )

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Face: ...

    @overload
    def __getitem__(self, index: slice | Sequence[int] | NDArray[np.integer] | NDArray[np.bool_]) -> "Faces": ...

    def __getitem__(
        self, index: int | slice | Sequence[int] | NDArray[np.integer] | NDArray[np.bool_]
    ) -> "Face | Faces":
        if isinstance(index, int | np.integer):
            number, detection_score = int(self.ids[index]), float(self.detection_scores[index])
            return Face(self.points[index], self.scores[index], number, detection_score, self.scheme)
        if not isinstance(index, slice):
            index = np.asarray(index)
            index = index if index.size else index.astype(np.intp)  # the dtype of an empty list is float
        measures = None if self.measures is None else self.measures.select(index)
        return Faces(
            self.points[index],
            self.scores[index],
            self.ids[index],
            self.detection_scores[index],
            measures,
            self.scheme,
        )

    def __iter__(self) -> Iterator[Face]:
        return (self[index] for index in range(len(self)))

    @property
    def boxes(self) -> NDArray[np.float32]:
        """Bounding box of the points of each face, (N, 4) x0, y0, x1, y1, in frame pixels."""
        return np.concatenate([self.points.min(1), self.points.max(1)], axis=1)

    @property
    def face_scores(self) -> NDArray[np.float32]:
        """Mean score of the points of each face, (N,)."""
        return np.asarray(self.scores.mean(1))

    @property
    def points_68(self) -> NDArray[np.float32]:
        """The 68 points of iBUG 300-W and dlib, in their order, (N, 68, 2). Raises InputError if the scheme lacks them.

        The annotations of WFLW and of iBUG differ a little; see `wflw.IBUG_68`.
        """
        return self.points[:, _points_68(self.scheme)]
