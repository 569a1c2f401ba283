"""Run mypy over the four packages.

mypy cannot see through an editable install. It gets a folder with a link `canthus` to the repository as its path.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOMS = ("runtime", "trainer", "engines", "gui")

repository = Path(__file__).resolve().parent.parent.parent
with tempfile.TemporaryDirectory() as folder:
    (Path(folder) / "canthus").symlink_to(repository)
    command = [sys.executable, "-m", "mypy", "--config-file", str(repository / "pyproject.toml")]
    command += ["--cache-dir", str(repository / ".mypy_cache")]
    for room in ROOMS:
        command += ["-p", f"canthus.{room}"]
    result = subprocess.run(command, cwd=folder, env=os.environ | {"MYPYPATH": folder}, check=False)
sys.exit(result.returncode)
