"""Pseudo-labels: label the faces of images and videos with models, and write them as a shard."""

import contextlib
import csv
import dataclasses
import errno
import io
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
from canthus.runtime.files import write_file
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
from canthus.runtime.image_files import IMAGE_SUFFIXES, find_images, read_image
from canthus.runtime.types import FaceBox, Roi
from canthus.runtime.video_file import VideoFile
from canthus.trainer.evaluation.evaluate import Candidate, Detect, Image, predict_faces, predict_views
from canthus.trainer.faces.kinds import Kinds
from canthus.trainer.faces.labelled import LabelledFace, frame_name, yaw_estimate
from canthus.trainer.faces.schemes import WFLW
from canthus.trainer.faces.shard_tables import SHARD_KINDS, SHARD_QUALITY
from canthus.trainer.faces.wflw_lists import SHARD_LIST, format_list_line

VIEWS = tuple(
    (math.radians(degrees), scale)
    for degrees, scale in (
        *((0, 1.0), (8, 1.0), (-8, 1.0), (0, 0.93), (0, 1.08)),
        *((4, 0.96), (-4, 1.04), (12, 1.0), (-12, 1.0)),
    )
)
"""The views of a face in which it is predicted: rotation and scale of the region. Each view is also mirrored."""

DEFAULT_VIEWS = 5
"""Number of views, the first of VIEWS, that label a face."""

MIN_FACE_SCORE = 0.25
"""A detection with a lower mean score of the points is not a face."""

SAME_FACE = 0.5
"""Two labels whose boxes have this intersection over minimum are of one face."""

IMAGE_SCALE = 1.6
"""Side of a written image over the side of the region. It leaves more room for augmentation than a pack needs."""

MAX_SIDE = 512
"""Largest side of a written image, pixels."""

JPEG_QUALITY = 95

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, eq=False)
class PseudoLabel:
    """The label of a face, predicted by models, or moved with the face by `canthus data turn`."""

    points: NDArray[np.float32]  # (98, 2) image pixels, the mean over all predictions
    spread: float  # standard deviation of the predictions, the mean over the points, over the face's size
    score: float  # mean over points and predictions
    kinds: Kinds | None = None  # (98,) PointKind of each point; None = all are predicted


def label_image(image: Image, detect: Detect, candidates: Sequence[Candidate]) -> list[PseudoLabel]:
    """Detect the faces of an image (H, W, 3), and label each one with all models together.

    Raises:
        ModelError: A model predicts another number of points than 98.
    """
    rois = [roi_from_box(box) for box in detect(image) if box.score >= MIN_SCORE]
    found = predict_faces(candidates[0], image, rois, WFLW, refine=True)
    labels: list[PseudoLabel] = []
    for points in found.points:
        label = label_face(image, roi_from_points(points, WFLW.roll(points)), candidates)
        box = _box(label.points)
        is_new = all(intersection_over_minimum(box, _box(other.points)) < SAME_FACE for other in labels)
        if label.score >= MIN_FACE_SCORE and is_new:
            labels.append(label)
    return labels


def label_face(image: Image, roi: Roi, candidates: Sequence[Candidate], views: Sequence[int] = ()) -> PseudoLabel:
    """Predict the face in a region of an image (H, W, 3) with all models in several views, and return the mean.

    All models have the same share in the mean and in the spread. If a prediction is not finite, nor is the spread.

    views: how many views, the first of VIEWS, each of the models predicts; empty = DEFAULT_VIEWS.

    Raises:
        ModelError: The models predict different numbers of points.
    """
    rois = [dataclasses.replace(roi, angle=roi.angle + angle, side=roi.side * scale) for angle, scale in VIEWS]
    counts = views or [DEFAULT_VIEWS] * len(candidates)
    predictions = [
        predict_views(candidate, image, rois[:count]) for candidate, count in zip(candidates, counts, strict=True)
    ]
    expected = predictions[0].points.shape[1]
    for candidate, prediction in zip(candidates, predictions, strict=True):
        if (count := prediction.points.shape[1]) != expected:
            raise ModelError(f"{candidate.name}: predicts {count} points, {candidates[0].name} predicts {expected}")
    mean = np.mean([prediction.points.mean(0) for prediction in predictions], axis=0)
    variance = np.mean([((prediction.points - mean) ** 2).sum(-1).mean(0) for prediction in predictions], axis=0)
    size = max(float(np.ptp(mean, axis=0).max()), 1.0)
    scores = [one.scores.mean() for one, by in zip(predictions, candidates, strict=True) if by.has_scores]
    return PseudoLabel(mean.astype(np.float32), float(np.sqrt(variance).mean()) / size, float(np.mean(scores or 1.0)))


def _box(points: NDArray[np.float32]) -> FaceBox:
    (x0, y0), (x1, y1) = points.min(0).tolist(), points.max(0).tolist()
    return FaceBox(x0, y0, x1, y1, 1.0)


class ShardWriter(Closeable):
    """Writes labelled faces as a shard: images/, the list of labels, quality.csv with spreads, human.csv with kinds.

    human.csv has the faces whose labels have kinds. The list and the tables are written by `close`. So a run that is
    interrupted leaves a complete shard of the faces so far; on a full disk, without the last ones. Without faces
    nothing is left, and the same folder can be used again.

    Args:
        folder: The shard. It is created.

    Raises:
        InputError: The folder or a file cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faces = 0  # written so far
        self._lines: list[str] = []
        self._rows: list[tuple[str, str, str]] = []
        self._kinds: list[tuple[str, str]] = []
        try:
            (folder / "images").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: cannot be created ({error.strerror})") from error

    def write(self, name: str, image: Image, labels: Iterable[PseudoLabel]) -> None:
        """Write each face of an image as NAME_0.jpg, NAME_1.jpg, ...; numbers that exist already are skipped."""
        folder = self.folder / "images"
        free = (number for number in itertools.count() if not (folder / f"{name}_{number}.jpg").exists())
        for label, number in zip(labels, free, strict=False):
            face = f"{name}_{number}.jpg"
            roi = roi_from_points(label.points)
            larger = Roi(roi.x, roi.y, roi.side * IMAGE_SCALE)
            side = max(min(round(larger.side), MAX_SIDE), 32)
            points = transform(invert(to_frame(larger, side)), label.points)
            _write_jpeg(folder / face, crop(image, larger, side))
            (x0, y0), (x1, y1) = points.min(0).tolist(), points.max(0).tolist()
            attributes = np.zeros(len(WFLW.subsets), np.bool_)
            self._lines.append(format_list_line(LabelledFace(face, points, (x0, y0, x1, y1), attributes)))
            self._rows.append((face, f"{label.spread:.5f}", f"{yaw_estimate(points[None])[0]:.3f}"))
            if label.kinds is not None:
                self._kinds.append((face, "".join(str(kind) for kind in label.kinds.tolist())))
            self.faces += 1

    def close(self) -> None:
        """Write the list and the tables."""
        while self.faces:
            try:
                self._write_tables()
                return
            except InputError as error:
                if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in DISK_FULL:
                    raise
                self._delete_last(max(self.faces // 10, 1))  # their images leave space for the tables of the others
                if not self.faces:
                    raise
        with contextlib.suppress(OSError):  # it holds other files, which stay
            (self.folder / "images").rmdir()

    def _delete_last(self, count: int) -> None:
        """Delete the images of the last faces, and forget their labels."""
        names = [name for name, *_ in self._rows[-count:]]
        for name in names:
            (self.folder / "images" / name).unlink(missing_ok=True)
        del self._lines[-count:], self._rows[-count:]
        self._kinds = [one for one in self._kinds if one[0] not in names]
        self.faces -= count

    def _write_tables(self) -> None:
        write_file(self.folder / SHARD_QUALITY, _csv(("image", "ensemble_sd", "yaw"), self._rows))
        if self._kinds:
            write_file(self.folder / SHARD_KINDS, _csv(("image", "points"), self._kinds))
        write_file(self.folder / SHARD_LIST, "".join(self._lines).encode())


def _csv(header: Sequence[str], rows: Sequence[Sequence[str]]) -> bytes:
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(header)
    writer.writerows(rows)
    return table.getvalue().encode()


def _write_jpeg(path: Path, image: Image) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path.parent}: cannot be created ({error.strerror})") from error
    write_file(path, cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes())


def images_of(source: Path, every: int, unreadable: list[str]) -> Iterator[tuple[str, Image]]:
    """Yield the images of a source with their names.

    An image of a video has square pixels, as a player shows it.

    Args:
        source: An image file, a folder of them, or a video.
        every: Of a video, yield one frame in `every`.
        unreadable: Gets one line for each image that cannot be read. It is skipped.
    """
    if source.is_dir() or source.suffix.lower() in IMAGE_SUFFIXES:
        root = source if source.is_dir() else source.parent
        for path in tqdm(find_images(source), source.name, unit="image", disable=None):
            try:
                yield str(path.relative_to(root)), read_image(path)
            except InputError as error:
                unreadable.append(str(error))
        return
    with VideoFile(source) as video:
        for frame in tqdm(video, source.name, video.frames, unit="frame", disable=None):
            if frame.index % every == 0:
                image, _ = to_square_pixels(frame.image, frame.pixel_aspect)
                yield frame_name(source.stem, frame.index), image
        if video.damaged:
            unreadable.append(f"{source}: damaged ({video.damaged})")
