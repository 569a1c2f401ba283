"""What a run tells of itself: a table, log.csv, with a row an epoch, and the same for TensorBoard where asked for."""

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
"""All that a run writes into its folder."""

LATE = 0.005
"""Seconds beyond which handing over a batch that is ready does not take."""


@dataclass(frozen=True)
class Row:
    """What is told of an epoch."""

    step: int
    seconds: float  # since the run was started or resumed
    loss: float  # mean of the epoch's steps
    held_out_nme: float  # %
    images_per_second: float  # of all processes, validation left out
    waited: float  # share of the steps for which no batch was ready


class Waiting:
    """Hands batches on, and counts how often none was ready."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self._steps = self._late = 0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        asked = time.monotonic()
        batch = next(self._batches)
        self._late += time.monotonic() - asked > LATE
        self._steps += 1
        return batch

    def share(self) -> float:
        """Share of the steps since last asked that had to wait."""
        share = self._late / max(self._steps, 1)
        self._steps = self._late = 0
        return share


class Log:
    """Writes a run's table, and TensorBoard's events where asked for, into its folder, which it makes.

    With `overwrite` it takes a former run away first, and leaves what else lies there.
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
        for old in [old for name in RUN_FILES if overwrite for old in folder.glob(name)]:
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

    def show(self, step: int, picture: NDArray[np.uint8]) -> None:
        """Show a picture (H, W, 3) in TensorBoard."""
        if self.board is not None:
            self.board.add_image("held-out faces", picture, step, dataformats="HWC")


def overlay(crops: NDArray[np.uint8], points: NDArray[np.floating], true: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Crops (N, S, S, 3) side by side, with predicted points (N, K, 2) in green on true ones in red."""
    shown = [crop.copy() for crop in crops]
    for image, found, wanted in zip(shown, points, true, strict=True):
        for places, colour in ((wanted, (255, 60, 60)), (found, (60, 255, 60))):
            for x, y in places:
                cv2.circle(image, (round(float(x) * 8), round(float(y) * 8)), 8, colour, -1, cv2.LINE_AA, 3)
    return np.concatenate(shown, 1)
