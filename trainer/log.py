"""The log of a run: log.csv with one row per epoch, and the same values for TensorBoard on request."""

import csv
import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from canthus.runtime.errors import BackendError
from canthus.trainer.packs.batches import Batch

RUN_FILES = (
    "log.csv", "best.safetensors", "last.safetensors", "best.json", "last.json", "recipe.json", "events.out.tfevents*",
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
        """Append a row."""
        path = self.folder / "log.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            rows = csv.writer(file)
            if new:
                rows.writerow(field.name for field in dataclasses.fields(row))
            rows.writerow(round(value, 4) for value in dataclasses.astuple(row))
        if self.board is not None:
            for name, value in dataclasses.asdict(row).items():
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
