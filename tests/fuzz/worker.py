"""The child process of `make fuzz`: reads mutated files one after the other, with limits on memory and file sizes.

    python -m fuzz.worker KIND SEED FIRST LAST FOLDER

It writes one line of JSON to its standard output for each input. Everything else that is written to standard output and
standard error, also by native libraries, goes to the file `noise` in FOLDER, and counts as noise. Whoever has started
the process deletes the folder; the process deletes it itself if that one has been killed.
"""

import faulthandler
import json
import logging
import os
import resource
import shutil
import sys
import traceback
import warnings
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from canthus.runtime.errors import CanthusError
from fuzz.kinds import KINDS, Seeds

MEMORY_MB = 1500
"""Growth of the resident memory while one file is read that counts as a finding."""

NOISE = 2000
"""Number of characters of a message that are kept."""


class Outcome(NamedTuple):
    """What happened with an input."""

    outcome: str  # one of OUTCOMES of __main__.py
    place: str = ""  # type of the exception, and where it was raised: findings of one place are counted together
    detail: str = ""


def make_input(kind: str, seeds: Seeds, seed: int, index: int) -> tuple[str, bytes]:
    """Return the name and the content of an input. The first ones are the seed files themselves."""
    names = sorted(seeds)
    if index < len(names):
        return names[index], seeds[names[index]]
    rng = np.random.default_rng([zlib.crc32(kind.encode()), seed, index])
    name = names[int(rng.integers(0, len(names)))]
    return name, KINDS[kind].mutate(seeds[name], list(seeds.values()), rng)


def read(kind: str, path: Path) -> Outcome:
    """Read a file, and classify what happens."""
    try:
        KINDS[kind].read(path)
    except CanthusError as error:
        message = str(error)
        if "\n" in message or not (path.name in message or path.parent.name in message):
            return Outcome("unclear", _place(error), message[:NOISE])
        return Outcome("refused", detail=message[:NOISE])
    except MemoryError as error:
        return Outcome("memory", _place(error), traceback.format_exc())
    except Exception as error:  # noqa: BLE001 - a finding
        return Outcome("traceback", _place(error), traceback.format_exc())
    return Outcome("answered")


def _place(error: BaseException) -> str:
    """Return the type of an error and the innermost place in canthus that it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename and "/lib/python" not in frame.filename]
    return f"{type(error).__name__} {Path(own[-1].filename).name}:{own[-1].name}"


def main() -> None:
    """Read inputs FIRST to LAST of a kind."""
    kind, (seed, first, last) = sys.argv[1], map(int, sys.argv[2:5])
    logging.getLogger("canthus").addHandler(logging.NullHandler())
    warnings.simplefilter("always")
    warnings.simplefilter("ignore", DeprecationWarning)  # as for users
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    folder = Path(sys.argv[5])
    files = folder / "inputs"
    files.mkdir()
    with (folder / "noise").open("w+b") as noise:
        os.dup2(noise.fileno(), 1)
        os.dup2(noise.fileno(), 2)
        faulthandler.enable(noise)
        seeds = KINDS[kind].make(files)
        read(kind, _write(files, *make_input(kind, seeds, seed, 0)))  # imports what is needed
        limit = round(KINDS[kind].memory_gb * 1e9)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_FSIZE, (10**9, 10**9))
        for index in range(first, last):
            path = _write(files, *make_input(kind, seeds, seed, index))
            before = _peak_mb()
            _empty(noise.fileno())
            outcome = read(kind, path)
            text = _content(noise.fileno())
            if outcome.outcome in ("answered", "refused") and text.strip():
                outcome = Outcome("noise", text.strip()[:60], text)
            if outcome.outcome in ("answered", "refused") and _peak_mb() - before > MEMORY_MB:
                outcome = Outcome("memory", "peak", f"{_peak_mb() - before:.0f} MB")
            path.unlink(missing_ok=True)
            try:
                print(json.dumps([index, *outcome]), file=replies, flush=True)
            except BrokenPipeError:  # nobody reads it
                shutil.rmtree(folder)
                os._exit(1)


def _write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def _empty(descriptor: int) -> None:
    sys.stderr.flush()
    sys.stdout.flush()
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)


def _content(descriptor: int) -> str:
    sys.stderr.flush()
    sys.stdout.flush()
    return os.pread(descriptor, NOISE, 0).decode(errors="replace")


if __name__ == "__main__":
    main()
