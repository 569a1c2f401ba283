"""Check the labels of a pack: a summary as text, and a contact sheet."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from canthus.trainer.faces.contact_sheet import (
    LABEL_COLOR,
    TILE,
    contact_sheet,
    draw_points,
    evenly_spaced,
    shorten_name,
)
from canthus.trainer.faces.kinds import Kinds, PointKind, is_labelled
from canthus.trainer.faces.labelled import LabelledSet
from canthus.trainer.faces.parsing import shorten
from canthus.trainer.faces.schemes import Scheme
from canthus.trainer.packs.pack import Findings, Pack

MAX_NAMED = 5
"""Number of faces that the summary names per problem."""

MAX_ASYMMETRY = 25.0
"""Largest plausible distance between a mean face and its mirror image, in % of the normalizer. Points in a wrong order
give much more."""

SWAPPED_DISTANCE = 0.2
"""Points of a mirror pair that are in the wrong order by more than this, in sides of the face, are swapped."""

MIN_FACES = 20
"""Number of faces from which on the mean face is nearly symmetric."""

SHOWN = 30
"""Number of faces on the contact sheet."""


def summarize_pack(sets: Sequence[LabelledSet], pack: Pack, findings: Findings) -> list[str]:
    """Return lines of text: number of faces, missing images, points outside images, swapped sides, symmetry.

    The last two are those of the faces with labels at all points.
    """
    scheme = pack.scheme
    lines = [f"{len(pack)} faces of {pack.crops.shape[1]} px, {scheme.points} points each ({scheme.name})"]
    lines += [f"  {_describe_set(one)}" for one in sets]
    if findings.unreadable:
        missing = sum(len(one.faces) for one in sets) - len(pack)
        lines.append(
            f"  left out: {missing} faces, because {len(findings.unreadable)} images are missing or unreadable:"
        )
        lines += [f"    {reason}" for reason in findings.unreadable.values()]
    never = [scheme.point_names[point] for point in np.flatnonzero(~is_labelled(pack.kinds).any(0))]
    if never:
        lines.append(f"  never labelled, so not learned: {shorten(', '.join(never))} ({len(never)} points)")
    outside = np.array(findings.outside).reshape(-1, scheme.points)  # (N, K) pixels
    lines.append(f"  points outside their image: {(outside > 0).sum()} of {pack.points[..., 0].size}")
    if outside.any():
        farthest = outside.max(-1).argmax()
        lines[-1] += f", on {outside.any(-1).sum()} faces; farthest, by {outside.max():.3g} px: {pack.names[farthest]}"
    swapped = _swapped_rows(pack, scheme)
    complete = len(_complete_rows(pack))
    if not complete:
        lines.append("  left and right: not checked, as no face has labels at all points")
    elif len(swapped):
        names = ", ".join(pack.names[row] for row in swapped[:MAX_NAMED])
        more = " ..." * (len(swapped) > MAX_NAMED)
        lines.append(f"  left and right: seem to be swapped on {len(swapped)} faces: {names}{more}")
    else:
        which = "all faces" if complete == len(pack) else f"the {complete} faces with labels at all points"
        lines.append(f"  left and right: correct on {which}")
    return [*lines, f"  {_describe_symmetry(pack.points[_complete_rows(pack)], scheme)}"]


def _complete_rows(pack: Pack) -> NDArray[np.intp]:
    """Return the rows of the faces with labels at all points."""
    return np.flatnonzero(is_labelled(pack.kinds).all(-1))


def _swapped_rows(pack: Pack, scheme: Scheme) -> NDArray[np.intp]:
    """Return the rows of the complete faces that have left and right swapped."""
    rows = _complete_rows(pack)
    return rows[has_swapped_sides(pack.points[rows], scheme)] if len(rows) else rows


def _describe_set(labelled: LabelledSet) -> str:
    images = len({face.image for face in labelled.faces})
    line = f"{labelled.name}: {len(labelled.faces)} faces in {images} images"
    if labelled.published_count and labelled.published_count != len(labelled.faces):
        line += f"; the published list has {labelled.published_count}"
    if not np.all([face.kinds == PointKind.PLACED for face in labelled.faces]):
        line += f"; points: {_count_kinds(np.stack([face.kinds for face in labelled.faces]))}"
    return line


def _count_kinds(kinds: Kinds) -> str:
    """Return the number of points of each kind that occurs, as text."""
    counts = [(kind.name.lower().replace("_", " "), int((kinds == kind).sum())) for kind in PointKind]
    return ", ".join(f"{count} {name}" for name, count in counts if count)


def _describe_symmetry(points: NDArray[np.floating], scheme: Scheme) -> str:
    if len(points) < MIN_FACES:
        return "symmetry of the mean face: too few faces to check it"
    distance = asymmetry(points, scheme)
    worst = int(distance.argmax())
    figures = (
        f"it differs from its mirror image by {distance.mean():.1f} % of the normalizer on average, "
        f"{distance[worst]:.1f} % at most (point {worst})"
    )
    if distance[worst] > MAX_ASYMMETRY:
        return (
            f"symmetry of the mean face: WRONG; {figures}; are the points in the order of {scheme.name}, and its "
            "mirror pairs right (points count from 0)?"
        )
    return f"symmetry of the mean face: good; {figures}"


def has_swapped_sides(points: NDArray[np.floating], scheme: Scheme) -> NDArray[np.bool_]:
    """Return which faces (N,) of points (N, K, 2) have left and right swapped, as a whole or in part (only the brows).

    As a whole: with the eyes level, the mean of all points is above the eyes. In part: the points of a mirror pair
    are in the opposite order to the eyes. In a profile the points of a pair are close together, so small distances do
    not count.
    """
    left, right = (points[:, list(group)].mean(1) for group in scheme.eyes)
    between_eyes, to_mean = right - left, points.mean(1) - (left + right) / 2
    cross = between_eyes[:, 0] * to_mean[:, 1] - between_eyes[:, 1] * to_mean[:, 0]
    whole = cross < -0.1 * (to_mean**2).sum(-1)
    length = np.maximum(np.linalg.norm(between_eyes, axis=-1), 1e-6)
    ones, others = (list(side) for side in zip(*scheme.mirror_pairs, strict=True))
    order = ((points[:, others] - points[:, ones]) * between_eyes[:, None]).sum(-1) / length[:, None]  # (N, pairs)
    order *= np.sign(np.median(order, axis=0))
    part = (order < -SWAPPED_DISTANCE * np.ptp(points, axis=1).max(-1)[:, None]).any(-1)
    swapped: NDArray[np.bool_] = whole | part
    return swapped


def asymmetry(points: NDArray[np.floating], scheme: Scheme) -> NDArray[np.float64]:
    """Return the distance (K,) of each point of the median face from its mirrored mirror point, in % of the normalizer.

    points: (N, K, 2). Each face is first rotated, scaled and shifted so that its normalizer is horizontal, of length 1
    and centered at 0.
    """
    left, right = (points[:, list(group)].mean(1) for group in scheme.normalizer)
    axis = right - left
    length = np.maximum((axis**2).sum(-1, keepdims=True), 1e-6)  # squared
    centered = points - ((left + right) / 2)[:, None]
    x = (centered * axis[:, None]).sum(-1) / length
    y = (centered[..., 1] * axis[:, None, 0] - centered[..., 0] * axis[:, None, 1]) / length
    face = np.stack([np.median(x, axis=0), np.median(y, axis=0)], -1)
    distance: NDArray[np.float64] = 100 * np.linalg.norm(face - face[scheme.mirror] * [-1, 1], axis=-1)
    return distance


def pack_contact_sheet(pack: Pack) -> NDArray[np.uint8]:
    """Draw some faces of a pack with their points, as an RGB image; faces with swapped sides come first."""
    scheme = pack.scheme
    scale = TILE / pack.crops.shape[1]
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    swapped = _swapped_rows(pack, scheme)[:MAX_NAMED].tolist()
    others = [row for row in evenly_spaced(len(pack), SHOWN - len(swapped)) if row not in swapped]
    tiles = []
    for row in [*swapped, *others]:
        image = cv2.resize(pack.crops[row], (TILE, TILE), interpolation=interpolation).astype(np.uint8, copy=False)
        points = np.where(is_labelled(pack.kinds[row])[:, None], (pack.points[row] + 0.5) * scale - 0.5, np.nan)
        tiles.append((draw_points(image, points, scheme, LABEL_COLOR), shorten_name(pack.names[row], 36)))
    return contact_sheet(tiles, 6)
