"""The table of operators: its names are those of the standard, and the documentation shows it."""

from __future__ import annotations

import operator_table
import pytest

from prunedeploy.passes.operators import table
from prunedeploy.passes.operators.operator import Operator
from prunedeploy.passes.operators.table import FAMILIES, OPERATORS, by_name

WITHDRAWN = {"Upsample"}  # from the standard; older models hold it


def strangers() -> set[str]:
    """The records whose name is not in the standard."""
    return set(OPERATORS) - set(operator_table.standard()) - WITHDRAWN


def test_the_documentation_shows_the_table() -> None:
    text = operator_table.FILE.read_text()
    assert text == operator_table.table(), "run python tests/support/operator_table.py"


def test_every_record_is_an_operator_of_the_standard() -> None:
    assert strangers() == set()


def test_every_record_says_something() -> None:
    silent = [record.name for record in OPERATORS.values() if record == Operator(record.name)]
    assert silent == []


def test_a_record_of_no_operator_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPERATORS, "Relo", OPERATORS["Relu"])
    assert strangers() == {"Relo"}


def test_a_record_that_the_documentation_lacks_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    before = operator_table.table()
    monkeypatch.delitem(OPERATORS, "Relu")
    assert operator_table.table() != before
    assert "| Relu | 14 | opaque |" in operator_table.table()


def test_two_records_of_one_operator_are_refused() -> None:
    twice = [record for family in (*FAMILIES, table.softmax) for record in family.OPERATORS]
    with pytest.raises(ValueError, match="Hardmax has two records"):
        by_name(twice)
