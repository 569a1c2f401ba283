"""Where the repository and the real faces beside it lie."""

from pathlib import Path

REPOSITORY = Path(__file__).parent.parent.parent


FACES = REPOSITORY.parent / "shared" / "data"
