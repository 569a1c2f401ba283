"""Compile the CUDA kernels with NVRTC for one compute capability, and cache the machine code."""

import contextlib
import hashlib
import logging
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Literal, cast

from canthus.runtime.errors import BackendError, InputError
from canthus.runtime.extras import install_command
from canthus.runtime.files import write_file
from canthus.runtime.models import cache_folder

_log = logging.getLogger(__name__)

HEADER = "face.cuh"
SOURCES = ("crop.cu", "decode.cu")
OPTIONS = ("--std=c++17", "--restrict")


Form = Literal["ptx", "cubin"]
"""PTX, which the driver compiles, or machine code."""


def source(name: str) -> str:
    """Return the source text of a kernel file."""
    return resources.files("canthus.runtime.cuda").joinpath(name).read_text(encoding="utf-8")


def supported_capabilities() -> tuple[int, ...]:
    """Return the compute capabilities that this NVRTC compiles for; 86 means 8.6."""
    nvrtc = _nvrtc()
    return tuple(_checked(nvrtc, nvrtc.nvrtcGetSupportedArchs())[0])


def compile_kernel(name: str, capability: int, form: Form = "cubin") -> bytes:
    """Compile one of `SOURCES` for a compute capability (86 means 8.6). PTX ends with a zero byte, as the driver needs.

    Raises BackendError with the compiler's log if the source does not compile.
    """
    nvrtc = _nvrtc()
    (program,) = _checked(
        nvrtc,
        nvrtc.nvrtcCreateProgram(source(name).encode(), name.encode(), 1, [source(HEADER).encode()], [HEADER.encode()]),
    )
    kind = "sm" if form == "cubin" else "compute"
    options = [f"--gpu-architecture={kind}_{capability}".encode(), *(option.encode() for option in OPTIONS)]
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            (length,) = _checked(nvrtc, nvrtc.nvrtcGetProgramLogSize(program))
            log = bytearray(length)
            nvrtc.nvrtcGetProgramLog(program, log)
            text = log.decode(errors="replace").strip("\0\n")
            raise BackendError(f"{name} does not compile for capability {capability}: {text}")
        get_size, get_code = (
            (nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN)
            if form == "cubin"
            else (nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX)
        )
        (length,) = _checked(nvrtc, get_size(program))
        code = bytearray(length)
        _checked(nvrtc, get_code(program, code))
        return bytes(code)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def cached_kernel(name: str, capability: int) -> bytes:
    """Return the machine code of a kernel from the cache, or compile it.

    For a GPU that is newer than this NVRTC, it is PTX for the newest capability that NVRTC knows: the driver compiles
    it. The cached code starts with its SHA-256 and is compiled again if that differs. If the cache cannot be read or
    written, the kernel is compiled at every start.
    """
    nvrtc = _nvrtc()
    target, form = _target(name, capability)
    version = _checked(nvrtc, nvrtc.nvrtcVersion())
    inputs = "\0".join((source(name), source(HEADER), *OPTIONS, str(target), str(version)))
    key = hashlib.sha256(inputs.encode()).hexdigest()[:24]
    path = cache_folder() / "kernels" / f"{Path(name).stem}-sm{target}-{key}.{form}"
    with contextlib.suppress(OSError):
        content = path.read_bytes()
        digest, code = content[:32], content[32:]
        if hashlib.sha256(code).digest() == digest:
            return code
    code = compile_kernel(name, target, form)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, hashlib.sha256(code).digest() + code)
    except (OSError, InputError) as refused:
        _log.warning("the compiled CUDA kernel cannot be cached, so it is compiled at every start: %s", refused)
    return code


def _target(name: str, capability: int) -> tuple[int, Form]:
    """Return the capability to compile for, and machine code for a known GPU, else PTX."""
    known = supported_capabilities()
    if capability in known:
        return capability, "cubin"
    older = [one for one in known if one < capability]
    if not older:
        raise BackendError(
            f"{name}: this NVRTC has no code for GPUs of capability {capability} (it supports {min(known)} to "
            f"{max(known)}); install an older nvidia-cuda-nvrtc, or use a .onnx model, on the CPU"
        )
    return max(older), "ptx"


def _nvrtc() -> ModuleType:
    try:
        from cuda.bindings import nvrtc  # type: ignore[import-untyped, import-not-found]

        nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError) as missing:
        raise BackendError(
            "the CUDA kernels need cuda-bindings and nvidia-cuda-nvrtc, which are not installed: "
            f"{install_command('rtx')}"
        ) from missing
    return cast(ModuleType, nvrtc)


def _checked(nvrtc: ModuleType, result: tuple) -> tuple:
    """Return the results of an NVRTC call without its status. Raises BackendError if it failed."""
    status, *values = result
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise BackendError(f"NVRTC: {status.name}")
    return tuple(values)
