"""Whether an NVIDIA GPU can be used on this machine, what runs networks on it, and the engine of a model for it."""

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import sys
from pathlib import Path
from typing import NamedTuple

from canthus.runtime.backends.trt import capability_name, flavour_version, installed_flavours, select_flavour
from canthus.runtime.cuda.launch import Gpu, find_gpu
from canthus.runtime.engine_files import Flavour, find_matching_engines
from canthus.runtime.errors import BackendError, CanthusError, EngineError
from canthus.runtime.models import Model, read_model


class Target(NamedTuple):
    """What runs engines on this machine."""

    flavour: Flavour
    gpu: Gpu


def gpu_expected() -> bool:
    """Return whether NVIDIA's driver, and TensorRT or a PyTorch with CUDA, are installed. Imports none of them."""
    if not (installed_flavours() or torch_has_cuda()):
        return False
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def torch_has_cuda() -> bool:
    """Return whether a PyTorch with CUDA and what our kernels need are installed, without importing them."""
    if not all(importlib.util.find_spec(name) for name in ("torch", "cuda", "onnx")):
        return False
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # PyTorch that was not installed by pip
        return not importlib.metadata.version("torch").endswith("+cpu")
    return True


def find_target() -> Target:
    """Return what runs engines here. Raises BackendError if there is no GPU, or no TensorRT that supports it."""
    gpu = find_gpu()
    if gpu is None:
        raise BackendError("CUDA finds no NVIDIA GPU")
    return Target(select_flavour(), gpu)


def find_engine(model: Model, target: Target) -> Path | None:
    """Return the newest engine of a model in the cache that passed its check, or None if there is no engine.

    Raises EngineError if there are engines and all failed their check: the same build would fail again.
    """
    flavour, gpu = target
    sha256 = model.manifest.sha256
    fitting = list(find_matching_engines(sha256, flavour, flavour_version(flavour), gpu.name, capability_name(gpu)))
    for engine, manifest in fitting:
        if manifest.passed_check:
            return engine
    if fitting:
        engine, manifest = fitting[0]
        reason = manifest.check["engine"].get("reason", "its points differ from the model's")
        raise EngineError(f"{engine.name} failed its check ({reason}); `{manifest.rebuild_command}` builds it again")
    return None


def engine_ready(path: Path) -> bool:
    """Return whether a model's engine is built and this machine can run it."""
    try:
        return gpu_expected() and find_engine(read_model(path), find_target()) is not None
    except CanthusError:
        return False


def describe_backend(path: Path) -> str:
    """Return what would run a model on this machine, as text for `canthus doctor`."""
    if not gpu_expected():
        return "OpenVINO on the CPU"
    try:
        target = find_target()
    except BackendError as error:
        return f"PyTorch on the GPU ({error})" if torch_has_cuda() else f"OpenVINO on the CPU: {error}"
    try:
        engine = find_engine(read_model(path), target)
    except CanthusError as error:
        return f"OpenVINO on the CPU: {error}"
    state = "its engine is built" if engine else "after its engine is built, on first use"
    return f"{target.flavour} on {target.gpu.name}, {state}"
