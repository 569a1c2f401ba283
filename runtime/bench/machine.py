"""What a measurement runs on: the device, and the memory of this process."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from canthus.runtime.pipeline import Settings


def memory_mb() -> float | None:
    """Return the resident memory of this process in MB, or None if the system is not Linux."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def without_unbuilt_engine(settings: "Settings") -> "Settings":
    """Return the settings, or those for the CPU if the GPU's engine would have to be built first."""
    from canthus.runtime.backends.automatic import engine_ready, gpu_expected
    from canthus.runtime.models import find_gpu_model

    if settings.gpu and gpu_expected() and not engine_ready(find_gpu_model(settings.model)):
        print("canthus bench: measuring the CPU; for the GPU run `canthus engine build` first", file=sys.stderr)
        return dataclasses.replace(settings, gpu=False)
    return settings
