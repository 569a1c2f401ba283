"""The command-line options of runs over many files."""

import argparse
import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from canthus.runtime.batch.listing import is_several
from canthus.runtime.batch.state import WHOLE, Shard
from canthus.runtime.options import positive_int
from canthus.runtime.threads import core_count


@dataclass(frozen=True)
class BatchOptions:
    """How a batch runs."""

    jobs: int | None = None  # tasks at the same time; None = 1, or all that a cluster has room for
    threads: int | None = None  # of each task; None = an equal share of the cores
    shard: Shard = WHOLE
    ray: str | None = None  # address of a Ray cluster
    gpus: float = 0.0  # that each task of a Ray cluster reserves
    fetch: bool = False  # send sources to the cluster and results back

    @property
    def workers(self) -> int:
        """The number of worker processes of this machine."""
        return self.jobs or 1

    @property
    def threads_each(self) -> int:
        """The number of threads of each worker."""
        return self.threads or max(1, (1 if self.ray else core_count() // self.workers))


def add_batch_options(parser: argparse.ArgumentParser) -> None:
    """Add --jobs, --threads, --shard, --ray, --gpus and --fetch."""
    group = parser.add_argument_group("many files")
    group.add_argument("--jobs", type=positive_int, metavar="N", help="number of worker processes (default: 1)")
    group.add_argument(
        "--threads",
        type=positive_int,
        metavar="N",
        help="threads of each worker (default: an equal share of the cores; with --ray 1)",
    )
    group.add_argument(
        "--shard", type=_shard, metavar="I/N", help="process only part I of N parts of the files (1/8 is the first)"
    )
    group.add_argument(
        "--ray", metavar="ADDRESS", help="run on a Ray cluster: an address, auto, or local for one on this machine"
    )
    group.add_argument(
        "--gpus", type=_gpus, default=0.0, metavar="G", help="GPUs that each task reserves with --ray (default: 0)"
    )
    group.add_argument(
        "--fetch",
        action="store_true",
        help="with --ray: the cluster has no access to these folders; send the files there and the results back",
    )


def batch_from_args(args: argparse.Namespace) -> BatchOptions:
    """Return the options that `add_batch_options` describes."""
    return BatchOptions(args.jobs, args.threads, args.shard or WHOLE, args.ray, args.gpus, args.fetch)


def is_batch(args: argparse.Namespace, sources: Sequence[str], folders: bool = True) -> bool:
    """Whether a command line is for many files: by its sources, or by an option of `add_batch_options`.

    folders: whether a folder as the only source is.
    """
    options = (args.jobs, args.threads, args.shard, args.ray)
    remote = any(isinstance(output, str) for output in (args.output, args.table, getattr(args, "record_trace", None)))
    if len(sources) > 1 or remote or any(option is not None for option in options):
        return True
    return is_several(sources[0]) and (folders or not Path(sources[0]).is_dir())


def _gpus(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= (number := float(text)) < math.inf:
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of GPUs (expected 0 or more, such as 0.25)")


def _shard(text: str) -> Shard:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a part (expected I/N, such as 1/8)")
    return Shard(int(number), int(count))
