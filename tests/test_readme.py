"""The README's commands run as they stand there."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from canthus.runtime import sample
from canthus.runtime.sources import VideoFile
from support.repository import REPOSITORY

TEXT = (REPOSITORY / "README.md").read_text()
SHELL = [
    line.split("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    for line in block.splitlines()
    if line.startswith(("canthus", "make"))
]
RUN_ALONE = ("video clip.mp4 -o overlay.mp4 --table", "images", "doctor", "bench")
"""Commands that need no camera, no data set and no screen; the others are checked for words that they know."""


def run(line, folder):
    first, *words = line.split()
    command = [str(Path(sys.executable).with_name(first)), *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture
def folder(tmp_path):
    shutil.copy(sample.CLIP, tmp_path / "clip.mp4")
    (tmp_path / "photos").mkdir()
    with VideoFile(sample.CLIP) as video:
        cv2.imwrite(str(tmp_path / "photos" / "one.jpg"), next(iter(video)).image)
    return tmp_path


@pytest.mark.parametrize(
    "line", [line for line in SHELL if line.removeprefix("canthus ").startswith(RUN_ALONE)], ids=lambda line: line
)
def test_a_command_runs(line, folder):
    answer = run(line, folder)
    assert (answer.returncode, answer.stderr) == (0, "")


@pytest.mark.parametrize("line", [line for line in SHELL if line.startswith("canthus")], ids=lambda line: line)
def test_a_command_knows_its_options(line, folder):
    _, name, *words = line.split()
    if name in ("data", "engine"):
        name = f"{name} {words.pop(0)}"
    told = run(f"canthus {name} --help", folder).stdout.partition("examples:")[0]
    for word in words:
        if word.startswith("-"):
            assert re.search(rf"(^|[\s,\[]){re.escape(word)}\b", told), f"canthus {name} has no {word}"


def test_make_has_both_commands():
    targets = re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert {line.split()[1] for line in SHELL if line.startswith("make")} <= set(targets)


def test_the_python_examples_run(folder):
    told = []
    for example in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        answer = subprocess.run(
            [sys.executable, "-c", example], cwd=folder, capture_output=True, text=True, timeout=300, check=False
        )
        assert (answer.returncode, answer.stderr) == (0, "")
        told.append(answer.stdout)
    assert "(1, 98, 2)" in told[0]


def test_every_file_of_the_tree_exists():
    tree = re.search(r"```\n(runtime/.*?)```", TEXT, re.DOTALL)
    assert tree, "the README shows the tree"
    room = ""
    for line in tree.group(1).splitlines():
        name = line.split()[0]
        room = name if not line.startswith(" ") else room
        path = REPOSITORY / (name if not line.startswith(" ") else room + name)
        assert path.exists(), path
