import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from canthus.runtime import pipeline
from support.fakes import FakeBackend, PretendedDetector
from support.repository import FACES

if TYPE_CHECKING:
    from canthus.trainer.packs.pack import Pack


@pytest.fixture
def real_faces() -> Path:
    """The folder of real faces that developers have beside the repository."""
    if not FACES.is_dir():
        pytest.skip(f"no real faces at {FACES}")
    return FACES


@pytest.fixture
def fake_backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> "Pack":
    """A pack of 30 made-up faces, 48 pixels each."""
    from canthus.trainer.faces.formats import open_set
    from canthus.trainer.packs.pack import write_pack
    from support.shards import write_shard

    folder = tmp_path_factory.mktemp("faces")
    write_shard(folder / "shard", 30)
    return write_pack([open_set(folder / "shard")], folder / "pack", 48)


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Landmarkers have no network and no detector of their own: what is bright is a face."""
    monkeypatch.setattr(pipeline, "open_backend", lambda model: FakeBackend())
    monkeypatch.setattr(pipeline, "Detector", lambda model: PretendedDetector())
    monkeypatch.setattr(pipeline, "_first_use", lambda name: None)


@pytest.fixture(autouse=True, scope="session")
def hear_ctrl_c() -> None:
    """A shell that starts the tests in the background has them ignore Ctrl-C, and the commands would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def quiet_bars(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No progress bars; and the cache of who runs the tests stays the one that is used."""
    monkeypatch.setenv("TQDM_DISABLE", "1")
    os.environ.pop("CANTHUS_DEBUG", None)
    return None
