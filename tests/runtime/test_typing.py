"""mypy --strict sees real types in a script that uses the installed wheel."""

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from support.repository import copy_repository

SCRIPT = """\
from canthus.runtime import Faces, Landmarker, Settings, follow, read_image

settings = Settings(max_faces=2)
for frame, faces in follow("clip.mp4", settings):
    reveal_type(frame.image)
    reveal_type(faces.points)
    reveal_type(len(faces))
with Landmarker(settings) as landmarker:
    reveal_type(landmarker.landmark(read_image("face.jpg")))
    reveal_type(faces[0].left_eye)
reveal_type(Faces.none)
reveal_type(follow)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """The Python of a new environment with the wheel and, through a .pth file, the libraries of this one."""
    folder = tmp_path_factory.mktemp("typing")
    tree = copy_repository(folder / "tree", (".onnx", ".mp4"))  # they are large, and have no types
    build = ["pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(folder), str(tree)]
    subprocess.run([sys.executable, "-m", *build], check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    python = folder / "venv" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    packages = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    ).strip()
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(packages)
    libraries = [path for path in sys.path if path.endswith("site-packages")] or [sysconfig.get_path("purelib")]
    (Path(packages) / "libraries.pth").write_text("\n".join(libraries) + "\n")
    return python


def check(python: Path, script: str) -> str:
    """Return the output of mypy --strict on a script."""
    folder = python.parent.parent.parent / "script"
    folder.mkdir(exist_ok=True)
    (folder / "user.py").write_text(script)
    words = ["-m", "mypy", "--strict", "--python-executable", str(python), "--config-file", "", "user.py"]
    return subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False).stdout


def test_user_script_has_real_types(python):
    output = check(python, SCRIPT)
    assert "Success" in output, output
    revealed = [line.partition("Revealed type is ")[2] for line in output.splitlines() if "Revealed" in line]
    assert len(revealed) == 7
    assert "canthus.runtime.types.Faces" in revealed[3]
    assert "canthus.runtime.types.Frame" in revealed[6]
    assert "numpy.dtype[numpy.unsignedinteger" in revealed[0]
    assert "numpy.dtype[numpy.floating" in revealed[1]
    assert revealed[2] == '"int"'
    # NumPy's arrays have the shape `tuple[Any, ...]`.
    assert not [line for line in revealed if "Any" in line.replace("tuple[Any, ...]", "")], revealed


def test_name_that_does_not_exist_is_reported(python):
    assert 'has no attribute "folow"' in check(python, "from canthus.runtime import folow\n")
