"""`canthus doctor`: show what is installed and what was found on this machine."""

import json
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from canthus.runtime.bench.machine import package_version, processor_name
from canthus.runtime.cameras import list_cameras
from canthus.runtime.errors import ModelError
from canthus.runtime.extras import install_command
from canthus.runtime.options import command_parser
from canthus.runtime.threads import core_count

PACKAGES = (
    "canthus", "numpy", "opencv-contrib-python", "mediapipe", "openvino", "av", "pyqt6", "torch",
    "tensorrt", "tensorrt-rtx",
)  # fmt: skip

NVIDIA_SMI_TIMEOUT = 10.0
"""Seconds."""

DESCRIPTION = """Show versions, devices, cameras and models on this machine, on one screen.

"landmarks" says what would run the default model here. Include the output of this command in a bug report."""

EXAMPLES = """examples:
  canthus doctor
  canthus doctor --json      for scripts
  canthus doctor --fetch     download the face detector's model now, to work offline later"""


def command(arguments: list[str]) -> int:
    """Show versions, devices, cameras and models on this machine."""
    parser = command_parser("canthus doctor", DESCRIPTION, EXAMPLES)
    parser.add_argument("--json", action="store_true", help="print everything as json")
    parser.add_argument("--fetch", action="store_true", help="download the face detector's model if it is missing")
    args = parser.parse_args(arguments)
    if args.fetch:
        from canthus.runtime.detector import find_detector_model

        find_detector_model()
    report = examine()
    print(json.dumps(report, indent=2) if args.json else _screen(report))
    return 0


def examine() -> dict[str, Any]:
    """Return the findings as values that json can store."""
    from canthus.runtime.models import DEFAULT, cache_folder, included_models

    return {
        "python": f"{platform.python_version()} at {sys.executable}",
        "system": platform.platform(),
        "packages": {name: package_version(name) for name in PACKAGES},
        "cpu": f"{_or_import_error(processor_name)}, {core_count()} core{'s' if core_count() > 1 else ''}",
        "gpus": _gpus(),
        "cameras": [f"{camera.number}: {camera.name}" for camera in list_cameras()],
        "models": {name: str(path) for name, path in included_models().items()},
        "8-bit models": {name: found for name, path in included_models().items() if (found := _int8(path))},
        "default model": DEFAULT,
        "default precision": _or_import_error(_precision),
        "landmarks": _or_import_error(_landmarks),
        "detector": _or_import_error(_detector),
        "cache": str(cache_folder()),
    }


def _or_import_error(finding: Callable[[], str]) -> str:
    """Return the finding, or which library could not be loaded."""
    try:
        return finding()
    except ImportError as error:
        return f"does not load: {error}"


def _detector() -> str:
    """Return the path of the face detector's model."""
    from canthus.runtime.detector import find_detector_model

    try:
        return str(find_detector_model(fetch=False))
    except ModelError as error:
        return f"missing: {error}"


def _int8(model: Path) -> str:
    """Return the path of a model's 8-bit version, an empty string if it has none, or why it cannot be used."""
    from canthus.runtime.models import find_int8

    try:
        return str(find_int8(model) or "")
    except ModelError as error:
        return f"cannot run: {error}"


def _precision() -> str:
    """Return the precision that runs on this CPU if a model has both and the user names none."""
    from canthus.runtime.backends.automatic import int8_is_faster

    return "int8" if int8_is_faster() else "float"


def _landmarks() -> str:
    """Return which backend and device would run the default model."""
    from canthus.runtime.backends.gpu_target import describe_backend
    from canthus.runtime.models import find_gpu_model

    try:
        return describe_backend(find_gpu_model())
    except ModelError as error:
        return f"cannot run: {error}"


def _gpus() -> list[str]:
    """Return name, compute capability, driver and memory of each GPU, as nvidia-smi prints them."""
    query = [
        "nvidia-smi",
        "--query-gpu=name,compute_cap,driver_version,memory.total",
        "--format=csv,noheader",
    ]
    try:
        result = subprocess.run(query, capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return result.stdout.strip().splitlines() if result.returncode == 0 else []


def _no_cameras() -> str:
    if sys.platform == "linux":
        return "none found"
    return "cannot be listed on this system: try canthus view --camera 0, then 1"


def _screen(report: dict[str, Any]) -> str:
    packages = [f"{name} {version or '-'}" for name, version in report["packages"].items()]
    by_default = " (default on this CPU)" if report["default precision"] == "int8" else ", with --precision int8"
    lines = [
        ("python", report["python"]),
        ("system", report["system"]),
        ("packages", ", ".join(packages[:5])),
        ("", ", ".join(packages[5:])),
        ("cpu", report["cpu"]),
        ("gpu", "; ".join(report["gpus"]) or "no NVIDIA GPU found"),
        ("tensorrt", _tensorrt(report["packages"])),
        ("landmarks", report["landmarks"]),
        ("cameras", "; ".join(report["cameras"]) or _no_cameras()),
        *(
            ("model", f"{name}{' (default)' if name == report['default model'] else ''}: {path}")
            for name, path in report["models"].items()
        ),
        *(("8 bits", f"{name}{by_default}: {path}") for name, path in report["8-bit models"].items()),
        ("detector", report["detector"]),
        ("cache", report["cache"]),
    ]
    if not report["models"]:
        lines.append(("model", "none in this installation; use --model FILE"))
    return "\n".join(f"{name:<10} {text}" for name, text in lines)


def _tensorrt(packages: dict[str, str]) -> str:
    installed = [f"{name} {packages[name]}" for name in ("tensorrt", "tensorrt-rtx") if packages[name]]
    return ", ".join(installed) or f"not installed; for a GeForce or RTX card: {install_command('rtx')}"
