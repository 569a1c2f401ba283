"""A labelled face, and sets of them."""

import itertools
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from canthus.runtime.errors import InputError
from canthus.trainer.faces.schemes import WFLW, Scheme, scheme_of

LISTED = 10
"""Pictures that an error names."""

STRETCH = re.compile(r"(.+/frame-\d+)\d{3}_\d+\.jpg")
"""A face of a video, by `frame_name` and its number there; what stands before the last three digits is its stretch."""


@dataclass(frozen=True, eq=False)
class LabelledFace:
    """A face of a data set: one line of a list, one annotation."""

    image: str
    points: NDArray[np.float32]  # (K, 2) image pixels
    rect: tuple[float, float, float, float]  # x0, y0, x1, y1 of the data set's own box, image pixels
    attributes: NDArray[np.bool_]  # as the scheme's subsets
    spread: float = 0.0  # of a pseudo-label, over face size; 0 = labelled by hand


@dataclass(frozen=True)
class LabelledSet:
    """Faces and a way to their images, by the names that the faces carry."""

    name: str
    faces: tuple[LabelledFace, ...]
    read: Callable[[str], bytes]
    scheme: Scheme = WFLW
    published: int = 0  # faces of the official list; 0 = not an official list
    left_out: int = 0  # faces of the file with points that nobody labelled

    def image(self, name: str) -> NDArray[np.uint8]:
        """The picture (H, W, 3) RGB; InputError when it is missing or no picture."""
        try:
            data = self.read(name)
        except (OSError, KeyError) as missing:
            raise InputError(f"{self.name}: the image {name} is listed but missing") from missing
        # OpenCV fills up what a JPEG lacks; its end mark tells that nothing is lacking.
        whole = not data.startswith(b"\xff\xd8") or data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if data and whole else None
        if picture is None:
            raise InputError(f"{self.name}: {name} is not a readable picture" + ("" if whole else ": it is cut short"))
        return picture.astype(np.uint8, copy=False)

    def held_out_subset(self, every: int) -> "LabelledSet":
        """Only the faces that training with `held_out=every` does not see."""
        return replace(self, faces=tuple(face for face in self.faces if is_held_out(face.image, every)), published=0)


def yaw_estimate(points: NDArray[np.floating]) -> NDArray[np.float64]:
    """How far faces (N, K, 2) look aside: where the nose tip lies between the outer canthi, -1 to 1."""
    scheme = scheme_of(points.shape[1])
    across = scheme.normalizer_vector(points)
    from_left = points[:, scheme.nose] - points[:, list(scheme.normalizer[0])].mean(1)
    place = (from_left * across).sum(-1) / np.maximum((across**2).sum(-1), 1e-6)
    aside: NDArray[np.float64] = np.clip(2 * place - 1, -1.0, 1.0).astype(np.float64)
    return aside


def group_by_image(
    sets: Sequence[LabelledSet], first: int = 0, every: int = 1
) -> Iterator[tuple[NDArray[np.uint8], list[LabelledFace]]]:
    """Every picture with its faces, each read once; or one picture in `every`, from the one numbered `first` on."""
    number = itertools.count()
    for one in sets:
        faces = sorted(one.faces, key=lambda face: face.image)
        for name, together in itertools.groupby(faces, key=lambda face: face.image):
            if next(number) % every == first:
                yield one.image(name), list(together)


def frame_name(clip: str, index: int) -> str:
    """The name of a video's frame in a shard."""
    return f"{clip}/frame-{index:06d}"


def is_held_out(name: str, every: int) -> bool:
    """Is the image of this name one that training with `held_out=every` does not see?

    A thousand frames of a video go together: the next frame shows nearly the same.
    """
    stretch = STRETCH.fullmatch(name)
    return zlib.crc32((stretch[1] if stretch else name).encode()) % every == 0
