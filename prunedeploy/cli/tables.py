"""Aligned tables of plain lines, which people can read and grep and awk can take."""

from __future__ import annotations

import itertools
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence

from prunedeploy.core.text import printable

Row = Sequence[str]

WIDTH = 80  # characters of a line of prose
_GAP = "  "
_NAME = 16  # characters of a name that are left at least on a narrow terminal
_BOLD, _COLOURS, _PLAIN = "\x1b[1m", {"PASS": "\x1b[32m", "FAIL": "\x1b[31m"}, "\x1b[0m"


def say(*lines: str) -> None:
    """Print ``lines``, none of which a name can end or colour."""
    print("\n".join(map(printable, lines)))


def say_wrapped(text: str, indent: str = "  ") -> None:
    """Print ``text`` in lines of at most 80 characters, all of them behind ``indent``."""
    say(*textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent))


def table(headers: Row, rows: Iterable[Row], left: frozenset[int] = frozenset({0})) -> None:
    """Print ``rows`` under ``headers``; the columns in ``left`` are text, the others numbers.

    A pipe gets every line whole. On a terminal that is too narrow for a table of figures the
    names in the first column lose their beginning, which their neighbours share; where the last
    column is text, texts go on in the next line below themselves.
    """
    terminal = sys.stdout.isatty()
    lines = [tuple(map(printable, row)) for row in (headers, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    if terminal:
        excess = sum(widths) + len(_GAP) * (len(widths) - 1) - shutil.get_terminal_size().columns
        if len(headers) - 1 in left:
            widths = _narrowed(widths, left, excess)
            lines = [part for line in lines for part in _wrapped(line, widths)]
        else:
            widths[0] = min(widths[0], max(_NAME, widths[0] - excess))
    for number, (name, *rest) in enumerate(lines):
        cells = [name if len(name) <= widths[0] else f"…{name[1 - widths[0] :]}", *rest]
        line = _GAP.join(
            _coloured(cell.ljust(width) if i in left else cell.rjust(width), terminal)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        print(f"{_BOLD}{line}{_PLAIN}" if terminal and not number else line)


def _narrowed(widths: Sequence[int], left: frozenset[int], excess: int) -> list[int]:
    """The ``widths`` of columns with ``excess`` characters taken from the widest texts."""
    narrow = list(widths)
    for _ in range(excess):
        widest = max(left, key=lambda column: narrow[column])
        if narrow[widest] <= _NAME:
            break
        narrow[widest] -= 1
    return narrow


def _wrapped(line: Row, widths: Sequence[int]) -> Iterable[tuple[str, ...]]:
    """The lines that ``line`` takes where no cell is wider than its column."""
    cells = [
        textwrap.wrap(cell, width, break_on_hyphens=False) if len(cell) > width else [cell]
        for cell, width in zip(line, widths, strict=True)
    ]
    return itertools.zip_longest(*cells, fillvalue="")


def _coloured(cell: str, terminal: bool) -> str:
    colour = _COLOURS.get(cell.strip()) if terminal else None
    return f"{colour}{cell}{_PLAIN}" if colour else cell


def count(number: int | None) -> str:
    """1234567 as 1,234,567."""
    return "-" if number is None else f"{number:,}"


def share(number: float | None) -> str:
    """0.1234 as 12.3%."""
    return "-" if number is None else f"{number:.1%}"


def size(number: float) -> str:
    """Bytes in the unit that keeps them short: 3.2 MB."""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.2f} GB"


def ratio(before: float, after: float) -> str:
    """The factor by which ``after`` is smaller than ``before``, as 2.00x."""
    return f"{before / after:.2f}x" if after else "-"
