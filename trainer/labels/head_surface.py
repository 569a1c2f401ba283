"""A face with its 98 points is given depth, turned, and drawn again.

The idea is the "face profiling" of 300W-LP (Zhu et al., "Face alignment across large poses", CVPR 2016). A mesh of the
face and a mask of the person (`mesh`) make the photo a relief; what lies beyond the mesh falls back to
the sides as a head does, and a second sheet in the colours of its edge closes it behind. The head turns, the body
follows a part of the way, and the place behind them stays where it is.

Coordinates: x right, y down, z away from the camera, in pixels of the upright square that `upright` cuts out.
"""

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from matplotlib.tri import LinearTriInterpolator, Triangulation
from numpy.typing import NDArray

from canthus.runtime.geometry import invert, roi_from_points, roll_from_points, to_frame, transform
from canthus.runtime.types import Roi
from canthus.runtime.wflw import CONTOUR, NOSE_BRIDGE, POINTS
from canthus.trainer.labels.face_mesh import BROW, CHIN, EARS, TEMPLES, Seen
from canthus.trainer.labels.labelling import IMAGE_SCALE
from canthus.trainer.labels.rendering import Floats, Image, disc, draw_sheet, fill, mirror_edge, smoothstep, to_bytes

SIDE = 432
DRAWN = 384
"""Pixels along an edge of the square that is worked on, and of the picture that comes out."""

STEP = 4
"""Pixels between the vertices of the relief."""

AROUND = 2.0
"""Side of the square over that of the region of the points."""

FOCAL = 7.0
"""How far the camera stands, in widths of the face: about a metre."""

HAIR = 0.1
"""How much of a head's edge tells what its other side looks like, in widths of the face."""

BEHIND = 0.12
"""How far behind the ears a head is widest, in widths of the face."""

OVERLAP = 0.05
"""How far the two sheets of a head reach past each other, in widths of the face."""

# The next are such that the mean shape of turned faces is that of 440 real faces at the same yaw, 20 to 50 degrees.
SIDES = 0.15
"""How far the ears lie behind where the mesh, which ends before them, has its edge, in widths of the face."""

FAR_SHARE, FAR_END, SOON = 0.1, 0.03, math.radians(20)
"""How much less of the contour's length is its far side in a profile; how much farther up it ends there, in widths of
the face; and the yaw at which most of that has happened."""

MIDDLE = len(CONTOUR) // 2  # the point of the contour on the chin
INNER = [point for point in range(POINTS) if point not in (*CONTOUR, *NOSE_BRIDGE)]

SQUEEZED = 0.8
"""How far a hidden point moves to the edge that hides it: people mark a profile's far eye close behind its nose."""

SAMPLES = 33
"""Places that are tried along a line of equal height."""


@dataclass(frozen=True)
class Pose:
    """Where a face looks, in radians: yaw to the picture's right, pitch down, roll clockwise."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0

    @cached_property
    def rotation(self) -> Floats:
        """(3, 3): takes the face's own axes to the picture's."""
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
class Upright:
    """The square around a face, eyes level."""

    picture: Image  # (SIDE, SIDE, 3)
    points: NDArray[np.float32]  # (98, 2)
    photo: NDArray[np.bool_]  # (SIDE, SIDE) false where the photo has ended and the picture is made up


@dataclass(frozen=True, eq=False)
class Relief:
    """A head with depth: vertices every STEP pixels, G = SIDE / STEP of them a row."""

    front: Floats  # (G, G) z of what the photo shows
    back: Floats  # (G, G) z of the sheet that closes the head behind
    follows: Floats  # (G, G) 1 where it turns with the head, 0 where with the body
    pivot: Floats  # (3,) the head turns about it
    axes: Floats  # (3, 3) where the face looks in the photo
    middle: Floats  # (2, 2) the middle line: bridge of the nose and chin, x and y
    width: float  # of the face
    contour: Floats  # (33,) z of the points of the contour

    def depth(self, points: NDArray[np.floating]) -> Floats:
        """z of the photo's surface at points (..., 2)."""
        flat = np.ascontiguousarray(points.reshape(-1, 2) / STEP, np.float32)
        field = self.front.astype(np.float32)
        z = cv2.remap(field, flat[:, :1], flat[:, 1:], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return z.reshape(points.shape[:-1]).astype(np.float64)

    def midway(self, y: NDArray[np.floating]) -> Floats:
        """x of the face's middle line at some heights."""
        return _on_line(self.middle, y)

    def place(self, points: Floats, rotation: Floats, body: float = 0.0, follows: Floats | float = 1.0) -> Floats:
        """Where surface points (..., 3) go when the head looks along `rotation` and the body turns by `body`."""
        focal = FOCAL * self.width
        away = points - self.pivot
        solid = np.concatenate([away[..., :2] * (focal + away[..., 2:]) / focal, away[..., 2:]], -1)
        share = np.asarray(follows)[..., None]
        turned = share * (solid @ (rotation @ self.axes.T).T) + (1 - share) * (solid @ _yaw(body).T)
        shrunk = focal / np.maximum(focal + turned[..., 2:], 0.2 * focal)
        return np.concatenate([turned[..., :2] * shrunk, turned[..., 2:]], -1) + self.pivot

    def shading(self, rotation: Floats, light: Floats) -> Floats:
        """How much brighter (G, G) the turned surface becomes by a light (3,): where it stands and how strong it is."""
        down, across = np.gradient(cv2.GaussianBlur(self.front, (0, 0), 1.5), STEP)
        normal = np.dstack([across, down, np.full_like(down, -1.0)])
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
        return np.clip(1 + normal @ (rotation @ self.axes.T).T @ light, 0.6, 1.4)


@dataclass(frozen=True, eq=False)
class Source:
    """A face made ready to be turned."""

    relief: Relief
    points: NDArray[np.float32]  # (98, 2)
    texture: Image  # (SIDE, SIDE, 4) RGB of the person, without the place's colours at its edge, and alpha
    hair: Image  # (SIDE, SIDE, 4) the same of the back of the head
    ground: Image  # (SIDE, SIDE, 3) the place without the person


def upright(picture: Image, points: NDArray[np.floating]) -> Upright:
    """Cut the square around a face with points (98, 2) out of its photo (H, W, 3)."""
    region = roi_from_points(points, roll_from_points(points))
    affine = to_frame(Roi(region.x, region.y, region.side * AROUND, region.angle), SIDE)
    cut = cv2.warpAffine(picture, affine, (SIDE, SIDE), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)
    whole = np.full(picture.shape[:2], 255, np.uint8)
    whole[[0, -1]], whole[:, [0, -1]] = 0, 0
    photo = cv2.warpAffine(whole, affine, (SIDE, SIDE), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP) > 0
    filled = fill(cut.astype(np.uint8, copy=False), photo)
    return Upright(filled, transform(invert(affine), points), photo)


def prepare(square: Upright, seen: Seen) -> Source:
    """Make a face ready, from what was seen in its square."""
    picture, points = square.picture, square.points
    relief, outside = _relief(points, seen)
    from_face, follows = (cv2.resize(field, (SIDE, SIDE)) for field in (outside, relief.follows))
    # Where the photo ends above a head, the head ends in a dome.
    person = seen.person * np.where(square.photo | (follows < 0.9), 1, 1 - smoothstep((from_face - 0.3) / 0.1))
    person = person.astype(np.float32)
    core = cv2.erode(person, disc(5)) > 0.8
    ground = fill(picture, square.photo & (cv2.dilate(person, disc(4)) < 0.1))
    # Grown a little, so that the two sheets of a head meet.
    alpha = to_bytes(255 * smoothstep((cv2.dilate(person, disc(STEP)) - 0.3) / 0.5))
    # The other side of a head shows no second pair of ears, and no face.
    rows = np.arange(SIDE)[:, None]
    eyes, mouth = (float(points[group, 1].mean()) for group in ([60, 72], [76, 82]))
    beside = (from_face < 0.3) & (rows > 1.3 * eyes - 0.3 * mouth) & (rows < mouth)
    small = fill(picture[::2, ::2], (core & ~beside)[::2, ::2])
    hair = cv2.resize(mirror_edge(small, person[::2, ::2] > 0.5, HAIR * relief.width / 2), (SIDE, SIDE))
    return Source(relief, points, np.dstack([fill(picture, core), alpha]), np.dstack([hair, alpha]), ground)


def _relief(points: NDArray[np.floating], seen: Seen) -> tuple[Relief, Floats]:
    """The depth of everything, and how far each vertex (G, G) lies from the face's mesh, in widths of the face."""
    mesh, width = _widened(seen, points), seen.width
    rows, columns = np.mgrid[0:SIDE:STEP, 0:SIDE:STEP].astype(np.float64)
    surface = LinearTriInterpolator(Triangulation(mesh[:, 0], mesh[:, 1]), mesh[:, 2])(columns, rows)
    inside = ~np.ma.getmaskarray(surface)
    edge, away = _carried(surface.filled(0), inside)
    away = away * STEP / width
    person = (seen.person[::STEP, ::STEP] > 0.5) | inside
    # Short by a vertex and a half, so that both sheets of a head surely reach its widest place.
    to_air = np.maximum(_distance(person) - 1.5, 0) * STEP / width

    eyes, mouth, chin = (float(points[group, 1].mean()) for group in ([60, 72], [76, 82], [15, 16, 17]))
    below = smoothstep((rows - mouth) / (chin - mouth))  # 0 beside the face, 1 below the chin
    widest = float(mesh[[*EARS, *TEMPLES], 2].mean()) + BEHIND * width
    # To the sides a head is round; below the chin it goes straight back to the neck.
    reach = np.clip(np.maximum(away / (away + to_air + 1e-6), away / (0.45 - 0.3 * below)), 0, 1)
    rise = (1 - below) * (1 - np.sqrt(1 - reach**2)) + below * smoothstep(reach)
    target = np.maximum(widest - 0.1 * width * below, edge + 0.1 * width)
    fallen = cv2.GaussianBlur(np.where(inside, edge, edge + (target - edge) * rise), (0, 0), 1.0)
    front = np.where(inside, surface.filled(0), fallen)
    seam = np.clip(1 - (away + _distance(inside) * STEP / width) / 0.1, 0, 1)
    front += seam * (cv2.GaussianBlur(front, (0, 0), 2.0) - front)
    # Behind, a head is nearly as deep as before, and a neck less.
    deep = 0.9 - 0.6 * smoothstep((rows - eyes) / (mouth - eyes))
    back = widest - OVERLAP * width + np.maximum(widest - front, 0) * deep
    follows = 1 - smoothstep((rows - eyes) / (chin - eyes)) * smoothstep((away - 0.1) / 0.5)
    pivot = np.array([float(mesh[list(EARS), 0].mean()), mouth, widest])
    contour = _beside(points[list(CONTOUR)], mesh)
    return Relief(front, back, follows, pivot, seen.axes, mesh[[BROW, CHIN], :2], width, contour), away


def _widened(seen: Seen, points: NDArray[np.floating]) -> Floats:
    """The mesh (468, 3), its sides pushed back above the jaw: it ends on the cheeks, and faces at the ears."""
    mesh = seen.mesh.copy()
    nose, chin = float(points[54, 1]), float(points[MIDDLE, 1])
    aside = np.abs(mesh[:, 0] - _on_line(mesh[[BROW, CHIN], :2], mesh[:, 1])) / (seen.width / 2)
    high = 1 - smoothstep((mesh[:, 1] - nose) / (chin - nose))
    mesh[:, 2] += SIDES * seen.width * high * smoothstep((aside - 0.6) / 0.35)
    return mesh


def _beside(contour: NDArray[np.floating], mesh: Floats) -> Floats:
    """z (33,) of the contour's points: as at the edge of the mesh close by, whose depth is surer than that beyond."""
    hull = mesh[cv2.convexHull(mesh[:, :2].astype(np.float32), returnPoints=False)[:, 0]]
    ring = np.concatenate([hull, hull[:1]])
    dense = np.concatenate([np.linspace(one, two, 8, endpoint=False) for one, two in itertools.pairwise(ring)])
    nearest = np.linalg.norm(contour[:, None] - dense[:, :2], axis=-1).argmin(1)
    return _smooth(dense[nearest, 2], 2)


def _on_line(line: Floats, y: NDArray[np.floating]) -> Floats:
    """x at heights y of the line through two points (2, 2)."""
    (top_x, top_y), (low_x, low_y) = line
    x: Floats = top_x + (low_x - top_x) * (y - top_y) / (low_y - top_y)
    return x


def _carried(values: Floats, inside: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """The values (G, G) at the edge of the inside, carried outward, and how far, in vertices."""
    away, nearest = cv2.distanceTransformWithLabels(
        (~inside).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    named = np.zeros(int(nearest.max()) + 1)
    named[nearest[inside]] = values[inside]
    return cv2.GaussianBlur(named[nearest], (0, 0), 2.0).astype(np.float64), away.astype(np.float64)


def _distance(inside: NDArray[np.bool_]) -> Floats:
    return cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, 5).astype(np.float64)


def turn(
    source: Source, pose: Pose, body: float = 0.0, ground: Image | None = None, light: Floats | None = None
) -> tuple[Image, NDArray[np.float32]]:
    """The face turned until it looks as the pose tells: picture (DRAWN, DRAWN, 3) and points (98, 2).

    `body` is the share of the yaw that the body follows. Another `ground` (SIDE, SIDE, 3) may be given, and a `light`
    as `Relief.shading` takes it.
    """
    points = turn_points(source, pose)
    region = roi_from_points(points)
    view = to_frame(Roi(region.x, region.y, region.side * IMAGE_SCALE), DRAWN)
    behind = source.ground if ground is None else ground
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    canvas = cv2.warpAffine(behind, view, (DRAWN, DRAWN), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    relief, texture = source.relief, source.texture
    if light is not None:
        gain = cv2.resize(relief.shading(pose.rotation, light), (SIDE, SIDE)).astype(np.float32)
        texture = np.dstack([to_bytes(texture[..., :3] * gain[..., None]), texture[..., 3]])
    rows, columns = np.mgrid[0:SIDE:STEP, 0:SIDE:STEP].astype(np.float64)
    for sheet, depth in ((source.hair, relief.back), (texture, relief.front)):
        alive = cv2.resize(sheet[..., 3], rows.shape[::-1], interpolation=cv2.INTER_AREA) > 2
        solid = np.dstack([columns, rows, depth])
        vertices = relief.place(solid, pose.rotation, body * pose.yaw, relief.follows)
        vertices[..., :2] = transform(invert(view), vertices[..., :2])
        drawn = draw_sheet(vertices, sheet, alive, DRAWN, behind=depth is relief.back)
        alpha = drawn[..., 3:].astype(np.float32) / 255
        canvas = to_bytes(canvas * (1 - alpha) + drawn[..., :3] * alpha)
    return canvas.astype(np.uint8, copy=False), transform(invert(view), points)


def turn_points(source: Source, pose: Pose) -> NDArray[np.float32]:
    """The points (98, 2) of a turned face, in pixels of the square, as WFLW would mark them.

    They follow the surface; those that the face itself hides are marked close to the edge that hides them. WFLW marks
    the near side of the contour along the jaw and the far side along the visible edge of the face, each with 17 points
    at even distances, up to the bridge of the nose in a profile. That edge is found on lines of equal height from the
    contour over the cheek, which end short of the nose: it reaches beyond the contour.
    """
    relief = source.relief
    solid = np.column_stack([source.points, relief.depth(source.points)])
    solid[list(CONTOUR), 2] = relief.contour
    placed = relief.place(solid, pose.rotation)[:, :2]
    sides = np.sign(solid[:, 0] - relief.midway(solid[:, 1]))
    edge = _outermost(relief, pose, solid[INNER], sides[INNER], np.ones(len(INNER)))
    placed[INNER] += SQUEEZED * (edge - placed[INNER])
    for side, half in ((-1, list(range(MIDDLE + 1))), (1, list(range(MIDDLE, 2 * MIDDLE + 1)))):
        high = np.abs(np.array(half) - MIDDLE) / MIDDLE
        # To the middle on the chin and between the eyes; in between as far as the mouth's corner.
        reach = 1 - 0.3 * smoothstep(high / 0.4) * (1 - smoothstep((high - 0.7) / 0.25))
        edge = _outermost(relief, pose, solid[half], np.full(len(half), side), reach)
        placed[half] = _smooth(edge, 2)
    placed[list(CONTOUR)] = _divided(placed[list(CONTOUR)], source, pose.yaw)
    return placed.astype(np.float32)


def _divided(contour: Floats, source: Source, yaw: float) -> Floats:
    """A turned contour (33, 2) with its points where people put them: at even distances to both sides of the chin."""
    near = 1 - math.exp(-abs(yaw) / SOON)
    end, inner = (-1, -3) if yaw > 0 else (0, 2)
    onward = contour[end] - contour[inner]
    chain = contour.copy()
    chain[end] += FAR_END * near * source.relief.width * onward / max(float(np.linalg.norm(onward)), 1e-6)
    own = _lengths(source.points[list(CONTOUR)].astype(np.float64))
    first = own[MIDDLE] / own[-1] + math.copysign(FAR_SHARE * near, yaw)  # the share of the picture's left side
    along = _lengths(chain)
    chin = first * along[-1]
    wanted = [*np.linspace(0, chin, MIDDLE + 1), *np.linspace(chin, along[-1], MIDDLE + 1)[1:]]
    return np.stack([np.interp(wanted, along, chain[:, axis]) for axis in (0, 1)], 1)


def _outermost(relief: Relief, pose: Pose, solid: Floats, sides: NDArray, reach: Floats) -> Floats:
    """Where the line of equal height from each point (N, 3) towards the middle line lies outermost when turned (N, 2).

    `sides` (N,): -1 looks for the picture's leftmost place, in the face's own upright, and 1 for the rightmost;
    `reach` (N,) is how much of the way to the middle is looked at.
    """
    share = np.linspace(0, 1, SAMPLES) * reach[:, None]  # (N, SAMPLES)
    line = np.repeat(solid[:, None, :2], SAMPLES, 1)
    line[..., 0] += share * (relief.midway(solid[:, 1]) - solid[:, 0])[:, None]
    depth = relief.depth(line)
    # The line starts at the point itself and soon is on the surface.
    depth += (solid[:, 2] - depth[:, 0])[:, None] * (1 - np.linspace(0, 1, SAMPLES)) ** 3
    placed = relief.place(np.dstack([line, depth]), pose.rotation)[..., :2]  # (N, SAMPLES, 2)
    right = [math.cos(pose.roll), math.sin(pose.roll)]
    best = (placed @ right * sides[:, None]).argmax(1)
    found: Floats = placed[np.arange(len(solid)), best]
    return found


def _smooth(values: Floats, times: int) -> Floats:
    """Values (N,) or (N, D), each moved towards its neighbours; the ends stay."""
    kept = values.copy()
    for _ in range(times):
        kept[1:-1] = (kept[:-2] + 2 * kept[1:-1] + kept[2:]) / 4
    return kept


def _lengths(points: Floats) -> Floats:
    """How far along a chain each of its points (N, 2) lies."""
    return np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
