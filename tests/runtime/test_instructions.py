"""Which instructions of the processor OpenVINO may use, from Linux's list and from the limit in the environment."""

from canthus.runtime.backends import instructions

SERVER = "flags\t\t: fpu avx avx2 avx512f avx512_bf16 amx_bf16 amx_tile\nbugs\t: avx_vnni\n"


def test_flags_are_those_of_the_first_processor(tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(SERVER)
    monkeypatch.setattr(instructions, "CPUINFO", tmp_path / "cpuinfo")
    assert instructions.flags() == ["avx", "avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16"]
