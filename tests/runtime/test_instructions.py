"""Which instructions of the processor OpenVINO may use, from Linux's list and from the limit in the environment."""

import pytest

from canthus.runtime.backends import instructions

SERVER = "flags\t\t: fpu avx avx2 avx512f avx512_bf16 amx_bf16 amx_tile\nbugs\t: avx_vnni\n"


@pytest.mark.parametrize(
    ("cpuinfo", "limit", "amx"),
    [
        (SERVER, None, True),
        (SERVER, "all", True),
        (SERVER, "AVX10_1_512_AMX", True),
        (SERVER, "AVX2", False),
        ("flags : avx avx2\n", None, False),
        (None, None, False),
    ],
)
def test_amx_is_used_if_the_processor_has_it_and_nothing_forbids_it(tmp_path, monkeypatch, cpuinfo, limit, amx):
    monkeypatch.setattr(instructions, "CPUINFO", tmp_path / "cpuinfo")
    if cpuinfo:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    if limit:
        monkeypatch.setenv(instructions.LIMIT, limit)
    assert instructions.uses_amx() == amx


def test_flags_are_those_of_the_first_processor(tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(SERVER)
    monkeypatch.setattr(instructions, "CPUINFO", tmp_path / "cpuinfo")
    assert instructions.flags() == ["avx", "avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16"]
