"""What several commands of the trainer use: parsers, common options, checks of output folders, start of torchrun."""

import argparse
import contextlib
import inspect
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from canthus.runtime.errors import BackendError, CanthusError, InputError
from canthus.runtime.extras import install_command
from canthus.runtime.options import command_parser

PACK_FILES = ("crops.npy", "crops.zip", "labels.npz")
SHARD_FILES = ("images", "list_98pt_rect_attr.txt")

TORCHRUN_GRACE = 10.0
"""Seconds that torchrun needs to end the other processes after one has failed."""


def make_parser(name: str, command: Callable[[list[str]], int], examples: str) -> argparse.ArgumentParser:
    """Return a parser for `canthus NAME` that shows the docstring of the command and examples in its help."""
    return command_parser(f"canthus {name}", inspect.getdoc(command) or "", f"examples:\n{examples}")


def add_step(
    steps: Any, name: str, run: Callable[[argparse.Namespace], int], summary: str, examples: str
) -> argparse.ArgumentParser:
    """Add a step to a command and return its parser; `args.run(args)` runs it, `args.fail(message)` is its error."""
    parser: argparse.ArgumentParser = steps.add_parser(
        name,
        help=summary,
        description=inspect.getdoc(run),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"examples:\n{examples}",
    )
    parser.set_defaults(run=run, fail=parser.error)
    return parser


def add_label_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that label faces: the models, and the limit for uncertain labels."""
    parser.add_argument(
        "--model",
        nargs="+",
        default=[None],
        metavar="MODEL",
        help="names of included models, .onnx files or checkpoints; the labels are the mean of all models "
        "(default: fast)",
    )
    parser.add_argument(
        "--max-spread",
        type=float,
        default=0.02,
        metavar="SHARE",
        help="drop a label if the predictions of one face differ by more than this, relative to the size of the face "
        "(default: %(default)s)",
    )


def not_installed(what: str, missing: ImportError) -> BackendError:
    """Return the error for a command that needs a package of the extra `train`."""
    return BackendError(f"{what} needs {missing.name}, which is not installed: {install_command('train')}")


def refuse_existing(folder: Path, files: tuple[str, ...], advice: str, overwrite: bool) -> None:
    """Raise InputError if the folder holds one of the files, unless `overwrite` is true."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file, not a folder")
    if not overwrite and any((folder / name).exists() for name in files):
        raise InputError(f"{folder}: exists already; {advice}")


def report_shard(command: str, faces: int, unreadable: Sequence[str], stopped: bool) -> int:
    """Print on stderr what is missing from a new shard, and return the exit code of the command."""
    for line in unreadable:
        print(f"canthus {command}: left out: {line}", file=sys.stderr)
    if stopped:
        note = "; the faces written so far are a complete shard" if faces else ""
        print(f"canthus {command}: stopped{note}", file=sys.stderr)
        return 130
    return 1 if unreadable else 0


@contextlib.contextmanager
def report_errors_once() -> Iterator[None]:
    """Report an error once when all processes of torchrun raise it.

    The first process raises at once. The others wait until torchrun ends them. An error that only one of the others
    meets is raised after the wait.
    """
    try:
        yield
    except CanthusError:
        if int(os.environ.get("RANK", "0")):
            try:
                time.sleep(TORCHRUN_GRACE)
            except KeyboardInterrupt:  # the command line turns SIGTERM into KeyboardInterrupt
                sys.exit(1)
        raise


def start_processes(arguments: list[str], gpus: int, found: int) -> None:
    """Replace this process with torchrun, which runs `canthus ARGUMENTS` once per GPU.

    `found` is the number of GPUs that torch finds. Raises InputError if it is less than `gpus`.
    """
    if gpus > found:
        raise InputError(
            f"--gpus {gpus}: torch finds {found} CUDA GPUs; to start processes on the CPU: "
            f"torchrun --nproc-per-node {gpus} -m canthus.trainer.commands {arguments[0]} ..."
        )
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // gpus, 1)))
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={gpus}"]
    os.execv(sys.executable, [sys.executable, *torchrun, "-m", "canthus.trainer.commands", *arguments])
