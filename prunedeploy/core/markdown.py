"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from prunedeploy.core.text import printable

Row = tuple[str, ...]


def markdown(headers: Row, rows: Sequence[Row]) -> str:
    """A table whose first column is text and whose others are numbers."""
    lines = [headers, ("---", *("---:" for _ in headers[1:])), *rows]
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines)


def cell(text: str) -> str:
    """Names come from files: they must not end a cell or a line."""
    return printable(" ".join(text.split())).replace("|", "\\|")
