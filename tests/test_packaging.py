"""The installation: pinned versions, system libraries, and the files that tools outside Python read."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib

import pytest

from support.repository import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE))
SCRIPT = REPOSITORY / ".ci" / "system_packages.py"


def load_script():
    spec = importlib.util.spec_from_file_location("system_packages", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_requirement_is_pinned():
    extras = dict(PROJECT["project"]["optional-dependencies"])
    del extras["tensorrt"], extras["virtual-camera"]  # no test installs them
    wanted = PROJECT["project"]["dependencies"] + [one for names in extras.values() for one in names]
    pins = {name.lower().replace("_", "-") for name in PINS}
    assert {re.split(r"[><=]", one)[0].lower().replace("_", "-") for one in wanted} <= pins


def test_every_extra_that_a_command_names_exists():
    texts = [path.read_text() for path in REPOSITORY.rglob("*.md") if ".venv" not in path.parts]
    named = {extra for text in texts for found in re.findall(r"\.\[([a-z,-]+)\]", text) for extra in found.split(",")}
    assert "cluster" in named
    assert named <= set(PROJECT["project"]["optional-dependencies"])


def test_pre_commit_runs_the_ruff_that_is_pinned():
    hooks = (REPOSITORY / ".pre-commit-config.yaml").read_text()
    assert re.findall(r"ruff-pre-commit\n\s+rev: v(\S+)", hooks) == [PINS["ruff"]]
    assert "entry: python tests/support/check_types.py" in hooks


def test_the_changelog_describes_this_version():
    changelog = (REPOSITORY / "CHANGELOG.md").read_text()
    assert re.findall(r"^## \[?(\d+\.\d+\.\d+)", changelog, re.MULTILINE)[0] == PROJECT["project"]["version"]


def test_the_changelog_lists_every_renamed_recipe_key():
    from canthus.trainer.renamed_keys import RENAMED_KEYS

    changelog = (REPOSITORY / "CHANGELOG.md").read_text()
    assert all(f"| `{old}` | `{new}` |" in changelog for old, new in RENAMED_KEYS.items())


def test_the_project_has_addresses():
    assert {"Homepage", "Issues", "Changelog"} <= set(PROJECT["project"]["urls"])


def test_make_shows_what_it_installs():
    installs = [line for line in (REPOSITORY / "Makefile").read_text().splitlines() if "$(PIP) install" in line]
    assert len(installs) == 2
    assert not any(re.search(r" -q|--quiet|>", line) for line in installs)


def test_a_slow_test_is_not_reported_and_a_hung_test_ends_the_run():
    options = PROJECT["tool"]["pytest"]["ini_options"]
    assert options["faulthandler_timeout"] >= 1800  # slow tests take minutes on a machine with other work
    assert options["faulthandler_exit_on_timeout"] is True


def test_every_display_library_that_the_wheels_link_to_has_a_known_package():
    script = load_script()
    assert {path.name for path in script.linked_files()} >= {"libqxcb.so", "libmediapipe.so"}
    display = re.compile(r"lib(xcb(-[a-z-]+)?|X11|X11-xcb|xkb[a-z0-9-]+|wayland-[a-z]+|GL|GLESv2|EGL)\.so\.\d+")
    linked = {name for name in script.linked_libraries() if display.fullmatch(name)}
    assert linked >= {"libxcb-icccm.so.4", "libxcb-keysyms.so.1"}
    assert linked <= set(script.PACKAGES), linked - set(script.PACKAGES)


@pytest.mark.parametrize("root", [True, False])
def test_missing_libraries_are_installed_or_listed(tmp_path, root):
    """Qt's window needs libxcb-icccm and libxcb-keysyms, which a bare Debian lacks."""
    programs = {
        "ldd": r"printf 'libxcb-icccm.so.4 => not found\nlibxcb-keysyms.so.1 => not found\nlibz.so.1 => /lib/z\n'",
        "apt-get": f'echo "$*" >> {tmp_path}/apt',
    }
    for name, line in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    user = 0 if root else 1000
    start = f"import os, runpy; os.geteuid = lambda: {user}; runpy.run_path({str(SCRIPT)!r}, None, '__main__')"
    environment = os.environ | {"PATH": str(tmp_path)}
    shown = subprocess.run([sys.executable, "-c", start], env=environment, capture_output=True, text=True, check=True)
    assert "libxcb-icccm.so.4, libxcb-keysyms.so.1" in shown.stdout
    if root:
        installed = (tmp_path / "apt").read_text().splitlines()[-1]
        assert installed == "install -y -qq --no-install-recommends libxcb-icccm4 libxcb-keysyms1"
    else:
        assert "sudo apt-get install" in shown.stdout
        assert not (tmp_path / "apt").exists()
