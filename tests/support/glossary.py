"""Count the words of docs/glossary.md that the project no longer uses, and say where they are.

    python tests/support/glossary.py

Reads the table of the glossary: its first column has the words, its third where they are counted
("everywhere": names in Python and C, file names and documents; "names": names and file names of
the packages alone, for words of everyday English), its fourth the names that keep the word, with
the reason. Prints each other use and ends with status 1 if there is one.
"""

from __future__ import annotations

import ast
import fnmatch
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("prunedeploy", "passes", "runtimes", "models")
LINKS = ("prunedeploy/passes", "prunedeploy/runtimes", "prunedeploy/models")
C_NAME = re.compile(r"\b[A-Za-z_]\w+\b")
C_TEXT = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:[^"\\\n]|\\.)*"', re.DOTALL)
PARTS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


@dataclass(frozen=True)
class Entry:
    """One row: words, whether documents count as well, and patterns of names that may have them."""

    words: frozenset[str]
    everywhere: bool
    stays: tuple[str, ...]


@dataclass(frozen=True)
class Use:
    """A name, or a word of a document, and the file that it is in."""

    file: str
    name: str


def entries(text: str) -> tuple[Entry, ...]:
    """The rows of the glossary's first table."""
    rows = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 4 and cells[2] in ("everywhere", "names"):
            words = frozenset(re.findall(r"`(\w+)`", cells[0]))
            stays = tuple(re.findall(r"`([\w*.]+)`", cells[3]))
            rows.append(Entry(words, cells[2] == "everywhere", stays))
    return tuple(rows)


def parts(name: str) -> set[str]:
    """The words that a name is made of, in lower case."""
    return {part.lower() for part in PARTS.findall(name)}


def files(tops: tuple[str, ...]) -> Iterator[Path]:
    """All files below the folders, those behind links once."""
    for top in tops:
        for path in sorted((ROOT / top).rglob("*")):
            relative = path.relative_to(ROOT).as_posix()
            if (
                path.is_file()
                and "__pycache__" not in path.parts
                and not relative.startswith(LINKS)
            ):
                yield path


def python_names(source: str) -> set[str]:
    """The names that a module defines: functions, classes, parameters, variables, attributes."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
            case ast.ClassDef(name=name):
                names.add(name)
                fields = (each for each in node.body if isinstance(each, ast.AnnAssign))
                names |= {f"{name}.{x.target.id}" for x in fields if isinstance(x.target, ast.Name)}
            case ast.arg(arg=name) | ast.Attribute(attr=name, ctx=ast.Store()):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
    own = {name.split(".")[1] for name in names if "." in name}
    return {name for name in names if "." in name or name not in own}


def c_names(source: str) -> set[str]:
    """The names in a C source; comments and strings are no names."""
    return set(C_NAME.findall(C_TEXT.sub(" ", source)))


def names(tops: tuple[str, ...]) -> Iterator[Use]:
    """All names, file names included."""
    for path in files(tops):
        relative = path.relative_to(ROOT).as_posix()
        found: set[str] = set()
        if path.suffix == ".py":
            found = python_names(path.read_text())
        elif path.suffix in (".c", ".h", ".inc") and not path.name.startswith("onnxruntime"):
            found = c_names(path.read_text())
        yield from (Use(relative, name) for name in sorted(found | {path.stem}))


def documents() -> Iterator[Use]:
    """The words of README and docs, the glossary and files of figures apart."""
    for path in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    ):
        if path.name != "glossary.md":
            words = set(re.findall(r"[A-Za-z_]\w*", path.read_text()))
            yield from (Use(path.relative_to(ROOT).as_posix(), word) for word in sorted(words))


def leftovers(rows: tuple[Entry, ...]) -> list[Use]:
    """Uses of a word of the first column that the fourth does not explain."""
    product = [*names((*PACKAGES, "benchmarks"))]
    rest = [*names(("tests", "examples")), *documents()]
    found = []
    for row in rows:
        for use in (*product, *(rest if row.everywhere else ())):
            kept = any(fnmatch.fnmatchcase(use.name, pattern) for pattern in row.stays)
            if parts(use.name) & row.words and not kept:
                found.append(use)
    return found


def main() -> int:
    """Print what is left."""
    rows = entries((ROOT / "docs" / "glossary.md").read_text())
    found = leftovers(rows)
    for use in found:
        print(f"{use.file}: {use.name}")
    print(f"{len(found)} uses left of {sum(len(row.words) for row in rows)} words")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
