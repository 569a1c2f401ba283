"""Fit the rotation and translation of the head model to the points of a face."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.measures.head import Floats, Head
from canthus.runtime.measures.pose import Camera, Pose, Poses, Rotation, Vector, lines_of_sight, slices
from canthus.runtime.wflw import CONTOUR, POINTS

COLD_STEPS, WARM_STEPS = 12, 4
"""Gauss-Newton steps at most, from the linear start and from the pose of the frame before."""

COLD_CONVERGED, WARM_CONVERGED = 2e-3, 2e-2
"""The fit ends after a step that rotates by less, in radians, and moves by less, relative to the distance. The error
that is left is about the square of the last step, so from the frame before one step is often enough."""

OUTLIER = 3.0
"""Residuals of this many standard deviations have 2/3 of their weight (Cauchy's weight function)."""

MIN_WEIGHT = 0.05
"""The weight of a point with score 0, relative to one with score 1."""

INNER = np.array([point for point in range(POINTS) if point not in CONTOUR])

MAX_ROTATION, MAX_GROWTH = 0.5, 0.3
"""Limits of a step: about each axis in radians, and of the distance. Far from the solution, steps are too long."""


class Start(NamedTuple):
    """Where the fit of a face starts."""

    pose: Pose | None  # a similar one, as in the frame before; None: the affine map that fits best
    offsets: Floats  # (3, 98) mm, added to the model's points for this person


class Fit(NamedTuple):
    """Poses that were fitted, and how well."""

    poses: Poses
    errors: list[float]  # weighted root mean square distance of the points from the model, in standard deviations
    missed: Floats  # (2, N * 98) from the posed model to the points, in units of the distances
    distances: list[float]  # mm


def fit_poses(head: Head, lines: Floats, scores: Floats, starts: Sequence[Start]) -> Fit:
    """Fit the pose of each face by robust weighted least squares, a few Gauss-Newton steps.

    A point weighs as much as points of its kind agree with the model at this yaw, and less if its score is low or if it
    is an outlier.

    Args:
        head: The model.
        lines: (3, N * 98) the lines of sight of the points, as of `lines_of_sight`, finite.
        scores: (N, 98) in [0, 1].
        starts: N.
    """
    weights = np.maximum(scores * scores, MIN_WEIGHT)
    cold = any(start.pose is None for start in starts)
    steps, converged = (COLD_STEPS, COLD_CONVERGED) if cold else (WARM_STEPS, WARM_CONVERGED)
    parts = slices(len(starts))
    poses = [start.pose or _linear_start(head, lines[:, part]) for start, part in zip(starts, parts, strict=True)]
    for _ in range(steps):
        distances = [translation[2] for _, translation in poses]
        faces = [_Face(*face) for face in zip(parts, poses, starts, strict=True)]
        system = _linearize(head, lines, weights.reshape(-1), faces)
        poses, moved = _move(system.equations, poses)
        if moved < converged:
            break
    squares = zip(distances, system.equations[:, 6, 6].tolist(), (weights @ _ONES).tolist(), strict=True)
    errors = [distance * math.sqrt(square / weight / 2) for distance, square, weight in squares]
    return Fit(Poses(poses, system.shapes), errors, system.missed, distances)


def fit_images(head: Head, points: NDArray[np.floating], scores: NDArray[np.floating], camera: Camera) -> list[Pose]:
    """Fit the poses of faces without knowing anything of them.

    points: (N, 98, 2) image pixels, finite. scores: (N, 98) in [0, 1].
    """
    if not len(points):
        return []
    starts = [Start(None, np.zeros((3, POINTS)))] * len(points)
    return list(fit_poses(head, lines_of_sight(points, camera), scores.astype(np.float64), starts).poses.poses)


class _Face(NamedTuple):
    """A face in a step of the fit."""

    part: slice  # of its points
    pose: Pose
    start: Start


class _System(NamedTuple):
    """The least squares problem of one Gauss-Newton step, for N faces."""

    equations: Floats  # (N, 7, 7) normal equations of the 6 unknowns; row and column 6: the right side, the error
    shapes: Floats  # (3, N * 98) on the head, mm
    missed: Floats  # (2, N * 98) from the posed model to the points, on the plane at distance 1


def _linearize(head: Head, lines: Floats, weights: Floats, faces: Sequence[_Face]) -> _System:
    """Return the equations of the next step; weights (N * 98,).

    The unknowns are a rotation vector about the camera's axes through the origin of the head, and a translation in
    units of its distance. A point is seen at u = x / z and v = y / z, and moves by du = (dx - u dz) / z and
    dv = (dy - v dz) / z. So each column of the equations is a sum of a few of _ROWS.
    """
    table, placed = np.empty((5, len(weights))), np.empty((6, len(weights)))
    for part, (rotation, translation), start in faces:
        of_face = table[:, part]
        head.rows_at(math.degrees(math.asin(min(max(rotation[0][2], -1.0), 1.0))), of_face)
        of_face[:3] += start.offsets
        np.matmul(_placement(rotation, translation), of_face[:4], out=placed[:, part])
    rows = np.empty((len(_ROWS), len(weights)))
    inverse_depth = np.divide(1.0, placed[5], out=rows[0])
    np.multiply(placed[:5], inverse_depth, out=rows[1:6])
    seen, missed = rows[4:6], rows[12:]
    np.multiply(seen[:, None], rows[:3], out=rows[6:12].reshape(2, 3, -1))
    np.subtract(lines[:2], seen, out=missed)
    # An outlier has less weight. Residuals are in mm at the distance of the head.
    squares = missed * missed
    variances = squares[0]
    variances += squares[1]
    for part, (_, (_, _, z)), _ in faces:
        variances[part] *= z * z * (0.5 / OUTLIER**2)
    variances += 1 / table[4]
    weighted = rows * (weights / variances)
    sums = np.empty((len(faces), len(_ROWS), len(_ROWS)))
    for total, face in zip(sums, faces, strict=True):
        np.matmul(weighted[:, face.part], rows[:, face.part].T, out=total)
    equations = (_COLUMNS @ sums).reshape(-1, 7, 2 * len(_ROWS)) @ _COLUMNS_OF_BOTH
    return _System(equations, table[:3], missed)


def _placement(rotation: Rotation, translation: Vector) -> Floats:
    """Return the matrix (6, 4) that leads from x, y, z, 1 on the head to x, y, z in units of the distance of the head.

    First relative to the origin of the head in the camera's axes, then relative to the camera.
    """
    (a, b, c), (d, e, f), (g, h, i) = rotation
    x, y, z = translation
    a, b, c, d, e, f, g, h, i = a / z, b / z, c / z, d / z, e / z, f / z, g / z, h / z, i / z
    return np.array((
        (a, b, c, 0.0), (d, e, f, 0.0), (g, h, i, 0.0),
        (a, b, c, x / z), (d, e, f, y / z), (g, h, i, 1.0),
    ))  # fmt: skip


_ROWS = (
    "1/z", "x/z", "y/z", "z/z", "u", "v",  # x, y, z from the origin of the head; the divisor is the camera's z
    "u 1/z", "u x/z", "u y/z", "v 1/z", "v x/z", "v y/z", "missed u", "missed v",
)  # fmt: skip
"""What the equations of a step are made of, for each point."""

_STEP: tuple[tuple[dict[str, int], dict[str, int]], ...] = (
    # du and dv of each unknown: rotations about x, y, z, and translations; then the residual
    ({"u y/z": -1}, {"z/z": -1, "v y/z": -1}),
    ({"z/z": 1, "u x/z": 1}, {"v x/z": 1}),
    ({"y/z": -1}, {"x/z": 1}),
    ({"1/z": 1}, {}),
    ({}, {"1/z": 1}),
    ({"u 1/z": -1}, {"v 1/z": -1}),
    ({"missed u": 1}, {"missed v": 1}),
)
_COLUMNS = np.array([[part.get(row, 0.0) for row in _ROWS] for parts in _STEP for part in parts])  # (14, 14)
_COLUMNS_OF_BOTH = _COLUMNS.reshape(7, -1).T.copy()

_ONES = np.ones(POINTS)

_DAMPING, _REGULARIZATION = 1 + 1e-12 * np.eye(7), 1e-15 * np.eye(7)
"""The equations would be singular if nearly all points were outliers."""


def _move(equations: Floats, poses: Sequence[Pose]) -> tuple[list[Pose], float]:
    """Return the poses after a step, and how far it moved: see WARM_CONVERGED."""
    normal = equations * _DAMPING
    normal += _REGULARIZATION
    steps = np.linalg.solve(normal[:, :6, :6], equations[:, :6, 6:]).reshape(-1, 6).tolist()
    moved, found = 0.0, []
    for (*vector, right, down, away), (rotation, (x, y, z)) in zip(steps, poses, strict=True):
        vector = [min(max(angle, -MAX_ROTATION), MAX_ROTATION) for angle in vector]
        # The distance grows along the line to the head; the rest of the step is parallel to the image.
        right, down = right * z - away * x, down * z - away * y
        growth = min(max(away, -MAX_GROWTH), MAX_GROWTH)
        grown = 1 + growth
        z *= grown
        found.append(Pose(_product(_rotation(*vector), rotation), (x * grown + right, y * grown + down, z)))
        moved = max(moved, *map(abs, vector), abs(growth), abs(right) / z, abs(down) / z)
    return found, moved


def _rotation(x: float, y: float, z: float) -> Rotation:
    """Return the matrix of a rotation vector, by Rodrigues' formula."""
    angle = max(math.sqrt(x * x + y * y + z * z), 1e-12)
    a, b = math.sin(angle) / angle, (1 - math.cos(angle)) / angle**2
    return (
        (1 - b * (y * y + z * z), b * x * y - a * z, b * x * z + a * y),
        (b * x * y + a * z, 1 - b * (x * x + z * z), b * y * z - a * x),
        (b * x * z - a * y, b * y * z + a * x, 1 - b * (x * x + y * y)),
    )


def _product(one: Rotation, other: Rotation) -> Rotation:
    (a, b, c), (d, e, f), (g, h, i) = other
    return [(x * a + y * d + z * g, x * b + y * e + z * h, x * c + y * f + z * i) for x, y, z in one]


def _linear_start(head: Head, lines: Floats) -> Pose:
    """Return the pose of the affine map of the inner points that fits best; lines (3, 98)."""
    shape = head.shape[INNER]
    center = shape.mean(0)
    model = shape - center
    seen = lines[:2, INNER]
    middle = seen.mean(1)
    affine = (seen - middle[:, None]) @ model @ np.linalg.inv(model.T @ model)  # (2, 3)
    left, sizes, right = np.linalg.svd(affine, full_matrices=False)
    rows = left @ right
    rotation = np.stack([*rows, np.cross(*rows)])
    distance = 1 / max(float(sizes.mean()), 1e-9)
    x, y, z = (np.append(middle, 1) * distance - rotation @ center).tolist()
    return Pose(rotation.tolist(), (x, y, max(z, 0.5 * distance)))
