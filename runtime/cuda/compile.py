"""NVRTC: the kernels' source -> machine code for one compute capability, kept in the cache folder."""

import hashlib
import os
import tempfile
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Literal, cast

from canthus.runtime.errors import BackendError
from canthus.runtime.extras import install_command
from canthus.runtime.models import cache_folder

HEADER = "face.cuh"
SOURCES = ("crop.cu", "decode.cu")
OPTIONS = ("--std=c++17", "--restrict")


def source(name: str) -> str:
    """The text of a kernel file."""
    return resources.files("canthus.runtime.cuda").joinpath(name).read_text(encoding="utf-8")


def supported_capabilities() -> tuple[int, ...]:
    """What this NVRTC compiles for: 86 is compute capability 8.6."""
    nvrtc = _nvrtc()
    return tuple(_checked(nvrtc, nvrtc.nvrtcGetSupportedArchs())[0])


def compile_kernel(name: str, capability: int, form: Literal["ptx", "cubin"] = "cubin") -> bytes:
    """Compile one of `SOURCES` for a capability (86 = 8.6); BackendError tells the compiler's words."""
    nvrtc = _nvrtc()
    (program,) = _checked(
        nvrtc,
        nvrtc.nvrtcCreateProgram(source(name).encode(), name.encode(), 1, [source(HEADER).encode()], [HEADER.encode()]),
    )
    kind = "sm" if form == "cubin" else "compute"
    options = [f"--gpu-architecture={kind}_{capability}".encode(), *(option.encode() for option in OPTIONS)]
    try:
        (answer,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        if answer != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            (length,) = _checked(nvrtc, nvrtc.nvrtcGetProgramLogSize(program))
            log = bytearray(length)
            nvrtc.nvrtcGetProgramLog(program, log)
            text = log.decode(errors="replace").strip("\0\n")
            raise BackendError(f"{name} does not compile for capability {capability}: {text}")
        measure, fetch = (
            (nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN)
            if form == "cubin"
            else (nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX)
        )
        (length,) = _checked(nvrtc, measure(program))
        code = bytearray(length)
        _checked(nvrtc, fetch(program, code))
        return bytes(code)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def cached_kernel(name: str, capability: int) -> bytes:
    """The machine code of a kernel, compiled on first use; what the cache kept is checked when read."""
    nvrtc = _nvrtc()
    version = _checked(nvrtc, nvrtc.nvrtcVersion())
    told = "\0".join((source(name), source(HEADER), *OPTIONS, str(capability), str(version)))
    key = hashlib.sha256(told.encode()).hexdigest()[:24]
    folder = cache_folder() / "kernels"
    path = folder / f"{Path(name).stem}-sm{capability}-{key}.cubin"
    if path.is_file():
        digest, code = path.read_bytes()[:32], path.read_bytes()[32:]
        if hashlib.sha256(code).digest() == digest:
            return code
    code = compile_kernel(name, capability)
    folder.mkdir(parents=True, exist_ok=True)
    number, draft = tempfile.mkstemp(dir=folder)
    with os.fdopen(number, "wb") as file:
        file.write(hashlib.sha256(code).digest() + code)
    Path(draft).replace(path)
    return code


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


def _checked(nvrtc: ModuleType, answer: tuple) -> tuple:
    """What an NVRTC call gives besides its status."""
    status, *values = answer
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise BackendError(f"NVRTC: {status.name}")
    return tuple(values)
