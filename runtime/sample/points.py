"""Write the numbered diagram of the 98 points that the README shows: `python -m canthus.runtime.sample.points`.

The shape is the landmarks of the sample portrait, made symmetric with the mirror pairs of `wflw.MIRROR`.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from canthus.runtime import wflw
from canthus.runtime.sample import CLIP, FOLDER

DIAGRAM = FOLDER / "points.svg"
WIDTH, MARGIN, DISTANCE = 1200, 70, 19  # of the image, around the face, from a point to its number; pixels

GROUPS = (
    (wflw.CONTOUR, "#2b7bb0"),
    (wflw.LEFT_BROW, "#a86d00"),
    (wflw.RIGHT_BROW, "#a86d00"),
    (wflw.NOSE_BRIDGE + wflw.NOSE_BASE, "#7a4fc4"),
    (wflw.LEFT_EYE, "#1d8a3c"),
    (wflw.RIGHT_EYE, "#1d8a3c"),
    (wflw.OUTER_LIPS, "#c2334d"),
    (wflw.INNER_LIPS, "#c2334d"),
    (wflw.PUPILS, "#444444"),
)
"""Groups of points and their colors, dark enough for a white background."""


def symmetric_face() -> NDArray[np.float64]:
    """Return the landmarks of the sample portrait (98, 2), symmetric and scaled to the diagram."""
    from canthus.runtime import Landmarker, Settings
    from canthus.runtime.video_file import VideoFile

    with VideoFile(CLIP) as video, Landmarker(Settings(model="accurate")) as landmarker:
        points = landmarker.landmark(next(iter(video)).image).points[0].astype(np.float64)
    across = points[wflw.OUTER_CANTHI[1]] - points[wflw.OUTER_CANTHI[0]]
    x_axis = across / np.hypot(*across)
    upright = (points - points.mean(axis=0)) @ np.array([x_axis, [-x_axis[1], x_axis[0]]]).T
    mirrored = upright[wflw.MIRROR] * [-1, 1]
    face: NDArray[np.float64] = (upright - upright.mean(axis=0) + mirrored - mirrored.mean(axis=0)) / 2
    face *= (WIDTH - 2 * MARGIN) / np.ptp(face[:, 0])
    face += MARGIN - face.min(axis=0)
    return face


def label_places(face: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the center (98, 2) of each point's number: outside closed curves, inside for the inner lips."""
    places = face.copy()
    for group in (wflw.CONTOUR, wflw.LEFT_BROW, wflw.RIGHT_BROW, wflw.LEFT_EYE, wflw.RIGHT_EYE, wflw.OUTER_LIPS):
        places[list(group)] += DISTANCE * _outward(face[list(group)], group is wflw.CONTOUR)
    places[list(wflw.INNER_LIPS)] -= DISTANCE * _outward(face[list(wflw.INNER_LIPS)], False)
    places[list(wflw.NOSE_BRIDGE)] += [DISTANCE + 3, 0]
    places[list(wflw.NOSE_BASE)] += [0, DISTANCE + 2]
    places[list(wflw.PUPILS)] += [DISTANCE + 3, 0]
    return places


def _outward(curve: NDArray[np.float64], is_open: bool) -> NDArray[np.float64]:
    """Return the unit normals (N, 2) of a curve, away from its middle."""
    tangents = np.gradient(curve, axis=0) if is_open else np.roll(curve, -1, axis=0) - np.roll(curve, 1, axis=0)
    normals = np.stack([tangents[:, 1], -tangents[:, 0]], axis=1)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    away = np.sum(normals * (curve - curve.mean(axis=0)), axis=1)
    normals *= np.where(away < 0, -1.0, 1.0)[:, None]
    return normals


def diagram(face: NDArray[np.float64]) -> str:
    """Return the SVG of a face (98, 2): lines, points and their numbers."""
    height = round(float(face[:, 1].max()) + MARGIN)
    colors = {point: color for group, color in GROUPS for point in group}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="17" text-anchor="middle">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for chain in wflw.LINES:
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in face[list(chain)])
        style = f'fill="none" stroke="{colors[chain[0]]}" stroke-width="1.5" stroke-opacity="0.4"'
        parts.append(f'<polyline points="{corners}" {style}/>')
    for point, ((x, y), (left, top)) in enumerate(zip(face, label_places(face), strict=True)):
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colors[point]}"/>')
        parts.append(f'<text x="{left:.1f}" y="{top + 6:.1f}" fill="{colors[point]}">{point}</text>')
    return "\n".join([*parts, "</svg>\n"])


def main(path: Path = DIAGRAM) -> None:
    """Write the diagram beside this file."""
    path.write_text(diagram(symmetric_face()))
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
