"""Every text of the viewer can be translated."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.repository import REPOSITORY

FILES = sorted((REPOSITORY / "gui").rglob("*.py"))

SHOWN = {
    "setText", "setToolTip", "setAccessibleName", "setAccessibleDescription", "setWindowTitle", "setPlaceholderText",
    "setSuffix", "setTitle", "addRow", "addItem", "addButton", "QLabel", "QPushButton", "QCheckBox", "QGroupBox",
    "QMenu", "QAction", "QDockWidget", "new_action", "Message", "Plot", "show_hint", "show_message", "show_problem",
    "drawText", "getOpenFileName", "getOpenFileNames", "getSaveFileName", "getExistingDirectory", "getText",
}  # fmt: skip
"""Functions whose arguments are shown to the user."""

SAME = {"canthus", "ms", "rtsp://", "person.json"}
"""Names, units and file names, which are the same in each language."""

WORD = re.compile(r"[A-Za-z]{2,}")
SENTENCE = re.compile(r"^[A-Z][a-z]+ [a-z]+")


def name_of(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def texts(node: ast.AST) -> Iterator[ast.Constant]:
    """Yield the strings in a part of a program that are no docstrings, keys or errors, and not passed to `tr`."""
    match node:
        case ast.Call() if name_of(node) == "tr":
            return
        case ast.Raise() | ast.Assert() | ast.Expr(ast.Constant()):
            return
        case ast.Constant(str()):
            yield node
        case _:
            keys = node.keys if isinstance(node, ast.Dict) else [node.slice] if isinstance(node, ast.Subscript) else []
            for child in ast.iter_child_nodes(node):
                if child not in keys:
                    yield from texts(child)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_shown_texts_pass_through_tr(path: Path) -> None:
    tree = ast.parse(path.read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and name_of(node) in SHOWN]
    found = {
        text.value
        for call in calls
        for argument in (call.args[:3] if name_of(call) == "new_action" else call.args)
        for text in texts(argument)
        if WORD.search(text.value) and text.value.strip(" —") not in SAME
    }
    if path.name != "app.py":  # a command: its texts are those of the terminal
        found |= {text.value for text in texts(tree) if SENTENCE.search(text.value)}
    assert not found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_translated_texts_are_literals(path: Path) -> None:
    """A tool such as lupdate finds no others."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and name_of(node) == "tr":
            assert isinstance(node.args[0], ast.Constant), f"line {node.lineno}"
