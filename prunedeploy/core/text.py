"""Text from strangers' files and devices, made fit for terminals, logs and reports."""

from __future__ import annotations

import re

LONGEST = 4096  # characters of a path
SHOWN = 100


def printable(text: str) -> str:
    """``text`` in one line that only shows characters.

    Names come from files. Escape sequences would drive a terminal, characters that turn the
    direction of writing make a line read as another, and halves of surrogate pairs cannot be
    encoded: all of these, and line breaks, are written as Python escapes.
    """
    if text.isprintable():
        return text
    return "".join(x if x.isprintable() else ascii(x)[1:-1] for x in text)


def printable_lines(text: str) -> str:
    """``text`` in its lines, each of which only shows characters: for whole reports.

    Example:
        >>> print(printable_lines("# Report\\n\\x1b[2J"))
        # Report
        \\x1b[2J
    """
    return "\n".join(map(printable, text.split("\n")))


def shortened(text: str) -> str:
    """``text`` with the middle of words left out that are longer than any path, and its own where
    it is longer than several: names, numbers and shapes of files that were made to fill a terminal.

    Example:
        >>> len(shortened("offset " + "9" * 100_000))
        210
    """
    words = re.sub(
        rf"\S{{{LONGEST},}}", lambda word: f"{word[0][:SHOWN]}...{word[0][-SHOWN:]}", text
    )
    limit = 4 * LONGEST
    return words if len(words) <= limit else f"{words[: limit // 2]}...{words[-SHOWN:]}"
