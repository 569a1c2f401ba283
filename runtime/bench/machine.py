"""What a measurement runs on: the device, and what this process uses of the system."""

import dataclasses
import os
import platform
import sys
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING

from canthus.runtime.backends import instructions
from canthus.runtime.threads import core_count

if TYPE_CHECKING:
    from canthus.runtime.pipeline import Settings

PROCESS = Path("/proc/self")
"""Linux's information about this process."""


def memory_mb() -> float | None:
    """Return the resident memory of this process in MB, or None if the system is not Linux."""
    try:
        pages = int((PROCESS / "statm").read_text().split()[1])
    except OSError:
        return None
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def open_handles() -> int | None:
    """Return the number of open files, sockets and devices, or None if the system is not Linux."""
    return _count(PROCESS / "fd")


def running_threads() -> int | None:
    """Return the number of threads, those of native libraries included, or None if the system is not Linux."""
    return _count(PROCESS / "task")


def _count(folder: Path) -> int | None:
    try:
        return sum(1 for _ in folder.iterdir())
    except OSError:
        return None


def without_unbuilt_engine(settings: "Settings") -> "Settings":
    """Return the settings, or those for the CPU if the GPU's engine would have to be built first."""
    from canthus.runtime.backends.gpu_target import engine_ready, gpu_expected
    from canthus.runtime.models import find_gpu_model

    if settings.gpu and gpu_expected() and not engine_ready(find_gpu_model(settings.model)):
        print("canthus bench: measuring the CPU; for the GPU run `canthus engine build` first", file=sys.stderr)
        return dataclasses.replace(settings, gpu=False)
    return settings


def describe_machine() -> dict[str, object]:
    """Return what speed depends on: processor, cores, system and versions."""
    packages = ("canthus", "openvino", "mediapipe", "opencv-contrib-python", "numpy", "av")
    return {
        "cpu": processor_name(),
        "cores": core_count(),
        "isa": instructions.flags(),
        "isa_limit": instructions.limit(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: package_version(name) for name in packages},
    }


def processor_name() -> str:
    """Return the name of the processor."""
    if util.find_spec("openvino"):
        from canthus.runtime.backends.openvino_without_telemetry import core

        return str(core().get_property("CPU", "FULL_DEVICE_NAME")).strip()
    return platform.processor() or platform.machine()


def package_version(name: str) -> str:
    """Return the version of a package, or an empty string if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
