"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from prunedeploy.core.text import printable

Row = tuple[str, ...]


def markdown(headers: Row, rows: Sequence[Row], texts: Collection[int] = (0,)) -> str:
    """A table of numbers; ``texts`` are the columns of words, which begin on the left."""
    rule = tuple("---" if column in texts else "---:" for column in range(len(headers)))
    lines = [headers, rule, *rows]
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines)


def cell(text: str) -> str:
    """Names come from files: they must not end a cell or a line."""
    return printable(" ".join(text.split())).replace("|", "\\|")
