"""Batches drawn from a pack: which faces, how changed, and always some ahead of the network.

Which faces a step draws depends on the seed and the step alone, how a face is changed on its place in the batch too.
So a resumed run sees what an unbroken one would see, and many processes together see what one would.
"""

import math
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from canthus.runtime.errors import InputError
from canthus.trainer.augmentation.augment import (
    NO_AUGMENTATION,
    NO_FACE,
    Image,
    Points,
    Transform,
    augment,
    make_negative,
    move_points,
    sample_negative,
    sample_transform,
)
from canthus.trainer.augmentation.device_augment import BatchTransforms, apply_transforms, collate_transforms
from canthus.trainer.faces.labelled import is_held_out, yaw_estimate
from canthus.trainer.packs.pack import Pack
from canthus.trainer.recipe import Recipe

AHEAD = 3
VALIDATION_BATCH = 64
"""Faces that are validated together."""
GPU_CACHE_FRACTION = 0.25
"""The most of a GPU's free memory that a pack's crops may fill, so that they need not travel with every batch."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Faces as the network takes them; or raw, with the changes that finish them."""

    crops: Tensor  # (B, S, S, 3) uint8; of a raw batch the pack's (B, P, P, 3), or those that no gpu_cache has
    points: Tensor  # (B, K, 2) float32, pixels of the finished crop
    weight: Tensor  # (B,) how much each face counts
    transforms: BatchTransforms | None = None
    rows: Tensor | None = None  # (B,) where a gpu_cache has the crops, and
    others: Tensor | None = None  # (n,) which of the batch `crops` (n, P, P, 3) are instead

    def pin_memory(self) -> "Batch":
        """In memory that a GPU can fetch by itself."""
        return self._each(Tensor.pin_memory)

    def to(self, device: torch.device) -> "Batch":
        """On a device; the copy goes on beside the arithmetic where the memory is pinned."""
        return self._each(lambda part: part.to(device, non_blocking=True))

    def augmented(self, gpu_cache: Tensor | None = None) -> "Batch":
        """Apply the changes, on the device of the tensors; a batch with `rows` takes its crops from `gpu_cache`."""
        if self.transforms is None:
            return self
        crops = self.crops
        if gpu_cache is not None and self.rows is not None and self.others is not None:
            crops = gpu_cache[self.rows].index_copy_(0, self.others, crops)
        return Batch(apply_transforms(crops, self.transforms), self.points, self.weight)

    def _each(self, move: Callable[[Tensor], Tensor]) -> "Batch":
        rows, others = (None if part is None else move(part) for part in (self.rows, self.others))
        changes = self.transforms and self.transforms.map(move)
        return Batch(move(self.crops), move(self.points), move(self.weight), changes, rows, others)


def load_to_gpu(pack: Pack, device: torch.device) -> Tensor | None:
    """The crops (N, P, P, 3) of a pack in a GPU's memory; None where it has not enough of it, and for a CPU."""
    if device.type != "cuda" or pack.crops.nbytes > GPU_CACHE_FRACTION * torch.cuda.mem_get_info(device)[0]:
        return None
    gpu_cache = torch.empty(pack.crops.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(pack), VALIDATION_BATCH):
        some = slice(start, start + VALIDATION_BATCH)
        gpu_cache[some] = torch.from_numpy(np.array(pack.crops[some]))
    return gpu_cache


Contents = Literal["augmented", "raw", "cached"]
"""What training batches carry: augmented crops; the pack's crops and how to augment them, for a GPU to do; or, where a
GPU has the pack's crops in its cache (`load_to_gpu`), only which rows of it to augment how."""


class Process(NamedTuple):
    """One of the processes that train together and share each batch."""

    rank: int = 0
    ranks: int = 1


ONLY_PROCESS = Process()


class Batches:
    """Draws training batches of a recipe from a pack, and the faces that choose the checkpoint unchanged.

    Those are the pack's held-out faces, or all of `judged` where it is given. `rank` of `ranks` processes gets its
    part of each batch. Training batches come `raw` where a GPU is to finish them, and without the crops that it has
    already where these are `shelved`.
    """

    def __init__(
        self,
        pack: Pack,
        recipe: Recipe,
        validation_pack: Pack | None = None,
        process: Process = ONLY_PROCESS,
        contents: Contents = "augmented",
    ) -> None:
        self.pack = pack
        self.recipe = recipe
        self.contents = contents
        self.process = process
        rank, ranks = process
        if recipe.batch % ranks:
            raise InputError(f"a batch of {recipe.batch} cannot be split over {ranks} processes; change batch")
        part = recipe.batch // ranks
        self.places = range(rank * part, (rank + 1) * part)
        every = recipe.held_out if validation_pack is None else 0  # where others choose, none need be spared
        kept = np.array([every > 0 and is_held_out(name, every) for name in pack.names], np.bool_)
        self.training_rows = np.flatnonzero(~kept)
        self.validation_pack = pack if validation_pack is None else validation_pack
        self.validation_rows = np.flatnonzero(kept) if validation_pack is None else np.arange(len(validation_pack))
        if not len(self.training_rows) or (every and not len(self.validation_rows)):
            raise InputError(
                f"the pack's {len(pack)} faces are too few to hold one in {every} out (of a video a thousand frames "
                "at once); pack more, or lower held_out"
            )
        points, validation_points = pack.points.shape[1], self.validation_pack.points.shape[1]
        if validation_points != points:
            raise InputError(
                f"the training faces have {points} points, the validation faces {validation_points}; "
                "choose the checkpoint on a pack of the same data set (--choose-on)"
            )
        self._chance = self._chances()

    def _chances(self) -> NDArray[np.float64]:
        often = np.ones(len(self.pack))
        names = [Path(source).name for source in self.pack.sources]
        for part, times in self.recipe.dataset_weights:
            matches = np.array([part.casefold() in name.casefold() for name in names], np.bool_)
            if not matches.any() and self.process.rank == 0:
                known = ", ".join(names)
                print(f"dataset_weights: {part!r} is in the name of no set of the pack: {known}", file=sys.stderr)
            often[matches[self.pack.source]] *= times
        often[np.abs(yaw_estimate(self.pack.points)) > 0.3] *= self.recipe.profile_weight
        often = often[self.training_rows]
        if not 0 < often.sum() < math.inf:
            raise InputError(
                "dataset_weights and profile_weight leave no face of the pack to draw, or draw one for ever"
            )
        chance: NDArray[np.float64] = often / often.sum()
        return chance

    def rows(self, step: int) -> NDArray[np.intp]:
        """Which faces of the pack the whole batch of a step shows (batch,).

        By chance; where all are as likely, each is shown once before any is shown again.
        """
        count = self.recipe.batch
        if np.ptp(self._chance) > 0:
            return np.random.default_rng([self.recipe.seed, step]).choice(self.training_rows, count, p=self._chance)
        place, faces = np.arange(step * count, (step + 1) * count), len(self.training_rows)
        orders = {
            epoch: np.random.default_rng([self.recipe.seed, epoch]).permutation(self.training_rows)
            for epoch in np.unique(place // faces).tolist()
        }
        return np.array([orders[one // faces][one % faces] for one in place.tolist()], np.intp)

    def draw(self, step: int) -> Batch:
        """This process's part of the training batch of one step."""
        rows = self.rows(step)[self.places.start : self.places.stop]
        rngs = (np.random.default_rng([self.recipe.seed, step, place]) for place in self.places)
        if self.contents == "augmented":
            return self._batch(
                self.pack, rows, [self._changed(int(row), rng) for row, rng in zip(rows, rngs, strict=True)]
            )
        drawn = [self._drawn(int(row), rng) for row, rng in zip(rows, rngs, strict=True)]
        cached = self.contents == "cached"
        others = [place for place, (own, *_) in enumerate(drawn) if not (cached and own is None)]
        crops = [self.pack.crops[rows[place]] if (own := drawn[place][0]) is None else own for place in others]
        return Batch(
            torch.from_numpy(np.array(crops, np.uint8).reshape(-1, *self.pack.crops.shape[1:])),
            torch.from_numpy(np.stack([points for _, points, _ in drawn])),
            self._weight(self.pack, rows),
            collate_transforms([change for *_, change in drawn], self.recipe.size),
            torch.from_numpy(rows) if cached else None,
            torch.tensor(others, dtype=torch.int64) if cached else None,
        )

    def _changed(self, row: int, rng: np.random.Generator) -> tuple[Image, Points]:
        change = make_negative if rng.random() < self.recipe.negative_fraction else augment
        how = self.recipe.augmentation
        return change(self.pack.crops[row], self.pack.points[row], self.recipe.size, how, rng)

    def _drawn(self, row: int, rng: np.random.Generator) -> tuple[Image | None, Points, Transform]:
        """A roomy crop where it is not the pack's, the points in the finished one, and the change between them."""
        points, size, how = self.pack.points[row], self.recipe.size, self.recipe.augmentation
        if rng.random() < self.recipe.negative_fraction:
            shown, change = sample_negative(self.pack.crops[row], points, size, how, rng)
            return shown, np.full_like(points, NO_FACE), change
        change = sample_transform(points, size, how, rng)
        return None, move_points(points, change, size), change

    def validation(self) -> Iterator[Batch]:
        """This process's part of the faces that choose the checkpoint, in batches, unchanged."""
        rng = np.random.default_rng(0)
        rank, ranks = self.process
        for start in range(rank * VALIDATION_BATCH, len(self.validation_rows), ranks * VALIDATION_BATCH):
            rows = self.validation_rows[start : start + VALIDATION_BATCH]
            faces = [
                augment(
                    self.validation_pack.crops[row],
                    self.validation_pack.points[row],
                    self.recipe.size,
                    NO_AUGMENTATION,
                    rng,
                )
                for row in rows
            ]
            yield self._batch(self.validation_pack, rows, faces)

    def stream(self, start: int, stop: int, workers: int = 0, pinned: bool = False) -> Iterator[Batch]:
        """The batches of steps start to stop, made ahead by worker processes.

        Without workers a thread makes them (OpenCV releases the interpreter): right where the network itself keeps
        the cores busy.
        """
        cv2.setNumThreads(1)  # before the fork: a process waits for ever to end threads that only its parent has
        if workers:
            yield from DataLoader(
                _Steps(self),
                batch_size=None,
                sampler=range(start, stop),
                num_workers=workers,
                prefetch_factor=AHEAD,
                pin_memory=pinned,
                worker_init_fn=_settle,
                multiprocessing_context="fork",  # shares the pack's memory map
            )
            return
        with ThreadPoolExecutor(1, "batches") as maker:
            waiting: list[Future[Batch]] = [
                maker.submit(self.draw, step) for step in range(start, min(start + AHEAD, stop))
            ]
            for step in range(start, stop):
                batch = waiting.pop(0).result()
                if step + AHEAD < stop:
                    waiting.append(maker.submit(self.draw, step + AHEAD))
                yield batch

    def _batch(self, pack: Pack, rows: NDArray[np.intp], faces: list[tuple[Image, Points]]) -> Batch:
        return Batch(
            torch.from_numpy(np.stack([crop for crop, _ in faces])),
            torch.from_numpy(np.stack([points for _, points in faces])),
            self._weight(pack, rows),
        )

    def _weight(self, pack: Pack, rows: NDArray[np.intp]) -> Tensor:
        weight = 1 / (1 + (pack.spread[rows] / self.recipe.spread_half_weight) ** 2)
        return torch.from_numpy(weight.astype(np.float32))


class _Steps(Dataset[Batch]):
    """A data set whose item of a number is the batch of that step."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __getitem__(self, step: int) -> Batch:
        return self._batches.draw(step)


def _settle(_: int) -> None:
    """Make a worker process leave signals to the process that trains.

    Ctrl-C, torchrun and Slurm send theirs to all of a run's processes; a worker that ended would break the last step.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
