"""Libraries are loaded before they are imported."""

import subprocess
import sys

import pytest

from canthus.gui.preload import LIBRARIES, preload

SCRIPT = """
import sys
from pathlib import Path
from canthus.gui.preload import preload
preload("openvino")
assert "openvino" not in sys.modules
assert "_pyopenvino" in Path("/proc/self/maps").read_text()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_library_is_loaded_without_importing_its_package() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=60)


def test_what_is_not_installed_is_left_to_the_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIBRARIES, "canthus_no_such_package", ("*.so",))
    preload("canthus_no_such_package")
