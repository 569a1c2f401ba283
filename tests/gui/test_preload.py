"""Libraries are read from disk before they are imported."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from canthus.gui import preload


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that is installed, but not imported."""
    (tmp_path / "large.so").write_bytes(bytes(3 * preload.CHUNK + 5))
    (tmp_path / "other.txt").write_text("not a library")
    spec = ModuleSpec("fake_package", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec if name == "fake_package" else None)
    monkeypatch.setitem(preload.LIBRARIES, "fake_package", ("*.so",))
    return tmp_path


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The files that are read, and their sizes."""
    read, sizes = preload.read, {}

    def recorded(path: Path) -> int:
        sizes[path.name] = read(path)
        return sizes[path.name]

    monkeypatch.setattr(preload, "read", recorded)
    return sizes


def test_libraries_of_a_package_are_read_once_and_whole(
    package: Path, sizes: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    preload.preload("fake_package")
    assert sizes == {"large.so": 3 * preload.CHUNK + 5}
    sizes.clear()
    monkeypatch.setitem(sys.modules, "fake_package", sys)
    preload.preload("fake_package")  # it is imported
    assert sizes == {}


def test_what_is_missing_or_cannot_be_read_is_skipped(package: Path, sizes: dict[str, int]) -> None:
    preload.preload("canthus_no_such_package")
    (package / "folder.so").mkdir()
    preload.preload("fake_package")
    assert sizes == {"large.so": 3 * preload.CHUNK + 5, "folder.so": 0}


@pytest.mark.parametrize("name", ["cv2", "av", "openvino", "mediapipe"])
@pytest.mark.skipif(sys.platform != "linux", reason="the names of the files in the wheels for Linux")
def test_large_files_of_the_packages_are_where_they_are_expected(name: str) -> None:
    import importlib.util

    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{name} is not installed")
    folder = Path(spec.submodule_search_locations[0])
    files = [path for pattern in preload.LIBRARIES[name] for path in folder.glob(pattern)]
    assert sum(path.stat().st_size for path in files) > 10e6
