"""Where the repository and the real faces beside it lie."""

import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent.parent


FACES = REPOSITORY.parent / "shared" / "data"


def copy_repository(folder: Path, without: tuple[str, ...] = ()) -> Path:
    """Copy the files that Git tracks or would add, except those whose names end so. Tests of others may run beside."""
    listed = subprocess.check_output(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=REPOSITORY, text=True)
    for name in filter(None, listed.split("\0")):
        if not name.startswith("tests/") and not name.endswith(without) and (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((REPOSITORY / name).read_bytes())
    return folder
