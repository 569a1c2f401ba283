"""What a pack of labelled faces holds and whether its labels make sense: a summary and a contact sheet."""

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
from canthus.trainer.faces.labelled import LabelledSet
from canthus.trainer.faces.schemes import Scheme, scheme_of
from canthus.trainer.packs.pack import Findings, Pack

NAMED = 5
"""Faces that a summary names."""

LOPSIDED = 25.0
"""A mean face may differ from its mirror image by so much, in % of the ruler; swapped points differ by far more."""

ASIDE = 0.2
"""Points of a pair that lie the wrong way round by so much, in sides of the face, have changed places."""

ENOUGH = 20
"""Faces that look to both sides alike, on average."""

SHOWN = 30
"""Faces on the contact sheet."""


def summarize_pack(sets: Sequence[LabelledSet], pack: Pack, findings: Findings) -> list[str]:
    """Lines for a person: counts, what is missing, points outside their pictures, left and right."""
    scheme = scheme_of(pack.points.shape[1])
    lines = [f"{len(pack)} faces of {pack.crops.shape[1]} px, {scheme.points} points each ({scheme.name})"]
    lines += [f"  {_counts(one)}" for one in sets]
    if findings.unreadable:
        lost = sum(len(one.faces) for one in sets) - len(pack)
        lines.append(f"  left out: {lost} faces, whose {len(findings.unreadable)} pictures are missing or unreadable:")
        lines += [f"    {why}" for why in findings.unreadable.values()]
    beyond = np.array(findings.outside).reshape(-1, scheme.points)
    lines.append(f"  points outside their picture: {(beyond > 0).sum()} of {pack.points[..., 0].size}")
    if beyond.any():
        farthest = beyond.max(-1).argmax()
        lines[-1] += f", on {beyond.any(-1).sum()} faces; farthest, by {beyond.max():.3g} px: {pack.names[farthest]}"
    wrong = np.flatnonzero(has_swapped_sides(pack.points, scheme))
    if len(wrong):
        named = ", ".join(pack.names[row] for row in wrong[:NAMED])
        lines.append(f"  left and right: seem swapped on {len(wrong)} faces: {named}{' ...' * (len(wrong) > NAMED)}")
    else:
        lines.append("  left and right: as they should be on every face")
    return [*lines, f"  {_mirror_line(pack.points, scheme)}"]


def _counts(one: LabelledSet) -> str:
    pictures = len({face.image for face in one.faces})
    told = f"{one.name}: {len(one.faces)} faces in {pictures} pictures"
    if one.published and one.published != len(one.faces):
        told += f"; the published list has {one.published}"
    if one.left_out:
        told += f"; {one.left_out} more have points that nobody labelled and are left out"
    return told


def _mirror_line(points: NDArray[np.floating], scheme: Scheme) -> str:
    if len(points) < ENOUGH:
        return "mean face and its mirror image: too few faces to compare them"
    apart = asymmetry(points, scheme)
    worst = int(apart.argmax())
    told = f"{apart.mean():.1f} % of the ruler on average, {apart[worst]:.1f} % at most (point {worst})"
    if apart[worst] > LOPSIDED:
        return f"mean face and its mirror image DISAGREE: {told}; are the points in the order of {scheme.name}?"
    return f"mean face and its mirror image agree: {told} apart"


def has_swapped_sides(points: NDArray[np.floating], scheme: Scheme) -> NDArray[np.bool_]:
    """Which faces (N, K, 2) have left for right, as a whole or in a part (the brows, say).

    As a whole: seen with the eyes level, the middle of the points lies above the eyes. In a part: points of a pair lie
    the other way round than those of the eyes. A profile's pairs nearly fall together, so little counts as nothing.
    """
    left, right = (points[:, list(group)].mean(1) for group in scheme.eyes)
    across, down = right - left, points.mean(1) - (left + right) / 2
    turn = across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]
    whole = turn < -0.1 * (down**2).sum(-1)
    length = np.maximum(np.linalg.norm(across, axis=-1), 1e-6)
    ones, others = (list(side) for side in zip(*scheme.pairs, strict=True))
    order = ((points[:, others] - points[:, ones]) * across[:, None]).sum(-1) / length[:, None]  # (N, pairs)
    order *= np.sign(np.median(order, axis=0))
    part = (order < -ASIDE * np.ptp(points, axis=1).max(-1)[:, None]).any(-1)
    wrong: NDArray[np.bool_] = whole | part
    return wrong


def asymmetry(points: NDArray[np.floating], scheme: Scheme) -> NDArray[np.float64]:
    """How far each point (K,) of the median face lies from its mirror pair's mirror image, in % of the ruler."""
    left, right = (points[:, list(group)].mean(1) for group in scheme.normalizer)
    across = right - left
    length = np.maximum((across**2).sum(-1, keepdims=True), 1e-6)
    from_middle = points - ((left + right) / 2)[:, None]
    x = (from_middle * across[:, None]).sum(-1) / length
    y = (from_middle[..., 1] * across[:, None, 0] - from_middle[..., 0] * across[:, None, 1]) / length
    face = np.stack([np.median(x, axis=0), np.median(y, axis=0)], -1)
    apart: NDArray[np.float64] = 100 * np.linalg.norm(face - face[scheme.mirror] * [-1, 1], axis=-1)
    return apart


def pack_contact_sheet(pack: Pack) -> NDArray[np.uint8]:
    """Some faces of a pack with their points, as a picture; first those that `summary` names as swapped."""
    scheme = scheme_of(pack.points.shape[1])
    scale = TILE / pack.crops.shape[1]
    tiles = []
    wrong = np.flatnonzero(has_swapped_sides(pack.points, scheme))[:NAMED].tolist()
    for row in [*wrong, *(row for row in evenly_spaced(len(pack), SHOWN - len(wrong)) if row not in wrong)]:
        image = cv2.resize(
            pack.crops[row], (TILE, TILE), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        )
        points = (pack.points[row] + 0.5) * scale - 0.5
        tiles.append(
            (
                draw_points(image.astype(np.uint8, copy=False), points, scheme, LABEL_COLOR),
                shorten_name(pack.names[row], 36),
            )
        )
    return contact_sheet(tiles, 6)
