"""Small images of single frames or images of a table's source, with the face drawn, as data URLs."""

import base64
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from canthus.runtime.draw import draw
from canthus.runtime.errors import InputError
from canthus.runtime.image_files import read_image
from canthus.runtime.run_details import described_points
from canthus.runtime.seek import SeekableVideo
from canthus.runtime.tables import Table
from canthus.runtime.types import Faces

SIDE = 200
"""Pixels of a thumbnail."""

MARGIN = 1.6
"""Side of the part that is shown, relative to the longer side of the points' box."""

QUALITY = 80


def make_thumbnails(table: Table, rows: tuple[int, ...], source: Path) -> dict[int, str]:
    """Return an image of the face of each row as a data URL. Rows whose frame cannot be read are left out."""
    try:
        images = _frames(table, rows, source) if table.schema.kind == "frames" else _images(table, rows, source)
    except InputError:
        return {}
    return {row: _encode(image, table, row) for row, image in images.items()}


def _frames(table: Table, rows: tuple[int, ...], source: Path) -> dict[int, NDArray[np.uint8]]:
    found = {}
    with SeekableVideo(source) as video:
        for row in rows:
            frame = next(video.frames_from(float(table.seconds[row])), None)
            if frame is not None:
                found[row] = frame.image
    return found


def _images(table: Table, rows: tuple[int, ...], source: Path) -> dict[int, NDArray[np.uint8]]:
    found = {}
    root = source if source.is_dir() else source.parent
    for row in rows:
        try:
            path = root / table.names[int(table.records["picture"][row])]
            if path.resolve().is_relative_to(root.resolve()):  # a table of others may name private images
                found[row] = read_image(path)
        except InputError:
            continue
    return found


def _encode(image: NDArray[np.uint8], table: Table, row: int) -> str:
    points, scores = table.points[row : row + 1], table.scores[row : row + 1]
    scheme = described_points(table.metadata, table.schema.points)
    faces = Faces(np.ascontiguousarray(points), np.ascontiguousarray(scores), np.zeros(1, np.int64), scheme=scheme)
    drawn = draw(image, faces, drawings=("points", "lines"))
    (x0, y0), (x1, y1) = points[0].min(0), points[0].max(0)
    side = max(float(max(x1 - x0, y1 - y0)) * MARGIN, 8.0)
    to_thumbnail = np.array([[SIDE / side, 0, SIDE / 2 - (x0 + x1) / 2 * SIDE / side],
                             [0, SIDE / side, SIDE / 2 - (y0 + y1) / 2 * SIDE / side]])  # fmt: skip
    small = cv2.warpAffine(drawn, to_thumbnail, (SIDE, SIDE), flags=cv2.INTER_AREA if side > SIDE else cv2.INTER_LINEAR)
    jpeg = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.tobytes()).decode()}"
