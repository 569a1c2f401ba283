"""The structure of the repository: import order, cost of imports, contents of the wheel, words."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from support.repository import REPOSITORY, copy_repository

ROOMS = ("runtime", "trainer", "engines", "gui")
MAY_IMPORT = {
    "runtime": {"runtime"},
    "trainer": {"trainer", "runtime"},
    "engines": {"engines", "trainer", "runtime"},
    "gui": {"gui", "runtime"},
}
TOP_LEVEL = {
    *ROOMS, "tests", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "Makefile", "constraints.txt",
}  # fmt: skip
SOURCES = [path for room in ROOMS for path in sorted((REPOSITORY / room).rglob("*.py"))]
RUNTIME_ORDER = (
    "errors limits threads native_messages saved_state addresses extras interrupts file_lock files abandoned "
    "temporal closeable fields schemes wflw measures types decode geometry calibration person_file models downloads "
    "engine_files cuda backends landmarks detector background_detector smooth cuts tracks tracker processing trace "
    "channel image_header image_files media hardware_names hardware tone_mapping elementary cut_files damage "
    "cameras camera_frames video_file seek network_stream fragments codecs track_copies sinks tables draw_measures "
    "draw pipeline"
)
"""Files and folders of runtime, each importing only earlier ones at its top."""
HEAVY = ("torch", "PyQt6", "cv2", "av", "mediapipe", "openvino", "tensorrt", "onnx")


def test_nothing_else_lies_at_the_top():
    tracked = subprocess.check_output(["git", "ls-files"], cwd=REPOSITORY, text=True).splitlines()
    assert {name.split("/")[0] for name in tracked if not name.startswith(".")} == TOP_LEVEL


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_a_package_imports_only_the_packages_below_it(path):
    room = path.relative_to(REPOSITORY).parts[0]
    for name in imports(path):
        first, _, rest = name.partition(".")
        assert first, f"{path}: use an absolute import; a relative one can leave the package"
        assert first not in ROOMS, f"{name}: import it as canthus.{name}"
        if first == "canthus":
            assert rest.split(".")[0] in MAY_IMPORT[room], f"{room} must not import {name}"


def test_files_of_runtime_import_only_earlier_ones():
    """The order of the files in runtime; imports inside functions are free."""
    order = RUNTIME_ORDER.split()
    for place, name in enumerate(order):
        home = REPOSITORY / "runtime"
        files = [home / f"{name}.py"] if (home / f"{name}.py").is_file() else (home / name).rglob("*.py")
        for path in files:
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("canthus.runtime."):
                    other = node.module.split(".")[2]
                    assert order.index(other) <= place, f"{path.name} imports {other}"


@pytest.mark.parametrize("depth", [2, 9], ids=["folders", "files"])
def test_imports_have_no_cycle(depth):
    """Neither between files nor between the folders of a package, imports inside functions included."""
    above = {}
    for path in SOURCES:
        own = path.relative_to(REPOSITORY).with_suffix("").parts
        below = {tuple(name.split(".")[1:])[:depth] for name in imports(path) if name.startswith("canthus.")}
        above.setdefault(own[:depth], set()).update(below - {own[:depth]})
    TopologicalSorter(above).prepare()  # raises CycleError


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["video", "--help"], ["train", "--help"]])
def test_help_loads_no_heavy_library(arguments):
    script = (
        "import sys\nfrom canthus.runtime.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    command = [sys.executable, "-P", "-c", script, *arguments]  # without a stale canthus.egg-info of this folder
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("module", "unused"),
    [
        ("canthus.runtime.pipeline", ("torch", "PyQt6", "tensorrt", "onnx")),
        ("canthus.gui.window", ("torch", "tensorrt", "onnx")),
        ("canthus.trainer.train", ("PyQt6", "mediapipe", "tensorrt", "openvino", "av", "platformdirs")),
        ("canthus.engines.gpu_bench", ("PyQt6", "mediapipe", "tensorrt", "openvino", "av", "platformdirs")),
        ("canthus.runtime.backends.torch_gpu", ("PyQt6", "mediapipe", "tensorrt", "openvino", "av", "platformdirs")),
    ],
)
def test_a_module_loads_only_the_libraries_it_uses(module, unused):
    script = f"import sys, {module}\nprint([name for name in {unused} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_packages_cannot_be_imported_without_canthus():
    script = f"import importlib.util as u\nprint([room for room in {ROOMS} if u.find_spec(room)])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd="/")
    assert result.stdout.strip() == "[]"


def test_only_one_file_imports_openvino():
    """It turns OpenVINO's telemetry off before the import."""
    for path in SOURCES:
        if path.name != "openvino_without_telemetry.py":
            assert not any(name.split(".")[0] == "openvino" for name in imports(path)), path


def test_every_command_has_a_summary_and_help(capsys):
    from canthus.runtime.cli import main

    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["entry-points"]
    main(["--help"])
    assert "not available" not in capsys.readouterr().out
    for name in declared["canthus.commands"]:
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0
        shown = capsys.readouterr().out
        assert shown.startswith(f"usage: canthus {name}")
        assert "examples:" in shown


def test_the_wheel_contains_every_source_and_nothing_else(tmp_path):
    tree = copy_repository(
        tmp_path / "tree"
    )  # without what an earlier build left in build/, which setuptools also packs
    build = ["pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(tmp_path), str(tree)]
    subprocess.run([sys.executable, "-m", *build], check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name and ".data/data/share/" not in name}
    kinds = ("*.py", "py.typed", "*.cu", "*.cuh", "*.onnx", "*.png", "*.mp4", "schemes/*.toml")
    data = {path for room in ROOMS for kind in kinds for path in (REPOSITORY / room).rglob(kind)}
    wanted = {f"canthus/{path.relative_to(REPOSITORY).as_posix()}" for path in data}
    assert wanted <= names, wanted - names
    assert all(name.startswith("canthus/") for name in names)
    assert not [name for name in names if Path(name).suffix in (".pyc", ".tar", ".jpg")]


def test_no_test_file_imports_another():
    tests = {path.stem: path for path in (REPOSITORY / "tests").rglob("test_*.py")}
    for path in [
        *tests.values(),
        *(REPOSITORY / "tests" / "support").glob("*.py"),
        REPOSITORY / "tests" / "conftest.py",
    ]:
        for name in imports(path):
            assert not set(name.split(".")) & {*tests, "tests", "conftest"}, f"{path.name} imports {name}"


@pytest.mark.parametrize("room", ROOMS)
def test_every_package_is_marked_as_typed(room):
    assert (REPOSITORY / room / "py.typed").is_file()


def test_documents_and_code_use_the_words_of_the_glossary():
    """One vague verb stood for parsed options, metadata, json and offsets; the changelog may quote it."""
    word = re.compile(r"\bto" r"ld\b")
    suffixes = {".py", ".md", ".toml", ".sh", ".cu", ".cuh", ".yml", ".yaml", ".txt", ".json", ".svg"}
    places = [REPOSITORY / name for name in (*ROOMS, "tests", ".github", ".ci")]
    files = [path for place in places for path in place.rglob("*")] + list(REPOSITORY.glob("*"))
    found = [
        f"{path.relative_to(REPOSITORY)}:{number}"
        for path in files
        if path.suffix in suffixes and path.name != "CHANGELOG.md"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if word.search(line)
    ]
    assert not found
