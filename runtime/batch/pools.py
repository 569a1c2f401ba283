"""Open what runs the tasks of a batch."""

import contextlib
from collections.abc import Iterator

from canthus.runtime.batch.options import BatchOptions
from canthus.runtime.batch.tasks import Work
from canthus.runtime.batch.workers import LocalPool, Pool


@contextlib.contextmanager
def open_pool(work: Work, options: BatchOptions) -> Iterator[Pool]:
    """Open the worker processes of this machine, or a Ray cluster, and close it after the block."""
    if options.ray is None:
        pool: Pool = LocalPool(work, options.workers, options.threads_each)
    else:
        from canthus.runtime.batch.cluster import RayPool

        pool = RayPool(work, options)
    with contextlib.closing(pool):
        yield pool
