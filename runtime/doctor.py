"""`canthus doctor`: what is installed and found on this machine, on one screen."""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata, util
from pathlib import Path
from typing import Any

from canthus.runtime.errors import ModelError
from canthus.runtime.extras import install_command

PACKAGES = (
    "canthus", "numpy", "opencv-contrib-python", "mediapipe", "openvino", "av", "pyqt6", "torch",
    "tensorrt", "tensorrt-rtx",
)  # fmt: skip

EXAMPLES = """examples:
  canthus doctor
  canthus doctor --json
  canthus doctor --fetch     fetch the face detector's model now, to work offline later"""


def command(arguments: list[str]) -> int:
    """Show versions, devices, cameras and models on this machine."""
    parser = argparse.ArgumentParser(
        prog="canthus doctor",
        description=command.__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print everything as json")
    parser.add_argument("--fetch", action="store_true", help="fetch the face detector's model if it is missing")
    chosen = parser.parse_args(arguments)
    if chosen.fetch:
        from canthus.runtime.detector import find_detector_model

        find_detector_model()
    facts = examine()
    print(json.dumps(facts, indent=2) if chosen.json else _screen(facts))
    return 0


def examine() -> dict[str, Any]:
    """What there is, as plain values."""
    from canthus.runtime.models import DEFAULT, cache_folder, shipped_models

    return {
        "python": f"{platform.python_version()} at {sys.executable}",
        "system": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cpu": f"{_loaded(_cpu)}, {_cores()} cores",
        "gpus": _gpus(),
        "cameras": _cameras(),
        "models": {name: str(path) for name, path in shipped_models().items()},
        "default model": DEFAULT,
        "landmarks": _loaded(_outlook),
        "detector": _loaded(_detector),
        "cache": str(cache_folder()),
    }


def _loaded(ask: Callable[[], str]) -> str:
    """The answer, or which library it would need that does not load."""
    try:
        return ask()
    except ImportError as missing:
        return f"does not load: {missing}"


def _detector() -> str:
    """Where the face detector's model is."""
    from canthus.runtime.detector import find_detector_model

    try:
        return str(find_detector_model(fetch=False))
    except ModelError as missing:
        return f"missing: {missing}"


def _outlook() -> str:
    """What would run the default model here."""
    from canthus.runtime.backends.automatic import describe_backend
    from canthus.runtime.models import find_gpu_model

    try:
        return describe_backend(find_gpu_model())
    except ModelError as missing:
        return f"nothing: {missing}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _cpu() -> str:
    if util.find_spec("openvino"):
        from canthus.runtime.backends.openvino_without_telemetry import core

        return str(core().get_property("CPU", "FULL_DEVICE_NAME")).strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _gpus() -> list[str]:
    """NVIDIA GPUs as the driver names them."""
    query = [
        "nvidia-smi",
        "--query-gpu=name,compute_cap,driver_version,memory.total",
        "--format=csv,noheader",
    ]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return answer.stdout.strip().splitlines() if answer.returncode == 0 else []


def _cameras() -> list[str]:
    """Cameras by their device files (Linux); elsewhere OpenCV has no list to give, so numbers must be tried."""
    found = []
    for device in sorted(Path("/dev").glob("video*")):
        name = Path("/sys/class/video4linux") / device.name / "name"
        found.append(f"{device.name.removeprefix('video')}: {name.read_text().strip() if name.is_file() else device}")
    return found


def _no_cameras() -> str:
    return "none found" if sys.platform == "linux" else "this system gives no list: try canthus view --camera 0, then 1"


def _screen(facts: dict[str, Any]) -> str:
    packages = [f"{name} {version or '-'}" for name, version in facts["packages"].items()]
    lines = [
        ("python", facts["python"]),
        ("system", facts["system"]),
        ("packages", ", ".join(packages[:5])),
        ("", ", ".join(packages[5:])),
        ("cpu", facts["cpu"]),
        ("gpu", "; ".join(facts["gpus"]) or "none that NVIDIA's driver shows"),
        ("tensorrt", _flavours(facts["packages"])),
        ("landmarks", facts["landmarks"]),
        ("cameras", "; ".join(facts["cameras"]) or _no_cameras()),
        *(
            ("model", f"{name}{' (default)' if name == facts['default model'] else ''}: {path}")
            for name, path in facts["models"].items()
        ),
        ("detector", facts["detector"]),
        ("cache", facts["cache"]),
    ]
    if not facts["models"]:
        lines.append(("model", "none is shipped with this installation: give --model FILE"))
    return "\n".join(f"{name:<10} {text}" for name, text in lines)


def _flavours(packages: dict[str, str]) -> str:
    installed = [f"{name} {packages[name]}" for name in ("tensorrt", "tensorrt-rtx") if packages[name]]
    return ", ".join(installed) or f"not installed ({install_command('rtx')} for GeForce and RTX cards)"
