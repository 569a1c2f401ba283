"""What was found on this machine: processor, GPU, TensorRT."""

from PyQt6.QtCore import QCoreApplication

from canthus.runtime.commands.doctor import examine


def tr(text: str) -> str:
    """Translate a text of this file."""
    return QCoreApplication.translate("Machine", text)


def describe_machine() -> list[tuple[str, str]]:
    """Return names and findings, for the start page. Takes a second or more: call it in a thread."""
    report = examine()
    packages = report["packages"]
    engines = [f"{name} {packages[name]}" for name in ("tensorrt", "tensorrt-rtx") if packages[name]]
    return [
        ("CPU", report["cpu"]),
        ("GPU", "; ".join(gpu.split(",")[0] for gpu in report["gpus"]) or tr("no NVIDIA GPU found")),
        ("TensorRT", ", ".join(engines) or tr("not installed (only for NVIDIA GPUs)")),
        (tr("Faces are found by"), report["landmarks"]),
    ]
