"""Training and validation batches of a pack; training batches are prepared ahead of time.

Which faces a step shows depends only on the seed and the step. How a face is augmented also depends on its place in the
batch. So a resumed run gets the same batches as one that was not interrupted, and so do several processes together.
"""

import logging
import math
import signal
from collections.abc import Callable, Iterator, Sequence
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
from canthus.trainer.augmentation.appearance import Image
from canthus.trainer.augmentation.augment import (
    NO_FACE,
    PackedImage,
    Points,
    Transform,
    apply_transform,
    make_negative,
    move_points,
    sample_negative,
    sample_transform,
)
from canthus.trainer.augmentation.device_augment import BatchTransforms, apply_transforms, collate_transforms
from canthus.trainer.augmentation.published import ignore_far_points
from canthus.trainer.augmentation.settings import NO_AUGMENTATION, Augmentation
from canthus.trainer.faces.kinds import Kinds, PointKind, are_mixed, is_from_68, is_labelled, is_placed
from canthus.trainer.faces.labelled import fitting_held_out, is_held_out, yaw_estimate
from canthus.trainer.faces.lengths import is_wide_open
from canthus.trainer.faces.schemes import WFLW, describe_difference
from canthus.trainer.packs.pack import Pack
from canthus.trainer.packs.set_names import select_sets
from canthus.trainer.recipe import Recipe

AHEAD = 3
"""Number of batches that are prepared ahead."""

VALIDATION_BATCH = 64
"""Number of faces in a validation batch."""

GPU_CACHE_FRACTION = 0.25
"""Largest fraction of a GPU's free memory that the crops of a pack may take."""

PROFILE_YAW = 0.3
"""Faces with a larger `yaw_estimate` are drawn `profile_weight` times as often."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch of faces: crops that are ready for the network, or packed crops with transforms to be applied."""

    crops: Tensor  # uint8; (B, S, S, 3) augmented, or (B, P, P, 3) packed, or (n, P, P, 3) if `cached_rows` is given
    points: Tensor  # (B, K, 2) float32, pixels of the augmented crop
    weight: Tensor  # (B,) weight of each face in the loss
    point_weight: Tensor  # (B, K) weight of each point in the loss; of validation faces: 1 if it is evaluated, else 0
    transforms: BatchTransforms | None = None  # None: the crops are augmented already
    cached_rows: Tensor | None = None  # (B,) rows of the packed crops in the GPU cache
    uncached: Tensor | None = None  # (n,) faces of the batch whose packed crops are in `crops`, not in the GPU cache

    def pin_memory(self) -> "Batch":
        """Return a copy in pinned memory, from which a GPU can copy asynchronously."""
        return self._map(Tensor.pin_memory)

    def to(self, device: torch.device) -> "Batch":
        """Return a copy on a device; from pinned memory it is copied asynchronously."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def augmented(self, gpu_cache: Tensor | None = None) -> "Batch":
        """Apply the transforms on the device of the tensors. `gpu_cache` is needed by a batch with `cached_rows`."""
        if self.transforms is None:
            return self
        crops = self.crops
        if self.cached_rows is not None:
            assert gpu_cache is not None, "a batch with cached_rows needs the GPU cache"
            assert self.uncached is not None
            crops = gpu_cache[self.cached_rows].index_copy_(0, self.uncached, crops)
        return Batch(apply_transforms(crops, self.transforms), self.points, self.weight, self.point_weight)

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        return Batch(
            crops=function(self.crops),
            points=function(self.points),
            weight=function(self.weight),
            point_weight=function(self.point_weight),
            transforms=self.transforms and self.transforms.map(function),
            cached_rows=None if self.cached_rows is None else function(self.cached_rows),
            uncached=None if self.uncached is None else function(self.uncached),
        )


def load_to_gpu(pack: Pack, device: torch.device) -> Tensor | None:
    """Copy the crops (N, P, P, 3) of a pack to a GPU; return None on a CPU or if too little GPU memory is free."""
    if device.type != "cuda" or pack.crops.nbytes > GPU_CACHE_FRACTION * torch.cuda.mem_get_info(device)[0]:
        return None
    gpu_cache = torch.empty(pack.crops.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(pack), VALIDATION_BATCH):
        rows = slice(start, start + VALIDATION_BATCH)
        gpu_cache[rows] = torch.from_numpy(np.array(pack.crops[rows]))
    return gpu_cache


Contents = Literal["augmented", "raw", "cached"]
"""What training batches carry. "augmented": augmented crops. "raw": packed crops, which the GPU augments. "cached":
only rows of the GPU cache (`load_to_gpu`), whose crops the GPU augments."""


class Process(NamedTuple):
    """One of the processes that train together; each takes its part of every batch."""

    rank: int = 0
    world_size: int = 1


SINGLE_PROCESS = Process()


class _SampledFace(NamedTuple):
    crop: Image | None  # (P, P, 3); None = the pack's
    points: Points  # (K, 2) pixels of the augmented crop
    kinds: Kinds  # (K,)
    transform: Transform


class AugmentedFace(NamedTuple):
    """A face as the network sees it."""

    crop: Image  # (S, S, 3)
    points: Points  # (K, 2) pixels of the crop
    kinds: Kinds  # (K,) PointKind of each point


def augment_face(
    pack: Pack, row: int, size: int, augmentation: Augmentation, rng: np.random.Generator
) -> AugmentedFace:
    """Augment a face of a pack to a crop of `size` pixels. If it is mirrored, so are the kinds of its points."""
    transform = sample_transform(pack.points[row], size, augmentation, rng, _source_image(pack, row))
    crop, points = apply_transform(pack.crops[row], pack.points[row], transform, size)
    kinds = _move_kinds(pack, row, transform)
    return AugmentedFace(crop, points, ignore_far_points(kinds, points, size) if augmentation.published else kinds)


def _source_image(pack: Pack, row: int) -> PackedImage:
    return PackedImage(pack.crops.shape[1], pack.image_boxes[row], pack.scheme)


def _move_kinds(pack: Pack, row: int, transform: Transform) -> Kinds:
    """Return the kinds (K,) of the points of a face after a transform, which may mirror it."""
    kinds: Kinds = pack.kinds[row]
    return kinds[pack.scheme.mirror] if transform.flipped else kinds


def _advised(names: Sequence[str], every: int) -> int:
    """Return a value of held_out that holds out some of the faces, or 0 if there is none."""
    fitting = fitting_held_out(names, every)
    return fitting if any(is_held_out(name, fitting) for name in names) and fitting != every else 0


class Batches:
    """The training and validation batches of a run.

    Args:
        pack: The faces to train on.
        recipe: Selects and augments the faces.
        validation_pack: The validation faces. Without it, `recipe.held_out` selects them from `pack`, and they are
            not trained on.
        process: Which part of each batch to make.
        contents: What training batches carry.

    Attributes:
        training_rows: Rows of `pack` that are trained on.
        validation_pack: The pack with the validation faces.
        validation_rows: Their rows in `validation_pack`.
        set_weights: How often the faces of each set are drawn, by the name of the set (`dataset_weights`).
        placed_only: Whether validation measures only the points that people placed, because the validation faces have
            other kinds of points too. Errors are then relative to the box of the face, not to the eye corners.

    Raises:
        InputError: If the pack does not fit the recipe.
    """

    def __init__(
        self,
        pack: Pack,
        recipe: Recipe,
        validation_pack: Pack | None = None,
        process: Process = SINGLE_PROCESS,
        contents: Contents = "augmented",
    ) -> None:
        self.pack = pack
        self.recipe = recipe
        self.contents = contents
        self.process = process
        rank, world_size = process
        if recipe.batch % world_size:
            raise InputError(f"a batch of {recipe.batch} cannot be split over {world_size} processes; change batch")
        part = recipe.batch // world_size
        self._places = range(rank * part, (rank + 1) * part)  # of this process, in the whole batch
        every = recipe.held_out if validation_pack is None else 0
        held_out = np.array([every > 0 and is_held_out(name, every) for name in pack.names], np.bool_)
        self.training_rows = np.flatnonzero(~held_out)
        self.validation_pack = pack if validation_pack is None else validation_pack
        self.validation_rows = np.flatnonzero(held_out) if validation_pack is None else np.arange(len(validation_pack))
        if not len(self.training_rows) or (every and not len(self.validation_rows)):
            raise InputError(
                f"the pack's {len(pack)} faces are too few to hold out one in {every} (1000 frames of a video are "
                f"held out together); pack more faces, or lower held_out: --set held_out={_advised(pack.names, every)}"
            )
        ours, theirs = pack.scheme, self.validation_pack.scheme
        if ours != theirs:
            raise InputError(
                f"the training faces have {ours.points} points, the validation faces {theirs.points} ({ours.name}, "
                f"{theirs.name}; different: {describe_difference(ours, theirs)}); choose the checkpoint on a pack of "
                "the same data set (--choose-on)"
            )
        kinds = self.validation_pack.kinds[self.validation_rows]
        self.placed_only = are_mixed(kinds) and bool(is_placed(kinds).any())
        self._probabilities = self._sampling_probabilities()
        self._weight_of_kind = recipe.kind_weights.table()
        self._is_contour = np.zeros(ours.points, np.bool_)
        if ours == WFLW:
            self._is_contour[list(WFLW.regions["contour"])] = True

    def _sampling_probabilities(self) -> NDArray[np.float64]:
        """Return the probability (T,) of each training row."""
        of_sets = np.ones(len(self.pack.sources))
        for entry, weight in self.recipe.dataset_weights:
            named = select_sets(entry, self.pack.sources)
            if not named.any() and self.process.rank == 0:
                known = ", ".join(Path(source).name for source in self.pack.sources)
                _log.warning("dataset_weights: no set of the pack has %r in its name (%s)", entry, known)
            of_sets[named] *= weight
        self.set_weights = dict(zip(self.pack.sources, of_sets.tolist(), strict=True))
        weights = of_sets[self.pack.source]
        weights[np.abs(yaw_estimate(self.pack.points, self.pack.scheme)) > PROFILE_YAW] *= self.recipe.profile_weight
        if self.recipe.open_mouth_weight != 1:
            weights[is_wide_open(self.pack.points, self.pack.scheme)] *= self.recipe.open_mouth_weight
        weights = weights[self.training_rows]
        if not 0 < weights.sum() < math.inf:
            raise InputError(
                "dataset_weights, profile_weight and open_mouth_weight leave no face of the pack to draw, or have an "
                "infinite sum; change them"
            )
        probabilities: NDArray[np.float64] = weights / weights.sum()
        return probabilities

    def sample_rows(self, step: int) -> NDArray[np.intp]:
        """Return the rows (batch,) of `pack` that a step shows, of all processes.

        If all faces have the same weight, each is shown once per epoch. Else rows are drawn with replacement.
        """
        count, seed = self.recipe.batch, self.recipe.seed
        if np.ptp(self._probabilities) > 0:
            return np.random.default_rng([seed, step]).choice(self.training_rows, count, p=self._probabilities)
        number, faces = np.arange(step * count, (step + 1) * count), len(self.training_rows)
        orders = {
            epoch: np.random.default_rng([seed, epoch]).permutation(self.training_rows)
            for epoch in np.unique(number // faces).tolist()
        }
        return np.array([orders[one // faces][one % faces] for one in number.tolist()], np.intp)

    def make_batch(self, step: int) -> Batch:
        """Make this process's part of the training batch of a step."""
        rows = self.sample_rows(step)[self._places.start : self._places.stop]
        rngs = (np.random.default_rng([self.recipe.seed, step, place]) for place in self._places)
        if self.contents == "augmented":
            faces = [self._augment(int(row), rng) for row, rng in zip(rows, rngs, strict=True)]
            weight = self._point_weight(np.stack([one.kinds for one in faces]))
            return self._collate(self.pack, rows, faces, weight)
        sampled = [self._sample(int(row), rng) for row, rng in zip(rows, rngs, strict=True)]
        cached = self.contents == "cached"
        uncached = [place for place, one in enumerate(sampled) if one.crop is not None or not cached]
        crops = [self.pack.crops[rows[place]] if (crop := sampled[place].crop) is None else crop for place in uncached]
        return Batch(
            crops=torch.from_numpy(np.array(crops, np.uint8).reshape(-1, *self.pack.crops.shape[1:])),
            points=torch.from_numpy(np.stack([one.points for one in sampled])),
            weight=self._face_weight(self.pack, rows),
            point_weight=self._point_weight(np.stack([one.kinds for one in sampled])),
            transforms=collate_transforms([one.transform for one in sampled], self.recipe.size),
            cached_rows=torch.from_numpy(rows) if cached else None,
            uncached=torch.tensor(uncached, dtype=torch.int64) if cached else None,
        )

    def _augment(self, row: int, rng: np.random.Generator) -> AugmentedFace:
        """Return an augmented crop and its points."""
        crop, points = self.pack.crops[row], self.pack.points[row]
        size, augmentation = self.recipe.size, self.recipe.augmentation
        if rng.random() < self.recipe.negative_fraction:
            return AugmentedFace(*make_negative(crop, points, size, augmentation, rng), self._kinds_of_negative())
        return augment_face(self.pack, row, size, augmentation, rng)

    def _sample(self, row: int, rng: np.random.Generator) -> _SampledFace:
        """Sample what `_augment` would do, with the same random numbers."""
        points, size, augmentation = self.pack.points[row], self.recipe.size, self.recipe.augmentation
        if rng.random() < self.recipe.negative_fraction:
            crop, transform = sample_negative(self.pack.crops[row], points, size, augmentation, rng)
            return _SampledFace(crop, np.full_like(points, NO_FACE), self._kinds_of_negative(), transform)
        transform = sample_transform(points, size, augmentation, rng, _source_image(self.pack, row))
        kinds = _move_kinds(self.pack, row, transform)
        return _SampledFace(None, move_points(points, transform, size), kinds, transform)

    def _kinds_of_negative(self) -> Kinds:
        """Return the kinds (K,) of a crop without a face: PLACED, as it is certain that it contains no point."""
        return np.full(self.pack.points.shape[1], PointKind.PLACED, np.uint8)

    def validation(self) -> Iterator[Batch]:
        """Yield this process's part of the validation faces in batches, not augmented."""
        rng = np.random.default_rng(0)
        pack, size = self.validation_pack, self.recipe.size
        rank, world_size = self.process
        for start in range(rank * VALIDATION_BATCH, len(self.validation_rows), world_size * VALIDATION_BATCH):
            rows = self.validation_rows[start : start + VALIDATION_BATCH]
            faces = [augment_face(pack, int(row), size, NO_AUGMENTATION, rng) for row in rows]
            evaluated = is_placed(pack.kinds[rows]) if self.placed_only else is_labelled(pack.kinds[rows])
            yield self._collate(pack, rows, faces, torch.from_numpy(evaluated.astype(np.float32)))

    def stream(self, start: int, stop: int, workers: int = 0, pinned: bool = False) -> Iterator[Batch]:
        """Yield the training batches of steps `start` to `stop` - 1, which worker processes make ahead.

        Without workers a thread makes them, which suits training on a CPU: the network needs the cores, and OpenCV
        releases the GIL.
        """
        cv2.setNumThreads(1)  # before the fork: a child would wait forever for OpenCV threads that only its parent has
        if workers:
            yield from DataLoader(
                _Steps(self),
                batch_size=None,
                sampler=range(start, stop),
                num_workers=workers,
                prefetch_factor=AHEAD,
                pin_memory=pinned,
                worker_init_fn=_ignore_signals,
                multiprocessing_context="fork",  # shares the pack's memory map
            )
            return
        with ThreadPoolExecutor(1, "batches") as executor:
            pending: list[Future[Batch]] = [
                executor.submit(self.make_batch, step) for step in range(start, min(start + AHEAD, stop))
            ]
            for step in range(start, stop):
                batch = pending.pop(0).result()
                if step + AHEAD < stop:
                    pending.append(executor.submit(self.make_batch, step + AHEAD))
                yield batch

    def _collate(self, pack: Pack, rows: NDArray[np.intp], faces: list[AugmentedFace], point_weight: Tensor) -> Batch:
        return Batch(
            torch.from_numpy(np.stack([one.crop for one in faces])),
            torch.from_numpy(np.stack([one.points for one in faces])),
            self._face_weight(pack, rows),
            point_weight,
        )

    def _point_weight(self, kinds: Kinds) -> Tensor:
        """Return the weights (n, K) in the loss of points of these kinds."""
        weight = self._weight_of_kind[kinds]
        weight[np.ix_(is_from_68(kinds), self._is_contour)] *= self.recipe.contour_weight
        return torch.from_numpy(weight)

    def _face_weight(self, pack: Pack, rows: NDArray[np.intp]) -> Tensor:
        """Return the weights (n,) of faces in the loss: less for pseudo-labels with a large spread."""
        weight = 1 / (1 + (pack.spread[rows] / self.recipe.spread_half_weight) ** 2)
        return torch.from_numpy(weight.astype(np.float32))


class _Steps(Dataset[Batch]):
    """The training batches as a data set: item number `step` is the batch of that step."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __getitem__(self, step: int) -> Batch:
        return self._batches.make_batch(step)


def _ignore_signals(_: int) -> None:
    """Make a worker process ignore SIGINT and SIGTERM; the training process ends its workers.

    Ctrl-C, torchrun and Slurm signal all processes of a run. Without workers the last step could not be completed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
