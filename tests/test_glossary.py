"""The words that the glossary took out of use stay out, in names and in documents."""

from __future__ import annotations

import pytest
from glossary import ROOT, Entry, c_names, entries, leftovers, parts, python_names

ROWS = entries((ROOT / "docs" / "glossary.md").read_text())


def test_the_table_is_read() -> None:
    assert len(ROWS) > 20
    assert Entry(frozenset({"tiling"}), True, ()) in ROWS


def test_no_word_is_used_again() -> None:
    assert not leftovers(ROWS)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("def tell_all(x): pass", "tell_all"),
        ("class Tiling: pass", "Tiling"),
        ("def f(wall): pass", "wall"),
        ("[x for found in y]", "found"),
        ("class A:\n    found: int", "A.found"),
        ("self.place = 1", "place"),
    ],
)
def test_names_of_python_are_seen(source: str, name: str) -> None:
    assert name in python_names(source)
    assert parts(name) & {"tell", "tiling", "wall", "found", "place"}


def test_names_of_c_are_seen_and_comments_are_not() -> None:
    assert c_names('int sums; /* most */ char *x = "place"; // found') == {"int", "sums", "char"}


def test_a_name_that_comes_back_is_found() -> None:
    assert leftovers((Entry(frozenset({"schedule"}), False, ()),))
    assert not leftovers((Entry(frozenset({"schedule"}), False, ("*",)),))
