"""Draw the measures of faces onto an image: axes of the head pose, rays of the gaze, and bars of the expressions."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from canthus.runtime.types import Faces
from canthus.runtime.wflw import PUPILS

Image = NDArray[np.uint8]
Color = tuple[int, int, int]
Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""

MEASURE_DRAWINGS = ("pose", "gaze", "expressions")
"""What `draw_measures` can draw."""

NOSE_TIP = 54
"""Where the axes of the pose start."""

AXIS_COLORS: tuple[Color, ...] = ((240, 80, 80), (80, 210, 100), (90, 150, 255))
"""Of the axes to the right, down and towards the viewer, in a face that looks into the camera."""

GAZE_COLOR: Color = (255, 220, 60)
OUTLINE: Color = (8, 12, 18)
TEXT: Color = (244, 247, 250)
BAR_COLOR: Color = (120, 240, 140)

AXIS_LENGTH, GAZE_LENGTH = 0.45, 0.6
"""Relative to the longer side of the box of the points."""

MIN_GAZE_SCORE = 0.05
"""The gaze of less certain eyes, such as closed ones, is not drawn."""

BARS = (
    ("eye left", "eye_open_left"),
    ("eye right", "eye_open_right"),
    ("mouth", "mouth_open"),
    ("smile", "smile"),
    ("brow left", "brow_raise_left"),
    ("brow right", "brow_raise_right"),
    ("frown", "brow_frown"),
)
"""Label and measure of each bar. A bar ends at 1; the bars of the brows start in the middle, and go down to -1."""

FOREHEAD = 0.3
"""Height from the brows to the hair, relative to the height of the points' box: the panel does not cover it either."""

MIN_ROW = 12
"""Height of a bar and its label, at least, in pixels: smaller labels are illegible."""

_SHIFT = 4
"""OpenCV's coordinates are integers; here in 1/16 pixel."""


def draw_measures(canvas: Image, faces: Faces, drawings: Collection[str]) -> None:
    """Draw some of MEASURE_DRAWINGS onto an RGB image (H, W, 3), in place. Faces without measures are left as they are.

    The axes and rays have the direction of the head and of the gaze as seen from the camera, without perspective.
    """
    if faces.measures is None:
        return
    taken = [_head_box(face.points) for face in faces if np.isfinite(face.points).all()]
    for index, face in enumerate(faces):
        if not np.isfinite(face.points).all():
            continue
        size = float(np.ptp(face.points, axis=0).max())
        width = max(round(size / 110), 1)
        if "pose" in drawings:
            axes = (faces.measures.rotations[index] * (1, 1, -1)).T  # rows: right, down, towards the viewer
            for place in np.argsort(-axes[:, 2]):  # the axis that points away first
                _arrow(canvas, face.points[NOSE_TIP], AXIS_LENGTH * size * axes[place, :2], AXIS_COLORS[place], width)
        if "gaze" in drawings and faces.measures.gaze_score[index] >= MIN_GAZE_SCORE:
            for pupil in PUPILS:
                ray = GAZE_LENGTH * size * faces.measures.gaze_directions[index, :2]
                _arrow(canvas, face.points[pupil], ray, GAZE_COLOR, width)
        if "expressions" in drawings:
            panel = _place_panel(canvas.shape[:2], size, _head_box(face.points), taken)
            _bars(canvas, panel, faces.measures.as_dict(index))
            taken.append(panel.box)


def _arrow(canvas: Image, start: NDArray[np.floating], vector: NDArray[np.floating], color: Color, width: int) -> None:
    """Draw an outlined arrow; a short vector, which points at the viewer, becomes a dot."""
    ends = np.stack([start, start + vector])
    if np.abs(ends).max() > 2**14:  # far outside any image, and OpenCV's coordinates would overflow
        return
    first, last = (tuple(end) for end in np.round(ends * (1 << _SHIFT)).astype(int).tolist())
    length = float(np.hypot(*vector))
    for thickness, shade in ((width + 2, OUTLINE), (width, color)):
        if length < 3 * width:
            cv2.circle(canvas, first, (thickness << _SHIFT), shade, -1, cv2.LINE_AA, _SHIFT)
        else:
            cv2.arrowedLine(canvas, first, last, shade, thickness, cv2.LINE_AA, _SHIFT, 0.12)


def _head_box(points: NDArray[np.floating]) -> Box:
    """Return the box of a face and its forehead."""
    (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
    return left, top - FOREHEAD * (bottom - top), right, bottom


class _Panel(NamedTuple):
    """Where a panel is drawn: its upper left corner, and the height of a bar and its label, in pixels."""

    x: int
    y: int
    row: int

    @property
    def box(self) -> Box:
        width, height = _panel_size(self.row)
        return self.x, self.y, self.x + width, self.y + height


def _panel_size(row: int) -> tuple[int, int]:
    return 9 * row, len(BARS) * row + row // 2


def _place_panel(canvas: tuple[int, int], size: float, face: Box, taken: Sequence[Box]) -> _Panel:
    """Return where to draw a panel in a canvas of a height and width, for a face of `size` pixels.

    That is beside the face, right or left, or in a corner of the canvas: the first place where it covers none of the
    boxes `taken`. A panel that does not fit becomes smaller. In a close-up it is where it covers least.
    """
    panels = [
        _Panel(x, y, row)
        for row in dict.fromkeys(max(round(size / part), MIN_ROW) for part in (16, 22, 30))
        for x, y in _places(canvas, _panel_size(row), face)
    ]
    return min(panels, key=lambda panel: sum(_overlap(panel.box, other) for other in taken))


def _places(canvas: tuple[int, int], panel: tuple[int, int], face: Box) -> list[tuple[int, int]]:
    """Return the places beside a face that are inside the canvas, and its corners, the best one first."""
    right, bottom = max(canvas[1] - panel[0], 0), max(canvas[0] - panel[1], 0)
    gap, top = panel[1] // 15, min(max(face[1], 0), bottom)
    beside = [(x, top) for x in (face[2] + gap, face[0] - gap - panel[0]) if 0 <= x <= right]
    corners = [(right, 0), (0, 0), (right, bottom), (0, bottom)]
    return [(round(x), round(y)) for x, y in (*beside, *corners)]


def _overlap(one: Box, other: Box) -> float:
    """Return the area that two boxes share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)


def _bars(canvas: Image, panel: _Panel, values: dict[str, float]) -> None:
    """Draw a panel with BARS."""
    x0, y0, row = panel
    width, height = _panel_size(row)
    part = canvas[y0 : y0 + height, x0 : x0 + width]
    if part.shape[:2] != (height, width):  # the image is smaller than the panel
        return
    part[:] = np.round(part * 0.35 + np.array(OUTLINE) * 0.65)
    scale = cv2.getFontScaleFromHeight(cv2.FONT_HERSHEY_SIMPLEX, max(round(0.5 * row), 6))
    for number, (label, name) in enumerate(BARS):
        top, bottom = round((number + 0.45) * row), round((number + 1.05) * row)
        cv2.putText(part, label, (row // 3, bottom), cv2.FONT_HERSHEY_SIMPLEX, scale, TEXT, 1, cv2.LINE_AA)
        begin, end = 5 * row, width - row // 3
        signed = name.startswith("brow_raise")
        zero = (begin + end) // 2 if signed else begin
        tip = zero + round(min(max(values[name], -1.0 if signed else 0.0), 1.0) * (end - zero))
        cv2.rectangle(part, (begin, top), (end, bottom), (70, 76, 84), -1)
        cv2.rectangle(part, (min(zero, tip), top), (max(zero, tip), bottom), BAR_COLOR, -1)
