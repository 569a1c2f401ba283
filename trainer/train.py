"""Trains a network on a pack of faces, as a recipe says. Read `train`, then `_loop`, then `Run` in run.py."""

import contextlib
import dataclasses
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from canthus.runtime.errors import BackendError
from canthus.trainer.calibrate import calibrate
from canthus.trainer.log import Log, Row, TimedBatches
from canthus.trainer.packs.pack import Pack
from canthus.trainer.parallel import World, join_processes
from canthus.trainer.recipe import Recipe
from canthus.trainer.run import Run, TrainOptions, describe_weights
from canthus.trainer.validation_faces import describe_validation

_log = logging.getLogger(__name__)

DEFAULT_OPTIONS = TrainOptions()


def train(pack: Pack, recipe: Recipe, folder: Path, options: TrainOptions = DEFAULT_OPTIONS) -> Path:
    """Train until the last epoch of the recipe, and return the path of the best checkpoint, without suffix.

    With `options.time_limit`, train until the time is up: the learning rate goes through its whole schedule in this
    time. A resumed run repeats the schedule.

    The best checkpoint has the lowest NME on the validation faces: those of the pack that `recipe.choose_on` names,
    else one face in `recipe.held_out` of `pack`. Without either it is the last checkpoint.

    Writes recipe.json, log.csv and the checkpoints `last` and `best` into `folder`. Under torchrun, each process calls
    this with the same arguments, and the first one writes.

    Ctrl-C and SIGTERM end the run after the current step: it saves `last` and raises KeyboardInterrupt.
    Raises ModelError if the training diverges, or if the run cannot be resumed; BackendError if there is not enough
    memory, or if torch.compile fails.
    """
    if recipe.choose_on:
        recipe = dataclasses.replace(recipe, held_out=0)  # train on all faces of the pack
    with join_processes() as world, _explained_failures(recipe):
        _set_up_gpu(world, recipe)
        run = Run(pack, recipe, world, options)
        if options.resume:
            run.restore(folder / "last")
        with _signals_after_step(world) as stopped:
            log = None
            if world.first:
                log = Log(folder, options.tensorboard, options.overwrite)
                recipe.save(folder / "recipe.json")
                if len(run.batches.validation_rows):
                    _log.info("%s", describe_validation(run.batches))
                if recipe.dataset_weights:
                    _log.info("%s", describe_weights(run.batches))
            if options.time_limit:
                before = run.timed_validate()
                if log:
                    _log.info("held_out_nme before training: %.2f", before)
            workers = world.default_workers() if options.workers is None else options.workers
            completed = _loop(run, log, stopped, workers)
        if log and not completed:
            run.save_last(folder)
    if not completed:
        raise KeyboardInterrupt
    if world.first and len(run.batches.validation_rows):
        for line in str(calibrate(folder / "best", run.batches, world.device)).splitlines():
            _log.info("%s", line)
    return folder / "best"


def _loop(run: Run, log: Log | None, stopped: threading.Event, workers: int) -> bool:
    """Train until the last step, and return True; return False if `stopped` is set before.

    Only the first process has a log. The others write nothing.
    """
    pinned = run.world.device.type == "cuda"
    batches = TimedBatches(run.batches.stream(run.step, run.total_steps, workers, pinned))
    start = epoch_start = time.monotonic()
    with _progress_bar(run, log) as bar:

        def end_epoch() -> None:
            nonlocal epoch_start
            run.check_losses()
            speed = len(run.losses) * run.recipe.batch / (time.monotonic() - epoch_start)
            nme = run.timed_validate()
            loss = run.end_epoch()
            epoch_start = time.monotonic()
            if log:
                bar.set_postfix(loss=f"{loss:.3f}", held_out_nme=f"{nme:.2f}")
                log.write(Row(run.step, epoch_start - start, loss, nme, speed, batches.late_share(), run.error_by_pose))
                run.show_faces(log)
                run.save(log.folder, nme)

        for batch in batches:
            if run.world.any(stopped.is_set()):
                run.check_losses()
                run.gather_losses()
                return False
            if run.time_is_up():
                break
            run.train_step(batch)
            bar.set_description("training", refresh=False)
            bar.update()
            if run.epoch_is_complete():
                end_epoch()
        if run.losses:  # the time was up within an epoch
            end_epoch()
    return True


def _progress_bar(run: Run, log: Log | None) -> tqdm:
    """Return a bar of steps. Compiling makes the first step take up to two minutes."""
    description = "compiling" if run.compiled else "training"
    hidden = {} if log else {"disable": True}  # TQDM_DISABLE=1 hides it too
    total = None if run.time_limit else run.total_steps
    return tqdm(total=total, initial=run.step, unit="step", desc=description, smoothing=0.05, **hidden)


def _set_up_gpu(world: World, recipe: Recipe) -> None:
    """Set PyTorch's options for fast training on a GPU."""
    if world.device.type != "cuda":
        return
    set_tf32(recipe.precision != "fp32")  # for bf16: what autocast leaves in fp32
    torch.backends.cudnn.benchmark = True
    if world.first and recipe.precision == "bf16" and not torch.cuda.is_bf16_supported(False):
        _log.warning("this GPU emulates bf16 arithmetic, which is slow; faster: --set precision=fp32")


def set_tf32(allowed: bool) -> None:
    """Say whether products of float32 may be rounded to TF32; PyTorch's own default allows it in convolutions only."""
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


@contextlib.contextmanager
def _signals_after_step(world: World) -> Iterator[threading.Event]:
    """Let Ctrl-C and SIGTERM set an event instead of interrupting a step, so that whole steps are saved.

    Slurm and torchrun end a run with SIGTERM. A second Ctrl-C interrupts at once, and nothing is saved. Signals can
    be handled in the main thread only; in another thread the event is never set. The first step may compile for two
    minutes; a run that is killed in them has no step to lose.
    """
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def handle(number: int, _: object) -> None:
        if stopped.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        if world.first and not stopped.is_set():
            with contextlib.suppress(OSError):  # os.write: sys.stderr must not be used in a signal handler
                os.write(2, b"\nending after this step; press Ctrl-C again to end at once, without saving\n")
        stopped.set()

    former = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    except (RuntimeError, ImportError) as error:
        if stopped.is_set() and _is_of_compiler(error):  # Ctrl-C ends the C++ compiler too
            raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _explained_failures(recipe: Recipe) -> Iterator[None]:
    """Raise BackendError, which says what to change, for known errors of PyTorch."""
    try:
        yield
    except (RuntimeError, ImportError) as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise BackendError(
                f"not enough memory to train with {recipe.batch} crops of {recipe.size} px; use a smaller batch "
                f"(--set batch={max(recipe.batch // 2, 1)}) or more GPUs (--gpus)"
            ) from error
        if "DataLoader worker" in str(error):
            raise BackendError(
                "a worker process that makes batches has ended, often because memory is full; use fewer (--workers)"
            ) from error
        if _is_of_compiler(error):
            reason = " ".join(str(error).split("\n")[:2]).strip()
            raise BackendError(f"torch.compile failed ({reason}); train without it, slower: --no-compile") from error
        raise


def _is_of_compiler(error: Exception) -> bool:
    """Return whether torch.compile failed. ImportError: a compiled kernel that is truncated on disk."""
    return isinstance(error, ImportError) or type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))
