"""Pseudo-labels: faces of unlabelled pictures and videos, marked by models that look at each from several sides."""

import contextlib
import csv
import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from canthus.runtime.closeable import Closeable
from canthus.runtime.detector import MIN_SCORE
from canthus.runtime.errors import InputError, ModelError
from canthus.runtime.geometry import (
    crop,
    intersection_over_minimum,
    invert,
    roi_from_box,
    roi_from_points,
    to_frame,
    to_square_pixels,
    transform,
)
from canthus.runtime.sources import IMAGE_SUFFIXES, VideoFile, find_images, read_image
from canthus.runtime.types import FaceBox, Roi
from canthus.trainer.evaluation.evaluate import Candidate, Detect, find, look
from canthus.trainer.faces.formats import SHARD_LIST, SHARD_QUALITY, format_list_line
from canthus.trainer.faces.labelled import LabelledFace, frame_name, yaw_estimate
from canthus.trainer.faces.schemes import WFLW

VIEWS = ((0.0, 1.0), (math.radians(8), 1.0), (math.radians(-8), 1.0), (0.0, 0.93), (0.0, 1.08))
"""How the region is turned and scaled for each look; every view is also looked at in the mirror."""

MIN_FACE_SCORE = 0.25
"""Below this mean score of its points a detection is no face."""

SAME_FACE = 0.5

ROOM = 1.6
"""Side of a kept picture over the side of the region: a pack's room and some more."""

LARGEST = 512
QUALITY = 95
"""Pixels along an edge of a kept picture, and its JPEG quality."""


@dataclass(frozen=True, eq=False)
class PseudoLabel:
    """A face that models found."""

    points: NDArray[np.float32]  # (98, 2) pixels of the picture, the mean over all looks
    spread: float  # of the looks around the mean, over the size of the face
    score: float


def label_image(picture: NDArray[np.uint8], detect: Detect, candidates: Sequence[Candidate]) -> list[PseudoLabel]:
    """Every face of a picture (H, W, 3), each once, by all models together; ModelError unless they give 98 points."""
    regions = [roi_from_box(box) for box in detect(picture) if box.score >= MIN_SCORE]
    first, _ = find(candidates[0], picture, regions, WFLW, rough=True)
    labels: list[PseudoLabel] = []
    for points in first:
        found = label_face(picture, roi_from_points(points, WFLW.roll(points)), candidates)
        box = _box(found.points)
        if found.score >= MIN_FACE_SCORE and all(
            intersection_over_minimum(box, _box(other.points)) < SAME_FACE for other in labels
        ):
            labels.append(found)
    return labels


def label_face(picture: NDArray[np.uint8], region: Roi, candidates: Sequence[Candidate]) -> PseudoLabel:
    """The face in a region of a picture (H, W, 3), by all models and from all sides.

    ModelError unless all give the same number of points.
    """
    views = [dataclasses.replace(region, angle=region.angle + turn, side=region.side * times) for turn, times in VIEWS]
    looks = [look(candidate, picture, views, mirrored) for candidate in candidates for mirrored in (False, True)]
    wanted = looks[0][0].shape[1]
    for candidate, (one, _) in zip(candidates, looks[::2], strict=True):
        if one.shape[1] != wanted:
            raise ModelError(f"{candidate.name}: gives {one.shape[1]} points, {candidates[0].name} gives {wanted}")
    points = np.concatenate([one for one, _ in looks])  # (looks, 98, 2)
    mean = points.mean(0)
    apart = np.sqrt(((points - mean) ** 2).sum(-1).mean(0)).mean()
    size = float(np.ptp(mean, axis=0).max())
    score = float(np.mean([scores for _, scores in looks]))
    return PseudoLabel(mean.astype(np.float32), float(apart) / max(size, 1.0), score)


def _box(points: NDArray[np.float32]) -> FaceBox:
    (x0, y0), (x1, y1) = points.min(0).tolist(), points.max(0).tolist()
    return FaceBox(x0, y0, x1, y1, 1.0)


class ShardWriter(Closeable):
    """Writes labelled faces as a shard: images/, the list, and quality.csv; `faces` counts them.

    The tables are written on leaving, so that a run which is stopped leaves a whole shard of what it had done, and
    none that bars the next try where that is nothing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faces = 0
        self._lines: list[str] = []
        self._rows: list[tuple[str, str, str]] = []
        try:
            (folder / "images").mkdir(parents=True, exist_ok=True)
        except OSError as refused:
            raise InputError(f"{folder}: cannot be made a folder ({refused.strerror})") from refused

    def write(self, name: str, picture: NDArray[np.uint8], labels: Iterable[PseudoLabel]) -> None:
        """Keep each face of a picture as one of its own, named after it; a name that comes again is numbered on."""
        pictures = self.folder / "images"
        free = (number for number in itertools.count() if not (pictures / f"{name}_{number}.jpg").exists())
        for one, number in zip(labels, free, strict=False):
            region = roi_from_points(one.points)
            size = max(min(round(region.side * ROOM), LARGEST), 32)
            roomy = Roi(region.x, region.y, region.side * ROOM)
            points = transform(invert(to_frame(roomy, size)), one.points)
            image = f"{name}_{number}.jpg"
            target = pictures / image
            target.parent.mkdir(parents=True, exist_ok=True)
            kept = crop(picture, roomy, size)[..., ::-1]
            if not cv2.imwrite(str(target), kept, [cv2.IMWRITE_JPEG_QUALITY, QUALITY]):
                raise InputError(f"{target}: cannot be written")
            (x0, y0), (x1, y1) = points.min(0).tolist(), points.max(0).tolist()
            marks = np.zeros(len(WFLW.subsets), np.bool_)
            self._lines.append(format_list_line(LabelledFace(image, points, (x0, y0, x1, y1), marks)))
            self._rows.append((image, f"{one.spread:.5f}", f"{yaw_estimate(points[None])[0]:.3f}"))
            self.faces += 1

    def close(self) -> None:
        """Write the list and the table of quality."""
        if not self.faces:
            with contextlib.suppress(OSError):  # what else lies there stays
                (self.folder / "images").rmdir()
            return
        (self.folder / SHARD_LIST).write_text("".join(self._lines))
        with (self.folder / SHARD_QUALITY).open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(("image", "ensemble_sd", "yaw"))
            table.writerows(self._rows)


def images_of(source: Path, every: int, unreadable: list[str]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Pictures by name: those of a folder, one picture, or one frame in `every` of a video.

    A picture that cannot be read is told in `unreadable` and passed over.
    """
    if source.is_dir() or source.suffix.lower() in IMAGE_SUFFIXES:
        root = source if source.is_dir() else source.parent
        for path in tqdm(find_images(source), source.name, unit="picture", disable=None):
            try:
                yield str(path.relative_to(root)), read_image(path)
            except InputError as error:
                unreadable.append(str(error))
        return
    with VideoFile(source) as video:
        for frame in tqdm(video, source.name, video.frames, unit="frame", disable=None):
            if frame.index % every == 0:
                yield frame_name(source.stem, frame.index), to_square_pixels(frame.image, frame.pixel_aspect)[0]
        if video.damaged:
            unreadable.append(f"{source}: damaged ({video.damaged})")
