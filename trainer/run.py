"""A training run: its network, data and loss, and the operations of the training loop on them."""

import logging
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from canthus.runtime.errors import InputError, ModelError
from canthus.runtime.schemes import scheme_values
from canthus.trainer.augmentation.settings import NO_AUGMENTATION
from canthus.trainer.ema import EMA
from canthus.trainer.evaluation.metrics import box_nme, nme
from canthus.trainer.evaluation.placed import POSES, poses_of_yaws
from canthus.trainer.faces.labelled import yaw_estimate
from canthus.trainer.faces.schemes import describe_difference, same_order
from canthus.trainer.log import Log, draw_crops
from canthus.trainer.networks.checkpoint import Checkpoint, flatten_optimizer, load, restore_optimizer, save
from canthus.trainer.networks.exported import Target, exported_model, load_exported
from canthus.trainer.networks.hrnet import HighResolutionModule
from canthus.trainer.networks.network import (
    DecodingNetwork,
    FlipAveragedPoints,
    build,
    channel_statistics,
    normalize,
    scheme_from_metadata,
    window_sigma,
)
from canthus.trainer.networks.padding import ChannelPadding, pad_channels
from canthus.trainer.networks.pretrained import load_pretrained
from canthus.trainer.objective import learning_rate_factor, make_loss
from canthus.trainer.packs.batches import Batch, Batches, Contents, Process, augment_face, load_to_gpu
from canthus.trainer.packs.pack import Pack
from canthus.trainer.parallel import World, sync_batch_norm
from canthus.trainer.recipe import Recipe
from canthus.trainer.run_progress import read_progress
from canthus.trainer.time_limit import TimeLimit
from canthus.trainer.validation_faces import check_validation_faces, open_validation_pack, validation_fingerprint

_log = logging.getLogger(__name__)

STATISTICS_FACES = 256
"""Faces, at most, on which the batch normalizations of an exported model are measured."""

MAX_VALIDATIONS = 200
"""Validations of a run at most: a small pack has more epochs, of one or two steps each."""

AUGMENTED_SAMPLE = 8
"""Faces that are augmented to measure how long that takes."""

UNCHECKED_STEPS = 20
"""Steps on a GPU after which their losses are checked. A check waits for the GPU."""

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TrainOptions:
    """How to run the training. What is trained is decided by the recipe."""

    resume: bool = False  # continue from the checkpoint `last`
    overwrite: bool = False  # delete the files of a former run in the same folder
    compile: bool = True  # use torch.compile
    pretrained: Path | None = None  # start from these weights
    workers: int | None = None  # processes that make batches; 0 = a thread; None = as many as the GPU may need
    augment_on: Literal["auto", "cpu", "device"] = "auto"  # "auto": on the device if it is a GPU
    tensorboard: bool = False
    pad_channels: Literal["auto", "on", "off"] = "auto"  # see padding.py; "auto": on a GPU with bf16
    time_limit: TimeLimit | None = None  # end in this time, with a whole schedule, instead of after `recipe.epochs`


class Run:
    """The network, batches, optimizer and loss of a run, and its progress.

    The training loop calls `train_step`, and at the end of each epoch `validate`, `end_epoch` and `save`.
    """

    def __init__(self, pack: Pack, recipe: Recipe, world: World, options: TrainOptions) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.world = world
        on_device = _augments_on_device(options, recipe, world.device)
        self.gpu_cache = load_to_gpu(pack, world.device) if on_device else None  # None too if it is too large
        contents: Contents = "augmented"
        if on_device:
            contents = "raw" if self.gpu_cache is None else "cached"
        process = Process(world.rank, world.world_size)
        self.batches = Batches(pack, recipe, open_validation_pack(recipe), process, contents)
        self.points = pack.points.shape[1]
        self.epoch_steps = max(round(len(self.batches.training_rows) / recipe.batch), 1)
        self.time_limit = options.time_limit
        self.total_steps = max(round(recipe.epochs * len(self.batches.training_rows) / recipe.batch), 1)
        self.epoch_steps = max(self.epoch_steps, self.total_steps // MAX_VALIDATIONS)
        if self.time_limit:
            self.total_steps = sys.maxsize

        network = build(recipe.network, self.points)
        if options.pretrained:
            summary = self._start_from(options.pretrained, network)
            if world.first:
                _log.info("%s", summary)
        pad = {"auto": world.device.type == "cuda" and recipe.precision == "bf16", "on": True, "off": False}
        self._padding = pad_channels(network, self.points) if pad[options.pad_channels] else ChannelPadding(network)
        network = sync_batch_norm(self._padding.network, world).to(world.device)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # missing in torch's stubs
        self.network: nn.Module = network
        self.ema = EMA(network, recipe.ema_decay)
        self.optimizer = torch.optim.AdamW(
            network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
        self.compiled = options.compile and world.world_size == 1  # compiling DistributedDataParallel was not tested
        self.loss = make_loss(recipe, pack.scheme, world.device, self.compiled)
        parallel = world.wrap(network)
        # On a CPU the loss alone is compiled: it takes half of the time of a step of the student, and compiling HRNet
        # takes longer than it saves.
        on_gpu = world.device.type == "cuda"
        self._forward: Network = compile_network(parallel) if self.compiled and on_gpu else parallel
        self._statistics = channel_statistics(world.device)

        self.step = 0  # steps done
        self.best_nme = math.inf  # of the validation faces so far, %
        self.error_by_pose: dict[str, float] = {}  # of the last validation, %; only if placed points are measured
        self.losses: list[Tensor] = []  # of the steps of this epoch, on the device
        # Of the steps of this epoch before a resume, over all processes.
        self.loss_sum, self.losses_summed = 0.0, 0
        self._checked = 0  # how many of them are known to be finite
        self._progress = 0.0  # elapsed fraction of the time limit

    def _start_from(self, weights: Path, network: nn.Module) -> str:
        """Load pretrained weights, also those of an exported model, and return a summary."""
        model = exported_model(weights)
        if model is None:
            return str(load_pretrained(weights, network))
        rows, pack = self.batches.training_rows, self.batches.pack
        rng, size = np.random.default_rng(self.recipe.seed), self.recipe.size
        rows = rng.choice(rows, min(len(rows), STATISTICS_FACES), replace=False)
        crops = np.stack([augment_face(pack, row, size, NO_AUGMENTATION, rng).crop for row in rows.tolist()])
        return load_exported(model, Target(self.recipe.network, network, pack.scheme), crops)

    def train_step(self, batch: Batch) -> None:
        """Update the weights with one batch. Raises ModelError if one of the last losses is not finite."""
        recipe, device = self.recipe, self.world.device
        batch = batch.to(device).augmented(self.gpu_cache)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * self._learning_rate_factor()
        self.network.train()
        images = normalize(batch.crops, self._statistics).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            maps = self._forward(images)
        loss = self.loss(maps, batch, images)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        if recipe.clip_grad_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip_grad_norm)
        self.optimizer.step()
        self.ema.update()
        self.step += 1
        if self.time_limit:
            self.time_limit.count_step()
        self.losses.append(loss.detach())
        if device.type == "cpu" or len(self.losses) - self._checked >= UNCHECKED_STEPS:
            self.check_losses()

    def _learning_rate_factor(self) -> float:
        """Return the learning rate of this step, as a fraction of the highest."""
        if not self.time_limit:
            return learning_rate_factor(self.step, self.recipe, self.total_steps)
        return learning_rate_factor(self.time_limit.steps, self.recipe, self.time_limit.total_steps(self._progress))

    def time_is_up(self) -> bool:
        """Return whether the run must stop now to end within its time limit. All processes return the same."""
        if not self.time_limit:
            return False
        self._progress = self.world.sum(self.time_limit.progress())[0] / self.world.world_size
        return self._progress >= 1

    def timed_validate(self) -> float:
        """Return the result of `validate`; with a time limit, measure how long the end of the run will take."""
        started = time.monotonic()
        result = self.validate()
        if self.time_limit:
            seconds = time.monotonic() - started
            # Calibration predicts all faces twice, in fp32 and in one process; half of them are augmented.
            calibration = 3 * self.world.world_size * seconds + self._augmentation_seconds()
            self.time_limit.reserve_end(seconds, calibration, sum(one.numel() for one in self.network.parameters()))
        return result

    def _augmentation_seconds(self) -> float:
        """Measure how long it takes to augment all validation faces, on some of them."""
        rows, pack, rng = self.batches.validation_rows, self.batches.validation_pack, np.random.default_rng(0)
        started = time.monotonic()
        for row in rows[:AUGMENTED_SAMPLE].tolist():
            augment_face(pack, row, self.recipe.size, self.recipe.augmentation, rng)
        return (time.monotonic() - started) * len(rows) / max(min(len(rows), AUGMENTED_SAMPLE), 1)

    def check_losses(self) -> None:
        """Raise ModelError if one of the losses since the last check is not finite."""
        unchecked = self.losses[self._checked :]
        if unchecked:
            wrong = (~torch.stack(unchecked).isfinite()).nonzero()[:1].flatten().tolist()
            if wrong:
                raise ModelError(
                    f"the loss is not finite at step {self.step - len(unchecked) + wrong[0]}; train again with a lower "
                    f"learning_rate (now {self.recipe.learning_rate:g})"
                )
        self._checked = len(self.losses)

    def epoch_is_complete(self) -> bool:
        """Return whether the last step was the last of an epoch, or of the run."""
        return self.step % self.epoch_steps == 0 or self.step == self.total_steps

    def end_epoch(self) -> float:
        """Return the mean loss of the epoch over all processes, and start the next epoch."""
        self.gather_losses()
        mean = self.loss_sum / self.losses_summed
        self.loss_sum, self.losses_summed = 0.0, 0
        return mean

    def gather_losses(self) -> None:
        """Move the losses of all processes into `loss_sum`; a checkpoint keeps them from there."""
        own = float(torch.stack(self.losses).sum()) if self.losses else 0.0
        total, count = self.world.sum(own, len(self.losses))
        self.loss_sum += total
        self.losses_summed += int(count)
        self.losses, self._checked = [], 0

    @torch.inference_mode()
    def validate(self) -> float:
        """Return the mean NME (%) of the averaged weights on the validation faces; nan if there are none.

        If `batches.placed_only`, only the points that people placed are measured, by `box_nme`, also for each pose.
        Raises ModelError if it is not finite.
        """
        recipe, device, scheme = self.recipe, self.world.device, self.batches.pack.scheme
        decoding = self._decoding_network()
        sums = np.zeros((1 + len(POSES), 2))  # errors and faces: of all, then of each pose
        for batch in self.batches.validation():
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
                points, _ = decoding(batch.crops.to(device))
            evaluated = batch.point_weight.numpy() > 0  # (B, K)
            found, true = points.float().cpu().numpy(), batch.points.numpy()
            errors = (
                box_nme(found, true, evaluated) if self.batches.placed_only else nme(found, true, evaluated, scheme)
            )
            pose = poses_of_yaws(yaw_estimate(true, scheme))
            for number, chosen in enumerate([pose >= 0, *(pose == one for one in range(len(POSES)))]):
                of_faces = errors[chosen & evaluated.any(-1)]
                sums[number] += of_faces.sum(dtype=np.float64), len(of_faces)
        sums = np.reshape(self.world.sum(*sums.ravel().tolist()), sums.shape)
        total, all_faces = sums[0].tolist()
        if self.batches.placed_only:
            self.error_by_pose = {
                pose: error / faces if faces else math.nan
                for pose, (error, faces) in zip(POSES, sums[1:].tolist(), strict=True)
            }
        if not math.isfinite(total):
            raise ModelError(
                "the error on the validation faces is not finite: the learning_rate is too high "
                f"({recipe.learning_rate:g}), or the outer eye corners of a face have the same position; in the second "
                "case make the pack again"
            )
        return total / all_faces if all_faces else math.nan

    def _decoding_network(self) -> nn.Module:
        """Return a module that predicts the points of crops with the averaged weights, as validation needs them."""
        recipe = self.recipe
        decoding = DecodingNetwork(self.ema.network, recipe.stride, window_sigma({"decode": recipe.decode})).eval()
        if not recipe.choose_with_flip:
            return decoding
        return FlipAveragedPoints(decoding, self.batches.pack.scheme).eval().to(self.world.device)

    @torch.inference_mode()
    def show_faces(self, log: Log) -> None:
        """Draw the predictions for the first validation faces in TensorBoard, if the log has it."""
        batch = next(self.batches.validation(), None) if log.board else None
        if batch is not None:
            crops = batch.crops[:6]
            points, _ = self._decoding_network()(crops.to(self.world.device))
            log.show(self.step, draw_crops(crops.numpy(), points.float().cpu().numpy(), batch.points[:6].numpy()))

    def save(self, folder: Path, nme: float) -> None:
        """Save the checkpoint `last`, and `best` too if its NME is the lowest so far.

        Without validation faces (`nme` is nan) the last checkpoint is also the best. It never replaces a validated one.
        """
        if nme < self.best_nme or (math.isnan(nme) and math.isinf(self.best_nme)):
            self.best_nme = math.inf if math.isnan(nme) else nme
            self._save(folder / "best", resumable=False)
        # After `best`: `last` holds the NME of the best checkpoint, which must be on disk.
        self.save_last(folder)

    def save_last(self, folder: Path) -> None:
        """Save the checkpoint `last`, from which the run can be resumed."""
        self._save(folder / "last", resumable=True)

    def _save(self, path: Path, resumable: bool) -> None:
        metadata = {
            "network": self.recipe.network,
            "points": self.points,
            "scheme": scheme_values(self.batches.pack.scheme),
            "size": self.recipe.size,
            "stride": self.recipe.stride,
            "flip_tta": self.recipe.flip_tta,
            "decode": self.recipe.decode,
            "sigma": self.recipe.sigma,
            "step": self.step,
            "best": self.best_nme if math.isfinite(self.best_nme) else None,  # JSON has no infinity
            "validation_faces": validation_fingerprint(self.batches),
            "averaged": self.ema.count,
            "loss_sum": self.loss_sum,
            "losses_summed": self.losses_summed,
        }
        strip = self._padding.strip
        optimizer = strip(flatten_optimizer(self.optimizer), self._parameters()) if resumable else {}
        training_weights = strip(self.network.state_dict()) if resumable else {}
        save(path, Checkpoint(strip(self.ema.network.state_dict()), metadata, optimizer, training_weights))

    def _parameters(self) -> list[str]:
        """Return the names of the parameters, in the order of the optimizer."""
        return [name for name, _ in self.network.named_parameters()]

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint `last`.

        Raises ModelError if it is not one, if its metadata is damaged, if it is of another network or other points, or
        if its best checkpoint was chosen on other validation faces than this run has.
        """
        path = path.with_suffix(".safetensors")
        checkpoint = load(path)
        if not checkpoint.training_weights:
            raise ModelError(f"{path}: a run cannot be resumed from this checkpoint; use `last`")
        metadata, scheme = checkpoint.metadata, self.batches.pack.scheme
        if not same_order(former := scheme_from_metadata(metadata), scheme):
            raise ModelError(
                f"{path}: was trained with other points than the pack has ({former.name}, {scheme.name}; different: "
                f"{describe_difference(former, scheme)}); resume with the pack that the run began with"
            )
        progress = read_progress(path, metadata)
        check_validation_faces(path, self.batches, progress.best, progress.validation_faces)
        try:
            self.network.load_state_dict(self._padding.pad(checkpoint.training_weights))
            self.ema.network.load_state_dict(self._padding.pad(checkpoint.weights))
        except RuntimeError as other:
            raise ModelError(f"{path}: this run trains another network") from other
        restore_optimizer(self.optimizer, self._padding.pad(checkpoint.optimizer, self._parameters()))
        self.ema.count, self.step = progress.averaged, progress.step
        self.loss_sum, self.losses_summed = progress.loss_sum, progress.losses_summed
        self.best_nme = math.inf if progress.best is None else progress.best


def _augments_on_device(options: TrainOptions, recipe: Recipe, device: torch.device) -> bool:
    if options.augment_on == "device" and recipe.augmentation.published:
        raise InputError("augmentation.published changes faces on the CPU only; use --augment-on cpu, or auto")
    wanted = options.augment_on == "device" or (options.augment_on == "auto" and device.type == "cuda")
    return wanted and not recipe.augmentation.published


def describe_weights(batches: Batches) -> str:
    """Return one line: how often the faces of each set are drawn."""
    weights = ", ".join(f"{Path(name).name} x {weight:g}" for name, weight in batches.set_weights.items())
    return f"dataset_weights: {weights}"


def compile_network(network: nn.Module) -> Network:
    """Apply torch.compile to the network.

    Of HRNet only the high-resolution modules are compiled, each kind once, which halves the time until the first step.
    """
    modules = [part for part in network.modules() if isinstance(part, HighResolutionModule)]
    if not modules:
        whole: Network = torch.compile(network)
        return whole
    for part in modules:
        part.compile()
    return network
