"""Rotate a head and render it, with its 98 points where an annotator would mark them.

The idea is the "face profiling" of 300W-LP (Zhu et al., "Face alignment across large poses", CVPR 2016). The head
rotates, the body follows partly, and the background stays.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from canthus.runtime.geometry import invert, roi_from_points, to_frame, transform
from canthus.runtime.types import Roi
from canthus.runtime.wflw import CONTOUR, NOSE_BRIDGE, POINTS
from canthus.trainer.labels.head_surface import CHIN_POINT, SIDE, STEP, Head, HeadSurface, Pose, smooth_chain
from canthus.trainer.labels.labelling import IMAGE_SCALE
from canthus.trainer.labels.rendering import Floats, Image, render_surface, smoothstep, to_uint8

RENDERED_SIDE = 384
"""Side of the rendered image, pixels."""

# The values from here to SATURATION_YAW are fitted together with EAR_DEPTH in head_surface.py.
FAR_SHARE = 0.1
"""Reduction of the far side's share of the contour's length, at a yaw of 90 degrees."""

FAR_EXTENSION = 0.03
"""Extension of the upper end of the far contour at a yaw of 90 degrees, in widths of the face."""

SATURATION_YAW = math.radians(20)
"""Yaw at which FAR_SHARE and FAR_EXTENSION have reached 1 - 1/e of their effect."""

INNER = [point for point in range(POINTS) if point not in (*CONTOUR, *NOSE_BRIDGE)]

OCCLUDED_SHIFT = 0.8
"""Fraction of the way by which an occluded point is moved to the edge that occludes it. Annotators mark the far eye of
a profile close behind the nose."""

SAMPLES = 33
"""Number of samples on each horizontal line in the search for the outermost point."""


def render(
    head: Head, pose: Pose, body: float = 0.0, background: Image | None = None, light: Floats | None = None
) -> tuple[Image, NDArray[np.float32]]:
    """Render a head in a pose: image (RENDERED_SIDE, RENDERED_SIDE, 3) and points (98, 2) in its pixels.

    Args:
        head: The head.
        pose: Its pose.
        body: Fraction of the yaw by which the body is rotated.
        background: (SIDE, SIDE, 3) another background than that of the photo.
        light: (3,) an additional light, see `HeadSurface.shading`.
    """
    points = rotate_points(head, pose)
    roi = roi_from_points(points)
    view = to_frame(Roi(roi.x, roi.y, roi.side * IMAGE_SCALE), RENDERED_SIDE)
    behind = head.background if background is None else background
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = (RENDERED_SIDE, RENDERED_SIDE)
    canvas = cv2.warpAffine(behind, view, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    surface, texture = head.surface, head.texture
    if light is not None:
        gain = cv2.resize(surface.shading(pose.rotation, light), (SIDE, SIDE)).astype(np.float32)
        texture = np.dstack([to_uint8(texture[..., :3] * gain[..., None]), texture[..., 3]])
    rows, columns = np.mgrid[0:SIDE:STEP, 0:SIDE:STEP].astype(np.float64)
    for layer, depth in ((head.back_texture, surface.back), (texture, surface.front)):
        used = cv2.resize(layer[..., 3], rows.shape[::-1], interpolation=cv2.INTER_AREA) > 2
        solid = np.dstack([columns, rows, depth])
        vertices = surface.rotate(solid, pose.rotation, body * pose.yaw, surface.follows)
        vertices[..., :2] = transform(invert(view), vertices[..., :2])
        rendered = render_surface(vertices, layer, used, RENDERED_SIDE, back=depth is surface.back)
        alpha = rendered[..., 3:].astype(np.float32) / 255
        canvas = to_uint8(canvas * (1 - alpha) + rendered[..., :3] * alpha)
    return canvas.astype(np.uint8, copy=False), transform(invert(view), points)


def rotate_points(head: Head, pose: Pose) -> NDArray[np.float32]:
    """Return the points (98, 2) of a rotated face, in pixels of the upright square, as annotators of WFLW mark them.

    Visible points move with the surface. Occluded points are moved close to the edge that occludes them. WFLW marks the
    near side of the contour along the jaw and the far side along the visible edge of the face, up to the bridge of the
    nose in a profile. Each side has 17 points at equal distances. The visible edge is searched on horizontal lines from
    the contour over the cheek. They end before the nose, because the nose sticks out beyond the contour.
    """
    surface = head.surface
    solid = np.column_stack([head.points, surface.depth(head.points)])
    solid[list(CONTOUR), 2] = surface.contour
    rotated = surface.rotate(solid, pose.rotation)[:, :2]
    sides = np.sign(solid[:, 0] - surface.middle_x(solid[:, 1]))
    edge = _outermost(surface, pose, solid[INNER], sides[INNER], np.ones(len(INNER)))
    rotated[INNER] += OCCLUDED_SHIFT * (edge - rotated[INNER])
    for side, half in ((-1, list(range(CHIN_POINT + 1))), (1, list(range(CHIN_POINT, 2 * CHIN_POINT + 1)))):
        height = np.abs(np.array(half) - CHIN_POINT) / CHIN_POINT  # 0 at the chin, 1 at the end of the contour
        # To the middle line at the chin and between the eyes, and to the corner of the mouth in between.
        reach = 1 - 0.3 * smoothstep(height / 0.4) * (1 - smoothstep((height - 0.7) / 0.25))
        edge = _outermost(surface, pose, solid[half], np.full(len(half), side), reach)
        rotated[half] = smooth_chain(edge, 2)
    rotated[list(CONTOUR)] = _respace(rotated[list(CONTOUR)], head, pose.yaw)
    return rotated.astype(np.float32)


def _respace(contour: Floats, head: Head, yaw: float) -> Floats:
    """Move the points of a rotated contour (33, 2) along it to equal distances on both sides of the chin."""
    amount = 1 - math.exp(-abs(yaw) / SATURATION_YAW)
    end, inner = (-1, -3) if yaw > 0 else (0, 2)
    direction = contour[end] - contour[inner]
    chain = contour.copy()
    length = max(float(np.linalg.norm(direction)), 1e-6)
    chain[end] += FAR_EXTENSION * amount * head.surface.width * direction / length
    original = _arc_lengths(head.points[list(CONTOUR)].astype(np.float64))
    left_share = original[CHIN_POINT] / original[-1] + math.copysign(FAR_SHARE * amount, yaw)
    along = _arc_lengths(chain)
    chin = left_share * along[-1]
    positions = [*np.linspace(0, chin, CHIN_POINT + 1), *np.linspace(chin, along[-1], CHIN_POINT + 1)[1:]]
    return np.stack([np.interp(positions, along, chain[:, axis]) for axis in (0, 1)], 1)


def _outermost(surface: HeadSurface, pose: Pose, solid: Floats, sides: NDArray, reach: Floats) -> Floats:
    """Return the place that is outermost after the rotation on the horizontal line from each point to the middle line.

    Args:
        surface: The head.
        pose: The rotation.
        solid: (N, 3) the points before the rotation.
        sides: (N,) -1 for the leftmost place along the x axis of the face, 1 for the rightmost.
        reach: (N,) fraction of the way to the middle line that is searched.

    Returns:
        The places (N, 2) after the rotation.
    """
    fraction = np.linspace(0, 1, SAMPLES) * reach[:, None]  # (N, SAMPLES)
    line = np.repeat(solid[:, None, :2], SAMPLES, 1)
    line[..., 0] += fraction * (surface.middle_x(solid[:, 1]) - solid[:, 0])[:, None]
    depth = surface.depth(line)
    # The line starts at the depth of the point and approaches the surface quickly.
    depth += (solid[:, 2] - depth[:, 0])[:, None] * (1 - np.linspace(0, 1, SAMPLES)) ** 3
    rotated = surface.rotate(np.dstack([line, depth]), pose.rotation)[..., :2]  # (N, SAMPLES, 2)
    right = [math.cos(pose.roll), math.sin(pose.roll)]
    best = (rotated @ right * sides[:, None]).argmax(1)
    found: Floats = rotated[np.arange(len(solid)), best]
    return found


def _arc_lengths(points: Floats) -> Floats:
    """Return the length (N,) of a chain of points (N, 2) up to each point."""
    return np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
