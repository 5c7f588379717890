"""Text from strangers' files and devices, made fit for terminals, logs and reports."""

from __future__ import annotations


def printable(text: str) -> str:
    """``text`` in one line that only shows characters.

    Names come from files. Escape sequences would drive a terminal, characters that turn the
    direction of writing make a line read as another, and halves of surrogate pairs cannot be
    encoded: all of these, and line breaks, are written as Python escapes.
    """
    if text.isprintable():
        return text
    return "".join(x if x.isprintable() else ascii(x)[1:-1] for x in text)
