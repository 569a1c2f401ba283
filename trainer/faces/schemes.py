"""The point schemes of the data sets: number of points, mirror pairs, normalizer of errors, and lines to draw.

To support another set of points, add a `Scheme` to `SCHEMES`; packs, training, evaluation and export need no other
change. Left and right are those of the image, not of the person.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from canthus.runtime import wflw
from canthus.runtime.errors import InputError

Group = tuple[int, ...]


@dataclass(frozen=True)
class Scheme:
    """The points of a face as one data set defines them, by their indices."""

    name: str
    points: int  # how many
    mirror_pairs: tuple[tuple[int, int], ...]  # points that swap when the image is mirrored; all others stay
    normalizer: tuple[Group, Group]  # errors are divided by the distance between the centers of these two groups
    eyes: tuple[Group, Group]  # left and right, for the roll
    nose_tip: int  # for the estimate of the yaw
    lines: tuple[Group, ...]  # to draw
    lip_pairs: tuple[tuple[int, int], ...] = ()  # points of the upper and the lower inner lip, across from each other
    subsets: tuple[str, ...] = ()  # of the test set, whose errors are reported separately
    published_counts: tuple[int, int] = (0, 0)  # number of faces in the official train and test lists

    def __post_init__(self) -> None:
        paired = [point for pair in self.mirror_pairs for point in pair]
        assert len(set(paired)) == len(paired), "a point is in one mirror pair at most"
        groups = (*self.normalizer, *self.eyes, *self.lines)
        used = [*paired, self.nose_tip, *(point for group in (*groups, *self.lip_pairs) for point in group)]
        assert all(0 <= point < self.points for point in used)

    @cached_property
    def mirror(self) -> NDArray[np.intp]:
        """The index (K,) of each point's mirror point: `points[mirror]` reorders the points of a mirrored image."""
        mirror = np.arange(self.points)
        for one, other in self.mirror_pairs:
            mirror[one], mirror[other] = other, one
        mirror.setflags(write=False)
        return mirror

    def normalizer_vector(self, points: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the vectors (N, 2) whose lengths errors are divided by, left to right; points (N, K, 2)."""
        left, right = (points[:, list(group)].mean(1) for group in self.normalizer)
        vector: NDArray[np.floating] = right - left
        return vector

    def roll(self, points: NDArray[np.floating]) -> float:
        """Return the roll of a face in radians, from the centers of its eyes; points (K, 2)."""
        left, right = (points[list(group)].mean(0) for group in self.eyes)
        return math.atan2(float(right[1] - left[1]), float(right[0] - left[0]))


def _mirrored(*runs: tuple[range, range]) -> tuple[tuple[int, int], ...]:
    """Return the mirror pairs of two runs of points each; the second run is paired from its end."""
    return tuple(pair for one, other in runs for pair in zip(one, reversed(other), strict=True))


def _closed(*points: int) -> Group:
    """Return a line that ends where it starts."""
    return (*points, points[0])


WFLW = Scheme(
    name="WFLW",
    points=wflw.POINTS,
    mirror_pairs=tuple((one, int(other)) for one, other in enumerate(wflw.MIRROR) if one < other),
    normalizer=((wflw.OUTER_CANTHI[0],), (wflw.OUTER_CANTHI[1],)),
    eyes=(wflw.LEFT_EYE, wflw.RIGHT_EYE),
    nose_tip=54,
    lines=wflw.LINES,
    lip_pairs=((89, 95), (90, 94), (91, 93)),
    subsets=wflw.ATTRIBUTES,
    published_counts=(7500, 2500),
)

COFW = Scheme(
    # Burgos-Artizzu et al., "Robust face landmark estimation under occlusion", ICCV 2013.
    name="COFW",
    points=29,
    mirror_pairs=(
        *((0, 1), (2, 3), (4, 6), (5, 7)),  # brows: outer, inner, upper, lower
        *((8, 9), (10, 11), (12, 14), (13, 15), (16, 17)),  # eyes: outer, inner, upper, lower, pupil
        *((18, 19), (22, 23)),  # nostrils, mouth corners
    ),
    normalizer=((8,), (9,)),
    eyes=((8, 10, 12, 13), (9, 11, 14, 15)),
    nose_tip=20,
    lines=(
        _closed(0, 4, 2, 5), _closed(3, 6, 1, 7), _closed(8, 12, 10, 13), _closed(11, 14, 9, 15),
        (18, 21, 19), (20, 21), _closed(22, 24, 23, 27), _closed(22, 25, 23, 26),
    ),
    lip_pairs=((25, 26),),
    published_counts=(1345, 507),
)  # fmt: skip

W300 = Scheme(
    # Sagonas et al., "300 faces in-the-wild challenge", ICCV workshops 2013; the points of Multi-PIE. Errors of the
    # common subset, the challenging subset and both are divided by the distance between the outer eye corners.
    name="300W",
    points=68,
    mirror_pairs=(
        *_mirrored((range(0, 8), range(9, 17)), (range(17, 22), range(22, 27)), (range(31, 33), range(34, 36))),
        *_mirrored((range(36, 40), range(42, 46)), (range(40, 42), range(46, 48))),
        *_mirrored((range(48, 51), range(52, 55)), (range(55, 57), range(58, 60))),
        *_mirrored((range(60, 62), range(63, 65)), (range(65, 66), range(67, 68))),
    ),
    normalizer=((36,), (45,)),
    eyes=(tuple(range(36, 42)), tuple(range(42, 48))),
    nose_tip=30,
    lines=(
        tuple(range(17)), tuple(range(17, 22)), tuple(range(22, 27)), tuple(range(27, 31)), tuple(range(31, 36)),
        _closed(*range(36, 42)), _closed(*range(42, 48)), _closed(*range(48, 60)), _closed(*range(60, 68)),
    ),
    lip_pairs=((61, 67), (62, 66), (63, 65)),
    subsets=("common", "challenge"),
    published_counts=(3148, 689),
)  # fmt: skip

LAPA = Scheme(
    # Liu et al., "A new dataset and boundary-attention semantic segmentation for face parsing", AAAI 2020.
    name="LaPa",
    points=106,
    mirror_pairs=(
        *_mirrored((range(0, 16), range(17, 33)), (range(33, 38), range(42, 47)), (range(38, 42), range(47, 51))),
        *_mirrored((range(55, 60), range(61, 66)), (range(66, 71), range(75, 80)), (range(71, 74), range(80, 83))),
        *((74, 83), (104, 105)),
        *_mirrored((range(84, 87), range(88, 91)), (range(91, 93), range(94, 96))),
        *_mirrored((range(96, 98), range(99, 101)), (range(101, 102), range(103, 104))),
    ),
    normalizer=((66,), (79,)),
    eyes=(tuple(range(66, 74)), tuple(range(75, 83))),
    nose_tip=54,
    lines=(
        tuple(range(33)), _closed(*range(33, 42)), _closed(*range(42, 51)), tuple(range(51, 55)), tuple(range(55, 66)),
        _closed(*range(66, 74)), _closed(*range(75, 83)), _closed(*range(84, 96)), _closed(*range(96, 104)),
    ),
    lip_pairs=((97, 103), (98, 102), (99, 101)),
    published_counts=(18176, 2000),
)  # fmt: skip

SCHEMES = (WFLW, COFW, W300, LAPA)


def scheme_of(points: int, source: str = "") -> Scheme:
    """Return the scheme with this number of points per face.

    Raises:
        InputError: If there is none; the message starts with `source`, if given.
    """
    for scheme in SCHEMES:
        if scheme.points == points:
            return scheme
    known = ", ".join(f"{scheme.points} ({scheme.name})" for scheme in SCHEMES)
    prefix = f"{source}: " if source else ""
    raise InputError(f"{prefix}{points} points per face are not supported (expected one of {known})")
