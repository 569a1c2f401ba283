"""`canthus data fit-head`: fit the 3D model of the 98 points to labelled faces with known poses.

Structure from motion with known rotations. The rotation of each face is known, so the equations are linear in the
points on the head for fixed scales and translations, and the other way round; they are solved alternately. The weights
are the inverse variances of the residuals of each point at each yaw. Weak perspective: the crops of the data sets
do not say where the camera was. The faces are added mirrored, so the model is symmetric.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from canthus.runtime.errors import InputError
from canthus.runtime.measures.head import YAW_STEP, YAWS, Floats, to_standard_axes
from canthus.runtime.measures.pose import rotations_from_angles
from canthus.runtime.wflw import CONTOUR, MIRROR, OUTER_CANTHI, POINTS
from canthus.trainer.faces.labelled import LabelledSet, is_held_out

MAX_ANGLE = 99.0
"""Faces with a larger angle are left out, as in the protocol of AFLW2000-3D (Ruiz, Chong and Rehg, "Fine-grained head
pose estimation without keypoints", 2018)."""

ROUNDS = 12
FIRST_WITH_OFFSETS = 3
SMOOTHNESS = 3.0
"""Weight of the difference of the offsets at neighboring yaws, in faces; a third of it pulls offsets to 0."""

PRIOR_FACES, PRIOR_VARIANCE = 3.0, 2e-4
"""Each variance is that of this many more faces, in squares of the side of a face."""


@dataclass(frozen=True, eq=False)
class PosedFaces:
    """Labelled points with known poses."""

    points: Floats  # (N, 98, 2) centered, in sides of the face's box
    angles: Floats  # (N, 3) yaw, pitch, roll in degrees


def read_poses(path: Path) -> dict[str, tuple[float, float, float]]:
    """Read a table with the columns image, yaw, pitch and roll, in degrees. Raises InputError."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            poses = {row["image"]: (float(row["yaw"]), float(row["pitch"]), float(row["roll"])) for row in rows}
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: expected a table with the columns image, yaw, pitch, roll, in degrees") from error
    if not poses or not np.isfinite(list(poses.values())).all():
        raise InputError(f"{path}: expected at least one face, and finite angles")
    return poses


def posed_faces(
    sets: Sequence[LabelledSet], poses: Mapping[str, tuple[float, float, float]], leave_out: int
) -> PosedFaces:
    """Return the faces whose pose is known and within MAX_ANGLE, without one image in `leave_out`.

    Raises InputError if there are fewer than 50.
    """
    faces = [
        face
        for one in sets
        for face in one.faces
        if face.image in poses
        and max(map(abs, poses[face.image])) <= MAX_ANGLE
        and not is_held_out(face.image, leave_out)
    ]
    if len(faces) < 50 or faces[0].points.shape != (POINTS, 2):
        raise InputError(f"{len(faces)} faces with {POINTS} points have a pose (expected at least 50)")
    points = np.stack([face.points for face in faces]).astype(np.float64)
    sides = np.sqrt(np.ptp(points, axis=1).prod(1))
    centered = (points - points.mean(1, keepdims=True)) / sides[:, None, None]
    return PosedFaces(centered, np.array([poses[face.image] for face in faces]))


def with_mirror_images(faces: PosedFaces) -> PosedFaces:
    """Return the faces and their mirror images."""
    return PosedFaces(
        np.concatenate([faces.points, faces.points[:, MIRROR] * (-1, 1)]),
        np.concatenate([faces.angles, faces.angles * (-1, 1, -1)]),
    )


def fit_head(faces: PosedFaces) -> tuple[Floats, Floats, Floats]:
    """Return the shape (98, 3), contour offsets (13, 33, 3) and deviations (13, 98), as `make_head` takes them."""
    points, angles = faces.points, faces.angles
    rows = rotations_from_angles(angles)[:, :2]  # (N, 2, 3): weak perspective drops the depth
    near = np.maximum(1 - np.abs(np.clip(angles[:, :1], -89.9, 89.9) - YAWS) / YAW_STEP, 0)  # (N, 13) weights of YAWS
    scales, shifts = np.ones(len(points)), np.zeros((len(points), 2))
    variances = np.full((len(YAWS), POINTS), 1e-3)
    shape, offsets = np.zeros((POINTS, 3)), np.zeros((len(YAWS), POINTS, 3))
    for round_ in range(ROUNDS):
        weights = 1 / (near @ variances)  # (N, 98)
        seen = (points - shifts[:, None]) / scales[:, None, None]
        moved = np.einsum("nij,nkj->nki", rows, np.einsum("nv,vkj->nkj", near, offsets))
        shape = _fit_shape(rows, seen - moved, weights * scales[:, None] ** 2)
        shape, factor, shifts = _centered(shape, rows, scales, shifts)
        offsets, scales = offsets * factor, scales / factor
        if round_ >= FIRST_WITH_OFFSETS:
            seen = (points - shifts[:, None]) / scales[:, None, None]
            rest = seen - np.einsum("nij,kj->nki", rows, shape)
            for point in CONTOUR:
                offsets[:, point] = _fit_offsets(rows, near, rest[:, point], weights[:, point] * scales**2)
        posed = np.einsum("nij,nkj->nki", rows, shape + np.einsum("nv,vkj->nkj", near, offsets))
        scales, shifts = _fit_scales(points, posed, weights)
        squared = ((points - scales[:, None, None] * posed - shifts[:, None]) ** 2).sum(-1) / 2
        amounts = near + 1e-4 * np.exp(-(((angles[:, :1] - YAWS) / 30) ** 2))
        total = (amounts.T @ squared) + PRIOR_FACES * PRIOR_VARIANCE
        variances = total / (amounts.sum(0)[:, None] + PRIOR_FACES)
    origin, mm = to_standard_axes(shape)
    typical = (near.T @ scales + 1e-6 * scales.mean()) / (near.sum(0) + 1e-6)  # sides of the box per unit of the shape
    return mm * (shape - origin), mm * offsets[:, list(CONTOUR)], mm * np.sqrt(variances) / typical[:, None]


def _fit_shape(rows: Floats, seen: Floats, weights: Floats) -> Floats:
    normal = np.einsum("nk,nia,nib->kab", weights, rows, rows, optimize=True)
    right = np.einsum("nk,nia,nki->ka", weights, rows, seen, optimize=True)
    return np.asarray(np.linalg.solve(normal + 1e-6 * np.eye(3), right[..., None])[..., 0])


def _centered(shape: Floats, rows: Floats, scales: Floats, shifts: Floats) -> tuple[Floats, float, Floats]:
    """Fix what the equations leave free: the origin and the size of the shape. Return them, the factor, and shifts."""
    left, right = OUTER_CANTHI
    origin = (shape[left] + shape[right]) / 2
    shifts = shifts + scales[:, None] * (rows @ origin)
    factor = 1 / float(np.linalg.norm(shape[left] - shape[right]))
    return (shape - origin) * factor, factor, shifts


def _fit_offsets(rows: Floats, near: Floats, rest: Floats, weights: Floats) -> Floats:
    """Return the offsets (13, 3) of one point that explain the rest (N, 2), smooth over the yaws and small."""
    count, size = len(YAWS), 3 * len(YAWS)
    design = (near[:, None, :, None] * rows[:, :, None, :]).reshape(-1, 2, size)
    normal = np.einsum("n,nia,nib->ab", weights, design, design, optimize=True)
    right = np.einsum("n,nia,ni->a", weights, design, rest, optimize=True)
    difference = np.diff(np.eye(count), axis=0)
    penalty = SMOOTHNESS * np.kron(difference.T @ difference, np.eye(3)) + SMOOTHNESS / 3 * np.eye(size)
    return np.linalg.solve(normal + np.median(weights) * penalty, right).reshape(count, 3)


def _fit_scales(points: Floats, posed: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return the scales (N,) and shifts (N, 2) that move posed points (N, 98, 2) to the points."""
    share = (weights / weights.sum(1, keepdims=True))[..., None]
    middle_posed, middle = (share * posed).sum(1), (share * points).sum(1)
    from_posed, from_middle = posed - middle_posed[:, None], points - middle[:, None]
    scales = (share * from_posed * from_middle).sum((1, 2)) / (share * from_posed**2).sum((1, 2))
    return scales, middle - scales[:, None] * middle_posed
