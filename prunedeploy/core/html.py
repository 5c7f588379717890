"""Small tables in HTML, which notebooks show for the records of results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from prunedeploy.core.text import printable

Row = Sequence[str]


def table(title: str, headers: Row, rows: Iterable[Row], note: str = "") -> str:
    """A table under ``title`` whose first column is text and whose others are numbers.

    Names come from files: nothing in them is taken for markup.
    """
    head = "".join(f"<th>{_text(cell)}</th>" for cell in headers)
    body = "".join(f"<tr>{_cells(row)}</tr>" for row in rows)
    below = f"<p>{_text(note)}</p>" if note else ""
    return (
        f"<table><caption>{_text(title)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>{below}"
    )


def _cells(row: Row) -> str:
    first, *rest = map(_text, row)
    numbers = "".join(f'<td style="text-align: right">{cell}</td>' for cell in rest)
    return f"<th>{first}</th>{numbers}"


def _text(text: str) -> str:
    return escape(printable(text))
