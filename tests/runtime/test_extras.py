import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from canthus.runtime import extras
from canthus.runtime.extras import install_command
from support.repository import REPOSITORY

CHECKOUT = {"url": "file:///src/my%20canthus", "dir_info": {"editable": True}}
FOLDER = {"url": "file:///src/canthus", "dir_info": {}}
WHEEL = {"url": "file:///tmp/canthus-0.2.0-py3-none-any.whl", "archive_info": {}}


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (CHECKOUT, "pip install -c '/src/my canthus/constraints.txt' -e '/src/my canthus[rtx]'"),
        (FOLDER, "pip install -c /src/canthus/constraints.txt '/src/canthus[rtx]'"),
        (WHEEL, "pip install '/tmp/canthus-0.2.0-py3-none-any.whl[rtx]'"),
        (None, "pip install 'canthus-0.2.0-py3-none-any.whl[rtx]'"),
    ],
    ids=["checkout", "folder", "wheel", "unknown"],
)
def test_install_command_names_the_source_of_this_installation(monkeypatch, origin, command):
    text = json.dumps(origin) if origin else None
    distribution = SimpleNamespace(version="0.2.0", read_text=lambda name: text)
    monkeypatch.setattr(extras.metadata, "distribution", lambda name: distribution)
    monkeypatch.setattr(extras, "installer", lambda: "pip install")
    assert install_command("rtx") == command


def test_install_command_is_for_this_environment(monkeypatch):
    monkeypatch.setattr(extras.shutil, "which", lambda name: str(Path(sys.executable).with_name(name)))
    assert install_command("rtx").startswith("pip install ")
    monkeypatch.setattr(extras.shutil, "which", lambda name: "/usr/bin/pip")  # the environment is not activated
    assert install_command("rtx").startswith(f"{sys.executable} -m pip install ")


def test_no_message_advises_to_install_canthus_from_a_package_index():
    rooms = ("runtime", "trainer", "engines", "gui")
    sources = [path for room in rooms for path in (REPOSITORY / room).rglob("*.py") if path.name != "extras.py"]
    assert [path.name for path in sources if "canthus[" in path.read_text()] == []
