"""Reconstruct the surface of a head from one photo, so that it can be rotated (see profile_synthesis.py).

The front surface is the face mesh. Beyond the mesh it curves back to the sides of the head and down to the neck. A
second surface closes the head behind. Both are height fields over the image: a depth z for each vertex (x, y).

Coordinates: x right, y down, z away from the camera, in pixels of the upright square that `cut_upright` returns.
Distances named "in widths" are relative to the width of the face, from ear to ear.
"""

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from matplotlib.tri import LinearTriInterpolator, Triangulation
from numpy.typing import NDArray

from canthus.runtime.geometry import invert, roi_from_points, to_frame, transform
from canthus.runtime.schemes import WFLW
from canthus.runtime.types import Roi
from canthus.runtime.wflw import CONTOUR
from canthus.trainer.labels.face_mesh import BROW, CHIN, EARS, TEMPLES, MeshedFace
from canthus.trainer.labels.rendering import Floats, Image, disc, fill_unknown, mirror_border, smoothstep, to_uint8

SIDE = 432
"""Side of the upright square, pixels."""

STEP = 4
"""Distance of neighboring vertices, pixels."""

SQUARE_SCALE = 2.0
"""Side of the square over the side of the region of the points."""

CAMERA_DISTANCE = 7.0
"""Distance of the camera from the head, in widths: about a metre."""

HAIR_BORDER = 0.1
"""Width of the border of the head whose texture is repeated on its back, in widths."""

WIDEST_BEHIND = 0.12
"""Distance of the widest part of the head behind the ears, in widths."""

OVERLAP = 0.05
"""Overlap of front and back surface, in widths."""

EAR_DEPTH = 0.15
"""Depth of the ears behind the border of the mesh, which ends before them, in widths. With this value and those of
profile_synthesis.py, the mean shape of rotated faces is that of 440 real faces with the same yaw, 20 to 50 degrees."""

CHIN_POINT = len(CONTOUR) // 2  # of the contour

EYE_CORNERS, MOUTH_CORNERS, CHIN_POINTS = [60, 72], [76, 82], [15, 16, 17]


@dataclass(frozen=True)
class Pose:
    """The rotation of a face in radians: yaw to the right of the image, pitch down, roll clockwise."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0

    @cached_property
    def rotation(self) -> Floats:
        """(3, 3) rotation matrix from the axes of the face to those of the image."""
        return _roll(self.roll) @ _yaw(self.yaw) @ _pitch(self.pitch)


def _yaw(angle: float) -> Floats:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])


def _pitch(angle: float) -> Floats:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])


def _roll(angle: float) -> Floats:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


@dataclass(frozen=True, eq=False)
class UprightFace:
    """The square around a face, rotated so that the eyes are level."""

    image: Image  # (SIDE, SIDE, 3)
    points: NDArray[np.float32]  # (98, 2)
    in_photo: NDArray[np.bool_]  # (SIDE, SIDE) false outside the photo, where the image is filled


@dataclass(frozen=True, eq=False)
class HeadSurface:
    """The front and back surface of a head, with G x G vertices each, G = SIDE / STEP."""

    front: Floats  # (G, G) z
    back: Floats  # (G, G) z
    follows: Floats  # (G, G) 1 where a vertex rotates with the head, 0 where with the body
    pivot: Floats  # (3,) center of the rotation
    axes: Floats  # (3, 3) rotation of the face in the photo
    middle: Floats  # (2, 2) two points of the middle line, x and y: the bridge of the nose and the chin
    width: float  # of the face, pixels
    contour: Floats  # (33,) z of the contour points

    def depth(self, points: NDArray[np.floating]) -> Floats:
        """Return z of the front surface at points (..., 2)."""
        flat = np.ascontiguousarray(points.reshape(-1, 2) / STEP, np.float32)
        front = self.front.astype(np.float32)
        z = cv2.remap(front, flat[:, :1], flat[:, 1:], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return z.reshape(points.shape[:-1]).astype(np.float64)

    def middle_x(self, y: NDArray[np.floating]) -> Floats:
        """Return x of the middle line of the face at y."""
        return _x_on_line(self.middle, y)

    def rotate(self, points: Floats, rotation: Floats, body: float = 0.0, follows: Floats | float = 1.0) -> Floats:
        """Rotate points (..., 3) of the surface, with the camera's perspective.

        Args:
            points: x and y in the photo, and z.
            rotation: (3, 3) the rotation of the head, as `Pose.rotation`.
            body: Yaw of the body, radians.
            follows: (...) 1 for points of the head, 0 for points of the body.
        """
        distance = CAMERA_DISTANCE * self.width
        relative = points - self.pivot
        solid = np.concatenate([relative[..., :2] * (distance + relative[..., 2:]) / distance, relative[..., 2:]], -1)
        weight = np.asarray(follows)[..., None]
        rotated = weight * (solid @ (rotation @ self.axes.T).T) + (1 - weight) * (solid @ _yaw(body).T)
        perspective = distance / np.maximum(distance + rotated[..., 2:], 0.2 * distance)
        return np.concatenate([rotated[..., :2] * perspective, rotated[..., 2:]], -1) + self.pivot

    def shading(self, rotation: Floats, light: Floats) -> Floats:
        """Return the gain of brightness (G, G) of the rotated front surface by a directional light.

        light: (3,) the direction to the light times its strength.
        """
        slope_y, slope_x = np.gradient(cv2.GaussianBlur(self.front, (0, 0), 1.5), STEP)
        normal = np.dstack([slope_x, slope_y, np.full_like(slope_y, -1.0)])
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
        return np.clip(1 + normal @ (rotation @ self.axes.T).T @ light, 0.6, 1.4)


@dataclass(frozen=True, eq=False)
class Head:
    """A head that can be rotated and rendered."""

    surface: HeadSurface
    points: NDArray[np.float32]  # (98, 2)
    texture: Image  # (SIDE, SIDE, 4) RGBA of the front; its edge has no colors of the background
    back_texture: Image  # (SIDE, SIDE, 4) RGBA of the back
    background: Image  # (SIDE, SIDE, 3) without the person


def cut_upright(image: Image, points: NDArray[np.floating]) -> UprightFace:
    """Cut the square around a face with points (98, 2) out of an image (H, W, 3)."""
    roi = roi_from_points(points, WFLW.roll(points))
    affine = to_frame(Roi(roi.x, roi.y, roi.side * SQUARE_SCALE, roi.angle), SIDE)
    cut = cv2.warpAffine(image, affine, (SIDE, SIDE), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)
    inside = np.full(image.shape[:2], 255, np.uint8)
    inside[[0, -1]], inside[:, [0, -1]] = 0, 0
    in_photo = cv2.warpAffine(inside, affine, (SIDE, SIDE), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP) > 0
    filled = fill_unknown(cut.astype(np.uint8, copy=False), in_photo)
    return UprightFace(filled, transform(invert(affine), points), in_photo)


def reconstruct(face: UprightFace, meshed: MeshedFace) -> Head:
    """Reconstruct the head of a face from its mesh and person mask."""
    image, points = face.image, face.points
    surface, mesh_distance = _reconstruct_surface(points, meshed)
    from_mesh, follows = (cv2.resize(field, (SIDE, SIDE)) for field in (mesh_distance, surface.follows))
    # Outside the photo, the head ends at a fixed distance from the mesh.
    person = meshed.person * np.where(face.in_photo | (follows < 0.9), 1, 1 - smoothstep((from_mesh - 0.3) / 0.1))
    person = person.astype(np.float32)
    core = cv2.erode(person, disc(5)) > 0.8
    background = fill_unknown(image, face.in_photo & (cv2.dilate(person, disc(4)) < 0.1))
    # Dilated, so that there is no gap between front and back surface.
    alpha = to_uint8(255 * smoothstep((cv2.dilate(person, disc(STEP)) - 0.3) / 0.5))
    # The back must not show the ears or the face again.
    rows = np.arange(SIDE)[:, None]
    eyes, mouth = (float(points[group, 1].mean()) for group in (EYE_CORNERS, MOUTH_CORNERS))
    beside_face = (from_mesh < 0.3) & (rows > 1.3 * eyes - 0.3 * mouth) & (rows < mouth)
    half = fill_unknown(image[::2, ::2], (core & ~beside_face)[::2, ::2])
    back = cv2.resize(mirror_border(half, person[::2, ::2] > 0.5, HAIR_BORDER * surface.width / 2), (SIDE, SIDE))
    front = fill_unknown(image, core)
    return Head(surface, points, np.dstack([front, alpha]), np.dstack([back, alpha]), background)


def _reconstruct_surface(points: NDArray[np.floating], meshed: MeshedFace) -> tuple[HeadSurface, Floats]:
    """Return the surface, and the distance (G, G) of each vertex from the face mesh, in widths."""
    mesh, width = _with_deeper_ears(meshed, points), meshed.width
    rows, columns = np.mgrid[0:SIDE:STEP, 0:SIDE:STEP].astype(np.float64)
    interpolated = LinearTriInterpolator(Triangulation(mesh[:, 0], mesh[:, 1]), mesh[:, 2])(columns, rows)
    inside = ~np.ma.getmaskarray(interpolated)
    edge, distance = _extend(interpolated.filled(0), inside)
    distance = distance * STEP / width
    person = (meshed.person[::STEP, ::STEP] > 0.5) | inside
    # Smaller by 1.5 vertices, so that both surfaces reach the widest part of the head.
    to_silhouette = np.maximum(_distance_inside(person) - 1.5, 0) * STEP / width

    eyes, mouth, chin = (float(points[group, 1].mean()) for group in (EYE_CORNERS, MOUTH_CORNERS, CHIN_POINTS))
    below = smoothstep((rows - mouth) / (chin - mouth))  # 0 beside the face, 1 below the chin
    widest = float(mesh[[*EARS, *TEMPLES], 2].mean()) + WIDEST_BEHIND * width
    # At its sides, a head is round. Below the chin, the surface goes straight back to the neck.
    reach = np.clip(np.maximum(distance / (distance + to_silhouette + 1e-6), distance / (0.45 - 0.3 * below)), 0, 1)
    profile = (1 - below) * (1 - np.sqrt(1 - reach**2)) + below * smoothstep(reach)
    target = np.maximum(widest - 0.1 * width * below, edge + 0.1 * width)
    outside = cv2.GaussianBlur(np.where(inside, edge, edge + (target - edge) * profile), (0, 0), 1.0)
    front = np.where(inside, interpolated.filled(0), outside)
    seam = np.clip(1 - (distance + _distance_inside(inside) * STEP / width) / 0.1, 0, 1)
    front += seam * (cv2.GaussianBlur(front, (0, 0), 2.0) - front)
    # The back of a head is nearly as deep as its front. The back of a neck is less deep.
    deep = 0.9 - 0.6 * smoothstep((rows - eyes) / (mouth - eyes))
    back = widest - OVERLAP * width + np.maximum(widest - front, 0) * deep
    follows = 1 - smoothstep((rows - eyes) / (chin - eyes)) * smoothstep((distance - 0.1) / 0.5)
    pivot = np.array([float(mesh[list(EARS), 0].mean()), mouth, widest])
    contour = _contour_depth(points[list(CONTOUR)], mesh)
    return HeadSurface(front, back, follows, pivot, meshed.axes, mesh[[BROW, CHIN], :2], width, contour), distance


def _with_deeper_ears(meshed: MeshedFace, points: NDArray[np.floating]) -> Floats:
    """Return the mesh (468, 3) with its sides pushed back above the jaw, from the cheeks to the depth of the ears."""
    mesh = meshed.mesh.copy()
    nose, chin = float(points[54, 1]), float(points[CHIN_POINT, 1])
    from_middle = np.abs(mesh[:, 0] - _x_on_line(mesh[[BROW, CHIN], :2], mesh[:, 1])) / (meshed.width / 2)
    above_jaw = 1 - smoothstep((mesh[:, 1] - nose) / (chin - nose))
    mesh[:, 2] += EAR_DEPTH * meshed.width * above_jaw * smoothstep((from_middle - 0.6) / 0.35)
    return mesh


def _contour_depth(contour: NDArray[np.floating], mesh: Floats) -> Floats:
    """Return z (33,) of the contour points (33, 2): that of the nearest place on the border of the mesh.

    It is more accurate than the surface beyond the mesh.
    """
    hull = mesh[cv2.convexHull(mesh[:, :2].astype(np.float32), returnPoints=False)[:, 0]]
    ring = np.concatenate([hull, hull[:1]])
    dense = np.concatenate([np.linspace(one, two, 8, endpoint=False) for one, two in itertools.pairwise(ring)])
    nearest = np.linalg.norm(contour[:, None] - dense[:, :2], axis=-1).argmin(1)
    return smooth_chain(dense[nearest, 2], 2)


def _x_on_line(line: Floats, y: NDArray[np.floating]) -> Floats:
    """Return x at y of the line through two points (2, 2)."""
    (top_x, top_y), (low_x, low_y) = line
    x: Floats = top_x + (low_x - top_x) * (y - top_y) / (low_y - top_y)
    return x


def _extend(values: Floats, inside: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return the value (G, G) of the nearest vertex inside, blurred, and the distance to it in vertices."""
    distance, nearest = cv2.distanceTransformWithLabels(
        (~inside).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    by_label = np.zeros(int(nearest.max()) + 1)
    by_label[nearest[inside]] = values[inside]
    return cv2.GaussianBlur(by_label[nearest], (0, 0), 2.0).astype(np.float64), distance.astype(np.float64)


def _distance_inside(inside: NDArray[np.bool_]) -> Floats:
    """Return the distance (G, G) of each vertex inside to the outside, in vertices."""
    return cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, 5).astype(np.float64)


def smooth_chain(values: Floats, times: int) -> Floats:
    """Smooth values (N,) or (N, D) along their first axis `times` times, with weights 1, 2, 1; the ends stay."""
    smoothed = values.copy()
    for _ in range(times):
        smoothed[1:-1] = (smoothed[:-2] + 2 * smoothed[1:-1] + smoothed[2:]) / 4
    return smoothed
