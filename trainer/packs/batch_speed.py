"""Measures how fast training batches are made, with different numbers of worker processes."""

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from canthus.trainer.packs.batches import Batches, Contents
from canthus.trainer.packs.pack import Pack
from canthus.trainer.recipe import Recipe

KINDS: dict[str, Contents] = {
    "augmented on the CPU": "augmented",
    "augmented on the GPU": "raw",
    "crops already on the GPU": "cached",
}
"""What a batch is made for, and what it carries then."""


@dataclass(frozen=True)
class BatchSpeed:
    """Images per second of each kind of batch."""

    workers: int  # processes; 0 = a thread of the training process
    images_per_second: dict[str, float]  # by kind

    def __str__(self) -> str:
        workers = f"{self.workers} process{'es' * (self.workers > 1)}" if self.workers else "a thread"
        speeds = (
            f"{kind}: {speed:6.0f} images/s, {speed / max(self.workers, 1):5.0f} per worker"
            for kind, speed in self.images_per_second.items()
        )
        return f"{workers:>13}: {'; '.join(speeds)}"


def measure_batch_speed(pack: Pack, recipe: Recipe, steps: int) -> Iterator[BatchSpeed]:
    """Make `steps` batches of each kind with a thread, one process, half of the CPU cores, and all of them."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 0
    for workers in sorted({0, 1, cores // 2, cores} if cores else {0}):
        speeds = {
            kind: _measure(Batches(pack, recipe, contents=contents), workers, steps) for kind, contents in KINDS.items()
        }
        yield BatchSpeed(workers, speeds)


def _measure(batches: Batches, workers: int, steps: int) -> float:
    stream = batches.stream(0, steps + 1, workers)
    next(stream)
    started = time.perf_counter()
    for _ in stream:
        pass
    return steps * batches.recipe.batch / (time.perf_counter() - started)
