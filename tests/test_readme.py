"""The documents: commands and examples run, links lead somewhere, figures agree, the tree of files is complete."""

import functools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from canthus.runtime import sample
from canthus.runtime.video_file import VideoFile
from support.repository import REPOSITORY

TEXT = (REPOSITORY / "README.md").read_text()
DOCUMENTS = [
    "README.md",
    "CHANGELOG.md",
    ".github/CONTRIBUTING.md",
    ".github/SECURITY.md",
    "gui/README.md",
    "runtime/batch/README.md",
    "runtime/bench/README.md",
    "runtime/cuda/README.md",
    "runtime/measures/README.md",
    "runtime/streams/README.md",
    "runtime/tables/README.md",
    "trainer/README.md",
    "trainer/RESULTS.md",
    "engines/models/fast.md",
    "engines/models/accurate.md",
]


def shell_lines(text):
    """Return the commands of canthus and make in the shell blocks of a document."""
    return [
        line.split("#")[0].strip()
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
        if line.startswith(("canthus", "make"))
    ]


SHELL = shell_lines(TEXT)
BLOCKS = {
    line for name in DOCUMENTS for line in shell_lines((REPOSITORY / name).read_text()) if line.startswith("canthus")
}
QUOTED = {
    command
    for name in DOCUMENTS
    for command in re.findall(r"`(?:[\w./]+/)?(canthus [a-z][^`]*)`", (REPOSITORY / name).read_text())
}
RUNNABLE = ("video clip.mp4 -o overlay.mp4 --table", "video clip.mp4 --table", "images", "doctor", "bench")
"""Commands that need no camera, data set, screen or GPU. For the others, only the options are checked."""


def run(line, folder):
    first, *words = line.split()
    command = [str(Path(sys.executable).with_name(first)), *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture
def folder(tmp_path):
    shutil.copy(sample.CLIP, tmp_path / "clip.mp4")
    (tmp_path / "photos").mkdir()
    with VideoFile(sample.CLIP) as video:
        image = next(iter(video)).image
    cv2.imwrite(str(tmp_path / "photos" / "one.jpg"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return tmp_path


@pytest.mark.parametrize(
    "line", [line for line in SHELL if line.removeprefix("canthus ").startswith(RUNNABLE)], ids=lambda line: line
)
def test_the_command_succeeds_without_a_message(line, folder):
    result = run(line, folder)
    summary = r"\d+ frames, \d+ with faces\n" if "--table - " in line else ""  # stdout has the table
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(summary, result.stderr)


@functools.cache
def options_of(command):
    """Return the help of a command up to its examples."""
    return run(f"canthus {command} --help", REPOSITORY).stdout.partition("examples:")[0]


@pytest.mark.parametrize("line", sorted(QUOTED | BLOCKS))
def test_the_command_has_these_options(line):
    _, name, *words = line.split()
    if name in ("data", "engine") or (name == "bench" and words and not words[0].startswith("-")):
        name = f"{name} {words.pop(0)}"
    options = options_of(name)
    assert options.startswith("usage: ")
    for word in words:
        if word.startswith("-") and word != "-":
            assert re.search(rf"(^|[\s,\[]){re.escape(word)}\b", options), f"canthus {name} has no {word}"


def test_the_makefile_has_the_targets():
    targets = re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert {line.split()[1] for line in SHELL if line.startswith("make")} <= set(targets)


def test_the_python_examples_run(folder):
    run("canthus video clip.mp4 --table points.csv --end 0.5", folder)  # for the example of read_table
    printed = []
    for example in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        result = subprocess.run(
            [sys.executable, "-c", example], cwd=folder, capture_output=True, text=True, timeout=300, check=False
        )
        assert (result.returncode, result.stderr) == (0, "")
        printed.append(result.stdout)
    assert "(1, 98, 2)" in printed[0]
    assert "(68, 2)" in printed[1]
    assert "98, 2)" in printed[3]


def test_the_documented_regions_are_those_of_face():
    from canthus.runtime import Face

    regions = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| \d+.*\| (`.*`) \|$", TEXT, re.MULTILINE)))
    assert len(regions) == 11
    assert all(isinstance(getattr(Face, name), property) for name in regions)


def anchors(text):
    """Return the anchors that GitHub makes of the headings, and the explicit ones."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    made = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return made | set(re.findall(r'<a id="([^"]+)"></a>', text))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_to_files_and_headings_that_exist(name):
    document = REPOSITORY / name
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        path = document.parent / file if file else document
        assert path.exists(), f"{name} links to {target}"
        assert not anchor or anchor in anchors(path.read_text()), f"{name} links to {target}"


@pytest.mark.parametrize("model", ["fast", "accurate"])
@pytest.mark.parametrize("boxes", ["truth", "detector"])
def test_the_card_and_the_results_have_the_figures_of_the_readme(model, boxes):
    row = next(line for line in TEXT.splitlines() if line.startswith(f"| **{model}** (ours) | {boxes} |"))
    assert row in (REPOSITORY / "engines" / "models" / f"{model}.md").read_text()
    newest = (REPOSITORY / "trainer" / "RESULTS.md").read_text().partition("## In force today")[2]
    assert next(line for line in newest.splitlines() if line.startswith(f"| **{model}** (ours) | {boxes} |")) == row


def test_the_tree_names_every_file_of_the_packages_and_no_other():
    tree = re.search(r"```\n(runtime/.*?)```", TEXT, re.DOTALL)
    assert tree, "the README shows the tree"
    named, room = set(), ""
    for line in tree.group(1).splitlines():
        room = room if line.startswith(" ") else line.split()[0]
        for word in re.findall(r"[\w.]+\.(?:py|md|sh)\b|\w+/(?=[ ,])", line if line.startswith(" ") else ""):
            named.add(room + word.rstrip("/"))
    files = {
        f"{room}/{path.name}"
        for room in ("runtime", "trainer", "engines", "gui")
        for path in (REPOSITORY / room).iterdir()
        if (path.suffix in (".py", ".md", ".sh") or path.is_dir()) and not path.name.startswith("__")
    }
    assert named == files
