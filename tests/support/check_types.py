"""Checks the types of every room. mypy cannot see through an editable install, so it is given a link as its path."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOMS = ("runtime", "trainer", "engines", "gui")

repository = Path(__file__).resolve().parent.parent.parent
with tempfile.TemporaryDirectory() as folder:
    (Path(folder) / "canthus").symlink_to(repository)
    asked = [sys.executable, "-m", "mypy", "--config-file", str(repository / "pyproject.toml")]
    asked += ["--cache-dir", str(repository / ".mypy_cache")]
    for room in ROOMS:
        asked += ["-p", f"canthus.{room}"]
    found = subprocess.run(asked, cwd=folder, env=os.environ | {"MYPYPATH": folder}, check=False)
sys.exit(found.returncode)
