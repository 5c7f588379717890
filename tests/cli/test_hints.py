"""Every command line that a message, a help text or a document names can be typed."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from prunedeploy.cli.commands import app

ROOT = Path(__file__).parents[2]
SOURCES = [
    *(ROOT / "prunedeploy").rglob("*.py"),
    *(ROOT / "passes").rglob("*.py"),
    *(ROOT / "runtimes").rglob("*.py"),
]
DOCUMENTS = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
PART = "\0"  # what a message puts in when it is written
LINE = re.compile(r"prunedeploy ([a-z][a-z-]*)((?: [^\s`\"';|>#]+| '[^']*')*)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
# options of other programs that messages name
OTHERS = {"--force-reinstall"}


def texts(tree: ast.AST) -> Iterator[str]:
    """The strings of a module, those in several pieces as one, docstrings among them."""
    inside: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inside.update(map(id, node.values))
            yield "".join(x.value if isinstance(x, ast.Constant) else PART for x in node.values)
        elif isinstance(node, ast.Constant) and id(node) not in inside:
            yield from [node.value] if isinstance(node.value, str) else []


def options_of(command: str) -> set[str]:
    return {name for each in COMMANDS[command].params for name in each.opts} | {"--help", "-h"}


def wrong_in(text: str) -> Iterator[str]:
    """Commands that are not there, and options that their command does not have."""
    for name, rest in LINE.findall(text):
        if name in ("engine", "file") or PART in name:
            continue
        if name not in COMMANDS:
            if OPTION.search(rest) or f"`prunedeploy {name}" in text:
                yield f"prunedeploy {name}"
            continue
        for option in OPTION.findall(rest):
            if option not in options_of(name):
                yield f"prunedeploy {name} {option}"


def test_the_check_finds_what_is_wrong() -> None:
    """The broken twin."""
    found = [*wrong_in("run `prunedeploy shrnk x` or prunedeploy build x --input-shape 1,3")]
    assert found == ["prunedeploy shrnk", "prunedeploy build --input-shape"]
    assert [*wrong_in("prunedeploy shrink net.pt --arch f.py:net # prunedeploy is fast")] == []


def test_messages() -> None:
    for path in SOURCES:
        for text in texts(ast.parse(path.read_text(encoding="utf-8"))):
            assert [*wrong_in(text)] == [], (path, text)


def test_options_in_messages_exist() -> None:
    """Whatever a message says to give is an option of some command."""
    known = {name for command in COMMANDS for name in options_of(command)} | {"--version"}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or "Error" not in ast.unparse(node.func):
                continue
            for text in texts(node):
                assert set(OPTION.findall(text)) <= known | OTHERS, (path, text)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents(path: Path) -> None:
    assert [*wrong_in(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_of_help_parse(name: str) -> None:
    """As far as the parser goes: no example runs."""
    command = COMMANDS[name]
    lines = re.findall(r"^\s*prunedeploy (.+)$", command.help or "", re.MULTILINE)
    assert lines
    for line in lines:
        first, *words = shlex.split(line, comments=True)
        COMMANDS[first].make_context(first, words)
