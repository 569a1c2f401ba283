"""The data sets' ways to mark a face: how many points, which mirror which, what errors are divided by, what to draw.

A new set of points is one more `Scheme` in `SCHEMES`; packs, training, evaluation and export need no other change.
Left and right are the picture's.
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
    """One way to mark a face."""

    name: str
    points: int
    pairs: tuple[tuple[int, int], ...]  # points that change places in a mirror; every other one stays itself
    normalizer: tuple[Group, Group]  # errors are divided by the distance of these two groups' centres
    eyes: tuple[Group, Group]  # left and right, for how far a face leans
    nose: int  # its tip, for how far a face looks aside
    lines: tuple[Group, ...]
    subsets: tuple[str, ...] = ()  # of the test set, reported one by one
    published: tuple[int, int] = (0, 0)  # faces of the official train and test lists

    def __post_init__(self) -> None:
        named = [point for pair in self.pairs for point in pair]
        assert len(set(named)) == len(named), "a point has one mirror image"
        used = [*named, self.nose, *(point for group in (*self.normalizer, *self.eyes, *self.lines) for point in group)]
        assert all(0 <= point < self.points for point in used)

    @cached_property
    def mirror(self) -> NDArray[np.intp]:
        """The point (K,) that each point becomes when the picture is flipped left to right."""
        mirror = np.arange(self.points)
        for one, other in self.pairs:
            mirror[one], mirror[other] = other, one
        mirror.setflags(write=False)
        return mirror

    def normalizer_vector(self, points: NDArray[np.floating]) -> NDArray[np.floating]:
        """From the ruler's left end to its right end (N, 2), of points (N, K, 2)."""
        left, right = (points[:, list(group)].mean(1) for group in self.normalizer)
        span: NDArray[np.floating] = right - left
        return span

    def roll(self, points: NDArray[np.floating]) -> float:
        """How far a face leans, in radians, from the centres of its eyes; points (K, 2)."""
        left, right = (points[list(group)].mean(0) for group in self.eyes)
        return math.atan2(float(right[1] - left[1]), float(right[0] - left[0]))


def _facing(*runs: tuple[range, range]) -> tuple[tuple[int, int], ...]:
    """Pairs from runs of points that face each other, the second told from its far end."""
    return tuple(pair for one, other in runs for pair in zip(one, reversed(other), strict=True))


def _ring(*points: int) -> Group:
    return (*points, points[0])


WFLW = Scheme(
    name="WFLW",
    points=wflw.POINTS,
    pairs=tuple((one, int(other)) for one, other in enumerate(wflw.MIRROR) if one < other),
    normalizer=((wflw.OUTER_CANTHI[0],), (wflw.OUTER_CANTHI[1],)),
    eyes=(wflw.LEFT_EYE, wflw.RIGHT_EYE),
    nose=54,
    lines=wflw.LINES,
    subsets=wflw.ATTRIBUTES,
    published=(7500, 2500),
)

COFW = Scheme(
    # Burgos-Artizzu et al., "Robust face landmark estimation under occlusion", ICCV 2013.
    name="COFW",
    points=29,
    pairs=(
        *((0, 1), (2, 3), (4, 6), (5, 7)),  # brows: outer, inner, upper, lower
        *((8, 9), (10, 11), (12, 14), (13, 15), (16, 17)),  # eyes: outer, inner, upper, lower, pupil
        *((18, 19), (22, 23)),  # nostrils, mouth corners
    ),
    normalizer=((8,), (9,)),
    eyes=((8, 10, 12, 13), (9, 11, 14, 15)),
    nose=20,
    lines=(
        _ring(0, 4, 2, 5), _ring(3, 6, 1, 7), _ring(8, 12, 10, 13), _ring(11, 14, 9, 15), (18, 21, 19), (20, 21),
        _ring(22, 24, 23, 27), _ring(22, 25, 23, 26),
    ),
    published=(1345, 507),
)  # fmt: skip

W300 = Scheme(
    # Sagonas et al., "300 faces in-the-wild challenge", ICCV workshops 2013; the Multi-PIE mark-up. The errors of the
    # common and the challenging subset and of both are divided by the distance of the outer eye corners.
    name="300W",
    points=68,
    pairs=(
        *_facing((range(0, 8), range(9, 17)), (range(17, 22), range(22, 27)), (range(31, 33), range(34, 36))),
        *_facing((range(36, 40), range(42, 46)), (range(40, 42), range(46, 48))),
        *_facing((range(48, 51), range(52, 55)), (range(55, 57), range(58, 60))),
        *_facing((range(60, 62), range(63, 65)), (range(65, 66), range(67, 68))),
    ),
    normalizer=((36,), (45,)),
    eyes=(tuple(range(36, 42)), tuple(range(42, 48))),
    nose=30,
    lines=(
        tuple(range(17)), tuple(range(17, 22)), tuple(range(22, 27)), tuple(range(27, 31)), tuple(range(31, 36)),
        _ring(*range(36, 42)), _ring(*range(42, 48)), _ring(*range(48, 60)), _ring(*range(60, 68)),
    ),
    subsets=("common", "challenge"),
    published=(3148, 689),
)  # fmt: skip

LAPA = Scheme(
    # Liu et al., "A new dataset and boundary-attention semantic segmentation for face parsing", AAAI 2020.
    name="LaPa",
    points=106,
    pairs=(
        *_facing((range(0, 16), range(17, 33)), (range(33, 38), range(42, 47)), (range(38, 42), range(47, 51))),
        *_facing((range(55, 60), range(61, 66)), (range(66, 71), range(75, 80)), (range(71, 74), range(80, 83))),
        *((74, 83), (104, 105)),
        *_facing((range(84, 87), range(88, 91)), (range(91, 93), range(94, 96))),
        *_facing((range(96, 98), range(99, 101)), (range(101, 102), range(103, 104))),
    ),
    normalizer=((66,), (79,)),
    eyes=(tuple(range(66, 74)), tuple(range(75, 83))),
    nose=54,
    lines=(
        tuple(range(33)), _ring(*range(33, 42)), _ring(*range(42, 51)), tuple(range(51, 55)), tuple(range(55, 66)),
        _ring(*range(66, 74)), _ring(*range(75, 83)), _ring(*range(84, 96)), _ring(*range(96, 104)),
    ),
    published=(18176, 2000),
)  # fmt: skip

SCHEMES = (WFLW, COFW, W300, LAPA)


def scheme_of(points: int, source: str = "") -> Scheme:
    """The scheme with so many points a face; the number tells them apart. InputError names `source`, if given."""
    for scheme in SCHEMES:
        if scheme.points == points:
            return scheme
    known = ", ".join(f"{scheme.points} ({scheme.name})" for scheme in SCHEMES)
    told = f"{source}: " if source else ""
    raise InputError(f"{told}no data set with {points} points a face is known; there are: {known}")
