"""The number of threads of this process, for machines that run several at a time."""

import os

from canthus.runtime.errors import InputError

VARIABLE = "CANTHUS_THREADS"


def thread_limit() -> int:
    """Return the number of threads that the environment variable CANTHUS_THREADS allows; 0 means one for each core.

    It limits the network and the decoding of videos. The worker processes of `--jobs` and `--ray` set it.

    Raises InputError if the variable is not a positive integer.
    """
    text = os.environ.get(VARIABLE, "")
    if not text:
        return 0
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"{VARIABLE}: is {text!r} (expected a positive integer); remove it to use all cores")
    return int(text)


def core_count() -> int:
    """Return the number of cores that this process may use; two for one that runs two threads at a time."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
