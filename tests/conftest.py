import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.fakes import FakeBackend, FakeDetector
from support.repository import FACES
from support.shards import write_shard

if TYPE_CHECKING:
    from canthus.trainer.packs.pack import Pack

LINUX_ONLY = [
    "engines/test_bench.py",
    "gui/test_window.py",
    "runtime/test_automatic.py",
    "runtime/test_cli.py",
    "runtime/test_cluster.py",
    "runtime/test_commands.py",
    "runtime/test_cuda_arithmetic.py",
    "runtime/test_cuda_backend.py",
    "runtime/test_extras.py",
    "runtime/test_files.py",
    "runtime/test_sinks.py",
    "runtime/test_slurm_array.py",
    "runtime/test_tables.py",
    "runtime/test_watch.py",
    "runtime/test_workers.py",
    "trainer/test_device_augment.py",
    "trainer/test_parallel.py",
    "trainer/test_run.py",
    "trainer/test_slurm.py",
    "test_fuzz.py",
    "test_packaging.py",
]
"""Test files that use POSIX signals, resource limits, a C++ compiler or Slurm."""

assert all((Path(__file__).parent / name).is_file() for name in LINUX_ONLY)
collect_ignore = [] if sys.platform == "linux" else LINUX_ONLY


@pytest.fixture
def real_faces() -> Path:
    """Return the folder of face photographs beside the repository; skip without it."""
    if not FACES.is_dir():
        pytest.skip(f"no face photographs at {FACES}")
    return FACES


@pytest.fixture
def fake_backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> "Pack":
    """Write a pack of 30 synthetic faces, 48 pixels each."""
    from canthus.trainer.faces.formats import open_set
    from canthus.trainer.packs.pack import write_pack

    folder = tmp_path_factory.mktemp("faces")
    write_shard(folder / "shard", 30)
    return write_pack([open_set(folder / "shard")], folder / "pack", 48).pack


@pytest.fixture
def fake_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the network and the detector by fakes for which every bright area is a face."""
    from canthus.runtime import pipeline  # here: the tests of the kernels run without PyAV

    monkeypatch.setattr(pipeline, "open_automatic", lambda *_: FakeBackend())
    monkeypatch.setattr(pipeline, "Detector", lambda model: FakeDetector())


@pytest.fixture(autouse=True, scope="session")
def restore_ctrl_c() -> None:
    """Handle SIGINT, also when a shell that runs the tests in the background has set it to be ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turn progress bars off, and forget a `--debug` of an earlier test."""
    monkeypatch.setenv("TQDM_DISABLE", "1")
    os.environ.pop("CANTHUS_DEBUG", None)


@pytest.fixture
def cpu_seconds(monkeypatch) -> Iterator[None]:
    """Measure time in CPU seconds of one thread, so that other work on the machine does not matter."""
    import torch  # here: the tests of the runtime do not need it

    monkeypatch.setattr(time, "monotonic", time.process_time)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
