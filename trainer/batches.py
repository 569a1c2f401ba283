"""Batches drawn from a pack: which faces, how changed, and always one ahead of the network.

Each batch depends on the seed and its number alone, so a resumed run sees what an unbroken one would see.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from canthus.runtime.errors import InputError
from canthus.trainer.augment import PLAIN, augment, without_face
from canthus.trainer.data import Pack, kept_aside, yaw
from canthus.trainer.recipe import Recipe

AHEAD = 3


@dataclass(frozen=True, eq=False)
class Batch:
    """Faces as the network takes them."""

    crops: Tensor  # (B, S, S, 3) uint8
    points: Tensor  # (B, K, 2) float32, crop pixels
    weight: Tensor  # (B,) how much each face counts


class Batches:
    """Draws training batches of a recipe from a pack, and the held-out faces unchanged."""

    def __init__(self, pack: Pack, recipe: Recipe) -> None:
        self.pack = pack
        self.recipe = recipe
        kept = np.array([kept_aside(name, recipe.held_out) for name in pack.names], np.bool_)
        self.training = np.flatnonzero(~kept)
        self.held_out = np.flatnonzero(kept)
        if not len(self.training) or not len(self.held_out):
            raise InputError(
                f"the pack's {len(pack)} faces are too few to hold one in {recipe.held_out} out; "
                "pack more, or lower held_out"
            )
        self._chance = self._chances()

    def _chances(self) -> NDArray[np.float64]:
        often = np.ones(len(self.pack))
        for part, times in self.recipe.boosts:
            matches = np.array([part in name for name in self.pack.sources], np.bool_)
            often[matches[self.pack.source]] *= times
        often[np.abs(yaw(self.pack.points)) > 0.3] *= self.recipe.aside
        chance: NDArray[np.float64] = often[self.training] / often[self.training].sum()
        return chance

    def draw(self, step: int) -> Batch:
        """The training batch of one step."""
        rng = np.random.default_rng([self.recipe.seed, step])
        rows = rng.choice(self.training, self.recipe.batch, p=self._chance)
        return self._cut(rows, rng, changed=True)

    def validation(self) -> Iterator[Batch]:
        """The held-out faces, in batches, unchanged."""
        rng = np.random.default_rng(0)
        for start in range(0, len(self.held_out), 64):
            yield self._cut(self.held_out[start : start + 64], rng, changed=False)

    def stream(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of steps start to stop, made ahead in a thread (OpenCV releases the interpreter)."""
        cv2.setNumThreads(1)
        with ThreadPoolExecutor(1, "batches") as maker:
            waiting: list[Future[Batch]] = [
                maker.submit(self.draw, step) for step in range(start, min(start + AHEAD, stop))
            ]
            for step in range(start, stop):
                batch = waiting.pop(0).result()
                if step + AHEAD < stop:
                    waiting.append(maker.submit(self.draw, step + AHEAD))
                yield batch

    def _cut(self, rows: NDArray[np.intp], rng: np.random.Generator, changed: bool) -> Batch:
        size = self.recipe.size
        how = self.recipe.augmentation if changed else PLAIN
        crops = np.empty((len(rows), size, size, 3), np.uint8)
        points = np.empty((len(rows), *self.pack.points.shape[1:]), np.float32)
        for place, row in enumerate(rows):
            change = without_face if changed and rng.random() < self.recipe.faceless else augment
            crops[place], points[place] = change(self.pack.crops[row], self.pack.points[row], size, how, rng)
        weight = 1 / (1 + (self.pack.spread[rows] / self.recipe.trust) ** 2)
        return Batch(
            torch.from_numpy(crops),
            torch.from_numpy(points),
            torch.from_numpy(weight.astype(np.float32)),
        )
