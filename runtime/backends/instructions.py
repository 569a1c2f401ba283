"""The vector instructions of the processor, as far as OpenVINO may use them."""

import os
import re
from pathlib import Path

FLAGS = (
    *("avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "bf16"),
)
"""Instructions that neural networks use, as Linux names them."""

LIMIT = "ONEDNN_MAX_CPU_ISA"
"""The environment variable that keeps OpenVINO from using newer instructions."""

WITHOUT_BF16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI")
"""Values of it that exclude bf16. OpenVINO does not know that, and fails to compile networks in bf16."""

CPUINFO = Path("/proc/cpuinfo")


def flags() -> list[str]:
    """Return those of `FLAGS` that the processor has; none if the system is not Linux."""
    try:
        found = set(re.findall(r"\w+", CPUINFO.read_text().partition("flags")[2].split("\n")[0]))
    except OSError:
        return []
    return [flag for flag in FLAGS if flag in found]


def limit() -> str:
    """Return the newest instructions that OpenVINO may use, or an empty string if there is no limit."""
    value = os.environ.get(LIMIT, "").upper()
    return "" if value in ("ALL", "DEFAULT") else value
