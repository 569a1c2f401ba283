"""The training loop: draw, predict, compare, step; now and then evaluate and save."""

import contextlib
import csv
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from canthus.runtime.errors import ModelError
from canthus.trainer.batches import Batches
from canthus.trainer.checkpoint import (
    Checkpoint,
    flatten_optimiser,
    load,
    restore_optimiser,
    save,
)
from canthus.trainer.data import Pack
from canthus.trainer.loss import SkpsLoss
from canthus.trainer.metrics import nme
from canthus.trainer.network import Deployed, build, normalise
from canthus.trainer.recipe import Recipe

Network = Callable[[Tensor], Tensor]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass
class Run:
    """What changes while training."""

    network: nn.Module
    average: AveragedModel
    optimiser: torch.optim.AdamW
    points: int
    step: int = 0
    best: float = math.inf


def train(pack: Pack, recipe: Recipe, folder: Path, resume: bool = False, compiled: bool = True) -> Path:
    """Train to the end of the recipe; returns the checkpoint with the lowest held-out NME.

    `folder` gets recipe.json, log.csv and the checkpoints `last` and `best`. Ctrl-C saves `last` and raises
    KeyboardInterrupt again; `resume` continues from `last`.
    """
    torch.manual_seed(recipe.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    points = pack.points.shape[1]
    network = build(recipe.network, points).to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stubs lack it
    run = Run(
        network,
        AveragedModel(network, multi_avg_fn=_moving_average(recipe.average), use_buffers=True),
        torch.optim.AdamW(network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True),
        points,
    )
    if resume:
        continue_from(folder / "last", run)
    batches = Batches(pack, recipe)
    steps = round(recipe.epochs * len(batches.training) / recipe.batch)
    skps = SkpsLoss(recipe.stride, recipe.sigma, offsets=recipe.offset_loss, offset_weight=recipe.offset_weight)
    forward: Network = torch.compile(network) if compiled else network
    loss: Loss = torch.compile(skps.__call__) if compiled else skps
    every = max(round(len(batches.training) / recipe.batch), 1)
    folder.mkdir(parents=True, exist_ok=True)
    recipe.save(folder / "recipe.json")
    with _between_steps() as stopped:
        _loop(run, recipe, batches, steps, every, forward, loss, folder, stopped)
    if stopped.is_set():
        _save(folder / "last", run, recipe, continuable=True)
        raise KeyboardInterrupt
    return folder / "best"


@contextlib.contextmanager
def _between_steps() -> Iterator[threading.Event]:
    """Let Ctrl-C set an event instead of breaking into a step, so that what is saved is a whole step.

    A second Ctrl-C does not wait, and saves nothing.
    """
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def note(*_: object) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    former = signal.signal(signal.SIGINT, note)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, former)


def _loop(
    run: Run,
    recipe: Recipe,
    batches: Batches,
    steps: int,
    every: int,
    forward: Network,
    loss: Loss,
    folder: Path,
    stopped: threading.Event,
) -> None:
    device = next(run.network.parameters()).device
    bar = tqdm(total=steps, initial=run.step, unit="step", desc="training", smoothing=0.05)
    losses: list[float] = []
    started = time.monotonic()
    with bar:
        for batch in batches.stream(run.step, steps):
            if stopped.is_set():
                return
            for group in run.optimiser.param_groups:
                group["lr"] = recipe.learning_rate * _schedule(run.step, recipe.warm_up, steps)
            run.network.train()
            images = normalise(batch.crops.to(device)).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16):
                maps = forward(images)
            value = loss(maps, batch.points.to(device), batch.weight.to(device))
            losses.append(value.item())
            if not math.isfinite(losses[-1]):
                raise ModelError(
                    f"the loss is not finite at step {run.step}; train again with a lower learning_rate "
                    f"(now {recipe.learning_rate:g})"
                )
            run.optimiser.zero_grad()
            torch.autograd.backward(value)
            nn.utils.clip_grad_norm_(run.network.parameters(), 5.0)
            run.optimiser.step()
            run.average.update_parameters(run.network)
            run.step += 1
            bar.update()
            if run.step % every == 0 or run.step == steps:
                error = validate(run.average.module, batches, recipe.stride)
                mean = sum(losses) / len(losses)
                losses.clear()
                bar.set_postfix(loss=f"{mean:.3f}", held_out_nme=f"{error:.2f}")
                _log(folder / "log.csv", run.step, time.monotonic() - started, mean, error)
                if error < run.best:
                    run.best = error
                    _save(folder / "best", run, recipe, continuable=False)
                # After `best`, so that `last` never tells of a best that is not on disk, or of an older one.
                _save(folder / "last", run, recipe, continuable=True)


def _moving_average(decay: float) -> Callable[..., None]:
    """Exponential moving average that starts short, so that the first weights are soon forgotten."""

    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        seen = float(count)
        one = get_ema_multi_avg_fn(min(decay, (1 + seen) / (10 + seen)))  # type: ignore[no-untyped-call]
        one(averaged, current, count)

    return update


def _schedule(step: int, warm_up: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(steps - warm_up, 1)))


@torch.inference_mode()
def validate(network: nn.Module, batches: Batches, stride: int) -> float:
    """Mean NME (%) of the held-out faces."""
    deployed = Deployed(network, stride).eval()
    device = next(network.parameters()).device
    errors = []
    for batch in batches.validation():
        with torch.autocast(device.type, torch.bfloat16):
            points, _ = deployed(batch.crops.to(device))
        errors.append(nme(points.float().cpu().numpy(), batch.points.numpy()))
    return float(np.concatenate(errors).mean())


def _save(path: Path, run: Run, recipe: Recipe, continuable: bool) -> None:
    facts = {
        "network": recipe.network,
        "points": run.points,
        "size": recipe.size,
        "stride": recipe.stride,
        "step": run.step,
        "best": run.best if math.isfinite(run.best) else None,  # json has no infinity
        "averaged": int(run.average.n_averaged),
    }
    optimiser = flatten_optimiser(run.optimiser) if continuable else {}
    running = run.network.state_dict() if continuable else {}
    save(path, Checkpoint(run.average.module.state_dict(), facts, optimiser, running))


def continue_from(path: Path, run: Run) -> None:
    """Put a run back to where its checkpoint was written."""
    checkpoint = load(path)
    if not checkpoint.running:
        raise ModelError(f"{path}: this checkpoint cannot be continued, only used; take `last`")
    try:
        run.network.load_state_dict(checkpoint.running)
        run.average.module.load_state_dict(checkpoint.weights)
    except RuntimeError as other:
        raise ModelError(f"{path}: this run trains another network") from other
    run.average.n_averaged.fill_(checkpoint.facts["averaged"])
    restore_optimiser(run.optimiser, checkpoint.optimiser)
    run.step, best = checkpoint.facts["step"], checkpoint.facts["best"]
    run.best = math.inf if best is None else best


def _log(path: Path, step: int, seconds: float, loss: float, error: float) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        rows = csv.writer(file)
        if new:
            rows.writerow(["step", "seconds", "loss", "held_out_nme"])
        rows.writerow([step, round(seconds), round(loss, 4), round(error, 3)])
