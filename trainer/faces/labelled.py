"""Labelled faces, and sets of them."""

import itertools
import math
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.errors import InputError
from canthus.runtime.image_files import decode_image
from canthus.trainer.faces.kinds import Kinds, PointKind
from canthus.trainer.faces.schemes import WFLW, Scheme, scheme_of

MAX_LISTED = 10
"""Number of image names that a message lists."""

MIN_HELD_OUT = 3
"""Faces that are held out at least, if a set has enough."""

VIDEO_FACE_NAME = re.compile(r"(.+/frame-\d+)\d{3}_\d+\.jpg")
"""Image name of a face from a video: `frame_name`, then the face's number. Group 1 is shared by 1000 frames."""


@dataclass(frozen=True, eq=False)
class LabelledFace:
    """One face of a data set.

    Without `kinds`, all points are placed ones, or pseudo-labels if there is a spread. Unlabelled points have places
    inside the box of the others, see `place_unlabelled`.
    """

    image: str  # name of the image in its set
    points: NDArray[np.float32]  # (K, 2) image pixels
    rect: tuple[float, float, float, float]  # x0, y0, x1, y1 of the data set's own box, image pixels
    attributes: NDArray[np.bool_]  # which of the scheme's subsets it belongs to
    spread: float = 0.0  # of a pseudo-label: standard deviation of the models' points, over face size; 0 = by hand
    kinds: Kinds = field(default_factory=lambda: np.zeros(0, np.uint8))  # (K,) PointKind of each point
    yaw: float = math.nan  # of the data set, -1 to 1 as `yaw_estimate`; NaN = not given

    def __post_init__(self) -> None:
        if not len(self.kinds):
            kind = PointKind.PSEUDO if self.spread > 0 else PointKind.PLACED
            object.__setattr__(self, "kinds", np.full(len(self.points), kind, np.uint8))
        assert self.kinds.shape == (len(self.points),), f"{self.kinds.shape} kinds of {len(self.points)} points"


@dataclass(frozen=True)
class LabelledSet:
    """The faces of a data set, and access to their images."""

    name: str
    faces: tuple[LabelledFace, ...]
    read_bytes: Callable[[str], bytes]  # image name -> content of the image file
    scheme: Scheme = WFLW
    published_count: int = 0  # number of faces in the official list; 0 = not an official list

    def read_image(self, name: str) -> NDArray[np.uint8]:
        """Decode an image of the set to (H, W, 3) RGB.

        Raises:
            InputError: If it is missing, unreadable or damaged.
        """
        try:
            data = self.read_bytes(name)
        except (FileNotFoundError, KeyError) as missing:
            raise InputError(f"{self.name}: the image {name} is listed but missing") from missing
        except (OSError, ValueError, RuntimeError) as error:  # ValueError: not a possible file name
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{self.name}: the image {name} cannot be read ({reason})") from error
        # OpenCV decodes a JPEG that is cut off, and fills up the rest. A whole one ends with an end-of-image marker.
        complete = not data.startswith(b"\xff\xd8") or data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
        if not complete:
            raise InputError(f"{self.name}: {name}: not a readable image (the file is cut off)")
        return decode_image(data, f"{self.name}: {name}")

    def held_out_subset(self, every: int) -> "LabelledSet":
        """Return the set with only the faces that training with `held_out=every` does not train on."""
        faces = tuple(face for face in self.faces if is_held_out(face.image, every))
        return replace(self, faces=faces, published_count=0)


def yaw_estimate(points: NDArray[np.floating], scheme: Scheme | None = None) -> NDArray[np.float64]:
    """Estimate the yaw (N,) of faces (N, K, 2), -1 to 1.

    It is 0 if the tip of the nose lies midway between the outer eye corners, -1 at the left one and 1 at the right one.
    It is also 0 if the eye corners coincide, as unlabelled ones do, and if the scheme has no tip of the nose.

    scheme: of the points; None = the included one with K points.
    """
    scheme = scheme or scheme_of(points.shape[1])
    if scheme.nose_tip is None:
        return np.zeros(len(points))
    vector = scheme.normalizer_vector(points)
    from_left = points[:, scheme.nose_tip] - points[:, list(scheme.normalizer[0])].mean(1)
    squared = (vector**2).sum(-1)
    place = np.where(squared > 0, (from_left * vector).sum(-1) / np.maximum(squared, 1e-6), 0.5)
    yaw: NDArray[np.float64] = np.clip(2 * place - 1, -1.0, 1.0).astype(np.float64)
    return yaw


def group_by_image(
    sets: Sequence[LabelledSet], first: int = 0, every: int = 1
) -> Iterator[tuple[NDArray[np.uint8], list[LabelledFace]]]:
    """Yield each image (H, W, 3) with its faces: every `every`-th image, starting with number `first`."""
    number = itertools.count()
    for one in sets:
        faces = sorted(one.faces, key=lambda face: face.image)
        for name, group in itertools.groupby(faces, key=lambda face: face.image):
            if next(number) % every == first:
                yield one.read_image(name), list(group)


def frame_name(clip: str, index: int) -> str:
    """Return the name of a video frame in a shard, without the face's number."""
    return f"{clip}/frame-{index:06d}"


def is_held_out(name: str, every: int) -> bool:
    """Return whether training with `held_out=every` does not train on the image of this name.

    The name alone decides. 1000 frames of a video are held out together, because successive frames are nearly alike.
    """
    match = VIDEO_FACE_NAME.fullmatch(name)
    return zlib.crc32((match[1] if match else name).encode(errors="surrogatepass")) % every == 0


def fitting_held_out(names: Sequence[str], every: int) -> int:
    """Return how many faces one is held out of, for a set with these image names: `every`, or less if it is small.

    At least MIN_HELD_OUT faces are held out if that leaves half of them for training; otherwise at least one is.
    """
    for least in (MIN_HELD_OUT, 1):
        for number in range(every, 1, -1):
            held_out = sum(is_held_out(name, number) for name in names)
            if least <= held_out <= len(names) / 2:
                return number
    return every
