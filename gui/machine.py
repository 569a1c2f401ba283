"""What was found on this machine: processor, GPU, TensorRT."""

from canthus.runtime.doctor import examine


def describe_machine() -> list[tuple[str, str]]:
    """Return names and findings, for the start page. Takes a second or more: call it in a thread."""
    report = examine()
    packages = report["packages"]
    engines = [f"{name} {packages[name]}" for name in ("tensorrt", "tensorrt-rtx") if packages[name]]
    return [
        ("CPU", report["cpu"]),
        ("GPU", "; ".join(gpu.split(",")[0] for gpu in report["gpus"]) or "no NVIDIA GPU found"),
        ("TensorRT", ", ".join(engines) or "not installed (only for NVIDIA GPUs)"),
        ("Faces are found by", report["landmarks"]),
    ]
