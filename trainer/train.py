"""The training loop: draw, predict, compare, step; now and then evaluate and save."""

import contextlib
import dataclasses
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from canthus.runtime.errors import BackendError, ModelError
from canthus.trainer.average import Average
from canthus.trainer.calibrate import calibrate
from canthus.trainer.distil import Teacher
from canthus.trainer.evaluation.metrics import nme
from canthus.trainer.log import Log, Row, Waiting, overlay
from canthus.trainer.loss import SkpsLoss
from canthus.trainer.networks.checkpoint import (
    Checkpoint,
    flatten_optimiser,
    load,
    restore_optimiser,
    save,
)
from canthus.trainer.networks.hrnet import HighResolutionModule
from canthus.trainer.networks.network import ChannelStatistics, DecodingNetwork, build, channel_statistics, normalise
from canthus.trainer.networks.pretrained import load_pretrained
from canthus.trainer.packs.batches import Batch, Batches, Contents, Process, load_to_gpu
from canthus.trainer.packs.pack import Pack
from canthus.trainer.parallel import World, joined, share_norms
from canthus.trainer.recipe import Recipe

UNSEEN = 20
"""Steps on a GPU before their losses are looked at: looking waits for it."""

Network = Callable[[Tensor], Tensor]
Loss = Callable[[Tensor, Batch, Tensor], Tensor]
"""Of maps, against the batch they were made of and its normalised images."""


@dataclass
class Run:
    """What changes while training."""

    network: nn.Module
    average: Average
    optimiser: torch.optim.AdamW
    points: int
    step: int = 0
    best: float = math.inf


def train(
    pack: Pack,
    recipe: Recipe,
    folder: Path,
    resume: bool = False,
    overwrite: bool = False,
    *,
    compiled: bool = True,
    pretrained: Path | None = None,
    judged: Pack | None = None,
    workers: int | None = None,
    augment_on: Literal["auto", "cpu", "device"] = "auto",
    tensorboard: bool = False,
) -> Path:
    """Train to the end of the recipe; returns the checkpoint with the lowest NME on held-out faces, or on `judged`.

    `folder` gets recipe.json, log.csv and the checkpoints `last` and `best`. Ctrl-C saves `last` and raises
    KeyboardInterrupt again; `resume` continues from `last`, `overwrite` takes a former run away, once all that this
    one needs is there. The network starts from the weights in `pretrained`, where it is given. `workers` processes
    make batches (default: as many as a GPU here may need). They change the faces too, unless the network's device
    does (`augment_on`; "auto": where it is a GPU). `tensorboard` puts its events into `folder` too. Under torchrun,
    each process calls this with the same arguments.
    """
    if judged is not None:
        recipe = dataclasses.replace(recipe, held_out=0)  # none is, as all are trained on
    with joined() as world:
        torch.manual_seed(recipe.seed)
        if world.device.type == "cuda":
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.benchmark = True
            if world.first and recipe.precision == "bf16" and not torch.cuda.is_bf16_supported(False):
                print("this GPU has no bf16 arithmetic and imitates it, slowly; faster: --set precision=fp32")
        raw = augment_on == "device" or (augment_on == "auto" and world.device.type == "cuda")
        gpu_cache = load_to_gpu(pack, world.device) if raw else None
        contents: Contents = "augmented" if not raw else "raw" if gpu_cache is None else "cached"
        batches = Batches(pack, recipe, judged, Process(world.rank, world.ranks), contents)
        run = begin(recipe, pack.points.shape[1], world)
        if pretrained:
            taken = load_pretrained(pretrained, run.network)
            run.average.network.load_state_dict(run.network.state_dict())
            if world.first:
                print(taken)
        if resume:
            continue_from(folder / "last", run)
        compiled = compiled and world.ranks == 1  # not measured together with gradients shared between processes
        log = None
        with _between_steps(world.first) as stopped, _told(recipe):
            loss = loss_of(recipe, run.points, world.device, compiled)
            if world.first:
                log = Log(folder, tensorboard, overwrite)
                recipe.save(folder / "recipe.json")
            unfinished = _loop(
                run, recipe, batches, gpu_cache, world, log, stopped, loss, compiled,
                world.workers() if workers is None else workers,
            )  # fmt: skip
        if unfinished and world.first:
            _save(folder / "last", run, recipe, continuable=True)
    if unfinished:
        raise KeyboardInterrupt
    if world.first and len(batches.validation_rows):
        print(calibrate(folder / "best", batches, world.device))
    return folder / "best"


def begin(recipe: Recipe, points: int, world: World) -> Run:
    """A run at its first step."""
    network = share_norms(build(recipe.network, points), world).to(world.device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stubs lack it
    return Run(
        network,
        Average(network, recipe.ema_decay),
        torch.optim.AdamW(network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True),
        points,
    )


@contextlib.contextmanager
def _told(recipe: Recipe) -> Iterator[None]:
    """Say in a line what to change where memory or a process that makes batches is lost, or compiling fails."""
    try:
        yield
    except (RuntimeError, ImportError) as lost:
        if isinstance(lost, torch.OutOfMemoryError) or "can't allocate memory" in str(lost):
            raise BackendError(
                f"memory does not hold {recipe.batch} crops of {recipe.size} px in training; lower the batch "
                f"(--set batch={max(recipe.batch // 2, 1)}) or share it between more GPUs (--gpus)"
            ) from lost
        if "DataLoader worker" in str(lost):
            raise BackendError(
                "a process that makes batches was lost, often for want of memory; start fewer (--workers)"
            ) from lost
        compiling = type(lost).__module__.startswith(("torch._dynamo", "torch._inductor"))
        if compiling or isinstance(lost, ImportError):  # of what was compiled, and cut short on the disk
            told = " ".join(str(lost).split("\n")[:2]).strip()
            raise BackendError(f"torch.compile failed; train without it, slower: --no-compile ({told})") from lost
        raise


@contextlib.contextmanager
def _between_steps(telling: bool) -> Iterator[threading.Event]:
    """Let Ctrl-C set an event instead of breaking into a step, so that what is saved is a whole step.

    So does SIGTERM, by which Slurm and torchrun end a run. A second Ctrl-C does not wait, and saves nothing, which
    the first one says.
    """
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def note(number: int, _: object) -> None:
        if stopped.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        if telling and not stopped.is_set():
            with contextlib.suppress(OSError):  # past sys.stderr, into which a signal must not break
                os.write(2, b"\nending after this step; another Ctrl-C ends at once, and saves nothing\n")
        stopped.set()

    former = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _loop(
    run: Run,
    recipe: Recipe,
    batches: Batches,
    gpu_cache: Tensor | None,
    world: World,
    log: Log | None,
    stopped: threading.Event,
    loss: Loss,
    compiled: bool,
    workers: int,
) -> bool:
    """Train to the end; returns whether it was stopped before. The process without a `log` writes nothing."""
    every = max(round(len(batches.training_rows) / recipe.batch), 1)
    steps = max(round(recipe.epochs * len(batches.training_rows) / recipe.batch), 1)
    network = world.spread(run.network)
    forward = compile_network(network) if compiled else network
    colours = channel_statistics(world.device)
    device, quiet = world.device, {} if log else {"disable": True}
    losses: list[Tensor] = []
    seen = 0  # of `losses`, known to be finite
    started = since = time.monotonic()
    desc = "compiling" if compiled else "training"  # the first step takes up to two minutes then
    with tqdm(total=steps, initial=run.step, unit="step", desc=desc, smoothing=0.05, **quiet) as bar:
        ready = Waiting(batches.stream(run.step, steps, workers, pinned=device.type == "cuda"))
        for batch in ready:
            if world.any(stopped.is_set()):
                _finite(losses[seen:], run.step, recipe)
                return True
            shown = batch.to(device).augmented(gpu_cache)
            losses.append(_step(run, recipe, shown, colours, forward, loss, steps))
            bar.set_description("training", refresh=False)
            bar.update()
            due = run.step % every == 0 or run.step == steps
            if due or device.type == "cpu" or len(losses) - seen >= UNSEEN:
                _finite(losses[seen:], run.step, recipe)
                seen = len(losses)
            if due:
                speed = len(losses) * recipe.batch / (time.monotonic() - since)
                error = validate(run.average.network, batches, recipe, world)
                total, count = world.total(float(torch.stack(losses).sum()), len(losses))
                row = Row(run.step, time.monotonic() - started, total / count, error, speed, ready.share())
                losses, seen, since = [], 0, time.monotonic()
                if log:
                    bar.set_postfix(loss=f"{row.loss:.3f}", held_out_nme=f"{error:.2f}")
                    log.write(row)
                    _show(run, recipe, batches, log)
                    _keep(run, recipe, log.folder, error)
    return False


def compile_network(network: nn.Module) -> Network:
    """Through torch.compile; of HRNet its modules of exchange, each kind once, which begins in half the time."""
    exchanges = [part for part in network.modules() if isinstance(part, HighResolutionModule)]
    if not exchanges:
        whole: Network = torch.compile(network)
        return whole
    for part in exchanges:
        part.compile()
    return network


def _step(
    run: Run, recipe: Recipe, batch: Batch, colours: ChannelStatistics, forward: Network, loss: Loss, steps: int
) -> Tensor:
    """Learn from one batch; returns its loss, on the device."""
    for group in run.optimiser.param_groups:
        group["lr"] = recipe.learning_rate * _schedule(run.step, recipe, steps)
    run.network.train()
    images = normalise(batch.crops, colours).contiguous(memory_format=torch.channels_last)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
        maps = forward(images)
    value = loss(maps, batch, images)
    run.optimiser.zero_grad()
    torch.autograd.backward(value)
    if recipe.clip_grad_norm:
        nn.utils.clip_grad_norm_(run.network.parameters(), recipe.clip_grad_norm)
    run.optimiser.step()
    run.average.update()
    run.step += 1
    return value.detach()


def loss_of(recipe: Recipe, points: int, device: torch.device, compiled: bool) -> Loss:
    """The loss against the labels, and where the recipe names a teacher against its maps too."""
    skps = SkpsLoss(
        recipe.stride, recipe.sigma, offsets=recipe.offset_loss, offset_weight=recipe.offset_weight,
        point_weight=recipe.point_weight,
    )  # fmt: skip
    by_label = torch.compile(skps.__call__) if compiled else skps
    if not recipe.teacher:
        return lambda maps, batch, _: by_label(maps, batch.points, batch.weight)
    teacher = Teacher(Path(recipe.teacher), points, device)
    by_teacher = torch.compile(skps.against) if compiled else skps.against

    def both(maps: Tensor, batch: Batch, images: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            shown = teacher.maps(images, recipe.stride, recipe.sigma)
        mine = by_label(maps, batch.points, batch.weight)
        return (1 - recipe.distillation_weight) * mine + recipe.distillation_weight * by_teacher(
            maps, *shown, torch.ones_like(batch.weight)
        )

    return both


def _finite(losses: Sequence[Tensor], step: int, recipe: Recipe) -> None:
    """Raise ModelError when one of the last losses, up to that before `step`, is not finite."""
    wild = [] if not losses else (~torch.stack(list(losses)).isfinite()).nonzero()[:1].flatten().tolist()
    if wild:
        raise ModelError(
            f"the loss is not finite at step {step - len(losses) + wild[0]}; train again with a lower learning_rate "
            f"(now {recipe.learning_rate:g})"
        )


@torch.inference_mode()
def _show(run: Run, recipe: Recipe, batches: Batches, log: Log) -> None:
    """Draw what the network makes of the first held-out faces, where someone can look at it."""
    batch = next(batches.validation(), None) if log.board else None
    if batch is not None:
        crops = batch.crops[:6]
        network = run.average.network
        points, _ = DecodingNetwork(network, recipe.stride).eval()(crops.to(next(network.parameters()).device))
        log.show(run.step, overlay(crops.numpy(), points.float().cpu().numpy(), batch.points[:6].numpy()))


def _keep(run: Run, recipe: Recipe, folder: Path, error: float) -> None:
    """Save the checkpoint, and as the best one when it is; without faces to tell by, the last is the best."""
    if error < run.best or math.isnan(error):
        run.best = run.best if math.isnan(error) else error
        _save(folder / "best", run, recipe, continuable=False)
    # After `best`, so that `last` never tells of a best that is not on disk, or of an older one.
    _save(folder / "last", run, recipe, continuable=True)


def _schedule(step: int, recipe: Recipe, steps: int) -> float:
    """The learning rate over its highest: linear warm-up, then half a cosine to nothing, or tenths at `drops`."""
    warm_up = min(recipe.warm_up, steps // 4)
    if step < warm_up:
        return (step + 1) / warm_up
    match recipe.schedule:
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(steps - warm_up, 1)))
        case "step":
            return float(0.1 ** sum(step >= epoch / recipe.epochs * steps for epoch in recipe.milestones))


@torch.inference_mode()
def validate(network: nn.Module, batches: Batches, recipe: Recipe, world: World) -> float:
    """Mean NME (%) of the faces that choose the checkpoint, of all processes; not a number where there are none."""
    deployed = DecodingNetwork(network, recipe.stride).eval()
    total, faces = 0.0, 0
    for batch in batches.validation():
        with torch.autocast(world.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            points, _ = deployed(batch.crops.to(world.device))
        errors = nme(points.float().cpu().numpy(), batch.points.numpy())
        total, faces = total + float(errors.sum(dtype=np.float64)), faces + len(errors)
    total, everyone = world.total(total, faces)
    if not math.isfinite(total):
        raise ModelError(
            "the error on the held-out faces is not finite: the learning_rate is too high "
            f"({recipe.learning_rate:g}), or the outer eye corners of a face lie in one place; make the pack again then"
        )
    return total / everyone if everyone else math.nan


def _save(path: Path, run: Run, recipe: Recipe, continuable: bool) -> None:
    facts = {
        "network": recipe.network,
        "points": run.points,
        "size": recipe.size,
        "stride": recipe.stride,
        "flip_tta": recipe.flip_tta,
        "sigma": recipe.sigma,
        "step": run.step,
        "best": run.best if math.isfinite(run.best) else None,  # json has no infinity
        "averaged": run.average.count,
    }
    optimiser = flatten_optimiser(run.optimiser) if continuable else {}
    running = run.network.state_dict() if continuable else {}
    save(path, Checkpoint(run.average.network.state_dict(), facts, optimiser, running))


def continue_from(path: Path, run: Run) -> None:
    """Put a run back to where its checkpoint was written."""
    checkpoint = load(path)
    if not checkpoint.training_weights:
        raise ModelError(f"{path}: this checkpoint cannot be continued, only used; take `last`")
    try:
        run.network.load_state_dict(checkpoint.training_weights)
        run.average.network.load_state_dict(checkpoint.weights)
    except RuntimeError as other:
        raise ModelError(f"{path}: this run trains another network") from other
    run.average.count = checkpoint.metadata["averaged"]
    restore_optimiser(run.optimiser, checkpoint.optimiser)
    run.step, best = checkpoint.metadata["step"], checkpoint.metadata["best"]
    run.best = math.inf if best is None else best
