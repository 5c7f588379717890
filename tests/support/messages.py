"""The strings of the packages, to check that documents quote messages as the code has them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

from glossary import PACKAGES, files

GAP = "\0"  # what a formatted value stands for


@cache
def strings() -> tuple[str, ...]:
    """Every string of the packages; adjacent ones are one, formatted values are gaps."""
    return tuple(
        text
        for path in files(PACKAGES)
        if path.suffix == ".py"
        for text in _of(ast.parse(path.read_text()))
    )


def _of(node: ast.AST) -> Iterator[str]:
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value
        elif isinstance(each, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else GAP for part in each.values
            )


def exists(message: str) -> bool:
    """True if the code has a string with the parts of ``message`` between its ``…``, in order.

    Nothing but formatted values and punctuation may lie between two parts.
    """
    parts = (re.escape(part.strip()) for part in message.split("…"))
    pattern = re.compile(r"\W*".join(parts))
    return any(pattern.search(text) for text in strings())
