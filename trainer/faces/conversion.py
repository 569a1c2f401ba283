"""Convert faces with the 68 points of iBUG 300-W to faces with WFLW's 98, of which 30 are not labelled."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from canthus.runtime import wflw
from canthus.runtime.errors import InputError
from canthus.trainer.faces.kinds import PointKind
from canthus.trainer.faces.labelled import LabelledFace, LabelledSet
from canthus.trainer.faces.schemes import W300, WFLW

SOURCES: dict[int, tuple[int, ...]] = {
    **{point: (point - 1, point + 1) for point in wflw.CONTOUR[1::2]},
    **dict(zip(range(38, 42), ((37,), (36,), (35,), (34,)), strict=True)),  # the lower edges of the brows
    **dict(zip(range(47, 51), ((46,), (45,), (44,), (43,)), strict=True)),
    **{middle: (middle - 1, middle + 1) for middle in (62, 66, 70, 74)},  # of the eyelids
    wflw.PUPILS[0]: (61, 63, 65, 67),
    wflw.PUPILS[1]: (69, 71, 73, 75),
}
"""For each point of WFLW without a label: the labelled ones whose mean is a rough place for it. The place is not
trained on; it keeps the face's box, and the shapes that augmentation draws along its points."""


def convert_to_98(labelled: LabelledSet) -> LabelledSet:
    """Convert a set with 68 points to 98 points; a set with 98 points is returned as it is.

    The 68 get their places (`wflw.IBUG_68`) and keep their kinds, the others are unlabelled.

    Raises:
        InputError: If the faces have another number of points.
    """
    if labelled.scheme == WFLW:
        return labelled
    if labelled.scheme != W300:
        raise InputError(
            f"{labelled.name}: {labelled.scheme.points} points cannot be converted to {WFLW.points} (expected "
            f"{W300.points} of {W300.name}); leave out --as-98"
        )
    return replace(labelled, faces=tuple(_convert(face) for face in labelled.faces), scheme=WFLW)


def _convert(face: LabelledFace) -> LabelledFace:
    points = np.zeros((WFLW.points, 2), np.float32)
    kinds = np.full(WFLW.points, PointKind.UNLABELLED, np.uint8)
    places: NDArray[np.intp] = np.array(wflw.IBUG_68)
    points[places], kinds[places] = face.points, face.kinds
    for point, sources in SOURCES.items():
        points[point] = points[list(sources)].mean(0)
    attributes = np.zeros(len(WFLW.subsets), np.bool_)
    return replace(face, points=points, kinds=kinds, attributes=attributes)
