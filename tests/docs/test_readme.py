"""README is short, and what it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import typer

import prunedeploy
from prunedeploy.cli.commands import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
# A link's or an image's target without its anchor; addresses elsewhere are left out.
LINKS = re.compile(r"\]\((?![a-z]+:)([^)#]+)")
COMMAND = re.compile(r"prunedeploy ((?:\w+-)*\w+) ")


def pages() -> list[Path]:
    """README and what lies in docs/, which names commands, too."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def code(text: str) -> str:
    """The indented and fenced blocks and the spans of code of a page."""
    fenced = re.findall(r"^```(?:bash|sh)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^ {4}(?:\$ )?(prunedeploy .*)$", text, re.MULTILINE)
    return "\n".join((*fenced, *indented, *re.findall(r"`(prunedeploy [^`]+)`", text)))


def unknown(text: str) -> set[str]:
    """Commands in the code of a page that the command line does not have."""
    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    return set(COMMAND.findall(code(text) + " ")) - known - {"COMMAND"}


def test_it_has_80_lines_at_most() -> None:
    assert README.count("\n") <= 80


def test_every_link_leads_to_a_file() -> None:
    targets = LINKS.findall(README)
    assert len(targets) > 15
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_every_make_target_is_one() -> None:
    named = set(re.findall(r"`?make ([a-z-]+)\b", README))
    assert {"demo", "test", "docs"} <= named
    assert {name for name in named if f"\n{name}: " not in MAKEFILE} == set()


def test_every_command_in_the_documents_is_one() -> None:
    assert "optimize" in COMMAND.findall(code(README))
    strange = {path.name: unknown(path.read_text()) for path in pages()}
    assert {name: words for name, words in strange.items() if words} == {}
    assert unknown("    $ prunedeploy deflate net.pt") == {"deflate"}


def test_every_function_in_the_documents_is_one() -> None:
    named = {
        name for path in pages() for name in re.findall(r"\bprunedeploy\.(\w+)\(", path.read_text())
    }
    assert {"shrink", "build", "open"} <= named
    assert {name for name in named if not hasattr(prunedeploy, name)} == set()
