"""The log of a run: log.csv with one row per epoch, and the same values for TensorBoard on request."""

import csv
import dataclasses
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from canthus.runtime.errors import BackendError
from canthus.trainer.packs.batches import Batch

SESSIONS, REPORT = "sessions.json", "report.txt"
"""Files of `canthus train-session`."""

RUN_FILES = (
    "log.csv", "best.safetensors", "last.safetensors", "best.json", "last.json", "recipe.json", SESSIONS, REPORT,
    "events.out.tfevents*",
)  # fmt: skip
"""All files that a run writes into its folder."""

READY = 0.005
"""Seconds. A batch that is handed over within this time was ready."""

PREDICTED, TRUE = (60, 255, 60), (255, 60, 60)
"""Colors of points in TensorBoard, RGB."""


@dataclass(frozen=True)
class Row:
    """The measurements of one epoch."""

    step: int
    seconds: float  # since the run was started or resumed
    loss: float  # mean over the steps of the epoch
    held_out_nme: float  # of the validation faces, %; nan without them
    images_per_second: float  # of all processes, without validation
    waited: float  # share of the steps for which no batch was ready
    by_pose: dict[str, float] = field(default_factory=dict)  # held_out_nme of each pose, if placed points are measured

    def columns(self) -> dict[str, float]:
        """Return the values by the names of their columns."""
        values = {one.name: getattr(self, one.name) for one in dataclasses.fields(self) if one.name != "by_pose"}
        return values | {f"held_out_{pose}": error for pose, error in self.by_pose.items()}


class TimedBatches:
    """Yields batches, and measures how often none was ready."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self._steps = self._late = 0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        started = time.monotonic()
        batch = next(self._batches)
        self._late += time.monotonic() - started > READY
        self._steps += 1
        return batch

    def late_share(self) -> float:
        """Return the share of late batches since the last call."""
        share = self._late / max(self._steps, 1)
        self._steps = self._late = 0
        return share


class Log:
    """Writes the log of a run into its folder, which it creates.

    overwrite: delete the files of a former run first, and no others.
    tensorboard: write TensorBoard events too. Raises BackendError if tensorboard is not installed.
    """

    def __init__(self, folder: Path, tensorboard: bool = False, overwrite: bool = False) -> None:
        self.folder = folder
        self.board: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as missing:
                raise BackendError(
                    "--tensorboard needs tensorboard, which is not installed: pip install tensorboard"
                ) from missing
        if overwrite:
            for name in RUN_FILES:
                for old in folder.glob(name):
                    old.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        if tensorboard:
            self.board = SummaryWriter(str(folder))  # type: ignore[no-untyped-call]

    def write(self, row: Row) -> None:
        """Append a row, with the columns that the file has."""
        path = self.folder / "log.csv"
        columns = row.columns()
        header = list(columns)
        if path.exists():  # a run that an older version began has no errors by pose
            with path.open(newline="") as file:
                header = next(csv.reader(file), header)
        new = not path.exists()
        with path.open("a", newline="") as file:
            rows = csv.DictWriter(file, header, restval=math.nan, extrasaction="ignore")
            if new:
                rows.writeheader()
            rows.writerow({name: round(value, 4) for name, value in columns.items()})
        if self.board is not None:
            for name, value in columns.items():
                if name not in ("step", "seconds"):
                    self.board.add_scalar(name, value, row.step)
            self.board.flush()

    def show(self, step: int, image: NDArray[np.uint8]) -> None:
        """Show an image (H, W, 3) in TensorBoard."""
        if self.board is not None:
            self.board.add_image("held-out faces", image, step, dataformats="HWC")


def draw_crops(crops: NDArray[np.uint8], points: NDArray[np.floating], true: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return crops (N, S, S, 3) side by side, with predicted points (N, K, 2) in green over true points in red."""
    drawn = [crop.copy() for crop in crops]
    for image, predicted, labels in zip(drawn, points, true, strict=True):
        for shape, color in ((labels, TRUE), (predicted, PREDICTED)):
            for x, y in shape:
                # Coordinates and radius in 1/8 pixel: 3 fractional bits.
                cv2.circle(image, (round(float(x) * 8), round(float(y) * 8)), 8, color, -1, cv2.LINE_AA, 3)
    return np.concatenate(drawn, 1)
