"""The cache of compiled kernels: it saves time, and a cache that cannot be used never stops the GPU."""

from types import SimpleNamespace

import pytest

from canthus.runtime import files
from canthus.runtime.cuda import compile as kernels
from canthus.runtime.cuda.compile import cached_kernel

CODE = b"machine code"


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """Simulate NVRTC, and list the kernels that it compiles."""
    names = []
    status = SimpleNamespace(NVRTC_SUCCESS=0)
    nvrtc = SimpleNamespace(nvrtcVersion=lambda: (0, 13, 0), nvrtcResult=status)
    monkeypatch.setattr(kernels, "_nvrtc", lambda: nvrtc)
    monkeypatch.setattr(kernels, "compile_kernel", lambda name, capability, form: names.append(name) or CODE)
    monkeypatch.setattr(kernels, "supported_capabilities", lambda: (75, 86))
    monkeypatch.setattr(kernels, "cache_folder", lambda: tmp_path)
    return names


def test_kernel_is_compiled_once_and_again_if_the_cached_one_is_damaged(compiled, tmp_path):
    assert cached_kernel("crop.cu", 86) == cached_kernel("crop.cu", 86) == CODE
    assert compiled == ["crop.cu"]
    (kept,) = (tmp_path / "kernels").iterdir()
    kept.write_bytes(kept.read_bytes()[:-1])
    assert cached_kernel("crop.cu", 86) == CODE
    assert compiled == ["crop.cu", "crop.cu"]


def test_cache_that_cannot_be_written_is_a_warning_and_the_kernel_runs(compiled, tmp_path, caplog):
    (tmp_path / "kernels").write_text("a file in place of the folder")
    assert cached_kernel("crop.cu", 86) == CODE
    assert "cannot be cached" in caplog.text


def test_failed_write_leaves_no_temporary_file(compiled, tmp_path, monkeypatch, caplog):
    def full_disk(self, data):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.Path, "write_bytes", full_disk)
        assert cached_kernel("crop.cu", 86) == CODE
    assert list((tmp_path / "kernels").iterdir()) == []
    assert "No space left on device" in caplog.text
