"""Faces with other points, made from the 98 of WFLW: each point is one of them, or the mean of some."""

from collections.abc import Mapping

import numpy as np

Parts = Mapping[int, int | tuple[int, ...]]
"""Point of the other scheme -> points of WFLW, whose mean it is."""


def _every(points: range, source: list[int]) -> dict[int, int]:
    """Assign `points` evenly to a sequence of points of WFLW."""
    places = np.linspace(0, len(source) - 1, len(points)).round().astype(int)
    return {point: source[place] for point, place in zip(points, places, strict=True)}


_LEFT_EYE, _RIGHT_EYE, _INNER_LIPS = (tuple(range(first, first + 8)) for first in (60, 68, 88))

_COFW = {
    0: 33, 2: 37, 4: 35, 5: 40, 1: 46, 3: 42, 6: 44, 7: 48, 8: 60, 10: 64, 12: 62, 13: 66, 9: 72, 11: 68, 14: 70,
    15: 74, 16: 96, 17: 97, 18: 55, 19: 59, 20: 54, 21: 57, 22: 76, 23: 82, 24: 79, 25: 90, 26: 94, 27: 85, 28: 16,
}  # fmt: skip
_W300 = {
    **_every(range(17), list(range(33))),
    **_every(range(17, 22), list(range(33, 38))),
    **_every(range(22, 27), list(range(42, 47))),
    **_every(range(27, 31), list(range(51, 55))),
    **_every(range(31, 36), list(range(55, 60))),
    **dict(zip(range(36, 42), (60, 61, 63, 64, 65, 67), strict=True)),
    **dict(zip(range(42, 48), (68, 69, 71, 72, 73, 75), strict=True)),
    **_every(range(48, 60), list(range(76, 88))),
    **_every(range(60, 68), list(range(88, 96))),
}
_AFLW: dict[int, int | tuple[int, ...]] = {
    0: 33, 1: (35, 40), 2: 37, 3: 42, 4: (44, 48), 5: 46, 6: 60, 7: _LEFT_EYE, 8: 64, 9: 68, 10: _RIGHT_EYE, 11: 72,
    12: 55, 13: 54, 14: 59, 15: 76, 16: _INNER_LIPS, 17: 82, 18: 16,
}  # fmt: skip
_LAPA: dict[int, int | tuple[int, ...]] = {
    **{point: point for point in range(55)},  # contour, brows and the bridge of the nose are those of WFLW
    55: (51, 64), 56: (53, 55), 57: (54, 55, 55), 58: 55, 59: 56, 60: 57, 61: 58, 62: 59, 63: (54, 59, 59),
    64: (53, 59), 65: (51, 68),
    **dict(zip(range(66, 74), _LEFT_EYE, strict=True)), 74: _LEFT_EYE,
    **dict(zip(range(75, 83), _RIGHT_EYE, strict=True)), 83: _RIGHT_EYE,
    **{point: point - 8 for point in range(84, 106)},
}  # fmt: skip

PARTS: dict[str, Parts] = {"COFW": _COFW, "300W": _W300, "AFLW": _AFLW, "LaPa": _LAPA}
"""Of the included schemes other than WFLW."""


def convert(points: np.ndarray, parts: Parts) -> np.ndarray:
    """Return a face (K, 2) of another scheme from points (98, 2) of WFLW."""
    return np.array([points[np.atleast_1d(parts[point])].mean(0) for point in range(len(parts))], np.float32)
